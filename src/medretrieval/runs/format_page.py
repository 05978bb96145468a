"""docs/results-format.md, made from the types: `python -m medretrieval.runs.format_page (that file)`.

The meaning of a key is what the Attributes section of its class's docstring says.
"""

import dataclasses
import inspect
import re
import sys
import types
import typing
from pathlib import Path
from typing import Any

from medretrieval.runs import folder as run_folder
from medretrieval.runs.manifest import Manifest
from medretrieval.runs.report import RunReport
from medretrieval.runs.tables import markdown
from medretrieval.runs.typed_json import field_types

# The arrays of ranking.npz: dtype and shape in the file, and meaning.
ARRAYS = {
    "query_ids": ("str [q]", "ids of the queries"),
    "gallery_ids": ("str [n]", "ids of the gallery's images"),
    "query_labels": (
        "int64 [q] or bool [q, classes]",
        "class of each query, or its findings",
    ),
    "gallery_labels": (
        "int64 [n] or bool [n, classes]",
        "class of each image, or its findings",
    ),
    "ids": ("int32 [q, depth]", "positions in the gallery; -1 where the index gave no more"),
    "distances": ("float32 [q, depth]", "never decreasing along a row; inf where ids is -1"),
}
# The arrays of halves.npz.
HALVES = {
    "scores": ("str [s]", "names of scores and of their means over classes (`macro_`)"),
    "deviations": (
        "float64 [splits, s]",
        "half the difference of the score between the two halves; the mean square of a column is the squared "
        "standard error of the score",
    ),
    "sides": ("bool [splits, n]", "which half each image is in, or each group in the order of sorted names"),
}
# What else a run's folder holds.
OTHERS = {
    run_folder.CONFIG: "the configuration of the run as YAML, interpolations resolved",
    "index.faiss": "the FAISS index, a link into the cache",
    "embeddings_query.npy": "float32 [q, d], a link into the cache",
    "embeddings_gallery.npy": "float32 [n, d], a link into the cache",
    run_folder.PROMPTS: "the sentences of each query; only where sentences are the queries",
    run_folder.SPLITS: "a row for each image of every split: file, split, id, label, group, and for DICOM "
    "its SOP Instance UID; only where the images are files of the user's own",
    run_folder.AUDIT_PAIRS: "pairs of look-alikes, the most alike first; only where there are any",
    run_folder.AUDIT_PICTURE: "the worst of these pairs",
    f"{run_folder.FIGURES}/": "pictures and what they show; only with figures.enabled or explain.enabled",
    "tracking.json": "where the run was logged",
    run_folder.SKIPPED: "alone in its folder: which earlier run has the results",
    run_folder.FAILED: "alone in its folder: why the run did not finish",
}
NAMES = {int: "integer", float: "number", str: "text", bool: "true or false", Any: "any JSON value"}
HEAD = f"""# Results format

A finished run leaves a folder. This page defines results format {run_folder.FORMAT};
`{run_folder.SCORES}` and `{run_folder.MANIFEST}` name the format that they have. A run of another
format is refused with the number of its format, and `medretrieval again <folder>` repeats it. In Python,
`read_report(folder)` of `medretrieval.runs.report` and `read_manifest(folder)` of
`medretrieval.runs.manifest` give the two files as objects with the keys below as attributes.

This page is made from their types by `python -m medretrieval.runs.format_page
docs/results-format.md`; a test compares it with them and with the files of runs.

Every key is always there; what does not apply is null. "object of X" has names of its own as keys; the
meaning says which, as "name -> value". `q` is the number of queries, `n` of gallery images, `d` the
dimension of the vectors."""


