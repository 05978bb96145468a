"""The sandbox sees what it is there for, and hundreds of bad inputs end well."""

import random

import pytest
from tests.fuzz.__main__ import main
from tests.fuzz.cases import CLASSES, SMALL, Cases
from tests.fuzz.sandbox import Outcome, Sandbox
from tests.fuzz.values import damaged, factory


@pytest.fixture
def sandbox(tmp_path):
    place = Sandbox(tmp_path)
    yield place
    place.close()


def test_outcomes_are_told_apart(sandbox, tmp_path):
    assert sandbox.run(["metric=nonsense"]).outcome is Outcome.REFUSED
    assert sandbox.run(["--version"]).outcome is Outcome.DONE
    Cases(tmp_path)
    outside = sandbox.run([*SMALL, f"hydra.run.dir={tmp_path.parent / 'elsewhere'}"])
    assert outside.outcome is Outcome.OUTSIDE
    assert "elsewhere" in outside.said


def test_the_same_seed_draws_the_same_inputs(tmp_path):
    for name in ("factories", "places", "archives"):
        lines = []
        for folder in ("a", "b"):
            (tmp_path / name / folder).mkdir(parents=True)
            cases = Cases(tmp_path / name / folder)
            words = CLASSES[name](random.Random(1), cases)
            lines.append([word.replace(str(cases.folder), "") for word in words])
        assert lines[0] == lines[1]
    assert damaged(random.Random(3), b"content") == damaged(random.Random(3), b"content")
    assert factory(random.Random(3)) == factory(random.Random(3))


@pytest.mark.slow
def test_bad_inputs_of_every_class_end_in_a_result_or_in_one_line():
    assert main(["inputs=135", "seed=0", "minutes=4"]) == 0
