"""What a run's figures folder holds: the data behind the pictures, and that the pictures open."""

import base64
import io
import json
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, ImageColor

from medretrieval import run
from medretrieval.cache.store import Cache
from medretrieval.checks import check
from medretrieval.embed.images import embed
from medretrieval.errors import UserError
from medretrieval.evaluate import chance
from medretrieval.evaluate.closed_forms import RandomRanking
from medretrieval.evaluate.evaluate import evaluate
from medretrieval.evaluate.score_table import reported_scores
from medretrieval.evidence.by_class import class_scores
from medretrieval.evidence.failures import Outcome
from medretrieval.figures import embedding_map
from medretrieval.figures import galleries as mosaics
from medretrieval.figures import style as canvas
from medretrieval.figures.style import font
from medretrieval.index.faiss_index import build
from medretrieval.load import load
from medretrieval.protocol.ranking import Ranking
from medretrieval.uncertainty.bootstrap import MIN_UNITS

BASE = (
    "encoder=pixels",
    "metric=l2",
    "evaluation.ks=[1,5,10]",
    "evaluation.resamples=200",
    "figures.enabled=true",
)
SIZES = {"train": 60, "val": 4, "test": 36}
PICTURES = {
    "gallery.png", "failures_worst.png", "failures_confident.png", "failures_hubs.png", "confusion.png",
    "per_class.png", "precision_recall_by_k.png", "vote.png",
}  # fmt: skip
DATA = {"examples.json", "curves.json", "embedding_map.html"}
KEYS = {
    "k", "classes", "size", "thumbnails",
    "retrieval", "worst", "failing", "counted", "confident", "hubs", "hubness", "confusion",
}  # fmt: skip
ROW = {"id", "class", "score", "results"}
RESULT = {"id", "class", "distance", "relevant"}


def noisy(labels, size, rng, channels):
    """Images that are hard to tell apart, so that there are failures of every kind."""
    shape = (len(labels), size, size, 3)[: 3 if channels == 1 else 4]
    level = labels if labels.ndim == 1 else labels @ np.arange(1, labels.shape[1] + 1)
    noise = rng.normal(0, 60, shape) + rng.normal(0, 25, len(labels)).reshape(-1, *[1] * (len(shape) - 1))
    return (90 + 8 * level.reshape(-1, *[1] * (len(shape) - 1)) + noise).clip(0, 255).astype(np.uint8)


@pytest.fixture
def dataset(tmp_path):
    """Write a set of some kind, in its real format, and say how to choose it."""

    def write(kind, size=28):
        rng, arrays = np.random.default_rng(0), {}
        name = {"single": "pneumoniamnist", "multi": "chestmnist", "ordinal": "retinamnist"}[kind]
        for split, n in SIZES.items():
            classes = {"single": 2, "multi": 14, "ordinal": 5}[kind]
            labels = rng.random((n, 14)) < 0.15 if kind == "multi" else rng.integers(0, classes, n)
            arrays[f"{split}_images"] = noisy(labels, size, rng, 3 if kind == "ordinal" else 1)
            arrays[f"{split}_labels"] = (labels if kind == "multi" else labels[:, None]).astype(np.uint8)
        (tmp_path / "data").mkdir(exist_ok=True)
        np.savez(tmp_path / "data" / f"{name}{f'_{size}' if size > 28 else ''}.npz", **arrays)
        return f"dataset={name}", f"dataset.size={size}"

    return write


def read(result, name):
    return json.loads((result.folder / "figures" / name).read_text())


def decoded(uri):
    kind, data = uri.split(",", 1)
    assert kind == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def rows_of(document):
    return [row for kind in ("retrieval", "worst", "confident") for row in document[kind]]


