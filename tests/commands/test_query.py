"""The verb `query` on finished runs: what it answers, what it says of strangers, what it refuses."""

import collections
import functools
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.distance import cdist
from tests.conftest import painted
from tests.tiny_models import TINY_READER, add_clip

from medretrieval import compose, run
from medretrieval.cache.store import Cache
from medretrieval.commands.inputs.cache import VERB as CACHE
from medretrieval.config import FaissMetric, MetricConfig
from medretrieval.datasets.phantom import ChestPhantom
from medretrieval.images.fit import Fit, as_in_dataset
from medretrieval.index.distance import pair_distances
from medretrieval.query.novelty import KIND, SAMPLE, judging_metric, novelty, own_nearest
from medretrieval.verify import verify

RUN = (
    "dataset=breastmnist", "encoder=pixels", "metric=l2", "evaluation.ks=[1,3]", "evaluation.resamples=100",
    "evaluation.baseline=none", "audit.enabled=false", "figures.enabled=false",
)  # fmt: skip
ALONE = (*RUN, "protocol=leave_one_out")
ENCODERS = ("random", "pixels")
L2 = MetricConfig("l2", FaissMetric.l2, False)
COSINE = MetricConfig("cosine", FaissMetric.inner_product, True)
IP = MetricConfig("ip", FaissMetric.inner_product, False)


@pytest.fixture
def ask(say):
    """`medretrieval query ...` in tmp_path: exit code, what it printed, what it said beside."""
    return functools.partial(say, "query")


@pytest.fixture
def refused(refused):
    """The one line that `medretrieval query ...` answers a mistake with."""
    return functools.partial(refused, "query")


