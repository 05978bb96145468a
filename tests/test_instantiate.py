import pytest

from medretrieval.encoders.base import Encoder
from medretrieval.errors import UserError
from medretrieval.instantiate import instantiate

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
