"""Maps against finite differences and models of known behavior; deletion and pointing against oracles."""

import importlib.util

import numpy as np
import pytest
import torch
from tests.tiny_models import TINY_READER, add_clip
from torch import nn
from torchvision import transforms as tv

from medretrieval import compose
from medretrieval.datasets.base import Split
from medretrieval.encoders.base import Encoder
from medretrieval.encoders.runtime.torch_runtime import Loaded
from medretrieval.encoders.torch_model import TorchEncoder
from medretrieval.errors import UserError
from medretrieval.explain import faithfulness as faithful
from medretrieval.explain.pairs import Explained, Picture, _pointings, explain_images, explain_text
from medretrieval.explain.saliency import Explainer, Map
from medretrieval.figures.saliency import explanations, scaled
from medretrieval.instantiate import instantiate
from medretrieval.uncertainty.bootstrap import Resampling
from medretrieval.vectors import l2_normalize

TINY = {
    "tiny-vit": {"image_size": 64, "layers": 2, "width": 32, "patch_size": 16, "head_width": 16},
    "tiny-rn": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "patch_size": None},
}
LAYERS = {
    "tiny-vit": ("visual.transformer.resblocks.1.ln_1", True, (4, 4), 1),
    "tiny-rn": ("visual.layer4", False, (2, 2), 0),
    "test_vit": ("blocks.5.norm1", True, (10, 10), 1),  # its vector is the class token
    "test_vit3": ("norm", True, (10, 10), 1),  # attention over all tokens gives its vector
    "test_resnet": ("layer4", False, (5, 5), 0),
    "test_efficientnet": ("bn2", False, (5, 5), 0),
}


@pytest.fixture
def build(monkeypatch):
    """An encoder by its model's name, with random weights."""
    for name, vision in TINY.items():
        add_clip(monkeypatch, name, TINY_READER | {"vision_cfg": vision})

    def built(model):
        library = "open_clip" if model in TINY else "timm"
        options = (f"encoder.model={model}", "encoder.pretrained=null", "encoder.runtime=torch")
        return instantiate(compose(f"encoder={library}", *options).encoder, Encoder, "encoder")

    return built


class ToyEncoder(TorchEncoder):
    """A module of a test's own behind a resize to 64 and a crop to 48."""

    library = "toy"

    def __init__(self, module, transform=None, view="checkpoint"):
        super().__init__("toy", "toy", None, None, view, False, "torch", "fp32", False, 4, "cpu", 0)
        self._module, self._transform = module, transform

    @property
    def distribution(self):
        return "torch"

    def load(self, device):
        plain = tv.Compose(
            [tv.Resize(64), tv.CenterCrop(48), tv.ToTensor(), tv.Normalize((0.5,) * 3, (0.5,) * 3)]
        )
        return Loaded(self._module.eval(), self._module, self._transform or plain, {}, "toy", "0" * 64)


class Quadrant(nn.Module):
    """Averages a convolution's map over one quadrant and does not look at the rest."""

    def __init__(self, rows, columns):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 8, 4, stride=4)
        self.rows, self.columns = rows, columns

    def forward(self, pixels):
        return self.conv(pixels).relu()[:, :, self.rows, self.columns].mean(dim=(2, 3))


class QuadrantTokens(Quadrant):
    """The same by tokens, after a class token that it does not look at."""

    def __init__(self, rows, columns):
        super().__init__(rows, columns)
        self.norm = nn.LayerNorm(8)

    def forward(self, pixels):
        patches = self.conv(pixels).flatten(2).transpose(1, 2)
        tokens = self.norm(torch.cat([torch.ones_like(patches[:, :1]), patches], dim=1))
        return tokens[:, 1:].reshape(-1, 12, 12, 8)[:, self.rows, self.columns].mean(dim=(1, 2))


