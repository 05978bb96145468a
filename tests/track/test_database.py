"""A store's SQLite file: whole or not there; one that was left half-made is set aside and made again."""

import sqlite3
from contextlib import closing

import pytest
from tests.conftest import SMALL_RUN

from medretrieval import run
from medretrieval.track.mlflow import database as module
from medretrieval.track.mlflow.database import make_database, prepare_database


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(module, "SETTLE_SECONDS", 0.01)


def steps(content: bytes) -> list[str]:
    """The commands that make a whole store, in the order in which its tables came to be."""
    connection = sqlite3.connect(":memory:")
    connection.deserialize(content)
    with closing(connection):
        return list(connection.iterdump())


def half_made(path, content: bytes, share: float) -> None:
    """A store whose making was stopped after a share of its steps, before its first experiment."""
    commands = [line for line in steps(content) if not line.startswith('INSERT INTO "experiments"')]
    inner = commands[1:-1]  # without BEGIN and COMMIT
    with closing(sqlite3.connect(path)) as connection:
        for command in inner[: int(share * len(inner))]:
            connection.execute(command)
        connection.commit()


def experiments(path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return [name for (name,) in connection.execute("SELECT name FROM experiments")]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.6, 1.0])
def test_a_half_made_store_is_set_aside_and_made_again(tmp_path, empty_database, share, caplog):
    path = tmp_path / "mlflow.db"
    half_made(path, empty_database, share)
    path.with_name("mlflow.db-journal").write_bytes(b"")  # one with content would be played into the new file
    before = path.read_bytes()
    assert prepare_database(path)
    assert experiments(path) == ["Default"]
    assert (tmp_path / "mlflow.db.half-made-1").read_bytes() == before
    assert not path.with_name("mlflow.db-journal").exists()
    assert "half-made-1" in caplog.text
    assert not prepare_database(path)


def test_a_whole_store_and_one_that_is_no_store_stay_as_they_are(tmp_path, empty_database):
    whole = tmp_path / "whole.db"
    whole.write_bytes(empty_database)
    text = tmp_path / "notes.txt"
    text.write_text("no database\n" * 400)
    other = tmp_path / "other.db"
    with closing(sqlite3.connect(other)) as connection:
        connection.execute("CREATE TABLE patients (id INTEGER)")
        connection.commit()
    for path in (whole, text, other):
        before = path.read_bytes()
        assert not prepare_database(path)
        assert path.read_bytes() == before
    assert not list(tmp_path.glob("*half-made*"))


def test_a_store_that_another_process_is_still_making_is_left_to_it(tmp_path, empty_database, monkeypatch):
    path = tmp_path / "mlflow.db"
    half_made(path, empty_database, 0.4)
    looks = []

    def other_process(_seconds: float) -> None:
        looks.append(1)
        if len(looks) == 1:
            path.unlink()
            path.write_bytes(empty_database)

    monkeypatch.setattr(module.time, "sleep", other_process)
    assert not prepare_database(path)
    assert path.read_bytes() == empty_database


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_a_making_that_is_stopped_leaves_nothing(tmp_path, monkeypatch, failure):
    path = tmp_path / "mlflow.db"

    def stopped(source: str, target: str) -> None:
        raise failure

    monkeypatch.setattr(module.os, "replace", stopped)
    with pytest.raises(type(failure)):
        make_database(path)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_making_left_does_not_end_in_the_store(tmp_path, empty_database):
    path = tmp_path / "mlflow.db"
    half_made(tmp_path / ".mlflow.db.new", empty_database, 0.3)
    make_database(path)
    assert experiments(path) == ["Default"]
    assert [p.name for p in tmp_path.iterdir()] == ["mlflow.db"]


def test_runs_that_a_half_made_store_missed_are_logged_when_it_is_made_again(
    config, write_npz, tmp_path, empty_database, monkeypatch
):
    from mlflow import MlflowClient

    write_npz(n=20)
    path = tmp_path / "outputs" / "mlflow.db"
    path.parent.mkdir()
    half_made(path, empty_database, 0.4)
    words = ("tracking=mlflow", f"tracking.uri=sqlite:///{path}")
    with monkeypatch.context() as patch:  # as of a version that did not mend it
        patch.setattr("medretrieval.track.mlflow_tracker.prepare_database", lambda _: False)
        run(config(*SMALL_RUN, *words))
    run(config(*SMALL_RUN, *words, "metric=cosine"))
    client = MlflowClient(f"sqlite:///{path}")
    (experiment,) = (e for e in client.search_experiments() if e.name != "Default")
    found = client.search_runs([experiment.experiment_id])
    assert sorted(r.data.tags["metric"] for r in found) == ["cosine", "l2"]
    assert {r.info.status for r in found} == {"FINISHED"}