@pytest.mark.parametrize("kind", ["single", "multi", "ordinal"])
def test_examples_say_what_was_retrieved(config, dataset, kind, tmp_path):
    cfg = config(*BASE, *dataset(kind), "figures.queries=6", "figures.results=4")
    result = run(cfg)
    there = {path.name for path in (result.folder / "figures").iterdir()}
    assert there == (PICTURES | DATA) - ({"vote.png"} if kind == "multi" else set())
    for name in PICTURES & there:
        with Image.open(result.folder / "figures" / name) as picture:
            picture.load()
            assert picture.width > 300
        assert (result.folder / "figures" / name).stat().st_size < 250_000

    document = read(result, "examples.json")
    assert set(document) == KEYS
    assert (document["k"], document["size"]) == (5, [28, 28])
    inputs = load(check(cfg), Cache(tmp_path / "cache"))
    task, names = inputs.task, set(document["thumbnails"])
    assert document["classes"] == list(inputs.dataset.classes)
    splits = {"test": task.queries, "train": task.gallery}
    for name in names:
        split, position = name.split("/")
        np.testing.assert_array_equal(
            decoded(document["thumbnails"][name]), splits[split].images[int(position)]
        )

    ranking, shown = Ranking.load(result.folder / "ranking.npz"), set()
    for row in rows_of(document):
        query = int(row["id"].removeprefix("test/"))
        results = [int(r["id"].removeprefix("train/")) for r in row["results"]]
        assert set(row) == ROW
        assert all(set(r) == RESULT for r in row["results"])
        assert results == ranking.ids[query, :4].tolist()
        hits = task.relevance.hits(ranking.ids[[query]], task.queries.labels[[query]], task.gallery.labels)[0]
        assert [r["relevant"] for r in row["results"]] == hits[:4].tolist()
        assert row["score"] == hits[:5].mean()
        assert [r["distance"] for r in row["results"]] == ranking.distances[query, :4].tolist()
        shown |= {row["id"], *(r["id"] for r in row["results"])}
    for hub in document["hubs"]:
        assert set(hub) == {"id", "class", "lists", "wrong_lists", "queries"}
        assert 1 <= len(hub["queries"]) <= hub["wrong_lists"] <= hub["lists"]
        shown |= {hub["id"], *hub["queries"]}
    assert shown == names
    assert len(document["retrieval"]) == len(document["worst"]) == 6
    assert document["hubs"]
    assert document["confident"] or kind == "multi"
    share = np.array(document["confusion"]["share"], float)
    assert share.shape == (len(document["confusion"]["classes"]),) * 2
    if kind != "multi":
        np.testing.assert_allclose(share.sum(axis=1), 1)


@pytest.mark.parametrize("kind", ["single", "multi"])
def test_curves_are_the_scores_where_there_are_scores(config, dataset, kind, tmp_path):
    cfg = config(*BASE, *dataset(kind), "encoder=random", "protocol=leave_one_out")
    result = run(cfg)
    document, report = read(result, "curves.json"), result.report
    task = load(check(cfg), Cache(tmp_path / "cache")).task
    ks = document["ks"]
    assert ks == list(range(1, 36))
    assert set(document) == {"ks", "precision", "recall"}
    random = RandomRanking(task.n_relevant, task.n_candidates)
    everything = chance.expected(reported_scores(ks, "single"), random)
    for name in ("precision", "recall"):
        curve = document[name]
        assert set(curve) == {"mean", "low", "high", "chance", "baseline"}
        assert {len(curve[key]) for key in ("mean", "low", "high", "chance")} == {len(ks)}
        for k in (1, 5, 10):
            score, place = f"{name}_at_{k}", ks.index(k)
            assert curve["mean"][place] == pytest.approx(report.scores[score], abs=1e-12)
            ends = report.intervals[score]
            assert [curve["low"][place], curve["high"][place]] == pytest.approx([ends.low, ends.high])
        random = [np.nanmean(everything[f"{name}_at_{k}"]) for k in ks]
        np.testing.assert_allclose(curve["chance"], random, atol=1e-12)
        pixels = [report.baseline.scores[f"{name}_at_{k}"] for k in (1, 5, 10)]
        assert curve["baseline"] == {"ks": [1, 5, 10], "mean": pixels}


def test_a_run_that_is_the_baseline_has_no_line_of_it(config, dataset):
    curves = read(run(config(*BASE, *dataset("single"))), "curves.json")
    assert curves["precision"]["baseline"] is None


