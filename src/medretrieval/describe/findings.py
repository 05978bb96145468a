"""What of a description needs action, a sentence each: what it is, what it does to a run, what to do."""

import re
from collections.abc import Iterator

from medretrieval.describe.copies import FILE, IMAGE, NEAR
from medretrieval.describe.description import Description, Likeness
from medretrieval.images.perceptual_hash import HASH_SIDE_PIXELS

LARGE_SHARE = 0.75  # of a split in one class, from which on a random ranking scores high
FEW_IMAGES = 10  # of a class in a split: below it no score of the class has an interval
SHOWN = 3  # names in a sentence


def findings(facts: Description) -> list[str]:
    """The sentences, the worst first; empty where nothing needs action."""
    sentences = [*_unreadable(facts), *_conflicts(facts), *_across(facts), *_within(facts)]
    return [*sentences, *_classes(facts), *_groups(facts), *_missing(facts)]


def counted(number: int, noun: str, verb: str = "") -> str:
    """A number with its noun, and with "have" or "are" in the form that goes with it.

    >>> counted(1, "image", "have"), counted(1200, "patient"), counted(2, "copy", "are")
    ('1 image has', '1,200 patients', '2 copies are')
    """
    many = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}{'es' if noun.endswith('s') else 's'}"
    singular = {"have": "has", "are": "is"}
    verb = singular.get(verb, verb) if number == 1 else verb
    return f"{number:,} {noun if number == 1 else many} {verb}".rstrip()


def percent(share: float) -> str:
    """A share in percent, with a digit after the point where it is small.

    >>> percent(0.3), percent(0.0123), percent(0.0004)
    ('30 %', '1.2 %', '<0.1 %')
    """
    if 0 < share < 0.001:
        return "<0.1 %"
    return f"{100 * share:.0f} %" if share >= 0.1 or share == 0 else f"{100 * share:.1f} %"


def without_folders(text: str) -> str:
    """A text without the folders of absolute paths: a page that is sent to others names no one's folders.

    >>> without_folders("image=/home/me/chest/a.png: damaged"), without_folders("paths.data=~/data")
    ('image=a.png: damaged', 'paths.data=data')
    """
    return re.sub(r"(?<![\w.~])(?:~|/|[A-Za-z]:\\)(?:[^\s:;,'\"()]*[/\\])?", "", text)


def hash_words(facts: Description) -> str:
    """What is known of near-duplicates by perceptual hash, or why nothing is."""
    check = facts.hash_check
    if check.trusted:
        return (
            f"Near-duplicates: perceptual hashes that differ in at most {check.bits} of 64 bits "
            f"(audit.near_hash); {percent(check.collisions)} of the images have one of another label within "
            "these bits."
        )
    if check.side < HASH_SIDE_PIXELS:
        why = f"the images have {check.side} pixels a side, and the hash needs {HASH_SIDE_PIXELS}"
    else:
        why = (
            f"the perceptual hash takes {percent(check.collisions)} of the images for a near-duplicate of "
            "one of another label, so it does not tell these images apart"
        )
    return f"Near-duplicates are not counted: {why}. A run counts them by its encoder's embeddings."


def _unreadable(facts: Description) -> Iterator[str]:
    for split in facts.splits:
        names = [one.name for one in facts.unreadable if one.split == split.name]
        if names:
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            yield (
                f"{counted(len(names), 'file')} of {split.name} cannot be read and "
                f"{'is' if len(names) == 1 else 'are'} left out ({', '.join(names[:SHOWN])}{more}): "
                "mend or remove them; the reasons are listed."
            )


def _conflicts(facts: Description) -> Iterator[str]:
    for one in _most_exact(facts):
        if one.conflicts:
            yield (
                f"{counted(one.conflicts, 'image', 'have')} a byte-identical copy with another label "
                f"({_places(one)}): one of the two labels is wrong. Correct it, or remove both; the pairs "
                "are listed."
            )