class Flat(nn.Module):
    """Forgets at once where things are."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3 * 48 * 48, 4)

    def forward(self, pixels):
        return self.linear(pixels.flatten(1))


def images(n=2, shape=(40, 60), seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, *shape)).astype(np.uint8)


@pytest.mark.parametrize(("model", "wanted"), LAYERS.items())
def test_the_layer_is_the_last_one_with_places(build, model, wanted):
    layer = Explainer(build(model)).layer
    assert (layer.name, layer.tokens, layer.grid, layer.prefix) == wanted


@pytest.mark.parametrize("model", ["tiny-vit", "tiny-rn", "test_vit", "test_vit3", "test_resnet"])
def test_a_cell_is_how_the_similarity_answers_to_its_activations(build, model):
    """Finite differences: scale the activations at one place a little up and down."""
    explainer = Explainer(build(model))
    with torch.no_grad():
        for weights in explainer.encoder.loaded.module.parameters():
            if weights.ndim == 2:  # random ones are too small for tokens to heed each other
                weights *= 4
    image, other = images()
    vector = explainer.vector(other)
    grid, cosine = explainer.grid(image, vector)
    layer, loaded = explainer.layer, explainer.encoder.loaded
    own = loaded.features(explainer._pixels(image[None])).detach()
    assert cosine == pytest.approx(
        float(l2_normalize(own.numpy())[0] @ l2_normalize(vector[None])[0]), abs=1e-5
    )
    direction = torch.from_numpy(l2_normalize(vector[None])) / own.norm()

    def similarity(row, column, factor):
        def change(values):
            values = values.clone()
            if layer.tokens:
                values[0, layer.prefix + row * layer.grid[1] + column] *= factor
            else:
                values[0, :, row, column] *= factor
            return values

        with layer.module.register_forward_hook(lambda _, given, out: change(out)), torch.no_grad():
            return float((loaded.features(explainer._pixels(image[None])).double() * direction).sum())

    step, scale = 2e-2, float(np.abs(grid).max())
    for place in range(0, grid.size, max(1, grid.size // 7)):
        row, column = divmod(place, grid.shape[1])
        slope = (similarity(row, column, 1 + step) - similarity(row, column, 1 - step)) / (2 * step)
        assert grid[row, column] == pytest.approx(slope, abs=0.02 * scale + 1e-6)
    assert scale > 1e-5


def test_where_a_model_averages_its_last_map_the_cells_add_up_to_the_cosine(build):
    explainer = Explainer(build("test_resnet"))
    image, other = images()
    grid, cosine = explainer.grid(image, explainer.vector(other))
    assert grid.sum() == pytest.approx(cosine, abs=1e-5)


@pytest.mark.parametrize("kind", [Quadrant, QuadrantTokens])
@pytest.mark.parametrize(("rows", "columns"), [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_a_model_that_looks_at_one_quadrant_has_its_map_there(rows, columns, kind):
    half = (slice(0, 6), slice(6, 12))
    explainer = Explainer(ToyEncoder(kind(half[rows], half[columns])))
    image, other = images(shape=(96, 96))
    found = explainer.map(image, explainer.vector(other))
    assert found.values.dtype == np.float32
    assert found.values.shape == (96, 96)
    # The crop is the middle 72 of 96 pixels; beyond a quadrant lies half a cell of interpolation.
    inside = np.zeros((96, 96), bool)
    near = [slice(12, 48 + 4), slice(48 - 4, 84)]
    inside[near[rows], near[columns]] = True
    assert (found.values[~inside] == 0).all()
    assert found.support[inside].max() > 0
    assert found.visible.sum() == 72 * 72


@pytest.mark.parametrize("kind", [Quadrant, QuadrantTokens])
@pytest.mark.parametrize(("rows", "columns"), [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_of_a_whole_image_the_map_reaches_the_corner_of_its_quadrant(rows, columns, kind):
    half = (slice(0, 6), slice(6, 12))
    explainer = Explainer(ToyEncoder(kind(half[rows], half[columns]), view="whole"))
    image, other = images(shape=(96, 120))
    found = explainer.map(image, explainer.vector(other))
    assert found.visible.all()
    inside = np.zeros((96, 120), bool)
    near = [[slice(0, n // 2 + n // 24), slice(n // 2 - n // 24, n)] for n in (96, 120)]
    inside[near[0][rows], near[1][columns]] = True
    assert (found.values[~inside] == 0).all()
    assert found.support[inside].max() > 0
    assert (found.values[[0, -1][rows]] != 0).any()  # to the edge, not only to the crop's
    assert (found.values[:, [0, -1][columns]] != 0).any()


def test_gray_and_rgb_images_and_a_vector_of_any_length_are_taken(build):
    explainer = Explainer(build("test_resnet"))
    gray, other = images()
    vector = explainer.vector(other)
    found = explainer.map(gray, vector)
    rgb = explainer.map(np.repeat(gray[..., None], 3, axis=2), 7 * vector)
    np.testing.assert_allclose(rgb.values, found.values, atol=1e-6)
    assert rgb.cosine == pytest.approx(found.cosine)


def test_an_image_of_few_pixels_has_a_map_too(build):
    explainer = Explainer(build("test_resnet"))
    tiny, other = images(shape=(5, 5))
    assert explainer.map(tiny, explainer.vector(other)).values.shape == (5, 5)


@pytest.mark.parametrize("name", ["pixels", "random"])
def test_an_encoder_that_is_no_model_is_refused(name):
    encoder = instantiate(compose(f"encoder={name}").encoder, Encoder, "encoder")
    with pytest.raises(UserError, match=f"encoder={name}: explain needs a model on torch"):
        Explainer(encoder)


def test_a_model_that_keeps_no_layout_and_an_unknown_transform_are_refused(build):
    with pytest.raises(UserError, match="no layer of this model keeps the image's layout"):
        _ = Explainer(ToyEncoder(Flat())).layer
    backwards = tv.Compose([tv.ToTensor(), tv.Resize((48, 48)), tv.Normalize((0.5,) * 3, (0.5,) * 3)])
    with pytest.raises(UserError, match="steps that explain does not know"):
        Explainer(ToyEncoder(Flat(), backwards))


def test_without_captum_the_refusal_says_what_to_install(build, monkeypatch):
    encoder, find = build("test_resnet"), importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "captum" else find(name))
    with pytest.raises(UserError, match=r"pip install 'medretrieval\[explain\]'"):
        Explainer(encoder)


def test_a_sentence_is_explained_on_the_image_alone(build, tmp_path):
    explainer = Explainer(build("tiny-vit"))
    encoder, text = explainer.encoder, "a chest X-ray"
    picture = Picture("test/0", "clear", images()[0], None)
    found = explain_text(explainer, text, picture, 3, np.random.default_rng(0))
    cosine = (encoder.encode_text([text]) @ encoder.encode(picture.image[None]).T).item()
    assert found.cosine == pytest.approx(cosine, abs=1e-5)
    assert found.deletion.marked[0] == pytest.approx(cosine, abs=1e-5)
    assert np.ptp(found.result[1].values) > 0
    assert found.document()["text"] == text
    explanations(tmp_path / "text.png", [found], "title")
    assert (tmp_path / "text.png").stat().st_size > 5000


# Deletion


CHECKS = ((np.indices((8, 8)).sum(axis=0) % 2) * 255).astype(np.uint8)  # blurring changes every pixel


def untouched(mask):
    """An encoder whose cosine with (1, 0) is the share of a mask's pixels that are as in CHECKS."""

    def encode(batch):
        share = (batch == CHECKS)[:, mask].mean(axis=1)
        return np.stack([share, np.sqrt(1 - share**2)], axis=1).astype(np.float32)

    return encode