def test_without_figures_there_is_no_folder_and_no_library_is_imported(dataset, tmp_path):
    options = (*BASE, *dataset("single"), "figures.enabled=false", "figures.projection=umap", "tracking=none")
    script = (
        "import sys; from medretrieval import compose, run; run(compose(*sys.argv[1:]));"
        "print([name for name in ('matplotlib', 'plotly', 'umap', 'sklearn') if name in sys.modules])"
    )
    command = [sys.executable, "-c", script, *options, f"paths.outputs={tmp_path / 'outputs'}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.strip() == "[]", done.stderr
    (folder,) = (tmp_path / "outputs" / "runs").iterdir()
    assert not (folder / "figures").exists()
    assert not (tmp_path / "cache" / "maps").exists()


def test_one_query_is_drawn_without_intervals(config, dataset, tmp_path):
    chosen = dataset("single")
    path = tmp_path / "data" / "pneumoniamnist.npz"
    with np.load(path) as npz:
        arrays = {name: npz[name][: 1 if name.startswith("test") else None] for name in npz.files}
    np.savez(path, **arrays)
    result = run(config(*BASE, *chosen, "encoder=random"))
    curve = read(result, "curves.json")["precision"]
    assert set(curve["low"]) == set(curve["high"]) == {None}
    assert {path.name for path in (result.folder / "figures").iterdir()} == PICTURES | DATA


def test_lists_with_missing_results_are_drawn(config, dataset):
    options = ("index=ivf", "index.nlist=30", "index.nprobe=1", "evaluation.ks=[1,5]")
    result = run(config(*BASE, *dataset("single"), *options))
    assert result.report.counts.missing_results
    document, ranking = read(result, "examples.json"), Ranking.load(result.folder / "ranking.npz")
    for row in rows_of(document):
        found = ranking.ids[int(row["id"].removeprefix("test/")), :5]
        assert len(row["results"]) == (found >= 0).sum()


def test_where_nothing_is_drawn_nothing_is_computed_for_it(config, dataset, monkeypatch):
    monkeypatch.setattr("medretrieval.runner.breakdown", lambda *a: pytest.fail("computed for no picture"))
    assert run(config(*BASE, *dataset("single"), "figures.enabled=false")).report.scores


def test_the_vote_is_drawn_where_fewer_results_are_saved_than_vote(config, dataset):
    shallow = ("evaluation.vote_k=7", "evaluation.save_depth=2")
    whole, cut = (run(config(*BASE, *dataset("single"), *more)) for more in (shallow[:1], shallow))
    pictures = [np.asarray(Image.open(r.folder / "figures" / "vote.png")) for r in (whole, cut)]
    assert (pictures[0] == pictures[1]).all()


@pytest.mark.parametrize("depth", ["evaluation.save_depth=1", "evaluation.ks=[3]"])
def test_a_shallow_ranking_and_few_queries_are_drawn_too(config, dataset, depth):
    result = run(config(*BASE, *dataset("ordinal"), depth, "figures.queries=40", "figures.results=2"))
    document = read(result, "examples.json")
    assert document["k"] == (1 if "save" in depth else 3)
    ranking = Ranking.load(result.folder / "ranking.npz")
    k, ids = document["k"], ranking.ids
    relevant = np.bincount(ranking.gallery_labels, minlength=5)[ranking.query_labels]
    right = (ranking.gallery_labels[ids[:, :k]] == ranking.query_labels[:, None]).sum(axis=1)
    failing = np.flatnonzero((relevant > 0) & (right < np.minimum(k, relevant)))
    assert {row["id"] for row in document["worst"]} == {f"test/{i}" for i in failing}
    assert document["failing"] == len(failing) < document["counted"] == SIZES["test"]
    assert len(read(result, "curves.json")["ks"]) == (1 if "save" in depth else 60)


def test_intervals_draw_whole_groups(config, dataset, tmp_path):
    chosen = dataset("single")
    rows = [(s, i, f"{s}{i // 3}") for s in SIZES for i in range(SIZES[s])]
    (tmp_path / "groups.csv").write_text(
        "split,index,group\n" + "".join(f"{a},{b},{c}\n" for a, b, c in rows)
    )
    cfg = config(*BASE, *chosen, f"dataset.groups={tmp_path / 'groups.csv'}")
    result = run(cfg)
    curve = read(result, "curves.json")["precision"]
    ends = result.report.intervals["precision_at_5"]
    assert [curve["low"][4], curve["high"][4]] == pytest.approx([ends.low, ends.high])


def test_the_map_is_made_once_for_a_sweeps_runs_and_opens_without_a_network(config, dataset, tmp_path):
    chosen = dataset("multi")
    results = [run(config(*BASE, *chosen, f"metric={metric}")) for metric in ("l2", "cosine")]
    pages = {(r.folder / "figures" / "embedding_map.html").resolve() for r in results}
    (page,) = pages
    assert page.is_relative_to(tmp_path / "cache" / "maps")
    text = page.read_text()
    outside_scripts = re.sub(r"<script[^>]*>.*?</script>", "", text, flags=re.DOTALL)
    assert not re.findall(
        r"""(?:src|href)\s*=\s*["']?\s*(?:https?:)?//""", text.split("<body>")[0] + outside_scripts
    )
    assert not re.findall(
        r"<script[^>]+src|<link", outside_scripts + "".join(re.findall(r"<script[^>]*>", text))
    )
    assert r"test\u002f35" in text
    assert r"train\u002f59" in text


def test_every_point_of_the_map_has_its_own_image():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (7, 28, 20), dtype=np.uint8)
    sheet = embedding_map._sprites(list(images))
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(sheet["uri"].split(",")[1]))))
    for i, image in enumerate(images):
        top, left = i // sheet["across"] * 28, i % sheet["across"] * 20
        np.testing.assert_array_equal(picture[top : top + 28, left : left + 20], image)


