"""`--dry-run`: what a run or sweep would take, and that nothing at all is done."""

import json

import numpy as np
import pytest
from tests.conftest import painted
from tests.toy_encoders import Brightness

from medretrieval import compose, run
from medretrieval.cache import shards
from medretrieval.cache.store import Cache
from medretrieval.dry_run import plan
from medretrieval.runs.report import read_report

RUN = (
    "dataset=breastmnist", "metric=l2", "evaluation.ks=[1,3]", "evaluation.resamples=100",
    "evaluation.baseline=none", "audit.enabled=false", "figures.enabled=false", "tracking=none",
)  # fmt: skip


@pytest.fixture
def planned(say):
    def document(*words, code=0):
        done, out, err = say("--dry-run", *in_order(words), "--json")
        assert done == code, err
        return json.loads(out)

    return document


@pytest.fixture
def done(write_npz, tmp_path):
    """A finished run over 20 images a split."""
    write_npz(n=20)
    paths = (f"paths.outputs={tmp_path / 'outputs'}", f"paths.data={tmp_path / 'data'}")
    return run(compose(*RUN, "encoder=pixels", *paths)).folder


def in_order(words):
    """The words of a command: Hydra wants -m before or behind all overrides."""
    return [*(word for word in words if word == "-m"), *RUN, *(word for word in words if word != "-m")]


def files(folder):
    """Names, sizes and times of everything in a folder."""
    return {str(p): (p.lstat().st_size, p.lstat().st_mtime_ns) for p in folder.rglob("*")}


def by_split(document):
    return {entry["split"]: entry for entry in document["embeddings"]}


def test_nothing_is_written_anywhere(say, write_npz, tmp_path):
    write_npz()
    before = files(tmp_path)
    words = [word for word in RUN if word != "tracking=none"]
    assert say("--dry-run", *words, "encoder=pixels")[0] == 0
    assert say("--dry-run", "-m", *words, "encoder=pixels,random", "index=flat,ivf")[0] == 0
    assert files(tmp_path) == before


def test_a_cache_that_is_full_is_not_touched_either(planned, done, tmp_path):
    before = files(tmp_path)
    planned("encoder=pixels", "force=true")
    planned("encoder=pixels", "index=ivf")
    assert files(tmp_path) == before


def test_no_model_is_loaded_and_nothing_embedded(write_npz, config, monkeypatch):
    write_npz(n=20)
    words = (*RUN, "encoder=pixels", "encoder.name=toy")
    made = Brightness()
    monkeypatch.setattr("medretrieval.load.instantiate", swapped(made))
    first = plan(config(*words))
    assert (made.identified, made.batches, first.identified) == (0, [], False)
    run(config(*words))
    assert made.identified == 1
    embedded = list(made.batches)
    again = plan(config(*words, "force=true"))
    assert (made.identified, made.batches, again.identified) == (1, embedded, True)
    assert [side.images.missing for side in again.sides] == [0, 0]


def swapped(encoder):
    from medretrieval.encoders.base import Encoder
    from medretrieval.instantiate import instantiate

    return lambda node, kind, what: encoder if kind is Encoder else instantiate(node, kind, what)


def test_an_encoder_that_is_new_to_the_cache_has_no_time_and_no_size(planned, say, write_npz):
    write_npz(n=20)
    found = planned("encoder=pixels")
    assert found["runs"] == [
        {
            "title": "breastmnist · pixels · flat · l2 · query_gallery (test queries train)",
            "finished": None,
            "identified": False,
            "failure": None,
        }
    ]
    assert [(e["split"], e["roles"], e["images"], e["to_embed"]) for e in found["embeddings"]] == [
        ("test", ["query"], 20, 20),
        ("train", ["gallery"], 20, 20),
    ]
    assert (found["seconds"], found["bytes"]) == (None, None)
    _, out, _ = say("--dry-run", *RUN, "encoder=pixels")
    assert "pixels: not used with this cache yet" in out
    assert "time of embedding: unknown" in out