def quarter(rows=slice(0, 4), columns=slice(0, 4)):
    mask = np.zeros((8, 8), bool)
    mask[rows, columns] = True
    return mask


def deleted(values, mask, steps=4, visible=None, seed=0):
    visible = np.ones((8, 8), bool) if visible is None else visible
    found = Map(values.astype(np.float32), 1.0, visible)
    target = np.array([1, 0], np.float32)
    return faithful.deletion(
        CHECKS, found, target, faithful.Removal(untouched(mask), steps, np.random.default_rng(seed))
    )


def test_a_map_of_what_matters_takes_it_away_first_and_its_opposite_last():
    mask = quarter()
    right, wrong = deleted(mask * 1.0, mask), deleted(-1.0 * mask, mask)
    np.testing.assert_allclose(right.marked, [1, 0, 0, 0, 0], atol=1e-6)
    np.testing.assert_allclose(wrong.marked, [1, 1, 1, 1, 0], atol=1e-6)
    assert right.areas[0] == pytest.approx(0.125)
    assert wrong.areas[0] == pytest.approx(0.875)


def test_random_regions_have_the_shape_of_the_map_and_both_curves_share_their_ends():
    mask = quarter()
    found = [deleted(mask * 1.0, mask, seed=seed) for seed in range(200)]
    assert {f.random[0] for f in found} == {1.0}
    assert {f.random[-1] for f in found} == {0.0}
    # A square of 4 x 4 moved on a torus of 8 x 8 leaves as it was a block of 0 to 4 by 0 to 4.
    left = {round(float(1 - f.random[1]) * 16) for f in found}
    assert left <= {rows * columns for rows in range(5) for columns in range(5)}
    assert np.mean([f.random[1] for f in found]) == pytest.approx(0.75, abs=0.05)


