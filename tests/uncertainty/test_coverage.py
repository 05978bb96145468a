"""A part of `make coverage`, small enough for every slow run."""

import pytest
from tests.coverage.simulate import World, answers, any_alarm, rates, simulate
from tests.coverage.stage_table import LINES as STAGES
from tests.coverage.stage_table import rates_of
from tests.coverage.stage_worlds import gained
from tests.coverage.subgroup_table import LINES
from tests.coverage.subgroup_worlds import Cohort, of_index, of_subgroups
from tests.coverage.table import MANY, ONE_SET, TWO_SETS

from medretrieval.config import Resample, root

SAMPLES = 200
LUCK = 3 * 100 * (0.05 * 0.95 / SAMPLES) ** 0.5  # points


@pytest.mark.large
@pytest.mark.slow
@pytest.mark.parametrize(
    "world",
    [
        World(50, dimension=2),
        World(156, score="map"),
        World(240, group=4),
        World(50, 2000, score="precision_at_1", apart=3.5),
        World(200, 2000),
        World(240, 2000, group=4),
        World(100, 200, new_gallery=True, resample=Resample.both),
    ],
    ids=str,
)
def test_intervals_cover_and_tests_alarm_as_they_say(world):
    found = rates([ours for ours, _ in simulate(answers, world, SAMPLES, seed=1)])
    assert found.covered > 95 - LUCK
    assert found.difference_covered > 95 - LUCK
    assert found.false_alarms < 5 + LUCK


@pytest.mark.slow
def test_many_equal_encoders_alarm_as_rarely():
    assert 100 * sum(simulate(any_alarm, World(100, 500, encoders=8), SAMPLES, seed=1)) / SAMPLES < 5 + LUCK


def test_every_procedure_is_simulated():
    worlds = [world for _, world in (*ONE_SET, *TWO_SETS, *MANY)]
    assert {world.resample for world in worlds} == set(Resample)
    for wanted in (
        lambda w: not w.gallery and w.group > 1,
        lambda w: w.gallery and w.group > 1,
        lambda w: w.score.startswith("macro_") and not w.gallery,
        lambda w: w.score.startswith("macro_") and w.gallery,
        lambda w: w.encoders > 2 and not w.gallery,
        lambda w: w.encoders > 2 and w.gallery,
    ):
        assert any(map(wanted, worlds))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("procedure", "world"),
    [
        (of_subgroups, Cohort(100, 500, images=4, values=(0.7, 0.3))),
        (of_subgroups, Cohort(60, 500, images=6, mixed=True)),
        (of_subgroups, Cohort(156, grouped=False, values=(0.7, 0.3))),
        (of_index, Cohort(100, 500, images=4, shift=2.0)),
        (of_index, Cohort(100, images=4, shift=2.0)),
    ],
    ids=lambda part: getattr(part, "__name__", str(part)),
)
def test_subgroups_and_shares_cover_and_alarm_as_they_say(procedure, world):
    found = simulate(procedure, world, SAMPLES, seed=1)
    truth = sum(one.value for one in found) / SAMPLES
    given = [one.interval for one in found if one.interval is not None]
    assert 100 * sum(low <= truth <= high for low, high in given) / len(given) > 95 - LUCK
    tested = [one.p for one in found if one.p is not None]
    if procedure is of_subgroups:
        assert 100 * sum(p < 0.05 + 1e-12 for p in tested) / len(tested) < 5 + LUCK


def test_every_procedure_of_subgroups_is_simulated():
    worlds = [(procedure, world) for _, procedure, world in LINES]
    for procedure, held, wanted in (
        (of_subgroups, True, lambda w: w.mixed),
        (of_subgroups, True, lambda w: w.images > 1 and not w.mixed),
        (of_subgroups, True, lambda w: w.columns > 1),
        (of_subgroups, False, lambda w: w.images > 1),
        (of_subgroups, False, lambda w: w.columns > 1),
        (of_index, True, lambda w: w.images > 1),
        (of_index, False, lambda w: w.images > 1),
    ):
        assert any(one is procedure and bool(w.gallery) == held and wanted(w) for one, w in worlds)


@pytest.mark.large
@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 4, 7])
def test_changes_of_stages_cover_as_they_say(number):
    found = gained(STAGES[number][1], SAMPLES, seed=1)
    for name, samples in found.items():
        assert rates_of(samples)[1] > 95 - LUCK, name


def test_every_stage_is_simulated():
    worlds = [world for _, world in STAGES]
    rerankings = {path.stem for path in (root() / "conf" / "rerank").glob("*.yaml")} - {"none"}
    assert {f"rerank={name}" for name in rerankings} <= {w.words[0] for w in worlds if w.gallery}
    for wanted in (
        lambda w: w.gallery and w.group > 1,
        lambda w: not w.gallery and w.group > 1,
        lambda w: w.gallery and w.apart == 0,
        lambda w: not w.gallery and w.apart == 0,
    ):
        assert any(w.words[0] == "adapt=within_class" and wanted(w) for w in worlds)