def test_what_the_cache_has_is_not_made_again_and_the_rest_at_the_rate_it_was_made(planned, done, write_npz):
    assert planned("encoder=pixels", "force=true")["bytes"] == 0
    (skipped,) = planned("encoder=pixels")["runs"]
    assert skipped["finished"] == str(done)
    # The val split is new: 20 images, no two alike.
    both = ("encoder=pixels", "protocol=leave_one_out", "protocol.query=val", "protocol.gallery=val")
    found = planned(*both)
    (val,) = found["embeddings"]
    assert (val["to_embed"], val["in_cache"], val["roles"]) == (20, False, ["query and gallery"])
    report = read_report(done)
    assert val["bytes"] == 20 * (4 * report.encoder.dimension + 32) == found["bytes"]
    assert val["seconds"] > 0


def test_the_estimate_is_images_over_the_recorded_rate(planned, done, tmp_path):
    rates = set()
    for entry in (tmp_path / "cache" / "embeddings").glob("*/*/entry.json"):
        facts = json.loads(entry.read_text())["facts"]
        assert facts["image_shape"] == [28, 28]
        rates.add(facts["images_per_s"])
    found = planned("encoder=pixels", "protocol=leave_one_out", "protocol.query=val", "protocol.gallery=val")
    assert any(found["seconds"] == pytest.approx(20 / rate) for rate in rates)


def test_the_forecast_of_bytes_is_what_the_cache_then_takes(planned, done, tmp_path):
    words = ("encoder=pixels", "protocol=leave_one_out", "protocol.query=val", "protocol.gallery=val")
    promised = planned(*words)["bytes"]
    before = set((tmp_path / "cache").glob("embeddings/*/*"))
    paths = (f"paths.outputs={tmp_path / 'outputs'}", f"paths.data={tmp_path / 'data'}")
    run(compose(*RUN, *words, *paths))
    (new,) = [p for p in set((tmp_path / "cache").glob("embeddings/*/*")) - before if p.is_dir()]
    took = sum((new / name).stat().st_size for name in ("embeddings.npy", "images.npy"))
    assert promised <= took <= promised + 256  # two heads of .npy files


def test_images_that_another_split_has_are_not_counted(planned, done, write_npz, monkeypatch):
    with np.load(done.parent.parent.parent / "data" / "breastmnist.npz") as npz:
        arrays = dict(npz)
    old, new = arrays["train_images"][:12], painted(np.arange(8) % 2, seed=9)
    write_npz(n=20, val_images=np.concatenate([old, new]))
    found = planned("encoder=pixels", "protocol=leave_one_out", "protocol.query=val", "protocol.gallery=val")
    (val,) = found["embeddings"]
    assert (val["images"], val["to_embed"]) == (20, 8)


def test_vectors_of_another_shape_of_image_have_no_known_length(planned, done, write_npz):
    colored = {
        f"{s}_images": np.stack([painted(np.arange(20) % 2)] * 3, -1) for s in ("train", "val", "test")
    }
    labels = {f"{s}_labels": (np.arange(20) % 8)[:, None].astype(np.uint8) for s in ("train", "val", "test")}
    write_npz("bloodmnist", n=20, **colored, **labels)
    found = by_split(planned("encoder=pixels", "dataset=bloodmnist"))
    assert found["test"]["bytes"] is None  # three times as long, as it happens
    assert found["test"]["seconds"] > 0


def test_a_damaged_shard_stays_where_it_is(done, write_npz, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "MIN_SHARD_ROWS", 8)
    cache = Cache(tmp_path / "cache")
    (top,) = {p.parent for p in cache.root.glob("embeddings/*/*") if p.is_dir()}
    folder = top / f"{'a' * 64}.shards" / ("b" * 64)
    folder.mkdir(parents=True)
    (folder / "entry.json").write_text("{")
    before = files(cache.root)
    paths = (f"paths.outputs={tmp_path / 'outputs'}", f"paths.data={tmp_path / 'data'}")
    plan(compose(*RUN, "encoder=pixels", "force=true", *paths))
    assert files(cache.root) == before