def page() -> str:
    """The whole page as Markdown."""
    parts = [HEAD, _file(run_folder.SCORES, RunReport), _file(run_folder.MANIFEST, Manifest)]
    columns = [[f"`{name}`", said] for name, said in run_folder.QUERY_COLUMNS.items()]
    scores = f"float64; `{run_folder.SCORES}` has the mean; null where n_relevant is 0"
    columns.append(["each score of a query, such as `precision_at_5`", scores])
    parts += [
        f"## {run_folder.PER_QUERY}",
        "One row a query, in the order of the embeddings.",
        markdown(["column", "content"], columns),
        f"## {run_folder.RANKING}",
        "The first `evaluation.save_depth` results of every query, nearest first; NumPy arrays, no pickle.",
        markdown(
            ["array", "dtype and shape", "meaning"], [[f"`{name}`", *said] for name, said in ARRAYS.items()]
        ),
        f"## {run_folder.IMAGES}",
        "Only where the dataset has groups or metadata: one row for each image of the queries and then of "
        "the "
        "gallery, in the order of the embeddings. `confound` and `identity` read it. It is not logged to "
        "MLflow, "
        "since it may say things about patients.",
        markdown(
            ["column", "content"], [[f"`{name}`", said] for name, said in run_folder.IMAGE_COLUMNS.items()]
        ),
        f"## {run_folder.HALVES}",
        "Only where the queries are the gallery and there are enough of them: every score in both halves of "
        "random splits of the images, each half its own queries and gallery. All runs over the same images "
        "have the same halves, so a difference of two runs has the difference of their columns.",
        markdown(
            ["array", "dtype and shape", "meaning"], [[f"`{name}`", *said] for name, said in HALVES.items()]
        ),
        "## Other files",
        markdown(["file", "content"], [[f"`{name}`", said] for name, said in OTHERS.items()]),
    ]
    return "\n\n".join(parts) + "\n"


def _file(name: str, kind: Any) -> str:
    """The section of a JSON file: its own keys, then those of every object in it."""
    kinds = _kinds(kind)
    return "\n\n".join(
        [
            f"## {name}",
            _summary(kind),
            _keys(kind),
            *(part for inner in kinds[1:] for part in _section(inner)),
        ]
    )


def _section(kind: Any) -> list[str]:
    return [f"### {kind.__name__}", _summary(kind), _keys(kind)]


def _kinds(kind: Any) -> list[Any]:
    """A dataclass and those of its fields, in the order in which a reader meets them."""
    found = [kind]
    for hint in field_types(kind).values():
        for inner in (hint, *typing.get_args(hint)):
            if dataclasses.is_dataclass(inner):
                found += [one for one in _kinds(inner) if one not in found]
    return found


def _keys(kind: Any) -> str:
    said = attributes(kind)
    rows = [[f"`{name}`", _type(hint), said[name]] for name, hint in field_types(kind).items()]
    return markdown(["key", "type", "meaning"], rows)


def attributes(kind: Any) -> dict[str, str]:
    """What the Attributes section of a class's docstring says of each name.

    Raises:
        KeyError: a field of a dataclass that it says nothing of.
    """
    text = inspect.cleandoc(kind.__doc__).partition("Attributes:\n")[2].partition("\n\n")[0]
    found: dict[str, str] = {}
    name = ""
    for line in text.splitlines():
        if started := re.match(r"    (\w+): (.*)", line):
            name = started[1]
            found[name] = started[2]
        else:
            found[name] += f" {line.strip()}"
    if silent := [field for field in field_types(kind) if field not in found]:
        raise KeyError(f"{kind.__name__}: its docstring says nothing of {silent[0]}")
    return found


def _summary(kind: Any) -> str:
    return inspect.cleandoc(kind.__doc__).split("\n\n")[0]


def _type(hint: Any) -> str:
    """A type in words; of objects with keys of their own a link to their section."""
    if dataclasses.is_dataclass(hint):
        name = typing.cast(type, hint).__name__
        return f"[{name}](#{name.lower()})"
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return " or ".join("null" if one is types.NoneType else _type(one) for one in inner)
    if origin is list:
        return f"list of {_type(inner[0])}"
    if origin is dict:
        return f"object of {_type(inner[1])}"
    return NAMES[hint]


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page(), encoding="utf-8")