def test_what_the_encoder_does_not_see_is_neither_removed_nor_moved_to():
    visible = quarter(slice(2, 6), slice(2, 6))
    outside = ~visible
    values = np.where(visible, np.arange(64).reshape(8, 8), 0)
    for seed in range(5):
        found = deleted(values, outside, visible=visible, seed=seed)
        np.testing.assert_array_equal(found.marked, 1)
        np.testing.assert_array_equal(found.random, 1)


def test_a_faithful_map_of_a_gated_model_gains_nothing_by_deletion():
    """What docs/explain.md says: without an advantage a map is not shown to be wrong.

    The similarity comes from one quarter alone, behind a gate that any change of the rest shuts. The map
    marks that quarter and nothing else; removing anything elsewhere takes the similarity away at once.
    """
    mask, target = quarter(), np.array([1, 0], np.float32)
    found = Map(mask.astype(np.float32), 1.0, np.ones((8, 8), bool))

    def gated(batch):
        is_open = (batch == CHECKS)[:, ~mask].all(axis=1)
        share = untouched(mask)(batch)[:, 0] * is_open
        return np.stack([share, np.sqrt(1 - share**2)], axis=1).astype(np.float32)

    def advantages(encode):
        removals = (faithful.Removal(encode, 8, np.random.default_rng(seed)) for seed in range(50))
        areas = [faithful.deletion(CHECKS, found, target, removal).areas for removal in removals]
        return np.array([random - marked for marked, random in areas])

    assert faithful.pointing(found, mask) == faithful.Pointing(1.0, 1.0, 0.25)
    assert advantages(untouched(mask)).mean() > 0.2
    assert advantages(gated).max() <= 0
    assert advantages(gated).mean() < -0.05


def test_the_summary_is_means_wins_and_a_paired_interval():
    def curves(marked, random):
        return faithful.Deletion(np.full(3, marked), np.full(3, random))

    found = [curves(0.5, 0.7), curves(0.4, 0.5), curves(0.6, 0.5), curves(0.3, 0.5)] * 3
    numbers = faithful.summary(found, [], Resampling(1000, 0.95, 0))
    deletion = numbers["deletion"]
    assert deletion["area_marked"] == pytest.approx(0.45)
    assert deletion["area_random"] == pytest.approx(0.55)
    assert deletion["advantage"] == pytest.approx(0.1)
    assert deletion["wins"] == 0.75
    low, high = deletion["intervals"]["advantage"]
    assert -0.1 <= low < 0.1 < high <= 0.2
    assert numbers["pointing"] is None
    assert faithful.summary(found[:9], [], Resampling(1000, 0.95, 0))["deletion"]["intervals"] == {}


# Pointing


def test_pointing_says_where_the_largest_value_and_the_mass_lie():
    values = np.zeros((8, 8), np.float32)
    values[1, 1], values[5, 5], values[7, 7] = 3, 2, -50
    found = Map(values, 0.5, np.ones((8, 8), bool))
    assert faithful.pointing(found, quarter()) == faithful.Pointing(1.0, pytest.approx(0.6), 0.25)
    other = quarter(slice(4, 8), slice(4, 8))
    assert faithful.pointing(found, other) == faithful.Pointing(0.0, pytest.approx(0.4), 0.25)


def test_other_queries_maps_are_the_controls_that_a_querys_own_has_to_beat():
    point = faithful.Pointing
    found = [
        faithful.PointedAt("mass", point(1.0, 0.6, 0.25), point(0.0, 0.2, 0.25), point(1.0, 0.5, 0.25)),
        faithful.PointedAt("mass", point(1.0, 0.4, 0.35), point(1.0, 0.4, 0.35), point(0.5, 0.1, 0.35)),
        faithful.PointedAt("rest", point(0.0, 0.2, 0.3), point(0.5, 0.3, 0.3), None),
    ]
    curve = faithful.Deletion(np.ones(3), np.ones(3))
    numbers = faithful.summary([curve] * 3, found, Resampling(1000, 0.95, 0))["pointing"]
    plain = {name: numbers[name] for name in ("queries", "hits", "mass", "area")}
    assert plain == pytest.approx({"queries": 3, "hits": 2 / 3, "mass": 0.4, "area": 0.3})

    def control(name):
        return {key: value for key, value in numbers[name].items() if key != "intervals"}

    wanted = {"queries": 3, "hits": 0.5, "mass": 0.3, "hits_gain": 1 / 6, "mass_gain": 0.1}
    assert control("other_class") == pytest.approx(wanted)
    wanted = {"queries": 2, "hits": 0.75, "mass": 0.3, "hits_gain": 0.25, "mass_gain": 0.2}
    assert control("same_class") == pytest.approx(wanted)
    assert numbers["by_class"] == {
        "mass": {"queries": 2, "hits": 1.0, "hits_other_class": 0.5, "hits_same_class": 0.75},
        "rest": {"queries": 1, "hits": 0.0, "hits_other_class": 0.5, "hits_same_class": None},
    }
    alone = faithful.summary([curve], found[2:], Resampling(1000, 0.95, 0))["pointing"]
    assert alone["same_class"] is None


