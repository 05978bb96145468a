"""Pictures look as they are stored, and what makes them unreadable is noticed."""

import matplotlib.figure
import numpy as np
import pytest
from matplotlib.axes import Axes
from PIL import ImageDraw
from tests.figures import baselines

from medretrieval.figures import galleries, pareto, per_class, query_results, saliency


def test_every_picture_is_stored_small():
    names = [*baselines.WRITERS, *baselines.REAL, "sweep_pareto"]
    assert sorted(names) == sorted(path.stem for path in baselines.STORED.glob("*.png"))
    assert all(path.stat().st_size < 10_000 for path in baselines.STORED.glob("*.png"))


@pytest.mark.parametrize("name", [*baselines.REAL, "sweep_pareto"])
def test_a_picture_of_a_real_sweep_looks_as_it_is_stored(name, finished_sweep, tmp_path):
    found = baselines.difference(baselines.of_real(name, finished_sweep, tmp_path), name)
    assert found < baselines.TOLERANCE, f"{name}: differs by {found:.1f} levels"


def test_formulas_in_the_picture_of_a_real_sweep_are_noticed(finished_sweep, tmp_path, monkeypatch):
    formulas(monkeypatch)
    picture = baselines.of_real("sweep_pareto", finished_sweep, tmp_path)
    assert baselines.difference(picture, "sweep_pareto") > 1.3 * baselines.TOLERANCE


@pytest.mark.parametrize("name", baselines.WRITERS)
def test_a_picture_looks_as_it_is_stored(name, tmp_path):
    found = baselines.difference(baselines.drawn(name, tmp_path), name)
    assert found < baselines.TOLERANCE, (
        f"{name}: differs by {found:.1f} levels; `python -m tests.figures.baselines <folder>` stores all "
        "anew and puts the whole pictures into the folder; look at them"
    )


def without(owner, method):
    return lambda patch: patch.setattr(owner, method, lambda *a, **k: None)


def formulas(patch):
    def written(low, high):
        exponents = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
        return {10.0**e: f"$\\mathdefault{{10^{{{e}}}}}$" for e in exponents if low <= 10.0**e <= high}

    patch.setattr(pareto, "log_ticks", written)


def no_chance(patch):
    plot = Axes.plot
    patch.setattr(
        Axes, "plot", lambda self, *a, **k: None if k.get("label") == "chance" else plot(self, *a, **k)
    )


def swapped(patch):
    patch.setattr(galleries, "RIGHT", galleries.WRONG)


DAMAGE = {
    "gallery-colors": swapped,
    "gallery-words": without(ImageDraw.ImageDraw, "text"),
    "confusion-numbers": without(Axes, "text"),
    "per_class-legend": without(matplotlib.figure.Figure, "legend"),
    "per_class-chance": without(Axes, "scatter"),
    "per_class-names": lambda patch: patch.setattr(per_class, "scales", lambda *a, **k: None),
    "precision_recall_by_k-legend": without(matplotlib.figure.Figure, "legend"),
    "precision_recall_by_k-band": without(Axes, "fill_between"),
    "precision_recall_by_k-chance": no_chance,
    "vote-legend": without(Axes, "legend"),
    "pareto-ticks": formulas,
    "pareto-legend": without(matplotlib.figure.Figure, "legend"),
    "audit-words": without(ImageDraw.ImageDraw, "text"),
    "saliency-maps": without(saliency, "_overlay"),
    "deletion-legend": without(Axes, "legend"),
    "query-captions": without(query_results, "_caption"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_picture_is_noticed(damage, tmp_path, monkeypatch):
    name = damage.partition("-")[0]
    DAMAGE[damage](monkeypatch)
    found = baselines.difference(baselines.drawn(name, tmp_path), name)
    assert found > 1.3 * baselines.TOLERANCE
