"""Several encoders as one: from the cache, made comparable on train, early and late."""

import numpy as np
import pytest

from medretrieval import run
from medretrieval.cache.store import Cache
from medretrieval.encoders.baselines import PixelEncoder, RandomEncoder
from medretrieval.encoders.composed.composed import Described
from medretrieval.encoders.composed.fusion import FusionEncoder
from medretrieval.errors import UserError
from medretrieval.query.search import Query, SearchableRun

OWN = "medretrieval.encoders.baselines"
NODES = [
    {"_target_": f"{OWN}.PixelEncoder", "name": "pixels", "side": 4, "normalize": False, "batch_size": 8},
    {
        "_target_": f"{OWN}.RandomEncoder",
        "name": "random",
        "dim": 5,
        "normalize": False,
        "batch_size": 8,
        "seed": 0,
    },
]
RUN = ("dataset=breastmnist", "encoder=fusion", "encoder.parts=[pixels,random]", "evaluation.ks=[1,3]")


def fusion(weights=None, by="vectors", parts=("pixels", "random")):
    return FusionEncoder("fusion", parts, NODES[: len(parts)], weights, by, 8)


def parts_of(n, seed=0):
    rng = np.random.default_rng(seed)
    return [
        (100 + 7 * rng.normal(size=(n, 16))).astype(np.float32),
        rng.normal(size=(n, 5)).astype(np.float32),
    ]


def test_each_part_has_the_same_share_of_distances_on_train():
    encoder, train = fusion(), parts_of(200)
    ready = encoder.with_fitted(encoder.fit(train, Described()), "x")
    out = ready.combine(train)
    squares = [np.square(out[:, :16]).sum(axis=1).mean(), np.square(out[:, 16:]).sum(axis=1).mean()]
    np.testing.assert_allclose(squares, [0.5, 0.5], rtol=1e-4)


def test_weights_are_shares_of_squared_distances():
    encoder, train = fusion(weights=[3, 1]), parts_of(200)
    out = encoder.with_fitted(encoder.fit(train, Described()), "x").combine(train)
    assert np.square(out[:, :16]).sum() / np.square(out).sum() == pytest.approx(0.75, rel=1e-4)


def test_late_fusion_is_the_weighted_mean_of_the_parts_cosine_distances():
    encoder, train, test = fusion([1, 4], "distances"), parts_of(100), parts_of(30, seed=1)
    fitted = encoder.fit(train, Described())
    out = encoder.with_fitted(fitted, "x").combine(test)
    whole = 1 - out @ out.T / np.outer(*2 * [np.linalg.norm(out, axis=1)])
    expected = 0
    for i, weight in enumerate((0.2, 0.8)):
        part = test[i] - train[i].mean(axis=0)
        unit = part / np.linalg.norm(part, axis=1, keepdims=True)
        expected = expected + weight * (1 - unit @ unit.T)
    np.testing.assert_allclose(whole, expected, atol=1e-5)


def test_a_run_takes_the_parts_from_the_cache(write_npz, config, monkeypatch):
    write_npz(n=20)
    run(config("dataset=breastmnist", "encoder=pixels", "evaluation.ks=[1,3]"))
    run(config("dataset=breastmnist", "encoder=random", "evaluation.ks=[1,3]"))

    def refuse(*args):
        raise AssertionError("embedded again")

    monkeypatch.setattr(PixelEncoder, "encode", refuse)
    monkeypatch.setattr(RandomEncoder, "encode", refuse)
    result = run(config(*RUN))
    assert result.report.encoder.dimension == 28 * 28 + 128
    assert (result.folder / "joined.safetensors").exists()
    assert result.report.encoder.name == "fusion_pixels+random"


def test_a_saved_fusion_answers_as_it_ranked(write_npz, config):
    path = write_npz(n=20)
    folder = run(config(*RUN, "adapt=whiten", "adapt.refits=0")).folder
    searchable = SearchableRun.open(folder)
    encoder, _ = searchable.encoder()
    with np.load(path) as npz:
        image = npz["test_images"][3]
    (answer,) = searchable.answer([Query("a", image, image)], encoder, 3)
    assert [neighbor.position for neighbor in answer.neighbors] == searchable.ranking.ids[3, :3].tolist()


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("encoder.parts=[pixels]",), "two or more different encoders"),
        (("encoder.parts=[pixels,pixels]",), "two or more different encoders"),
        (("encoder.parts=[pixels,nothing]",), "nothing"),
        (("encoder.weights=[1]",), "encoder.weights=[1]"),
        (("encoder.weights=[1,0]",), "numbers above 0"),
        (("encoder.by=sum",), "encoder.by=sum"),
        (("protocol.query=train",), "is fitted on split train"),
    ],
)
def test_bad_input_is_one_line(write_npz, config, overrides, said):
    write_npz(n=20)
    with pytest.raises(UserError) as refused:
        run(config(*RUN, *overrides))
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_parts_that_do_not_vary_are_refused():
    with pytest.raises(UserError, match="pixels gives all train images the same vector"):
        fusion().fit([np.ones((9, 16), np.float32), parts_of(9)[1]], Described())


def test_an_encoder_that_is_not_fitted_says_so(tmp_path):
    with pytest.raises(UserError, match="fitted on split train first"):
        fusion().encode(np.zeros((2, 4, 4), np.uint8))
    assert Cache(tmp_path).root == tmp_path
