import io
import sys

import numpy as np
import pytest
from tests.refusals import refusal
from tests.toy_encoders import Brightness, Interrupted, Misshapen, NotFinite, Streaming

from medretrieval.cache.store import Cache
from medretrieval.datasets.base import Split
from medretrieval.embed.images import embed, identify
from medretrieval.encoders.baselines import PixelEncoder

IDENTITY = {
    "kind": "timm",
    "model": "resnet18",
    "weights_sha256": "0a1b",
    "preprocessing": {"mean": [0.5, 0.5, 0.5], "crop_pct": 0.875},
    "pooling": "avg",
    "precision": "fp32",
    "normalize": False,
}


def make_split(name="test", n=10, labels=0, **changes):
    images = np.random.default_rng(3).integers(0, 256, (n, 28, 28)).astype(np.uint8)
    return Split(**({"name": name, "images": images, "labels": np.full(n, labels)} | changes))


def run(encoder, cache, split=None, size=28):
    return embed(encoder, identify(encoder, cache), split or make_split(), size, cache)


def refused(encoder, cache):
    """The line of the refusal, after which nothing is in the cache."""
    line = refusal(run, encoder, cache)
    kept = [p for p in (cache.root / "embeddings").rglob("*") if p.is_file() and p.suffix != ".lock"]
    assert kept == []
    return line


# The vectors


def test_the_file_is_a_plain_npy_of_float32_with_row_i_for_image_i(cache):
    encoder, split = Brightness(batch_size=4), make_split(n=10)
    made = run(encoder, cache, split)
    stored = np.load(made.path, allow_pickle=False)
    assert encoder.batches == [4, 4, 2]
    assert stored.dtype == np.dtype("<f4")
    assert stored.flags.c_contiguous
    flat = split.images.reshape(10, -1).astype(np.float32)
    assert np.allclose(stored, np.stack([flat.mean(1), flat.std(1)], 1), rtol=1e-5)
    assert np.array_equal(made.vectors, stored)
    assert made.path.stat().st_size == 128 + 10 * 2 * 4
    assert made.images_per_s > 0


def test_an_encoders_own_stream_is_used(cache, tmp_path):
    encoder = Streaming(batch_size=4)
    streamed = run(encoder, cache)
    assert encoder.batches == ["stream", 4, 4, 2]
    assert streamed.path.read_bytes() == run(Brightness(), Cache(tmp_path / "other")).path.read_bytes()


def test_the_vectors_are_a_read_only_view_of_the_file(cache):
    made = run(Brightness(), cache)
    assert type(made.vectors) is np.ndarray  # not np.memmap, which FAISS refuses at times
    assert isinstance(made.vectors.base, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        made.vectors[0] = 0


@pytest.mark.parametrize("batch_size", [1, 3, 10, 11])
def test_the_batch_size_leaves_no_trace_in_the_file(cache, tmp_path, batch_size):
    whole = run(Brightness(batch_size=1000), cache)
    other = run(Brightness(batch_size=batch_size), Cache(tmp_path / "other"))
    assert other.path.read_bytes() == whole.path.read_bytes()


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ">f4"])
def test_an_encoder_that_gives_another_precision_is_stored_as_float32(cache, dtype):
    made = run(Misshapen(lambda vectors, _: vectors.round().astype(dtype)), cache)
    assert made.vectors.dtype == np.float32
    assert np.array_equal(made.vectors, run(Brightness(name="b", weights=1), cache).vectors.round())


def test_vectors_that_are_a_transposed_view_are_stored_row_by_row(cache):
    made = run(Misshapen(lambda vectors, _: np.asfortranarray(vectors)), cache)
    assert np.array_equal(made.vectors, run(Brightness(weights=1), cache).vectors)


# Once


def test_images_are_embedded_once(cache):
    first, second = Brightness(), Brightness()
    made, found = run(first, cache), run(second, cache)
    assert (first.batches, second.batches) == ([4, 4, 2], [])
    assert (made.cached, found.cached) == (False, True)
    assert (made.path, made.key, made.images_per_s) == (found.path, found.key, found.images_per_s)
    assert np.array_equal(made.vectors, found.vectors)


def test_the_model_is_asked_for_its_identity_once(cache):
    first, second, other = Brightness(), Brightness(), Brightness(weights=1)
    identities = [identify(encoder, cache) for encoder in (first, first, second, other)]
    assert (first.identified, second.identified, other.identified) == (1, 0, 1)
    assert identities[0] == {"kind": "toy", "weights": 0, "preprocessing": {"size": (28, 28)}}
    assert identities[3]["weights"] == 1


