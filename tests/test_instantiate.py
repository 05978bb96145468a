import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medretrieval.encoders.base import Encoder
from medretrieval.errors import UserError
from medretrieval.instantiate import instantiate, module_of, modules_named, require_known_code, trusting

PIXELS = {
    "_target_": "medretrieval.encoders.baselines.PixelEncoder",
    "name": "p", "side": 8, "normalize": False, "batch_size": 4,
}  # fmt: skip


def test_a_target_is_built_with_its_arguments():
    assert instantiate(PIXELS, Encoder, "encoder").side == 8


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"sides": 3}, r"encoder.sides: .*no such argument; choose from: batch_size, name, normalize, side"),
        ({"_target_": "medretrieval.nowhere.X"}, r"encoder._target_=medretrieval.nowhere.X: "),
        ({"_target_": "pathlib.Path"}, r"not a subclass of medretrieval.encoders.base.Encoder"),
        ({"_target_": None}, r"encoder: its configuration has no _target_"),
    ],
)
def test_what_cannot_be_built_is_refused_in_one_line(changes, line):
    with pytest.raises(UserError, match=line):
        instantiate(PIXELS | changes, Encoder, "encoder")


def test_a_lacking_argument_is_named():
    node = {key: value for key, value in PIXELS.items() if key != "side"}
    with pytest.raises(UserError, match=r"encoder.side: .* needs it"):
        instantiate(node, Encoder, "encoder")


def test_arguments_are_known_through_the_kwargs_of_subclasses():
    node = {"_target_": "medretrieval.encoders.timm_models.TimmEncoder", "name": "x", "modle": "resnet18"}
    with pytest.raises(UserError, match=r"encoder.modle: .*choose from: .*model.*precision"):
        instantiate(node, Encoder, "encoder")


class WithoutConstructor:
    """Takes nothing."""


def test_a_class_without_a_constructor_takes_no_arguments():
    node = {"_target_": f"{__name__}.WithoutConstructor"}
    assert isinstance(instantiate(node, WithoutConstructor, "tracking"), WithoutConstructor)
    with pytest.raises(UserError, match=r"tracking.uri: .*no such argument; there is nothing to choose from"):
        instantiate(node | {"uri": 1}, WithoutConstructor, "tracking")


NAMES = st.from_regex(r"[a-z_]{1,8}", fullmatch=True)
TARGETS = st.one_of(
    st.lists(NAMES, max_size=4).map(".".join), st.text(max_size=12), st.integers(), st.none(),
    st.sampled_from(["os.system", "antigravity.fly", "this.c", "medretrieval", "medretrieval.__main__.main"]),
)  # fmt: skip
TREES = st.recursive(
    TARGETS.map(lambda target: {"_target_": target}),
    lambda inner: (
        st.lists(inner, min_size=1, max_size=3) | st.dictionaries(NAMES, inner, min_size=1, max_size=3)
    ),
    max_leaves=4,
)


@given(TREES)
def test_no_target_from_elsewhere_passes_wherever_it_stands_and_nothing_is_imported(tree):
    before = set(sys.modules)
    with pytest.raises(UserError) as caught:
        require_known_code({"encoder": tree}, Path("manifest.json"))
    assert str(caught.value).startswith("manifest.json: encoder.")
    assert set(sys.modules) == before


@given(st.lists(NAMES, min_size=2, max_size=4).map(".".join))
def test_a_target_passes_where_its_module_is_trusted_and_only_there(target):
    node = {"parts": [{"_target_": target}]}
    with trusting([module_of(target)]):
        require_known_code(node, Path("x"))
    with trusting([f"{module_of(target)}.other", "another"]), pytest.raises(UserError, match="is code from"):
        require_known_code(node, Path("x"))


def test_what_this_package_and_this_process_have_passes():
    require_known_code({"a": [PIXELS], "b": {"_target_": f"{__name__}.WithoutConstructor"}}, Path("x"))


def test_modules_are_found_in_every_file_of_a_configuration_folder(tmp_path):
    (tmp_path / "encoder" / "more").mkdir(parents=True)
    (tmp_path / "encoder" / "net.yaml").write_text(
        "_target_: mine.Net\nparts: [{_target_: ours.deep.Part}]\n"
    )
    (tmp_path / "encoder" / "more" / "a.yaml").write_text("name: x\n")
    assert modules_named(tmp_path) == {"mine", "ours.deep"}
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(UserError, match=r"bad.yaml is not valid YAML"):
        modules_named(tmp_path)
