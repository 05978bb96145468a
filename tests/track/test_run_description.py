import pytest

from medretrieval import compose
from medretrieval.checks import check
from medretrieval.config import root
from medretrieval.track.run_description import describe_run

GROUPS = ("dataset", "encoder", "index", "metric", "protocol")


def described(*overrides):
    return describe_run(check(compose(*overrides)), None)


def changed(*overrides):
    """The parameters beside the choice of each group and the view."""
    params = described(*overrides).params
    return {key: value for key, value in params.items() if key not in (*GROUPS, "encoder.view")}


@pytest.mark.parametrize(
    "choice",
    [f"{group}={path.stem}" for group in GROUPS for path in sorted((root() / "conf" / group).glob("*.yaml"))],
)
def test_what_a_file_says_is_no_parameter(choice):
    """Of every file of every group."""
    models = ("timm", "open_clip", "transformers", "transformers_clip")
    needed = ["encoder.model=resnet18"] if choice.removeprefix("encoder=") in models else []
    needed += ["encoder.checkpoint=model.onnx"] if choice == "encoder=onnx" else []
    found = described(choice, *needed)
    given = {"encoder.view", *([] if choice != "encoder=onnx" else ["encoder.checkpoint"])}
    assert found.params.keys() - given == set(GROUPS)
    more = ["exclude_same_group"] if choice == "protocol=leave_one_group_out" else []
    assert found.name == " ".join([*(found.params[key] for key in ("encoder", "index", "metric")), *more])


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("seed=3", "device=cuda"), {"seed": "3", "device": "cuda"}),  # keys that follow them are not said
        (("evaluation.ks=[1,3]",), {"evaluation.ks": "[1, 3]"}),
        (("encoder=pixels", "encoder.side=14"), {"encoder.side": "14"}),
        (("index=hnsw", "index.ef_search=50"), {"index.ef_search": "50"}),
        (("dataset.size=32", "dataset.difficulty=0.2"), {"dataset.size": "32", "dataset.difficulty": "0.2"}),
        (
            ("encoder=timm", "encoder.model=resnet50", "encoder.pretrained=null"),
            {"encoder.pretrained": "None"},
        ),
        (("index=hnsw", "index.m=null"), {}),  # unset: fitted, and said then
        (("protocol.exclude_same_group=true",), {"protocol.exclude_same_group": "True"}),
        (("paths.outputs=elsewhere", "tracking=none", "force=true"), {}),
        (("encoder=random", "encoder.name=mine", "encoder.dim=9"), {"encoder.dim": "9"}),
    ],
)
def test_what_was_changed_is_a_parameter_and_nothing_else(overrides, said):
    assert changed(*overrides) == said


@pytest.mark.parametrize("view", ["checkpoint", "whole"])
def test_the_view_is_a_parameter_of_every_encoder_that_has_one(view):
    assert described(f"encoder.view={view}").params["encoder.view"] == view
    assert "encoder.view" not in described("encoder=pixels").params


def test_of_an_encoder_of_ones_own_every_argument_is_a_parameter():
    own = ("encoder=random", "encoder._target_=tests.toy_encoders.Worded", "encoder.name=own")
    assert changed(*own).keys() >= {"encoder.dim", "encoder.normalize"}


def test_what_is_left_out_stands_in_the_name():
    assert described("protocol.drop_duplicates=true").name == "efficientnet_lite0 flat cosine drop_duplicates"
    assert described().tags["kind"] == "run"