@pytest.fixture
def answer(ask):
    def answered(*words):
        code, out, err = ask(*words, "--json")
        assert code == 0, err
        return json.loads(out)

    return answered


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A run that tests only ask, and the images of its gallery."""
    place = tmp_path_factory.mktemp("shared")
    labels = np.arange(20, dtype=np.int64) % 2
    arrays = {f"{s}_images": painted(labels, seed=i) for i, s in enumerate(("train", "val", "test"))}
    arrays |= {f"{s}_labels": labels for s in ("train", "val", "test")}
    np.savez(place / "breastmnist.npz", **arrays)
    paths = (f"paths.data={place}", f"paths.cache={place}/cache", f"paths.outputs={place}/outputs")
    return run(compose("tracking=none", *ALONE, *paths)).folder, arrays["test_images"]


@pytest.fixture
def done(shared):
    return shared[0]


@pytest.fixture
def split(shared):
    return shared[1]


@pytest.fixture
def own(config, write_npz):
    """A run that a test may break."""
    write_npz(n=20)
    return run(config(*ALONE)).folder


def counted(query):
    """Votes of single-label results, from the table of results alone."""
    return dict(collections.Counter(result["class"] for result in query["results"]))


def png(path, pixels):
    Image.fromarray(pixels).save(path)
    return path


def test_an_image_of_the_gallery_finds_itself_at_no_distance(done, split, answer, tmp_path):
    for number in (0, 7):
        (query,) = answer(f"run={done}", f"image={png(tmp_path / 'a.png', split[number])}")["queries"]
        first = query["results"][0]
        assert (first["id"], first["distance"], first["rank"]) == (f"test/{number}", 0.0, 1)
        assert first["class"] == ("malignant", "normal, benign")[number % 2]
        assert query["novelty"]["quantile"] == 0
        assert not query["novelty"]["out_of_distribution"]


def test_results_are_those_of_an_exact_search(done, split, answer, tmp_path):
    image = np.random.default_rng(1).integers(0, 256, (28, 28)).astype(np.uint8)
    (query,) = answer(done, f"image={png(tmp_path / 'a.png', image)}", "k=20")["queries"]
    wanted = np.linalg.norm((split.astype(float) - image).reshape(20, -1) / 255, axis=1)
    assert [int(r["id"].split("/")[1]) for r in query["results"]] == list(np.argsort(wanted))
    np.testing.assert_allclose([r["distance"] for r in query["results"]], np.sort(wanted), rtol=1e-5)
    assert query["novelty"]["out_of_distribution"]
    assert query["votes"] == counted(query) == {"malignant": 10, "normal, benign": 10}


def test_the_vote_counts_every_neighbor_once_the_most_frequent_class_first(done, split, answer, tmp_path):
    (query,) = answer(done, f"image={png(tmp_path / 'a.png', split[7])}", "k=13")["queries"]
    # Ten images are of the query's class, and brightness is all that tells the classes apart.
    assert list(query["votes"].items()) == [("normal, benign", 10), ("malignant", 3)]


def test_the_json_is_all_of_stdout_and_has_every_key(done, split, ask, tmp_path):
    png(tmp_path / "a.png", split[0])
    code, out, _ = ask(done, "image=a.png", "k=2", "--json")
    found = json.loads(out)
    assert code == 0
    assert list(found) == ["run", "chosen", "title", "metric", "k", "random_weights", "picture", "queries"]
    assert (found["run"], found["metric"], found["k"]) == (str(done), "l2", 2)
    assert (found["random_weights"], found["picture"], found["chosen"]) == (False, None, None)
    (query,) = found["queries"]
    assert list(query) == ["image", "text", "remarks", "novelty", "votes", "results"]
    assert (query["image"], query["text"], query["remarks"]) == ("a.png", None, [])
    assert list(query["novelty"]) == ["distance", "metric", "quantile", "limit", "out_of_distribution"]
    assert [list(r) for r in query["results"]] == [["rank", "id", "class", "distance", "split"]] * 2
    assert [p.name for p in tmp_path.glob("*.png")] == ["a.png"]


def test_a_folder_is_asked_at_once_and_answers_as_its_pictures_do(done, answer, ask, tmp_path):
    folder = tmp_path / "scans"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in ("b.png", "a.png", "c.png"):
        png(folder / name, rng.integers(0, 256, (40, 50)).astype(np.uint8))
    (folder / "note.txt").write_text("x")
    together = answer(done, f"image={folder}")["queries"]
    assert [Path(q["image"]).name for q in together] == ["a.png", "b.png", "c.png"]
    single = [answer(done, f"image={folder / name}")["queries"][0] for name in ("a.png", "b.png", "c.png")]
    assert together == single
    listed = f"image={folder / 'a.png'},{folder / 'b.png'}"
    assert answer(done, listed, f"image={folder / 'c.png'}")["queries"] == together
    assert f"{folder}: 1 of 4 files skipped" in ask(done, f"image={folder}")[2]


def test_the_table_and_the_picture(done, split, ask, tmp_path):
    png(tmp_path / "a.png", split[3])
    code, out, err = ask(f"run={done}", "image=a.png", "k=3")
    assert code == 0, err
    rows = [line.split() for line in out.splitlines()]
    assert ["rank", "id", "class", "distance", "split"] in rows
    assert ["1", "test/3", "normal,", "benign", "0.0000", "test"] in rows
    assert "vote: 3 of 3 normal, benign" in out.splitlines()
    assert "picture: query_a.png" in out
    with Image.open(tmp_path / "query_a.png") as picture:
        drawn = np.asarray(picture.convert("L")).astype(int)
    # A patch of each of the query and its three results, all of class 1: its gray value, 60 to 64.
    share = ((drawn >= 60) & (drawn <= 64)).mean()
    assert share > 0.15


def test_a_picture_of_another_is_never_written_over(done, split, ask, refused, tmp_path):
    png(tmp_path / "a.png", split[3])
    theirs = png(tmp_path / "query_a.png", split[0]).read_bytes()
    _, out, err = ask(done, "image=a.png")
    assert "picture: query_a_2.png" in out
    assert "query_a.png: exists already" in err
    assert "picture: query_a_2.png" in ask(done, "image=a.png")[1]  # its own is written over
    assert "was not written by medretrieval query" in refused(done, "image=a.png", "out=query_a.png")
    assert (tmp_path / "query_a.png").read_bytes() == theirs
    assert answer_paths(tmp_path) == ["a.png", "query_a.png", "query_a_2.png"]


def answer_paths(folder):
    return sorted(p.name for p in folder.glob("*.png"))


def test_without_the_data_the_table_still_comes(own, split, ask, tmp_path):
    png(tmp_path / "a.png", split[0])
    (tmp_path / "data" / "breastmnist.npz").unlink()
    code, out, err = ask(own, "image=a.png")
    assert code == 0
    assert "test/0" in out
    assert err.splitlines() == [
        "no picture is drawn: dataset=breastmnist is not there any more; paths.data= says where it is"
    ]


def test_other_data_than_the_runs_is_not_drawn(own, split, write_npz, ask, tmp_path):
    png(tmp_path / "a.png", split[0])
    write_npz(n=20, test_images=split[::-1])
    _, out, err = ask(own, "image=a.png")
    assert "test/0" in out
    assert err.startswith("no picture is drawn: dataset=breastmnist is other data than the run's")


def test_a_color_query_of_a_gray_gallery_is_made_gray_and_said(done, split, answer, tmp_path):
    colors = np.repeat(split[0][..., None], 3, axis=2)
    (query,) = answer(done, f"image={png(tmp_path / 'a.png', colors)}")["queries"]
    assert (query["results"][0]["distance"], query["remarks"]) == (0.0, [])
    colors[..., 0] = 255
    (query,) = answer(done, f"image={png(tmp_path / 'a.png', colors)}")["queries"]
    assert query["remarks"] == ["in color, made gray as the gallery is"]


def test_a_gray_query_of_a_gallery_in_color(config, write_npz, answer, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (12, 28, 28, 1)).astype(np.uint8).repeat(3, axis=3)
    write_npz("bloodmnist", **{f"{s}_images": images for s in ("train", "val", "test")})
    folder = run(config(*ALONE, "dataset=bloodmnist")).folder
    (query,) = answer(folder, f"image={png(tmp_path / 'a.png', images[5, ..., 0])}")["queries"]
    assert (query["results"][0]["id"], query["results"][0]["distance"]) == ("test/5", 0.0)


@pytest.mark.parametrize("fit", ["pad", "stretch"])
def test_pictures_become_squares_as_the_datasets_own_files_did(answer, config, tmp_path, fit):
    rng = np.random.default_rng(0)
    for i in range(16):
        path = tmp_path / "own" / ("train", "test")[i % 2] / "ab"[i // 2 % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20, 40), np.uint8)).save(path)
    own = ("dataset=folder", f"dataset.root={tmp_path / 'own'}", "dataset.size=28", f"dataset.fit={fit}")
    folder = run(config(*RUN, *own)).folder
    files = sorted((tmp_path / "own" / "train").rglob("*.png"))
    for place, path in enumerate(files):
        first = answer(folder, f"image={path}", "k=1")["queries"][0]["results"][0]
        assert (first["id"], first["distance"]) == (f"train/{place}", 0)
    assert answer(folder, f"image={files[0]}", "fit=crop")["queries"][0]["results"][0]["distance"] > 0


def test_fit_decides_what_is_asked_of_a_picture_that_is_no_square(done, split, answer, tmp_path):
    wide = np.zeros((28, 48), np.uint8)
    wide[:, 10:38] = split[4]
    path = png(tmp_path / "a.png", wide)
    found = {
        fit: answer(done, f"image={path}", f"fit={fit}")["queries"][0] for fit in ("crop", "pad", "stretch")
    }
    assert found["crop"] == answer(done, f"image={path}")["queries"][0]
    assert (found["crop"]["results"][0]["id"], found["crop"]["results"][0]["distance"]) == ("test/4", 0.0)
    assert found["pad"]["results"][0]["distance"] > 1
    assert found["stretch"]["results"][0]["distance"] > 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read anything")
def test_a_folder_that_may_not_be_read_is_refused(done, refused, tmp_path):
    (tmp_path / "shut").mkdir(mode=0o300)
    assert refused(done, "image=shut") == "image=shut: cannot be read (Permission denied)"


def test_what_is_kept_for_it_is_listed_in_words(own, split, answer, capsys, tmp_path):
    answer(own, f"image={png(tmp_path / 'a.png', split[0])}")
    assert CACHE.main(["list"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if KIND in line]
    assert "l2 · embeddings with SHA-256" in line


def test_findings_of_a_multi_label_gallery_are_joined_and_counted(config, write_npz, answer, ask, tmp_path):
    labels = np.zeros((20, 14), np.uint8)
    labels[1:, 0] = labels[2:, 3] = 1
    with np.load(
        write_npz("chestmnist", n=20, **{f"{s}_labels": labels for s in ("train", "val", "test")})
    ) as npz:
        image = npz["test_images"][2]
    folder = run(config(*RUN, "dataset=chestmnist", "protocol=leave_one_out")).folder
    (query,) = answer(folder, f"image={png(tmp_path / 'a.png', image)}", "k=20")["queries"]
    classes = {r["id"]: r["class"] for r in query["results"]}
    assert classes["test/2"] == "atelectasis, infiltration"
    assert (classes["test/1"], classes["test/0"]) == ("atelectasis", "none")
    # Each of the 20 images counts for every finding that it has, image 0 for "none".
    assert query["votes"] == {"atelectasis": 19, "infiltration": 18, "none": 1}
    said = ask(folder, f"image={tmp_path / 'a.png'}", "k=20", "out=none")[1]
    assert "vote: 19 of 20 atelectasis, 18 of 20 infiltration, 1 of 20 none" in said.splitlines()


@pytest.mark.parametrize("says_its_channels", [True, False])
def test_the_drawn_phantoms_are_asked_too(config, answer, monkeypatch, tmp_path, says_its_channels):
    if not says_its_channels:  # as a dataset of the user's own may not
        monkeypatch.setattr(ChestPhantom, "channels", None)
    phantoms = ("dataset=chest_phantom", "dataset.n_train=5", "dataset.n_val=5", "dataset.n_test=20")
    folder = run(config(*ALONE, *phantoms)).folder
    (query,) = answer(folder, f"image={png(tmp_path / 'a.png', np.zeros((64, 64), np.uint8))}")["queries"]
    assert query["novelty"]["out_of_distribution"]


@pytest.mark.parametrize("index", ["ivf", "hnsw", "ivfpq"])
def test_an_approximate_index_is_searched_as_the_run_did(config, write_npz, answer, tmp_path, index):
    with np.load(write_npz(n=60)) as npz:
        image = npz["test_images"][5]
    folder = run(config(*ALONE, f"index={index}")).folder
    (query,) = answer(folder, f"image={png(tmp_path / 'a.png', image)}")["queries"]
    assert (query["results"][0]["id"], query["results"][0]["distance"]) == ("test/5", 0.0)
    distances = [result["distance"] for result in query["results"]]
    assert distances == sorted(distances)


def test_of_a_sweep_the_best_run_is_asked_and_named(config, write_npz, split, ask, tmp_path):
    write_npz(n=20)
    sweep = tmp_path / "outputs" / "sweeps" / "20260101-120000"
    best = [run(config(*ALONE, f"encoder={e}"), sweep / f"{i}_{e}").folder for i, e in enumerate(ENCODERS)][1]
    png(tmp_path / "a.png", split[0])
    for word in (sweep, sweep.name):
        code, out, err = ask(f"run={word}", "image=a.png", "--json")
        assert code == 0, err
        assert err.startswith(f"{word}: the best of 2 runs by precision_at_3 (1.0000): breastmnist · pixels")
        assert json.loads(out)["run"] == str(best)
        assert json.loads(out)["chosen"] == err.splitlines()[0]


def test_runs_of_several_tasks_have_no_best(config, write_npz, split, refused, tmp_path):
    write_npz(n=20)
    folders = [run(config(*words)).folder for words in (RUN, ALONE)]
    png(tmp_path / "a.png", split[0])
    assert "differ in data, protocol or relevance" in refused(f"run={folders[0].parent}", "image=a.png")


def test_an_mlflow_run_is_asked_by_its_id(config, write_npz, split, answer, refused, tmp_path):
    write_npz(n=20)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    folder = run(config(*ALONE, "tracking=mlflow", f"tracking.uri={uri}")).folder
    run_id = json.loads((folder / "tracking.json").read_text())["run_id"]
    words = (f"run={run_id}", f"tracking.uri={uri}", f"image={png(tmp_path / 'a.png', split[0])}")
    assert answer(*words)["run"] == str(folder)
    shutil.rmtree(folder)
    assert "is not on this machine" in refused(*words)


def test_sentences_are_asked_of_an_open_clip_run(
    config, write_npz, split, answer, ask, refused, monkeypatch, tmp_path
):
    write_npz(n=20)
    add_clip(monkeypatch, config=TINY_READER)
    tiny = ("encoder=open_clip", "encoder.model=tiny", "metric=cosine", "encoder.runtime=torch")
    folder = run(config(*ALONE, *tiny)).folder
    found = answer(folder, "text=a chest X-ray", "text=lungs")
    assert found["random_weights"]
    assert [q["text"] for q in found["queries"]] == ["a chest X-ray", "lungs"]
    assert [q["novelty"] for q in found["queries"]] == [None, None]
    assert found["queries"][0]["results"] != found["queries"][1]["results"]
    for query in found["queries"]:
        assert query["votes"] == counted(query)
    _, out, _ = ask(folder, "text=a chest X-ray")
    assert "no out-of-distribution check" in out
    assert "\nvote: " in out
    assert "picture: query_a_chest_X-ray.png" in out
    assert "longer than the 12 tokens" in refused(folder, "text=" + "lung " * 20).splitlines()[-1]


REFUSED = [
    (["k=1"], "query: run= is missing; medretrieval query run=<run> image=<picture>"),
    (["run=nowhere", "image=a.png"], "nowhere: no folder, no sweep in outputs/sweeps"),
    (["run={done}"], "query: no query; give"),
    (["run={done}", "image=a.png", "text=x"], "query: image= and text= cannot be combined"),
    (["run={done}", "{done}", "image=a.png"], "query: run={done}: run= is given twice"),
    (["run={done}", "image=gone.png"], "image=gone.png: there is no such file"),
    (["run={done}", "image=note.txt"], "image=note.txt: not a picture; give PNG"),
    (["run={done}", "image=cut.png"], "image=cut.png: damaged, cannot be read"),
    (["run={done}", "image=cut"], "image=cut/cut.png: damaged, cannot be read"),
    (["run={done}", "image=empty"], "image=empty: it has no files"),
    (["run={done}", "image=a.png", "k=21"], "k=21: the gallery of this run has 20 images; at most 20"),
    (["run={done}", "image=a.png", "k=0"], "query: k=0: give a whole number, 1 or more"),
    (["run={done}", "image=a.png", "k=x"], "query: k=x: give a whole number"),
    (
        ["run={done}", "image=a.png", "kk=1"],
        "query: kk=1: no such key; did you mean k? choose from: --config-dir, --json, --unverified,",
    ),
    (["run={done}", "image=a.png", "metric=ip"], "query: metric=ip: no such key"),
    (["run={done}", "image=a.png", "--jason"], "query: --jason: no such key; did you mean --json?"),
    (["run={done}", "image=a.png", "fit=x"], "query: fit=x: choose from: crop, pad, stretch"),
    (["run={done}", "text=x", "fit=pad"], "query: fit=pad: only for image=, not for text="),
    (["run={done}", "text=a lung"], "encoder=pixels: has no text tower; encoders that have one:"),
    (["run={done}", "image=a.png", "out=a.jpg"], "query: out=a.jpg: give a name that ends in .png"),
    (["run={done}", "image=a.png", "out=x/a.png"], "query: out=x/a.png: there is no folder x"),
    (
        ["run={done}", "image=a.png", "out=a.png"],
        "out=a.png: exists already and was not written by",
    ),
    (["run={done}", "image=a.png", "encoder.side=14"], "encoder=pixels: its side is 14, was 28;"),
    (["run={done}", "image=a.png", "encoder.sides=1"], "encoder.sides: "),
    (["run={done}", "image="], "query: image=: give a value"),
]


def test_each_refusal_is_one_line(done, split, refused, tmp_path):
    whole = png(tmp_path / "a.png", split[0]).read_bytes()
    for name in ("empty", "cut"):
        (tmp_path / name).mkdir()
    for name in ("cut.png", "cut/cut.png"):
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    (tmp_path / "note.txt").write_text("x")
    for words, line in REFUSED:
        assert refused(*(word.format(done=done) for word in words)).startswith(line.format(done=done))


@pytest.mark.parametrize("damage", ["truncated", "flipped", "gone"])
def test_files_of_a_run_that_are_damaged_or_gone_are_named(own, split, refused, ask, tmp_path, damage):
    png(tmp_path / "a.png", split[0])
    for name in ("index.faiss", "embeddings_gallery.npy", "ranking.npz", "manifest.json", "scores.json"):
        path = (own / name).resolve()
        whole, middle = path.read_bytes(), path.stat().st_size // 2
        if damage == "gone":
            path.unlink()
        else:
            rest = b"" if damage == "truncated" else bytes([whole[middle] ^ 0x80]) + whole[middle + 1 :]
            path.write_bytes(whole[:middle] + rest)
        assert name in refused(f"run={own}", "image=a.png")
        path.write_bytes(whole)
    assert ask(f"run={own}", "image=a.png", "--json")[0] == 0


def test_a_damaged_index_without_a_checksum_is_refused(own, split, refused, tmp_path):
    png(tmp_path / "a.png", split[0])
    content = (own / "index.faiss").read_bytes()
    (own / "index.faiss").unlink()
    (own / "index.faiss").write_bytes(content[:-100])
    assert "index.faiss is not the file that the run wrote" in refused(f"run={own}", "image=a.png")
    assert "index.faiss: damaged" in refused(f"run={own}", "image=a.png", "--unverified")


def test_a_device_given_later_reaches_the_encoder(config, write_npz, refused, split, tmp_path):
    write_npz(n=20)
    timm = ("encoder=timm", "encoder.model=resnet10t", "encoder.pretrained=null", "encoder.runtime=torch")
    folder = run(config(*ALONE, *timm, "evaluation.baseline=none", "audit.enabled=false")).folder
    png(tmp_path / "a.png", split[0])
    assert "device=nonsense: not available here" in refused(folder, "image=a.png", "device=nonsense")


def vectors(n, d=8, seed=0):
    return np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)


def scipy_distances(a, b, metric):
    if metric is IP:
        return -(a.astype(float) @ b.T.astype(float))
    return cdist(a, b, {"l2": "euclidean", "cosine": "cosine"}[metric.name])


@pytest.mark.parametrize("metric", [L2, COSINE, IP])
def test_distances_of_pairs_are_exact_and_0_for_twins(metric):
    queries, gallery = vectors(5), vectors(40, seed=1) * 30
    gallery[7] = queries[3]
    ids = np.random.default_rng(0).integers(0, 40, (5, 6))
    ids[3, 0], ids[0, 5] = 7, -1
    found, table = pair_distances(queries, gallery, ids, metric), scipy_distances(queries, gallery, metric)
    wanted = np.take_along_axis(table, ids, 1)
    wanted[0, 5] = np.inf
    np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-14)
    assert metric is IP or found[3, 0] == 0


@pytest.mark.parametrize("metric", [L2, COSINE])
def test_own_distances_are_those_to_the_nearest_other_one(metric):
    gallery = vectors(50)
    gallery[:3] = gallery[3]  # four of a kind
    table = scipy_distances(gallery, gallery, metric)
    np.fill_diagonal(table, np.inf)
    np.testing.assert_allclose(own_nearest(gallery, metric), np.sort(table.min(axis=1)), atol=1e-12)


def test_a_large_gallery_is_sampled_and_always_the_same():
    gallery = vectors(SAMPLE + 500, d=2)
    found = own_nearest(gallery, L2)
    assert found.shape == (SAMPLE,)
    np.testing.assert_array_equal(found, own_nearest(gallery, L2))


def test_of_queries_like_the_gallery_one_in_a_hundred_is_far(tmp_path):
    drawn = vectors(6000, d=4)
    found = novelty(drawn[3000:], drawn[:3000], "a", L2, Cache(tmp_path))
    assert 0.003 < np.mean([near.is_out_of_distribution for near in found]) < 0.02
    beyond = np.array([near.quantile for near in found])
    assert abs(beyond.mean() - 0.5) < 0.03
    (stranger,) = novelty(np.full((1, 4), 50, np.float32), drawn[:3000], "a", L2, Cache(tmp_path))
    assert (stranger.is_out_of_distribution, stranger.quantile) == (True, 1.0)


def test_the_length_of_a_vector_says_nothing_with_an_inner_product(tmp_path):
    gallery = vectors(200)
    short, long = novelty(np.stack([gallery[0], 100 * gallery[0]]), gallery, "a", IP, Cache(tmp_path))
    assert judging_metric(IP) == COSINE
    assert short.distance == pytest.approx(long.distance, abs=1e-6)
    assert judging_metric(L2) is L2


def test_own_distances_are_kept_and_a_cache_that_cannot_be_written_is_done_without(tmp_path, monkeypatch):
    gallery, cache = vectors(30), Cache(tmp_path / "cache")
    first = novelty(gallery[:1], gallery, "a", L2, cache)
    monkeypatch.setattr("medretrieval.query.novelty.own_nearest", lambda *_: pytest.fail("computed again"))
    assert novelty(gallery[:1], gallery, "a", L2, cache) == first
    assert len(list((tmp_path / "cache" / KIND).glob("*/*/entry.json"))) == 1
    monkeypatch.undo()
    (tmp_path / "file").write_text("")
    assert novelty(gallery[:1], gallery, "a", L2, Cache(tmp_path / "file" / "cache")) == first


def test_a_gallery_of_one_image_gives_no_judgment(tmp_path):
    assert novelty(vectors(1), vectors(1), "a", L2, Cache(tmp_path)) is None


@pytest.mark.realdata
def test_a_chest_film_finds_its_twin_and_others_are_rarely_called_strangers(
    config, real_root, answer, monkeypatch, tmp_path
):
    monkeypatch.setenv("MEDRETRIEVAL_DATA", str(real_root))
    folder = run(config("dataset=pneumoniamnist", *ALONE[1:], "evaluation.baseline=none")).folder
    with np.load(real_root / "pneumoniamnist.npz") as npz:
        twin, others = npz["test_images"][7], npz["val_images"][::4]
    (query,) = answer(folder, f"image={png(tmp_path / 'a.png', twin)}")["queries"]
    assert (query["results"][0]["id"], query["results"][0]["distance"]) == ("test/7", 0.0)
    (tmp_path / "val").mkdir()
    for number, image in enumerate(others):
        png(tmp_path / "val" / f"{number:03}.png", image)
    found = answer(folder, f"image={tmp_path / 'val'}")["queries"]
    assert np.mean([q["novelty"]["out_of_distribution"] for q in found]) < 0.05


def test_an_index_whose_table_is_larger_than_its_file_is_read(config, write_npz, ask):
    write_npz(n=300)
    folder = run(
        config(*RUN, "protocol=query_gallery", "index=ivfpq", "index.pq_m=28", "index.nlist=40")
    ).folder
    assert (folder / "index.faiss").stat().st_size < 40 * 28 * 256 * 4
    assert verify(folder) == []
    png(folder / "a.png", np.full((28, 28), 60, np.uint8))
    assert ask(f"run={folder}", f"image={folder / 'a.png'}", "out=none")[0] == 0


def test_a_black_picture_is_named_where_it_has_no_direction(config, write_npz, refused, tmp_path):
    write_npz(n=20)
    folder = run(config(*RUN, "protocol=query_gallery", "metric=cosine")).folder
    names = [png(tmp_path / f"{n}.png", np.full((28, 28), n, np.uint8)) for n in (60, 0)]
    line = refused(f"run={folder}", *(f"image={name}" for name in names), "out=none")
    assert line.startswith(f"{names[1]}: encoder=pixels sees nothing in it")


def test_a_long_strip_is_padded_without_being_squared_first():
    strip = np.full((2, 400_000), 90, np.uint8)
    found = as_in_dataset(strip, 28, 1, Fit.pad)
    assert found.shape == (28, 28)
    assert (found == 90).sum() == 28


@pytest.mark.parametrize("name", ["scan $1_{$.png", r"$\foo$.png"])
def test_a_file_name_is_no_formula(done, split, ask, tmp_path, name):
    png(tmp_path / name, split[0])
    code, _, err = ask(f"run={done}", f"image={tmp_path / name}", "out=seen.png")
    assert code == 0, err
    assert (tmp_path / "seen.png").exists()


def test_runs_of_other_relevance_or_data_have_no_best(config, write_npz, refused, tmp_path):
    write_npz(n=20)
    run(config(*RUN, "protocol=query_gallery"))
    run(config(*RUN, "protocol=query_gallery", "evaluation.confidence=0.9"))
    assert "differ in data, protocol or relevance" in refused(f"run={tmp_path / 'outputs'}", "image=a.png")


def test_a_comma_names_no_picture(done, refused):
    assert refused(f"run={done}", "image=,") == "query: image=,: names no picture"