def test_each_query_meets_the_maps_of_all_others_of_its_class_and_of_other_classes():
    """Two classes whose findings always lie in one place each: a map of the same class points as well."""
    visible, places = np.ones((8, 8), bool), {"left": quarter(), "right": quarter(columns=slice(4, 8))}
    pairs = []
    for kind in ("left", "right", "left", "left", "clear"):
        values = places.get(kind, quarter(slice(4, 8))).astype(np.float32)
        picture = Picture(f"test/{len(pairs)}", kind, CHECKS, places.get(kind))
        side = picture, Map(values, 1.0, visible)
        curve = faithful.Deletion(np.ones(3), np.ones(3))
        pairs.append(Explained(side, side, 1.0, curve, None))
    found = _pointings(pairs)
    assert [p.kind for p in found] == ["left", "right", "left", "left"]
    assert {p.own.hit for p in found} == {1.0}
    assert {p.other_class.hit for p in found} == {0.0}
    assert [p.same_class and p.same_class.hit for p in found] == [1.0, None, 1.0, 1.0]


def test_a_uniform_map_has_the_findings_share_of_what_is_seen():
    visible = quarter(slice(2, 6), slice(0, 8))
    found = Map(visible.astype(np.float32), 0.5, visible)
    pointed = faithful.pointing(found, quarter())
    assert pointed.mass == pytest.approx(pointed.area) == pytest.approx(0.25)


def test_a_finding_out_of_sight_and_an_empty_map_are_left_out():
    visible = quarter(slice(4, 8), slice(4, 8))
    assert faithful.pointing(Map(visible.astype(np.float32), 0.5, visible), quarter()) is None
    nothing = Map(np.zeros((8, 8), np.float32), 0.5, np.ones((8, 8), bool))
    assert faithful.pointing(nothing, quarter()) is None


# Pairs and pictures


def test_a_picture_knows_its_findings_and_no_empty_mask():
    masks = np.zeros((2, 4, 4), bool)
    masks[1, 0, 0] = True
    split = Split("test", images(2, (4, 4)), np.array([[0, 0], [1, 1]], bool), None, masks)
    clear, ill = (Picture.from_split(split, i, ("a", "b")) for i in range(2))
    assert (clear.id, clear.kind, clear.mask) == ("test/0", "none", None)
    assert (ill.kind, ill.mask.sum()) == ("a, b", 1)


def test_both_sides_of_a_pair_are_explained_and_the_same_seed_gives_the_same_numbers(build):
    explainer = Explainer(build("test_resnet"))
    mask = np.zeros((40, 60), bool)
    mask[10:30, 20:40] = True
    pair = [Picture(f"test/{i}", "clear", image, mask) for i, image in enumerate(images())]
    first, second = (explain_images(explainer, *pair, 3, np.random.default_rng(1)) for _ in range(2))
    assert first.document() == second.document()
    assert first.query[1].cosine == pytest.approx(first.result[1].cosine, abs=1e-5)
    # The curves are the means of those of removing from either image.
    rng = np.random.default_rng(1)
    removal = faithful.Removal(explainer.encoder.encode, 3, rng)
    vectors = [explainer.vector(p.image) for p in pair]
    either = [
        faithful.deletion(p.image, explainer.map(p.image, v), v, removal).marked
        for p, v in zip(pair, vectors[::-1], strict=True)
    ]
    np.testing.assert_allclose(first.deletion.marked, np.mean(either, axis=0))


def test_a_map_is_drawn_from_its_least_to_its_most_and_not_at_all_where_it_is_flat():
    visible = quarter(slice(0, 4), slice(0, 8))
    values = np.where(visible, np.arange(64).reshape(8, 8) + 10, 0).astype(np.float32)
    share = scaled(Map(values, 0.5, visible))
    assert share[0, 0] == 0
    assert share[3, 7] == 1
    assert (share[4:] == 0).all()
    assert (scaled(Map(np.ones((8, 8), np.float32), 0.5, np.ones((8, 8), bool))) == 0).all()
