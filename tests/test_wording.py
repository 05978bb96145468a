"""Words that a reader stumbled over stay gone from what is shown: terminal, notes, pictures, pages."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHOWN = [
    path
    for pattern in (
        "README.md",
        "docs/*.md",
        "experiments/*.md",
        "src/**/*.py",
        "src/**/*.j2",
        "conf/**/*.yaml",
    )
    for path in sorted(ROOT.glob(pattern))
]
# What is not said -> what is said in its place.
GONE = {
    r"lines? to beat": "baseline",
    r"\bshaky\b": "unreliable",
    r"wrongly in \d": "retrieved for 11 queries, wrong for all 11",
    r"(minus|like) #1": "difference from the best, not significantly different",
    r"far from everything": "out of distribution",
    r"as many of each class": "drawn from the classes in turn",
    r"precision_recall\.png": "precision_recall_by_k.png",
    r"of the same class as often|about 1 in 100|three times as often": "what was measured",
    r"\b1 (classes|queries|images|groups|runs|results) (have|are)\b": "the singular",
}


@pytest.mark.parametrize("gone", GONE)
def test_words_that_misled_are_gone(gone):
    assert len(SHOWN) > 150
    pattern = re.compile(gone, re.IGNORECASE)
    found = [
        f"{path.relative_to(ROOT)}:{number}: say {GONE[gone]!r}"
        for path in SHOWN
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if pattern.search(line)
    ]
    assert found == []
