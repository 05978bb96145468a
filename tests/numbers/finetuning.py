"""The tables of experiments/finetuning.md: last blocks beside a head, and a small CLIP on captions."""

import contextlib
import io
from collections.abc import Callable
from pathlib import Path

from tests.numbers.adaptation import Finished, cells, said

from medretrieval.encoders import train_phantom_clip
from medretrieval.runs.report import RunReport
from medretrieval.runs.tables import markdown

PRESET = "experiments=finetuning"
SAME = ("dataset=pneumoniamnist", "protocol=leave_one_out", "encoder=efficientnet_lite0")
HEADER = ("precision_at_5", "gain (95 %)", "val minus test", "refits", "shuffled labels (95 %)")
# A CLIP that is not at its ceiling: a minute of training on phantoms of another seed.
SHORT = ("--images", "1000", "--epochs", "6", "--quiet")
PHANTOM = ("encoder=phantom_clip", "adapt.refits=5", "adapt.blocks=2", "adapt.learning_rate=[0.0003,0.001]")
IMAGES = ("protocol=query_gallery", "evaluation.objective=precision_at_5")
ASKED = {
    "captions, image to find": (("clip_captions",), ("protocol=text_to_image", "prompts=captions")),
    "images, class to find": (("last_blocks", "clip_captions"), IMAGES),
}


def finetuning(runs: Finished) -> str:
    """The last block, beside a linear head on the same network's vectors."""
    rows = []
    for words in ((PRESET,), ("experiments=adaptation", *SAME, "adapt=linear_head")):
        report = runs.of(*words)[0]
        found = report.adapt
        assert found is not None
        rows.append([found.name, f"{found.choice['learning_rate']:g}", *cells(report)[1:]])
    return markdown(["adapt", "learning rate chosen", *HEADER], rows)


def captions(runs: Finished) -> str:
    """A small CLIP, trained shortly, before and after it is tuned on phantoms."""
    (outputs,) = (place.partition("=")[2] for place in runs.places if place.startswith("paths.outputs="))
    with contextlib.redirect_stdout(io.StringIO()):
        train_phantom_clip.main(["--folder", str(Path(outputs) / "phantom_clip"), *SHORT])
    rows = []
    for asked, (names, words) in ASKED.items():
        rows += [[asked, *_tuned(runs.of(*PHANTOM, *words, f"adapt={name}")[0])] for name in names]
    header = ["asked by", "adapt", "learning rate chosen", "score", "without", "with", "gain (95 %)"]
    return markdown([*header, "val minus test", "refits", "shuffled (95 %)"], rows)


def _tuned(report: RunReport) -> list[str]:
    found, gain = report.adapt, report.stages[0]
    assert found is not None
    return [
        found.name,
        f"{found.choice['learning_rate']:g}",
        report.objective.name,
        f"{gain.without:.4f}",
        f"{gain.with_it:.4f}",
        said(gain.change),
        f"{found.val_gap:+.4f}",
        f"{min(found.refits):.4f} to {max(found.refits):.4f}",
        "" if found.shuffled is None else said(found.shuffled.change),
    ]


TABLES: dict[str, Callable[[Finished], str]] = {"finetuning": finetuning, "finetuning captions": captions}
