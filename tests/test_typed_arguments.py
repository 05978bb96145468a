"""Arguments of datasets and encoders are of their constructors' types before anything is built."""

import contextlib
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medretrieval import compose
from medretrieval.checks import check
from medretrieval.datasets.base import Dataset
from medretrieval.encoders.base import Encoder
from medretrieval.errors import UserError
from medretrieval.instantiate import instantiate

WRONG = {
    "encoder": [
        ("side", 1.5),
        ("batch_size", "abc"),
        ("normalize", float("nan")),
        ("name", 3),
        ("side", None),
    ],
    "dataset": [("root", None), ("size", "28"), ("name", ["a"]), ("size", True)],
}
KINDS = {"encoder": Encoder, "dataset": Dataset}


def node(group):
    return dict(getattr(check(compose("encoder=pixels", "dataset=breastmnist")), group))


@pytest.mark.parametrize(
    ("group", "key", "value"), [(g, *pair) for g, pairs in WRONG.items() for pair in pairs]
)
def test_an_argument_of_another_type_is_refused_by_key_and_value(group, key, value):
    known = node(group)
    if key not in known:
        pytest.skip(f"{group} has no {key}")
    with pytest.raises(UserError, match=rf"^{group}\.{key}={re.escape(str(value))}: must be "):
        instantiate(known | {key: value}, KINDS[group], group)


@given(
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
        max_leaves=4,
    ),
    key=st.sampled_from(["name", "side", "batch_size", "normalize"]),
)
@settings(max_examples=300, deadline=None)
def test_any_value_of_yaml_gives_an_encoder_or_one_line(value, key):
    with contextlib.suppress(UserError):
        built = instantiate(node_once() | {key: value}, Encoder, "encoder")
        assert type(vars(built).get(key, value)) is type(value)


def node_once(found=[]):  # noqa: B006  # composing takes long
    if not found:
        found.append(node("encoder"))
    return found[0]
