"""What `medretrieval log` sends, where to, and what it leaves out: a folder does not decide it alone."""

import itertools
import json
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.saved_runs import composed

from medretrieval import run
from medretrieval.errors import UserError
from medretrieval.track.find_runs import default_uri
from medretrieval.track.mlflow import later
from medretrieval.track.mlflow.database import same_store

FOREIGN = "http://elsewhere.example.org"
MEANT = ("here", "elsewhere", "nowhere", "logged")
PLACES = ("below", "outside", "named")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return run(composed(tmp_path_factory.mktemp("later"), "encoder=pixels")).folder


@pytest.fixture(scope="module")
def place(finished, tmp_path_factory):
    """A run for each way to be meant and to be found; those that are named lie outside of the outputs."""
    top = tmp_path_factory.mktemp("place")
    here = default_uri(top / "outputs")
    uris = {"here": here, "elsewhere": FOREIGN, "logged": FOREIGN}
    folders = {"below": top / "outputs" / "runs", "outside": top / "other", "named": top / "named"}
    note = json.loads((finished / "tracking.json").read_text())
    for meant, where in itertools.product(MEANT, PLACES):
        folder = shutil.copytree(finished, folders[where] / meant, symlinks=True)
        if meant in uris:
            said = {"uri": uris[meant], "experiment": "e", "log_index": False}
            said |= {"run_id": "1" if meant == "logged" else None, "logged": meant == "logged"}
            (folder / "tracking.json").write_text(json.dumps(note | said))
    return top


ASKED = st.sets(st.tuples(st.sampled_from(MEANT), st.sampled_from(PLACES)), min_size=1)


@given(ASKED, st.sampled_from([None, "sqlite:///given.db"]), st.booleans())
def test_what_is_sent_where_is_as_the_rule_says(place, tmp_path_factory, asked, uri, everything):
    outputs, here = place / "outputs", default_uri(place / "outputs")
    # A folder of runs, in which only those that are asked for lie.
    top = tmp_path_factory.mktemp("asked")
    shutil.copytree(place / "outputs", top / "outputs", symlinks=True)
    names = {"below": top / "outputs" / "runs", "outside": top / "other"}
    words, wanted, left = [], {}, set()
    for where, folder in names.items():
        shutil.rmtree(folder, ignore_errors=True)
        for meant in sorted(m for m, w in asked if w == where):
            source = (place / "outputs" / "runs" if where == "below" else place / "other") / meant
            shutil.copytree(source, folder / meant, symlinks=True)
        if folder.exists():
            words.append(folder)
    words += [place / "named" / meant for meant, where in sorted(asked) if where == "named"]
    for meant, where in asked:
        folder = place / "named" / meant if where == "named" else names[where] / meant
        own = {"here": here, "elsewhere": FOREIGN, "nowhere": here, "logged": FOREIGN}[meant]
        if uri or everything or (meant in ("here", "logged") and where != "outside"):
            wanted[folder] = uri or own
        else:
            left.add(folder)
    sent = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(later, "default_uri", lambda _: here)
        patch.setattr(later, "_log_one", lambda folder, note, to: sent.setdefault(folder, to) and 1)
        warned = []
        patch.setattr(later.log, "warning", lambda form, line: warned.append(line))
        try:
            assert later.log_later(words, uri, top / "outputs", everything) == len(wanted)
        except UserError as refused:
            assert not wanted
            warned.append(str(refused))
    assert sent == wanted
    assert len(warned) == bool(left)
    for line in warned:
        assert len(line.splitlines()) == 1
        assert "left out: --all logs each where it was meant to go, or name MLflow's store" in line
        counted = sum(str(folder) in line for folder in left)
        assert counted >= min(len(left), later.SHOWN)
    assert outputs != top


def test_the_line_says_each_reason_once_and_counts_the_rest(place):
    others = place / "other"
    with pytest.raises(UserError) as refused:
        later.log_later([others], None, place / "outputs")
    line = str(refused.value)
    assert f"{others / 'elsewhere'}: meant for MLflow at {FOREIGN}, and here it is sqlite:///" in line
    assert (
        f"{others / 'nowhere'}: not meant for MLflow, its tracker is medretrieval.track.tracker.Tracker"
        in line
    )
    assert (
        f"{others / 'here'}, {others / 'logged'}: not below {place / 'outputs'}, and not named itself" in line
    )


def test_nothing_is_sent_to_where_a_foreign_folder_says(place, say, monkeypatch):
    monkeypatch.setattr(later, "_log_one", lambda *_: pytest.fail("sent"))
    code, out, err = say("log", place / "named" / "elsewhere", f"outputs={place / 'outputs'}")
    assert (code, out) == (1, "")
    assert f"meant for MLflow at {FOREIGN}" in err
    assert len(err.splitlines()) == 1


def test_all_sends_a_run_without_tracking_to_the_usual_store(finished, tmp_path, database, say, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", database)
    shutil.copytree(finished, tmp_path / "run", symlinks=True)
    assert say("log", "run")[0] == 1
    assert say("log", "run", "--all")[:2] == (0, "1 runs logged\n")
    assert say("log", "run")[:2] == (0, "0 runs logged\n")


def test_stores_are_the_same_by_their_file_and_their_host(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert same_store("sqlite:///outputs/m.db", f"sqlite:///{tmp_path}/outputs/../outputs/m.db")
    assert not same_store("sqlite:///m.db", "sqlite:///n.db")
    assert same_store("http://***@h.org", "http://ann:pw@h.org")
    assert not same_store("http://h.org", "sqlite:///m.db")