def _across(facts: Description) -> Iterator[str]:
    for shared in facts.shared_groups:
        yield (
            f"{counted(shared.groups, 'group', 'have')} images in {shared.split} and in {shared.other} "
            f"({shared.images:,} and {shared.other_images:,} images): a query may find its own patient or "
            "lesion, which makes scores higher than those of new patients. Split by group, or run with "
            "protocol.exclude_same_group=true."
        )
    for one in _most_exact(facts):
        if one.split != one.other:
            yield (
                f"{counted(one.images, 'image')} of {one.split} and {one.other_images:,} of {one.other} are "
                "byte-identical copies of each other: a query that finds its copy scores without effort. "
                "Remove one side, or run with protocol.drop_duplicates=true."
            )
    for one in facts.likenesses:
        if one.kind == NEAR and one.split != one.other:
            yield (
                f"{counted(one.images, 'image', 'have')} a near-duplicate between {one.split} and "
                f"{one.other} (by perceptual hash; {one.other_images:,} images of {one.other}): look at the "
                "pairs that are listed, for they may be one picture or one patient."
            )


def _within(facts: Description) -> Iterator[str]:
    for one in _most_exact(facts):
        if one.split == one.other:
            yield (
                f"{counted(one.images, 'image')} of {one.split} {'has' if one.images == 1 else 'have'} a "
                "byte-identical copy in the same split: with protocol=leave_one_out they find each other. "
                "Remove the copies, or run with protocol.drop_duplicates=true."
            )
    for one in facts.likenesses:
        if one.kind == NEAR and one.split == one.other:
            yield (
                f"{counted(one.images, 'image')} of {one.split} {'has' if one.images == 1 else 'have'} a "
                "near-duplicate in the same split (by perceptual hash): look at the pairs that are listed."
            )


def _classes(facts: Description) -> Iterator[str]:
    present = [split for split in facts.splits if split.images]
    for split in present:
        empty = [c.name for c in facts.classes if not c.images[split.name]]
        few = {c.name: c.images[split.name] for c in facts.classes if 0 < c.images[split.name] < FEW_IMAGES}
        if empty:
            yield (
                f"{split.name} has no image of {_listed(empty)}: queries of "
                f"{'this class' if len(empty) == 1 else 'these classes'} find nothing there."
            )
        if few:
            said = ", ".join(f"{name}: {count}" for name, count in few.items())
            yield (
                f"{split.name} has fewer than {FEW_IMAGES} images of a class ({said}): scores of so few "
                "queries are luck, and have no interval."
            )
        largest = max(facts.classes, key=lambda c: c.shares[split.name])
        if facts.label_type != "multi" and LARGE_SHARE <= largest.shares[split.name] < 1:
            yield (
                f"{percent(largest.shares[split.name])} of {split.name} is {largest.name}: a random ranking "
                "scores high there. Read chance beside each score, and the means over classes (macro_)."
            )


def _groups(facts: Description) -> Iterator[str]:
    unknown = [split.name for split in facts.splits if split.images and split.groups is None]
    if unknown:
        yield (
            f"Nobody says which images of {_listed(unknown)} are of one patient: if some are, intervals are "
            "too narrow and scores may be too high. Say it with dataset.groups=<CSV> where you know."
        )


def _missing(facts: Description) -> Iterator[str]:
    images = sum(split.images for split in facts.splits)
    for column in facts.columns:
        missing = sum(column.missing.values())
        if missing:
            yield (
                f"{column.name} is missing for {counted(missing, 'image')} ({percent(missing / images)}): "
                "whatever is counted by it leaves them out. Fill it in where it is known."
            )
    captions = sum(split.without_caption or 0 for split in facts.splits)
    if captions:
        yield f"{counted(captions, 'image', 'have')} no caption, where others have one."
    for split in facts.splits:
        if split.without_finding:
            yield (
                f"{counted(split.without_finding, 'image')} of {split.name} "
                f"{'has' if split.without_finding == 1 else 'have'} no finding: as queries they have "
                "nothing relevant to find, and no score counts them."
            )


def _most_exact(facts: Description) -> list[Likeness]:
    """Byte-identical images; files are told apart only where the loaded images are not."""
    return [one for one in facts.likenesses if one.kind == IMAGE]


def _places(one: Likeness) -> str:
    return f"within {one.split}" if one.split == one.other else f"{one.split} and {one.other}"


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


KIND_WORDS = {
    FILE: "files of equal bytes",
    IMAGE: "images of equal bytes",
    NEAR: "near-duplicates by perceptual hash",
}
