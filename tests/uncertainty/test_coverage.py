"""A part of `make coverage`, small enough for every slow run."""

import pytest
from tests.coverage.simulate import World, answers, any_alarm, rates, simulate
from tests.coverage.table import MANY, ONE_SET, TWO_SETS

from medretrieval.config import Resample

SAMPLES = 200
LUCK = 3 * 100 * (0.05 * 0.95 / SAMPLES) ** 0.5  # points


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
