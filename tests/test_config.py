import re

import pytest
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from medretrieval import compose
from medretrieval.adapt.base import Adaptation
from medretrieval.checks import check
from medretrieval.config import is_set, root
from medretrieval.datasets.base import Dataset
from medretrieval.encoders.base import Encoder
from medretrieval.errors import UserError
from medretrieval.index.parameters import require_parameters
from medretrieval.instantiate import instantiate
from medretrieval.rerank.base import Reranker
from medretrieval.track.tracker import Tracker, tracker_from_config

# Words for a dataset are no component; tests/test_prompts.py has them.
FILES = sorted(p for p in (root() / "conf").glob("*/*.yaml") if p.parent.name != "prompts")
PRESETS = sorted((root() / "experiments").glob("*.yaml"))
GENERIC = {
    "timm": "encoder.model=resnet18",
    "open_clip": "encoder.model=RN50",
    "transformers": "encoder.model=microsoft/rad-dino",
    "transformers_clip": "encoder.model=openai/clip-vit-base-patch32",
}
OWN = {  # files of the user's own: where they are
    "onnx": ["encoder.checkpoint=model.onnx"],
    "saved": ["adapt.file=adaptation.safetensors"],
    "folder": ["dataset.root=."],
    "csv": ["dataset.table=images.csv"],
    "dicom": ["dataset.root=.", "dataset.label_tag=BodyPartExamined"],
}


@pytest.mark.parametrize("path", FILES, ids=lambda p: f"{p.parent.name}={p.stem}")
def test_every_file_of_every_group_composes_and_instantiates(path):
    group, name = path.parent.name, path.stem
    cfg = compose(f"{group}={name}", *([GENERIC[name]] if name in GENERIC else OWN.get(name, [])))
    settings = check(cfg)
    part = getattr(settings, group)
    if group == "dataset":
        assert instantiate(part, Dataset, group).name == name
    elif group == "encoder":
        called = {"dual": "dual_efficientnet_lite0", "fusion": "fusion_pixels+efficientnet_lite0"} | {
            one: part.get("model") for one in GENERIC
        }
        assert instantiate(part, Encoder, group).name == called.get(name, name)
    elif group == "tracking":
        assert isinstance(tracker_from_config(part), Tracker)
    elif group == "rerank":
        assert instantiate(part, Reranker, group).name == name
    elif group == "adapt":
        assert is_set(part) == (name != "none")
        assert part["name"] == name
        if is_set(part) and name != "saved":  # which opens its file; tests/adapt/test_stage.py does
            assert instantiate(part, Adaptation, group).name == name
    else:
        assert part.name == name
    if group == "index":
        require_parameters(part, 10_000)


@pytest.mark.parametrize("path", PRESETS, ids=lambda p: p.stem)
def test_every_preset_composes_and_its_page_begins_with_its_command(path):
    cfg = compose(f"experiments={path.stem}")
    check(cfg)
    page = path.with_suffix(".md").read_text()
    assert page.splitlines()[0] == f"`medretrieval experiments={path.stem}`"
    assert "| " in page


def test_a_preset_changes_groups_and_plain_values():
    cfg = compose("experiments=mahbod2025")
    assert (cfg.dataset.name, cfg.protocol.name, list(cfg.evaluation.ks)) == (
        "pneumoniamnist",
        "query_gallery",
        [1, 3, 5],
    )
    assert cfg.evaluation.objective == "map_at_5_hits"


def test_presets_that_repeat_others_numbers_show_the_model_what_they_did():
    assert compose("experiments=mahbod2025").encoder.view == "whole"
    assert compose("experiments=clip_pneumonia").encoder.view == "checkpoint"


@pytest.mark.parametrize(
    "override",
    ["seeds=1", "index.nlists=3", "index.nlist=many", "evaluation.ks=five", "force=perhaps", 
     "protocol.query=dev", "tracking.url=x", "metric.faiss=cosine"],
)  # fmt: skip
def test_a_typo_in_a_key_or_value_is_refused(override):
    with pytest.raises((OmegaConfBaseException, HydraException), match=re.escape(override.split("=")[0])):
        check(compose(override))


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("evaluation.ks=[]", r"evaluation.ks=\[\]: give at least one depth"),
        ("evaluation.ks=[0,5]", r"evaluation.ks=\[0, 5\]"),
        ("evaluation.save_depth=0", "evaluation.save_depth=0: must be 1 or more"),
        ("seed=-1", "seed=-1: must be 0 or more"),
        ("threads=0", "threads=0: must be 1 or more"),
        ("index.nprobe=0", "index.nprobe=0: must be 1 or more"),
    ],
)
def test_a_value_that_cannot_be_meant_is_refused_by_name(override, line):
    with pytest.raises(UserError, match=line):
        check(compose(override))


def test_leave_one_out_over_two_splits_is_refused():
    with pytest.raises(UserError, match=r"protocol.query=test and protocol.gallery=train"):
        check(compose("protocol=leave_one_out", "protocol.gallery=train"))


def test_depths_are_sorted_and_counted_once():
    assert check(compose("evaluation.ks=[10,1,5,5]")).evaluation.ks == [1, 5, 10]


def test_a_configuration_without_schema_is_refused():
    with pytest.raises(UserError, match=r"compose it with medretrieval.compose"):
        check(OmegaConf.create({"seed": 0}))


def test_the_environment_sets_the_folders(monkeypatch):
    monkeypatch.setenv("MEDRETRIEVAL_DATA", "/d")
    monkeypatch.setenv("MEDRETRIEVAL_CACHE", "/c")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000")
    settings = check(compose("dataset=pneumoniamnist"))
    assert (settings.paths.data, settings.paths.cache) == ("/d", "/c")
    assert settings.dataset["root"] == "/d"
    assert settings.tracking["uri"] == "http://server:5000"