def test_large_images_are_shrunk_for_the_map():
    sheet = embedding_map._sprites([np.zeros((224, 224, 3), np.uint8)] * 4)
    assert Image.open(io.BytesIO(base64.b64decode(sheet["uri"].split(",")[1]))).size == (96, 96)


@pytest.mark.parametrize("projection", ["tsne", "umap"])
def test_a_map_whose_library_is_missing_is_refused_before_any_work(config, monkeypatch, projection):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    line = rf"figures.projection={projection}: .*pip install 'medretrieval\[{projection}\]'"
    with pytest.raises(UserError, match=line):
        run(config(*BASE, f"figures.projection={projection}"))


def test_right_and_wrong_differ_without_color():
    image = np.full((28, 28), 128, np.uint8)
    tiles = [mosaics.Tile(image, "x", (), right) for right in (True, False)]
    drawn = [Image.open(io.BytesIO(mosaics.mosaic(["title"], [[tile]]))).convert("RGB") for tile in tiles]
    # The sign stands in white at the corner of the frame: by brightness alone the two are different pictures.
    signs = [(np.asarray(picture).min(axis=2) > 200)[40:70, 14:34] for picture in drawn]
    assert (signs[0] != signs[1]).sum() > 10


@pytest.mark.parametrize("channels", [1, 3])
def test_images_stand_in_a_gallery_as_they_are(channels):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (28, 28, 3)[: 2 if channels == 1 else 3], dtype=np.uint8)
    row = [mosaics.Tile(image, "normal", ("query test/1",)), mosaics.Tile(image, "normal", ("0.1",), True)]
    drawn = Image.open(io.BytesIO(mosaics.mosaic(["title"], [row]))).convert("RGB")
    large = np.asarray(Image.fromarray(image).convert("RGB").resize((112, 112), Image.Resampling.NEAREST))
    left, top = mosaics.PAD + mosaics.FRAME, 2 * mosaics.PAD + mosaics.LINE + 5 + mosaics.FRAME
    found = np.asarray(drawn)[top : top + 112, left : left + 112]
    assert np.abs(found.astype(int) - large).max() <= (1 if channels == 1 else 0)
    right = [ImageColor.getrgb(mosaics.RIGHT), (255, 255, 255)]
    assert all(color in {c for _, c in drawn.getcolors(100_000)} for color in right)


def test_long_names_fit_their_column():
    lines = mosaics._wrapped("atelectasis, cardiomegaly, effusion, infiltration, mass, nodule", 112)
    assert len(lines) == 2
    assert lines[1].endswith("…")
    assert all(font(11).getlength(line) <= 112 for line in lines)
    assert mosaics._wrapped("normal", 112) == ["normal"]


