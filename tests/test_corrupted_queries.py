"""dataset.corrupt in whole runs: queries alone are corrupted, and everything that meets them knows it."""

import json
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from tests.conftest import NO_PICTURES
from tests.refusals import refusal

from medretrieval import run
from medretrieval.cache.store import Cache
from medretrieval.checks import check
from medretrieval.config import compose
from medretrieval.dry_run import plan
from medretrieval.load import load_task
from medretrieval.query.explain_run import _Images
from medretrieval.report.compare import Family, Options, compare
from medretrieval.runs.folder import RANKING
from medretrieval.runs.manifest import read_manifest
from medretrieval.runs.reopen import saved_config
from medretrieval.runs.tables import sweep_rows, sweep_table
from medretrieval.track.find_runs import load_run, place
from medretrieval.track.run_description import describe_run
from medretrieval.verify import again, verify

SMALL = (
    "dataset=chest_phantom", "dataset.size=32", "dataset.n_train=60", "dataset.n_val=10", "dataset.n_test=40",
    "encoder=pixels", "evaluation.ks=[1,3]", "evaluation.resamples=100",
)  # fmt: skip
LOO = (*SMALL, "protocol=leave_one_out")


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Where the runs of this file lie: they are only read."""
    top = tmp_path_factory.mktemp("runs")
    return (f"paths.outputs={top / 'outputs'}", f"paths.cache={top / 'cache'}", "tracking=none", NO_PICTURES)


@pytest.fixture(scope="module")
def pair(places):
    """Folders of a clean run and of one with corrupted queries, each image queried in all others."""
    return [run(compose(*LOO, *places, *more)).folder for more in ((), ("dataset.corrupt=rotation@4",))]


def vectors(folder, role):
    return np.load(folder / f"embeddings_{role}.npy")


def scores(folder):
    return json.loads((folder / "scores.json").read_text())


def test_the_gallery_stays_clean_byte_for_byte_and_no_query_finds_itself(pair):
    clean, worse = pair
    assert vectors(worse, "gallery").tobytes() == vectors(clean, "gallery").tobytes()
    assert (vectors(worse, "query") != vectors(clean, "query")).any(axis=1).all()
    ids = {folder: np.load(folder / RANKING)["ids"] for folder in pair}
    for found in ids.values():
        assert (found != np.arange(len(found))[:, None]).all()
    assert (ids[clean] != ids[worse]).any()
    sides = {folder: read_manifest(folder).data for folder in pair}
    assert sides[worse]["gallery"] == sides[clean]["gallery"]
    assert sides[worse]["query"].content_sha256 != sides[clean]["query"].content_sha256
    assert sides[worse]["query"].labels_sha256 == sides[clean]["query"].labels_sha256


def test_the_ranking_is_that_of_corrupted_vectors_in_the_clean_gallery(pair):
    query, gallery = vectors(pair[1], "query"), vectors(pair[1], "gallery")
    unit = [side / np.linalg.norm(side, axis=1, keepdims=True) for side in (query, gallery)]
    cosines = unit[0] @ unit[1].T
    np.fill_diagonal(cosines, -np.inf)
    assert np.array_equal(np.load(pair[1] / RANKING)["ids"][:, 0], cosines.argmax(axis=1))


def test_verify_and_again_find_nothing(pair):
    assert verify(pair[1]) == []
    assert again(pair[1]).results == []


def test_the_run_says_what_was_done_and_audits_the_clean_images(pair):
    clean, worse = map(scores, pair)
    assert (clean["corrupt"], worse["corrupt"]) == (None, "rotation@4")
    assert "test with rotation@4 queries test" in worse["title"]
    assert clean["fingerprint"] != worse["fingerprint"]
    assert worse["audit"] == clean["audit"]
    assert any("corrupted (rotation@4), the gallery is not" in note for note in worse["notes"])
    assert worse["resampled"] == clean["resampled"] == "images in both roles"


def test_tables_tell_them_apart_and_comparisons_do_not_mix_them(pair):
    runs = [load_run(folder, folder.name) for folder in pair]
    header, *rows = sweep_rows([one.report for one in runs])
    assert [row[header.index("corrupt")] for row in rows] == ["", "rotation@4"]
    assert "rotation@4" in sweep_table([one.report for one in runs])
    assert place(runs[0]) != place(runs[1])
    options = Options(None, None, Family.best, 100, 100, 0.95, 0)
    assert "dataset.corrupt is null in" in refusal(compare, runs, options)


def test_trackers_are_told():
    settings = check(compose(*LOO, "tracking=none", "dataset.corrupt=noise@2"))
    about = describe_run(settings, None)
    assert about.params["dataset.corrupt"] == "noise@2"
    assert "noise@2" in about.name
    assert "dataset.corrupt" not in describe_run(check(compose(*LOO, "tracking=none")), None).params


def test_the_pixel_baseline_gets_the_same_corrupted_queries(places, pair):
    other = run(compose(*LOO, *places, "encoder=random", "dataset.corrupt=rotation@4"))
    assert other.report.baseline.encoder == "pixels"
    assert other.report.baseline.scores["precision_at_3"] == pytest.approx(
        scores(pair[1])["scores"]["precision_at_3"], abs=1e-12
    )


def test_a_copy_is_left_out_though_it_is_corrupted(config, write_npz):
    images = np.random.default_rng(0).integers(0, 256, (24, 28, 28)).astype(np.uint8)
    images[12:14] = images[:2]
    write_npz(n=24, test_images=images)
    words = ("dataset=breastmnist", "protocol=leave_one_out", "protocol.drop_duplicates=true")
    tasks = [
        load_task(check(config(*words, f"dataset.corrupt={corrupt}")), None)[1]
        for corrupt in ("null", "noise@5")
    ]
    assert np.array_equal(tasks[0].exclusions.dropped, tasks[1].exclusions.dropped)
    assert tasks[1].exclusions.dropped.sum() == 2
    for one, other in zip(tasks[0].exclusions.pairs, tasks[1].exclusions.pairs, strict=True):
        assert np.array_equal(one, other)
    assert (tasks[0].is_one_set, tasks[1].is_one_set) == (True, False)
    assert tasks[1].queries_are_gallery
    assert tasks[1].clean.is_one_set
    assert tasks[0].clean is tasks[0]


def test_sentences_cannot_be_corrupted(config):
    settings = check(config(*SMALL, "protocol=text_to_image", "dataset.corrupt=noise@1"))
    assert "the queries are sentences" in refusal(load_task, settings, None)


@pytest.mark.parametrize("word", ["noize@1", "noise", "noise@7", "3"])
def test_what_is_no_corruption_is_refused_before_anything_is_drawn(config, word):
    assert f"dataset.corrupt={word}: " in refusal(run, config(*SMALL, f"dataset.corrupt={word}"))


def test_a_dry_run_names_what_is_embedded_and_writes_nothing(config, tmp_path):
    found = plan(config(*SMALL, "dataset.corrupt=noise@1"))
    assert [side.role for side in found.sides] == ["query", "gallery", "clean query"]
    found = plan(config(*LOO, "dataset.corrupt=noise@1"))
    assert [side.role for side in found.sides] == ["query", "gallery"]
    assert not (tmp_path / "cache").exists()


def test_pictures_of_a_run_are_explained_as_it_had_them(pair):
    settings = check(saved_config(pair[1], ()))
    images, cache = _Images(pair[1], settings), Cache(Path(settings.paths.cache))
    _, task = load_task(settings, cache)
    assert np.array_equal(images.picture("query", "test/3").image, task.queries.split.images[3])
    assert np.array_equal(images.picture("result", "test/3").image, task.gallery.images[3])


def test_every_dataset_has_the_key_and_nothing_is_corrupted_by_default():
    for name in ("chest_phantom", "pneumoniamnist", "retinamnist"):
        assert OmegaConf.select(compose(f"dataset={name}"), "dataset.corrupt") is None
        assert "corrupt" in compose(f"dataset={name}").dataset