def test_an_identity_from_the_cache_names_the_same_embeddings_as_a_fresh_one(cache):
    """JSON turns tuples into lists."""
    fresh, remembered = identify(Brightness(), cache), identify(Brightness(), cache)
    made, found = (embed(Brightness(), i, make_split(), 28, cache) for i in (fresh, remembered))
    assert made.key == found.key
    assert found.cached


def key(cache, identity=IDENTITY, split=None, size=28):
    return embed(Brightness(), identity, split or make_split(), size, cache).key


def test_a_changed_pixel_a_changed_shape_another_split_or_size_make_another_key(cache):
    images = make_split().images
    changed = images.copy()
    changed[9, 27, 27] ^= 1
    keys = [
        key(cache),
        key(cache, split=make_split(images=changed)),
        key(cache, split=make_split(images=images[::-1])),
        key(cache, split=make_split(images=images.reshape(10, 14, 56))),
        key(cache, split=make_split(name="val")),
        key(cache, size=64),
    ]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize(
    "change",
    [
        {"weights_sha256": "0a1c"},
        {"preprocessing": {"mean": [0.5, 0.5, 0.4], "crop_pct": 0.875}},
        {"preprocessing": {"mean": [0.5, 0.5, 0.5], "crop_pct": 0.9}},
        {"normalize": True},
        {"precision": "bf16"},
        {"pooling": "max"},
        {"model": "resnet34"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_whatever_changes_the_vectors_makes_another_key(cache, change):
    assert key(cache, IDENTITY | change) != key(cache)


def test_labels_captions_and_batch_size_make_no_other_key(cache):
    encoders = PixelEncoder("p", 28, False, batch_size=4), PixelEncoder("q", 28, False, batch_size=8)
    splits = make_split(), make_split(labels=1, captions=("a chest",) * 10)
    made, found = (run(encoder, cache, split) for encoder, split in zip(encoders, splits, strict=True))
    assert made.key == found.key
    assert found.cached


# What is refused


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
@pytest.mark.parametrize("at", [0, 6, 9])
def test_an_embedding_that_is_not_finite_is_refused_by_the_name_of_its_image(cache, at, value):
    line = refused(NotFinite(at=at, value=value), cache)
    assert line.startswith(f"encoder=brightness: the embedding of image test/{at} is not finite")
    assert "encoder.precision=fp32" in line


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        (lambda v, batch: v[:-1] if batch == 1 else v, "gave [3, 2] for 4 images, not [4, 2]"),
        (lambda v, batch: np.repeat(v, 2, axis=0), "gave [8, 2] for 4 images"),
        (lambda v, batch: v[:, 0], "gave [4] for 4 images"),
        (lambda v, batch: v[:, :, None], "gave [4, 2, 1] for 4 images"),
    ],
    ids=["a row less", "rows twice", "no rows", "maps"],
)
def test_vectors_that_are_not_one_an_image_are_refused(cache, shape, said):
    assert said in refused(Misshapen(shape), cache)


def test_batches_of_different_widths_are_refused(cache):
    assert "brightness" in refused(Misshapen(lambda v, batch: np.tile(v, (1, 1 + batch))), cache)


def test_vectors_without_components_are_refused(cache):
    assert "brightness" in refused(Misshapen(lambda v, batch: v[:, :0]), cache)


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_vectors_too_large_for_float32_are_refused(cache):
    assert "not finite" in refused(Misshapen(lambda v, batch: v.astype(np.float64) * 1e300), cache)


def test_after_an_interruption_the_next_start_begins_anew_and_completes(cache):
    with pytest.raises(KeyboardInterrupt):
        run(Interrupted(at=1), cache)
    assert [p for p in (cache.root / "embeddings").rglob("*.npy") if p.is_file()] == []
    second = Brightness()
    made = run(second, cache)
    assert second.batches == [4, 4, 2]
    assert not made.cached
    assert made.vectors.shape == (10, 2)
    assert np.array_equal(made.vectors, second.encode(make_split().images))


# The progress bar


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_on_a_terminal_a_bar_says_what_is_embedded_with_what(cache, monkeypatch):
    encoder = Brightness(batch_size=4)
    monkeypatch.setattr(sys, "stderr", Terminal())
    run(encoder, cache)
    assert f"embed test images with {encoder.name}:" in sys.stderr.getvalue()


def test_elsewhere_there_is_no_bar(cache, monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    run(Brightness(batch_size=4), cache)
    assert sys.stderr.getvalue() == ""
