"""What a reader of an adapted run's scores might overlook."""

from medretrieval.evidence.stages.adaptation import AdaptationEvidence, Change
from medretrieval.index.faiss_index import VectorIndex


def adaptation_notes(found: AdaptationEvidence | None, index: VectorIndex) -> list[str]:
    """Sentences about an adaptation; none where there is none."""
    if found is None:
        return []
    adaptation = found.fitted.adaptation
    notes = []
    if adaptation.uses_labels:
        notes.append(
            f"adapt={adaptation.name} uses the labels of train: compare with results that use labels too, "
            "not with those of encoders as they are."
        )
    notes += _gain(found.gain.change)
    if index.index.d == 1:
        notes.append(
            "The adapted vectors have one dimension: the ranking is a sorting by one number, and map "
            "rises with it by construction. It is a classifier's output more than a search for alike images."
        )
    if found.out_of_fold is not None and (change := found.out_of_fold.change) is not None:
        notes.append(
            "The gallery is train, to whose images the adaptation was fitted. With each gallery vector "
            f"changed by a fit that has not seen it, the score is {found.out_of_fold.with_it:.4f} "
            f"({change[0]:+.4f})."
        )
    return notes + _shuffled(found)


def _gain(change: Change | None) -> list[str]:
    if change is None or not change[1] <= 0 <= change[2]:
        return []
    return [
        f"The adaptation is not shown to change the score: {change[0]:+.4f} ({change[1]:+.4f} to "
        f"{change[2]:+.4f})."
    ]


def _shuffled(found: AdaptationEvidence) -> list[str]:
    """Said where labels without a meaning seem to help."""
    if found.shuffled is None or found.shuffled.change is None or found.shuffled.change[1] <= 0:
        return []
    low, high = found.shuffled.change[1:]
    what = "labels" if found.fitted.adaptation.uses_labels else "captions"
    return [
        f"Fitted to shuffled {what} the adaptation still gains ({low:+.4f} to {high:+.4f}): that part of "
        f"its gain does not come from the {what}."
    ]