def test_a_sweep_is_planned_job_by_job_and_each_split_is_embedded_once(planned, say, done):
    words = ("-m", "encoder=pixels,random", "index=flat,ivf", "force=true")
    found = planned(*words)
    assert [r["title"].split(" · ")[1:3] for r in found["runs"]] == [
        ["pixels", "flat"], ["pixels", "ivf"], ["random", "flat"], ["random", "ivf"],
    ]  # fmt: skip
    assert [(e["encoder"], e["split"], e["to_embed"]) for e in found["embeddings"]] == [
        ("pixels", "test", 0), ("pixels", "train", 0), ("random", "test", 20), ("random", "train", 20),
    ]  # fmt: skip
    assert (found["seconds"], found["bytes"]) == (None, None)  # nothing is known of random
    _, out, _ = say("--dry-run", *in_order(words), "hydra/launcher=joblib")
    assert "run 4/4  breastmnist · random · ivf" in out
    assert "time of embedding: none, and 2 of 4 unknown" in out
    assert f"(as in runs of this dataset, protocol and index, such as {done})" in out


def test_a_preset_that_is_a_sweep_is_planned_as_one(say, write_npz):
    write_npz("pneumoniamnist", n=20)
    words = [word for word in RUN if not word.startswith("dataset=")]
    code, out, err = say(
        "--dry-run", *words, "experiments=encoders_offline", "encoder=pixels,random", "--json"
    )
    assert code == 0, err
    assert len(json.loads(out)["runs"]) == 2


def test_what_would_fail_is_said_and_the_rest_planned(planned, say, write_npz):
    write_npz(n=20)
    found = planned("-m", "encoder=pixels", "index=ivf", "index.nlist=1,500", code=1)
    good, bad = found["runs"]
    assert (good["failure"], bad["title"]) == (None, None)
    assert bad["failure"].startswith("index.nlist=500: more cells than the gallery has vectors (20)")
    code, out, _ = say("--dry-run", "dataset=bloodmnist", "encoder=pixels", "tracking=none")
    assert code == 1
    assert "would fail: dataset=bloodmnist: its data is not there yet, and a dry run downloads nothing" in out


@pytest.mark.parametrize("place", [0, 1, 2])
def test_it_is_said_before_between_or_after_the_words_of_the_run(say, write_npz, place):
    write_npz()
    words = ["-m", *RUN, "encoder=pixels,random", "hydra.sweep.dir=elsewhere"]
    words.insert({0: 0, 1: 3, 2: len(words)}[place], "--dry-run")
    for order in (words, [*words[1:], words[0]] if words[0] == "-m" else words):
        code, out, err = say(*order)
        assert code == 0, err
        assert "run 2/2  breastmnist · random" in out


def test_mistakes_are_answered_as_in_a_run(refused, write_npz):
    write_npz()
    assert refused("--dry-run", "index=nonsense").startswith("index=nonsense: there is no such index")
    assert "no such key" in refused("--dry-run", "seeed=3")
    assert "--dri-run: no such option; did you mean --dry-run?" in refused("--dri-run", "seed=3")


def test_sentences_and_the_split_of_the_center_are_counted(config, write_npz, monkeypatch):
    from tests.tiny_models import TINY_READER, add_clip

    write_npz(n=20)
    add_clip(monkeypatch, config=TINY_READER)
    tiny = ("encoder=open_clip", "encoder.model=tiny", "metric=cosine", "encoder.runtime=torch")
    found = plan(config(*RUN, *tiny, "protocol=text_to_image", "protocol.center=train"))
    assert found.sentences > 0
    assert [(side.role, side.split) for side in found.sides] == [("gallery", "test"), ("center", "train")]
    assert found.index is None