@pytest.mark.parametrize(("side", "drawn"), [(28, 112), (64, 128), (128, 128), (224, 112), (300, 112)])
def test_small_images_are_drawn_pixel_by_pixel(side, drawn):
    assert mosaics._drawn_size(np.zeros((side, side), np.uint8)) == (drawn, drawn)


def test_thumbnails_of_large_images_are_at_most_64_pixels(config, dataset):
    document = read(run(config(*BASE, *dataset("single", size=128))), "examples.json")
    assert {decoded(uri).shape for uri in document["thumbnails"].values()} == {(64, 64)}
    assert document["size"] == [128, 128]


@pytest.mark.parametrize("kind", ["single", "multi"])
def test_classes_have_the_means_of_the_scores_and_intervals_about_them(config, dataset, kind, tmp_path):
    cfg = config(*BASE, *dataset(kind), "encoder=random")
    found = scores_by_class(cfg, Cache(tmp_path / "cache"))
    report = run(cfg).report.per_class
    assert found.names == list(report)
    assert found.queries == [row.queries for row in report.values()]
    np.testing.assert_allclose(found.mean, [row.scores["precision_at_5"] for row in report.values()])
    for mean, queries, ends in zip(found.mean, found.queries, found.ends, strict=True):
        assert (ends is None) == (queries < MIN_UNITS)
        assert ends is None or ends[0] <= mean <= ends[1]


def scores_by_class(cfg, cache):
    settings = check(cfg)
    inputs = load(settings, cache)
    vectors = [
        embed(inputs.encoder, inputs.identity, s, 28, cache)
        for s in (inputs.task.queries, inputs.task.gallery)
    ]
    index = build(settings.index, settings.metric, vectors[1], 60, 0, cache)
    evaluation = evaluate(
        lambda rows, k: index.search(vectors[0].vectors[rows], k), inputs.task, 60, settings.evaluation
    )
    outcome = Outcome.from_evaluation(evaluation, inputs.task, 5)
    return class_scores(settings, inputs.task, outcome, inputs.dataset.classes, None, None)


def test_the_interval_of_a_class_of_all_queries_is_that_of_all(config, dataset, tmp_path):
    cfg = config(*BASE, *dataset("single"))
    with np.load(tmp_path / "data" / "pneumoniamnist.npz") as npz:
        arrays = dict(npz)
    arrays["test_labels"][:] = 1
    np.savez(tmp_path / "data" / "pneumoniamnist.npz", **arrays)
    found = scores_by_class(cfg, Cache(tmp_path / "cache"))
    assert found.names == ["pneumonia"]
    ends = run(cfg).report.intervals["precision_at_5"]
    assert found.ends[0] == pytest.approx((ends.low, ends.high))


def test_names_of_classes_are_no_formulas(config, write_npz):
    write_npz()
    names = r"dataset.classes=['cost $5 {','$\\foo$ b']"
    folder = run(config("dataset=breastmnist", "encoder=pixels", names, "figures.enabled=true")).folder
    assert (folder / "figures" / "confusion.png").exists()
    drawing = canvas.figure(2, 2)
    words = drawing.text(0.1, 0.5, "b $x_1$ c")
    canvas.png(drawing)
    assert not words.get_parse_math()


def test_a_gallery_without_failures_is_a_line_that_says_so(config, write_npz):
    """Two classes, each of one gray: every result is right."""
    labels = np.arange(24) % 2
    images = np.repeat(np.array([40, 200], np.uint8)[labels], 28 * 28).reshape(-1, 28, 28)
    images = images + np.arange(24, dtype=np.uint8)[:, None, None] % 5  # no copies
    write_npz(
        test_images=images, train_images=images, test_labels=labels[:, None], train_labels=labels[:, None]
    )
    result = run(config("dataset=breastmnist", *BASE))
    document = read(result, "examples.json")
    assert document["worst"] == []
    assert (document["failing"], document["counted"]) == (0, 24)
    with Image.open(result.folder / "figures" / "failures_worst.png") as picture:
        assert picture.height < 200
        assert len(picture.convert("L").getcolors()) > 5  # words
