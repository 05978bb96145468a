"""A run's folder may come from anybody: no verb runs code that it names, unless the user's own words do."""

import json
import shutil
import sys

import pytest
from omegaconf import OmegaConf
from tests.files import reseal
from tests.saved_runs import composed

from medretrieval import run
from medretrieval.adapt.fit import read_tensors, write_tensors
from medretrieval.adapt.stage import ADAPTATION

EVIL = """
from pathlib import Path

Path("executed").write_text("")
from medretrieval.encoders.baselines import PixelEncoder as Net
from medretrieval.datasets.phantom import ChestPhantom as Data
from medretrieval.track.tracker import Tracker as Diary
from medretrieval.adapt.linear import Whiten as Fit
"""
OPENING = {
    "again": [], "verify": [], "query": ["image=a.png"], "explain": ["query=test/3"],
    "confound": ["by=site"], "identity": [],
}  # fmt: skip
READING = {"report": ["track=true"], "compare": ["other", "track=true"], "log": ["uri={database}"]}
PLACES = {
    "encoder": "evil.Net", "dataset": "evil.Data", "adapt": "evil.Fit", "tracking": "evil.Diary",
    "rerank": "evil.Net",
}  # fmt: skip


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    """The folder of a finished run whose encoder is adapted, and beside it another."""
    place = tmp_path_factory.mktemp("honest")
    whiten = ("adapt=whiten", "adapt.shrinkage=0.1", "adapt.refits=0")
    run(composed(place, "encoder=pixels", *whiten, "dataset.n_val=12"), place / "run")
    run(composed(place, "encoder=pixels", "index=ivf"), place / "other")
    return place


@pytest.fixture
def foreign(honest, tmp_path, monkeypatch):
    """A copy of the run in this folder, which holds a module that says when it is imported."""
    (tmp_path / "evil.py").write_text(EVIL)
    monkeypatch.delitem(sys.modules, "evil", raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("run", "other"):
        shutil.copytree(honest / name, tmp_path / name, symlinks=True)
    return tmp_path / "run"


def name_code(folder, change):
    """Change a run's configuration where verbs read it."""
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest["config"])
    (folder / "manifest.json").write_text(json.dumps(manifest))
    OmegaConf.save(OmegaConf.create(manifest["config"]), folder / "config.yaml")
    reseal(folder)


def swap(group, target):
    def change(config):
        config[group] = {**(config[group] or {}), "_target_": target}

    return change


@pytest.mark.parametrize("group", PLACES)
@pytest.mark.parametrize("verb", OPENING)
def test_a_verb_refuses_code_that_a_run_names_without_importing_it(refused, foreign, tmp_path, verb, group):
    name_code(foreign, swap(group, PLACES[group]))
    line = refused(verb, "run", *OPENING[verb])
    assert line == (
        f"run/manifest.json: {group}._target_={PLACES[group]} is code from outside medretrieval, which a "
        "run's folder cannot have run; if you trust it, name it in a configuration of your own: "
        "--config-dir <folder>"
    )
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("verb", ["query", "explain"])
def test_a_file_of_an_adaptation_names_no_code_either(refused, foreign, tmp_path, verb):
    path = foreign / ADAPTATION
    tensors, about = read_tensors(path)
    path.unlink()
    write_tensors(path, tensors, {**about, "adapt": {**about["adapt"], "_target_": "evil.Fit"}})
    name_code(foreign, lambda config: config["adapt"].update(file="somewhere"))
    words = {"query": ["text=x"], "explain": OPENING["explain"]}[verb]
    assert "adapt._target_=evil.Fit is code from outside" in refused(verb, "run", *words)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("group", ["encoder", "tracking"])
@pytest.mark.parametrize("verb", READING)
def test_verbs_that_read_numbers_import_nothing(say, foreign, tmp_path, database, verb, group):
    name_code(foreign, swap(group, PLACES[group]))
    code, _, err = say(verb, "run", *(word.format(database=database) for word in READING[verb]))
    assert code == (group == "tracking" and verb != "log"), err
    assert ("tracking._target_=evil.Diary is code from outside" in err) == code
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("asked", ["${oc.env:HOME}", "a ${oc.decode:${oc.env:HOME}}", "${${name}:HOME}"])
def test_what_is_looked_up_in_the_environment_is_refused(refused, foreign, asked):
    name_code(foreign, lambda config: config["tracking"].update(path=asked))
    assert refused("verify", "run").startswith("run/manifest.json: tracking.path holds ${...:...}")


def test_the_users_own_configuration_and_words_allow_it(say, foreign, tmp_path):
    name_code(foreign, swap("encoder", "evil.Net"))
    assert say("verify", "run")[0] == 1
    assert say("again", "run", "encoder._target_=evil.Net", f"paths.outputs={tmp_path}")[0] == 0
    assert (tmp_path / "executed").exists()
    (tmp_path / "mine" / "encoder").mkdir(parents=True)
    (tmp_path / "mine" / "encoder" / "net.yaml").write_text("_target_: evil.Net\nname: net\n")
    sys.modules.pop("evil")
    code, out, err = say("verify", "run", "--config-dir", "mine")
    assert (code, err) == (1, "")  # the configuration is another one, and nothing else
    assert out.splitlines()[1:] == [line for line in out.splitlines() if "scores.json: fingerprint" in line]
    assert say("verify", "run", "--config-dir", "nowhere")[2] == (
        "medretrieval: --config-dir nowhere: there is no such folder\n"
    )


def test_hydras_rerun_of_a_pickle_is_refused(refused):
    for word in ("--experimental-rerun=x", "--exp", "--experimental-rerun"):
        assert "would unpickle a file" in refused(word, "x")
