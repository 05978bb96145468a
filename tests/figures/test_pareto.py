import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medretrieval.errors import UserError
from medretrieval.evidence.pareto import pareto_front
from medretrieval.figures.pareto import KEYS, figure


def by_definition(points, maximize):
    """Point by point: on the front if nothing is as good in everything and better in something."""
    signs = [1 if more else -1 for more in maximize]

    def dominates(a, b):
        pairs = [(s * x, s * y) for s, x, y in zip(signs, a, b, strict=True)]
        return all(x >= y for x, y in pairs) and any(x > y for x, y in pairs)

    return [not any(dominates(other, point) for other in points) for point in points]


@given(seed=st.integers(0, 10**6), n=st.integers(0, 30), m=st.integers(1, 3))
@settings(max_examples=100, deadline=None)
def test_the_front_is_what_its_definition_says(seed, n, m):
    # Few values, so that many points are equal in something or in everything.
    rng = np.random.default_rng(seed)
    points, maximize = rng.integers(0, 5, (n, m)).astype(float), rng.random(m) < 0.5
    found = pareto_front(points, maximize.tolist())
    assert found.dtype == np.bool_
    assert found.tolist() == by_definition(points.tolist(), maximize)


def test_more_is_better_or_worse_by_column():
    points = np.array([[1.0, 1.0], [2.0, 2.0]])
    fronts = {d: pareto_front(points, d).tolist() for d in itertools.product([True, False], repeat=2)}
    assert fronts == {
        (True, True): [False, True],
        (False, False): [True, False],
        (True, False): [True, True],
        (False, True): [True, True],
    }


def test_equal_points_stand_on_the_front_together():
    assert pareto_front(np.array([[1.0, 2], [1, 2], [0, 3]]), [True, False]).tolist() == [True, True, False]


def test_a_point_with_nan_is_not_on_the_front_and_keeps_no_other_off_it():
    points = np.array([[np.nan, 9.0], [1.0, 1.0], [9.0, np.nan]])
    assert pareto_front(points, [True, True]).tolist() == [False, True, False]


@pytest.mark.parametrize(("shape", "directions"), [((3,), 1), ((3, 2), 1), ((3, 2), 3)])
def test_as_many_directions_as_columns_are_wanted(shape, directions):
    with pytest.raises(ValueError, match=r"\[n, m\] and m are wanted"):
        pareto_front(np.zeros(shape), [True] * directions)


def row(**changes):
    plain = {"label": "a flat", "encoder": "a", "score": 0.8, "latency_ms": 1.5, "bytes_per_vector": 512}
    return plain | changes


def runs(n):
    rng = np.random.default_rng(0)
    return [
        row(
            label=f"encoder{i % 9} run {i}",
            encoder=f"encoder{i % 9}",
            score=rng.uniform(0.7, 0.9),
            latency_ms=10 ** rng.uniform(-1, 1.5),
            bytes_per_vector=rng.integers(8, 6000),
        )
        for i in range(n)
    ]


@pytest.mark.parametrize("rows", [runs(1), runs(20), [row()] * 3, [row(score=0)]], ids=len)
def test_the_picture_is_a_png_of_150_dpi_without_a_display(tmp_path, monkeypatch, rows):
    from PIL import Image

    monkeypatch.delenv("DISPLAY", raising=False)
    figure(tmp_path / "pareto.png", rows, "precision_at_5")
    with Image.open(tmp_path / "pareto.png") as picture:
        assert picture.format == "PNG"
        assert picture.size == (1350, 900)
        assert [round(d) for d in picture.info["dpi"]] == [150, 150]
        assert len(picture.convert("L").getcolors()) > 10


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """Draw and give back the figure as it was saved."""
    from matplotlib.figure import Figure

    kept, save = [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (kept.append(self), save(self, *a, **k))[1])

    def draw(rows):
        figure(tmp_path / "pareto.png", rows)
        return kept[-1]

    return draw


def test_labels_cover_neither_each_other_nor_the_frame(drawn):
    axes = drawn(runs(20)).axes[0]
    boxes = [text.get_window_extent() for text in axes.texts]
    assert len(boxes) == 20
    assert not [(a, b) for a, b in itertools.combinations(boxes, 2) if a.overlaps(b)]
    frame = axes.get_window_extent()
    assert all(frame.contains(*corner) for box in boxes for corner in box.corners())


def test_where_there_is_no_room_the_front_alone_is_labeled(drawn):
    crowd = [
        row(
            label=f"a rather long name of an index with many search parameters {i}",
            score=0.5 + i % 4 / 1000,
            latency_ms=1 + i / 1000,
        )
        for i in range(60)
    ]
    axes = drawn(crowd).axes[0]
    texts = {text.get_text() for text in axes.texts}
    bold = {text.get_text() for text in axes.texts if text.get_fontweight() == "bold"}
    assert {f"a rather long name of an index with many search parameters {i}" for i in (0, 1, 2, 3)} == bold
    assert len(texts) < 60
    boxes = [text.get_window_extent() for text in axes.texts]
    assert not [(a, b) for a, b in itertools.combinations(boxes, 2) if a.overlaps(b)]


@pytest.mark.parametrize(
    "rows", [runs(1), runs(3), runs(20), [row(encoder="a very long name of an encoder" * 2)]]
)
def test_everything_written_is_in_the_picture_and_no_formula(drawn, rows):
    from matplotlib.text import Text

    picture = drawn(rows)
    words = [text for text in picture.findobj(Text) if text.get_text() and text.get_visible()]
    assert any(text.get_text() == "encoder" for text in words)
    assert not [text.get_text() for text in words if "$" in text.get_text() or "\\" in text.get_text()]
    whole = picture.bbox
    for text in words:
        assert all(whole.contains(*corner) for corner in text.get_window_extent().corners()), text
    axes = picture.axes[0]
    assert len(axes.get_xticklabels()) >= 3
    for label, place in zip(axes.get_xticklabels(), axes.get_xticks(), strict=True):
        assert float(label.get_text().replace(",", "")) == pytest.approx(place)


@pytest.mark.parametrize("key", KEYS)
def test_a_run_without_a_number_is_refused_by_name(tmp_path, key):
    lacking = row()
    del lacking[key]
    with pytest.raises(UserError, match=f"pareto: run 2 has no {key}"):
        figure(tmp_path / "pareto.png", [row(), lacking])


@pytest.mark.parametrize(
    ("key", "value"), [("latency_ms", 0), ("latency_ms", np.inf), ("bytes_per_vector", -1), ("score", np.nan)]
)
def test_a_number_that_cannot_be_drawn_is_refused_by_name(tmp_path, key, value):
    with pytest.raises(UserError, match=f"pareto: {key}=.* of 'a flat'"):
        figure(tmp_path / "pareto.png", [row(), row(**{key: value})])


def test_no_runs_make_no_picture(tmp_path):
    with pytest.raises(UserError, match="no runs to draw"):
        figure(tmp_path / "pareto.png", [])
    assert not list(tmp_path.iterdir())
