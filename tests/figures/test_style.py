"""One palette with one set of meanings, and ticks that are round, inside and no formulas."""

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medretrieval import report
from medretrieval.figures import style

CSS = (Path(report.__file__).parent / "report.css").read_text()


def variables(block):
    return dict(re.findall(r"--([\w-]+):\s*([^;]+);", block))


LIGHT = variables(CSS[: CSS.index("@media")])
PRINT = variables(CSS[CSS.index("@media print") :])


@pytest.mark.parametrize("ground", [LIGHT, PRINT], ids=["light", "print"])
def test_the_report_has_the_colors_of_the_pictures(ground):
    found = [ground[f"c{i}"].upper() for i in range(len(style.PALETTE))]
    # Print shortens black.
    assert [{"#000": "#000000"}.get(color, color) for color in found] == list(style.PALETTE)
    assert ground["chance"].upper() == style.CHANCE


@pytest.mark.parametrize("meaning", ["ours", "baseline", "right", "wrong"])
def test_a_color_means_the_same_in_the_report(meaning):
    series = re.fullmatch(r"var\(--(c\d)\)", LIGHT[meaning])[1]
    assert LIGHT[series].upper() == getattr(style, meaning.upper())


def test_no_other_module_has_colors_of_its_own():
    package = Path(style.__file__).parents[1]
    bare = re.compile(r"#[0-9a-fA-F]{6}\b")
    found = [p.name for room in ("figures", "report", "explain") for p in (package / room).glob("*.py")
             if bare.search(p.read_text())]  # fmt: skip
    assert found == ["style.py"]


NUMBERS = st.floats(1e-6, 1e6)


@given(low=NUMBERS, share=st.floats(1.001, 1e4))
@settings(max_examples=200, deadline=None)
def test_ticks_are_inside_and_say_where_they_stand(low, share):
    high = low * share
    for chosen in (style.ticks(low, high), style.log_ticks(low, high)):
        assert 2 <= len(chosen) <= 10
        assert list(chosen) == sorted(chosen)
        for value, text in chosen.items():
            assert low * (1 - 1e-6) <= value <= high * (1 + 1e-6)
            assert float(text.replace(",", "")) == pytest.approx(value, rel=1e-6)
            assert not re.search(r"[$\\{]", text)
