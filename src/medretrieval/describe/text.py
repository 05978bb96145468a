"""A description for the terminal: what needs action first, then the tables."""

from collections.abc import Iterator

from medretrieval.describe.description import Column, Description
from medretrieval.describe.findings import KIND_WORDS, hash_words, percent
from medretrieval.runs.tables import table


def as_text(facts: Description) -> str:
    """The text of `medretrieval data`."""
    return "\n".join(_lines(facts))


def _lines(facts: Description) -> Iterator[str]:
    present = [split.name for split in facts.splits if split.images]
    images = sum(split.images for split in facts.splits)
    yield f"{facts.dataset}: {images:,} images, label type {facts.label_type}"
    yield ""
    yield "what needs action:" if facts.findings else "nothing was found that needs action"
    yield from (f"{i}. {sentence}" for i, sentence in enumerate(facts.findings, 1))
    yield ""
    yield from _splits(facts)
    yield ""
    rows = [
        [c.name, *(cell for name in present for cell in (str(c.images[name]), percent(c.shares[name])))]
        for c in facts.classes
    ]
    yield from table(["class", *(cell for name in present for cell in (name, "share"))], rows, ("class",))
    yield from _copies(facts)
    for column in facts.columns:
        yield from _column(column, present)
    if facts.originals is not None:
        yield ""
        rows = [
            [one.kind, f"{one.width} x {one.height}", str(one.channels), str(one.bits), str(one.frames)]
            + [str(one.images[name]) for name in present]
            for one in facts.originals
        ]
        yield from table(["files", "pixels", "channels", "bits", "frames", *present], rows)
        more = (facts.distinct_originals or 0) - len(facts.originals)
        if more:
            yield f"not shown: {more:,} more kinds and sizes"
    for unreadable in facts.unreadable:
        yield f"cannot be read: {unreadable.name} ({unreadable.split}): {unreadable.reason}"


def _splits(facts: Description) -> list[str]:
    header = ["split", "images", "pixels", "groups", "images a group", "without caption", "unreadable"]
    rows = []
    for split in facts.splits:
        sizes = split.groups
        rows.append(
            [
                split.name,
                str(split.images),
                " x ".join(str(side) for side in split.shape or ()) or "-",
                "-" if sizes is None else str(sizes.groups),
                "-" if sizes is None else f"{sizes.least} to {sizes.most}, median {sizes.median:g}",
                "-" if split.without_caption is None else str(split.without_caption),
                str(split.unreadable),
            ]
        )
    return table(header, rows)


def _copies(facts: Description) -> Iterator[str]:
    yield ""
    if facts.likenesses:
        rows = [
            [
                KIND_WORDS[one.kind],
                one.split if one.split == one.other else f"{one.split} and {one.other}",
                str(one.images),
                str(one.other_images),
                "-" if one.conflicts is None else str(one.conflicts),
            ]
            for one in facts.likenesses
        ]
        yield from table(["copies", "of", "images", "of the other", "other label"], rows)
    else:
        yield "no two images are of equal bytes"
    for pair in [pair for pair in facts.pairs if not pair.same_label]:
        yield f"another label: {pair.image} and {pair.other} ({KIND_WORDS[pair.kind]})"
    yield hash_words(facts)


def _column(column: Column, present: list[str]) -> Iterator[str]:
    yield ""
    rows = [[v.value, *(str(v.images[name]) for name in present)] for v in column.values]
    rows.append(["(missing)", *(str(column.missing[name]) for name in present)])
    yield from table([column.name, *present], rows, (column.name,))
    if column.distinct > len(column.values):
        yield f"not shown: {column.distinct - len(column.values):,} more values"
    for split, q in (column.numbers or {}).items():
        yield (
            f"{column.name} in {split}: {q.least:g} to {q.most:g}, median {q.median:g} "
            f"(quartiles {q.lower:g} and {q.upper:g})"
        )
