"""manifest.json as a type, and what an older run's folder still tells."""

import json

import numpy as np
import pytest
from omegaconf import OmegaConf
from tests.conftest import SMALL_RUN
from tests.files import edit_json, raise_score

from medretrieval import compose, run
from medretrieval.config import renamed
from medretrieval.errors import UserError
from medretrieval.runs.manifest import SideFacts, git_state, manifest, read_manifest
from medretrieval.runs.reopen import config_of_any_format, saved_config
from medretrieval.verify import again


@pytest.fixture
def old(small_run):
    """The same run as a version of results format 5 left it, in the keys of that time."""
    scores, facts = (json.loads((small_run / f"{name}.json").read_text()) for name in ("scores", "manifest"))
    scores |= {"format": 5, "intervals": {n: [e["low"], e["high"]] for n, e in scores["intervals"].items()}}
    for name in ("explain", "autotune"):
        del scores[name]
    side = {"split": "test", "images": 20, "images_sha256": "a", "labels_sha256": "b", "groups_sha256": None}
    facts["data"] = {"query": side, "gallery": side | {"split": "train"}}
    facts["threads"] = {"faiss": 2, "torch": None, "OMP_NUM_THREADS": None}
    del facts["format"]
    figures = facts["config"].pop("figures")
    facts["config"]["report"] = {
        "figures": "none", "queries": figures["queries"], "results": figures["results"], "map": "umap",
    }  # fmt: skip
    facts["config"]["dataset"]["task"] = facts["config"]["dataset"].pop("label_type")
    (small_run / "scores.json").write_text(json.dumps(scores))
    (small_run / "manifest.json").write_text(json.dumps(facts))
    return small_run


def test_it_says_what_a_run_stood_on(small_run):
    found = read_manifest(small_run)
    with np.load(small_run.parents[2] / "data" / "breastmnist.npz") as npz:
        assert len(npz["test_images"]) == found.data["query"].count == 20
    assert found.data["query"].kind == "images"
    assert found.data["gallery"].split == "train"
    assert found.data["query"].content_sha256 != found.data["gallery"].content_sha256
    assert found.evaluation.ks == [1, 3]
    assert found.git == git_state()
    assert found.seed == found.config["seed"] == 0
    assert found.to_text() == (small_run / "manifest.json").read_text()


def test_a_side_of_prompts_is_no_side_of_images():
    class Sentences:
        name, kind, content_sha256, labels_sha256, groups = "prompts", "prompts", "c", "l", None

        def __len__(self):
            return 3

    class Data:
        name = "any"

    found = manifest(Data(), {"query": Sentences()}, {"weights_sha256": "w"}, {"seed": 4})
    assert found.data == {"query": SideFacts("prompts", "prompts", 3, "c", "l", None)}
    assert (found.weights_sha256, found.seed) == ("w", 4)


def test_a_key_that_is_missing_is_named(small_run):
    edit_json(small_run / "manifest.json", lambda c: c["data"]["gallery"].pop("labels_sha256"))
    with pytest.raises(
        UserError, match=r"manifest\.json: data\.gallery\.labels_sha256 is missing; repeat the run"
    ):
        read_manifest(small_run)


@pytest.mark.parametrize(
    "words",
    [
        ["verify", "{old}"],
        ["compare", "{old}", "{old}", "track=false"],
        ["report", "{old}", "track=false"],
        ["log", "{old}"],
        ["query", "run={old}", "text=a"],
        ["explain", "{old}", "query=test/3"],
    ],
    ids=lambda words: words[0],
)
def test_every_verb_refuses_an_older_run_by_its_format(old, refused, words):
    assert refused(*(word.format(old=old) for word in words)) == (
        f"{old}: a run of results format 5, and this version reads 10; repeat the run with: "
        f"medretrieval again {old}"
    )


def test_an_older_run_does_not_count_as_finished(config, old):
    assert not run(config(*SMALL_RUN)).skipped


def test_an_older_run_is_done_again_from_its_own_words(old):
    cfg = config_of_any_format(old, ())
    assert (cfg.figures.enabled, cfg.figures.projection.value) == (False, "umap")
    assert cfg.dataset.label_type == "single"
    new = again(old)
    assert (new.results, new.surroundings) == ([], [])
    assert saved_config(new.folder, ()).figures.enabled is False
    assert read_manifest(new.folder).config["figures"]["projection"] == "umap"


@pytest.mark.parametrize("library", ["timm", "open_clip"])
def test_an_older_run_saw_what_its_checkpoint_shows(old, library):
    older = OmegaConf.to_container(compose(f"encoder={library}", "encoder.model=any").encoder)
    del older["view"]
    edit_json(old / "manifest.json", lambda c: c["config"].update(encoder=older))
    assert config_of_any_format(old, ()).encoder.view == "checkpoint"
    assert config_of_any_format(old, ("encoder.view=whole",)).encoder.view == "whole"
    pixels = OmegaConf.to_container(compose("encoder=pixels").encoder)
    for without in ({"name": "mine", "checkpoint": "a"}, pixels):
        assert renamed({"encoder": without}) == {"encoder": without}


def test_what_does_not_come_out_again_of_an_older_run_is_told(old):
    edit_json(old / "manifest.json", lambda c: c["libraries"].update(numpy="0.1"))
    raise_score(old)
    new = again(old)
    assert [line.split(" ")[0] for line in new.surroundings] == ["libraries.numpy"]
    assert [line.split(" ")[0] for line in new.results] == ["map"]


def test_a_manifest_without_a_configuration_is_refused(old):
    edit_json(old / "manifest.json", lambda c: c.pop("config"))
    with pytest.raises(UserError, match=r"manifest\.json: holds no configuration"):
        again(old)


def test_words_that_no_earlier_version_had_stay_as_they_are():
    plain = {"seed": 0, "dataset": {"name": "x"}, "report": {"other": 1}}
    assert renamed(plain) == plain
    assert renamed({"report": {"figures": "all"}}) == {"figures": {"enabled": True}}
