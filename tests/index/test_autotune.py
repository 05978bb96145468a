from pathlib import Path

import faiss
import numpy as np
import pytest
from faiss.contrib.evaluation import knn_intersection_measure

from medretrieval import run
from medretrieval.config import MetricConfig
from medretrieval.errors import UserError
from medretrieval.index import autotune as tuning
from medretrieval.index.autotune import ValidationSample, sample_gallery
from medretrieval.index.faiss_index import VectorIndex
from medretrieval.index.parameters import IndexSpec
from medretrieval.runs.tables import run_table
from medretrieval.verify import verify

METRICS = {"l2": faiss.METRIC_L2, "ip": faiss.METRIC_INNER_PRODUCT}
NOBODY = np.full(100, -1)


def autotune(index, exact, validation, own, k, target):
    """Tune a FAISS index over the vectors of a flat one."""
    kind = "ip" if exact.metric_type == faiss.METRIC_INNER_PRODUCT else "l2"
    metric = MetricConfig(kind, {"ip": "inner_product"}.get(kind, kind), normalize=False)
    wrapped = VectorIndex(index, IndexSpec("", "", "", {}), metric, Path(), 0.0, False, False)
    vectors = exact.reconstruct_n(0, exact.ntotal)
    return tuning.autotune(wrapped, np.asarray(vectors), ValidationSample(validation, own), k, target)


def drawn(gallery, size, seed):
    sample = sample_gallery(gallery, size, seed)
    return sample.vectors, sample.positions


def normal(n, d=16, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def made(factory, vectors, metric="l2"):
    index = faiss.index_factory(vectors.shape[1], factory, METRICS[metric])
    index.train(vectors)
    index.add(vectors)
    return index


@pytest.fixture(scope="module")
def gallery():
    return normal(2000)


@pytest.fixture(scope="module")
def asked():
    return normal(100, seed=1)


def values(tuned, name):
    """The values of one parameter along the curve."""
    return [int(dict(part.split("=") for part in s["parameters"].split(","))[name]) for s in tuned.curve]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("factory", "name"), [("IVF40,Flat", "nprobe"), ("HNSW8,Flat", "efSearch")])
def test_the_smallest_value_that_reaches_the_target_is_chosen_and_set(gallery, asked, metric, factory, name):
    index, exact = made(factory, gallery, metric), made("Flat", gallery, metric)
    tuned = autotune(index, exact, asked, NOBODY, k=10, target=0.9)
    tried, recalls = values(tuned, name), [s["recall"] for s in tuned.curve]
    assert tried == sorted(tried)
    first = next(i for i, recall in enumerate(recalls) if recall >= 0.9)
    assert (tuned.parameters, tuned.recall) == (f"{name}={tried[first]}", recalls[first])
    assert first > 0
    assert all(setting["ms"] > 0 for setting in tuned.curve)
    holder = index.hnsw if name == "efSearch" else index
    assert getattr(holder, name) == tried[first]
    # The recall it promises is the one that searching gives.
    wanted, found = exact.search(asked, 10)[1], index.search(asked, 10)[1]
    assert knn_intersection_measure(found, wanted) == pytest.approx(tuned.recall)


def test_the_curve_agrees_with_faiss_own_exploration_where_there_are_no_ties(gallery, asked):
    index, exact = made("IVF40,Flat", gallery), made("Flat", gallery)
    distances, ids = exact.search(asked, 10)
    criterion = faiss.IntersectionCriterion(len(asked), 10)
    criterion.set_groundtruth(distances, ids)
    space = faiss.ParameterSpace()
    space.initialize(index)
    space.n_experiments, space.verbose = 0, 0
    explored = space.explore(index, asked, criterion)  # owns its points
    points = explored.all_pts
    theirs = {points.at(i).key: points.at(i).perf for i in range(points.size())}
    ours = {s["parameters"]: s["recall"] for s in autotune(index, exact, asked, NOBODY, 10, 0.5).curve}
    shared = theirs.keys() & ours.keys()
    assert len(shared) >= 5
    assert {key: ours[key] for key in shared} == pytest.approx({key: theirs[key] for key in shared})


def test_searching_every_cell_is_among_the_settings_so_that_ivf_can_always_find_everything(gallery, asked):
    index = made("IVF40,Flat", gallery)
    tuned = autotune(index, made("Flat", gallery), asked, NOBODY, k=10, target=1.0)
    assert tuned.recall == 1.0
    assert tuned.curve[-1]["parameters"] == tuned.parameters  # wider ones have nothing to add


def test_a_higher_target_never_takes_less(gallery, asked):
    index, exact = made("IVF40,Flat", gallery), made("Flat", gallery)
    chosen = [
        int(autotune(index, exact, asked, NOBODY, 10, target).parameters.removeprefix("nprobe="))
        for target in (0.1, 0.5, 0.8, 0.95, 1.0)
    ]
    assert chosen == sorted(chosen)
    assert chosen[0] == 1 < chosen[-1]


def test_what_is_chosen_does_not_depend_on_what_was_set_before_or_on_the_clock(gallery, asked):
    exact, found = made("Flat", gallery), set()
    for nprobe in (1, 7, 40):
        index = made("IVF40,Flat", gallery)
        index.nprobe = nprobe
        tuned = autotune(index, exact, asked, NOBODY, 10, 0.9)
        found.add((tuned.parameters, tuple(s["recall"] for s in tuned.curve)))
    assert len(found) == 1


def test_a_sample_of_the_gallery_does_not_find_itself(gallery):
    sample, own = drawn(gallery, 100, seed=3)
    index, exact = made("IVF40,Flat", gallery), made("Flat", gallery)
    curve = autotune(index, exact, sample, own, 1, 1.0).curve
    # With nprobe=1 each vector finds itself: were it counted, recall at 1 would be 1.
    index.nprobe = 1
    assert (index.search(sample, 1)[1][:, 0] == own).all()
    assert curve[0]["parameters"] == "nprobe=1"
    assert curve[0]["recall"] < 0.8
    wanted, found = (i.search(sample, 2)[1][:, 1] for i in (exact, index))
    assert curve[0]["recall"] == pytest.approx((wanted == found).mean())


def test_queries_in_and_outside_the_gallery_can_be_mixed(gallery, asked):
    sample, own = drawn(gallery, 100, seed=3)
    index, exact = made("IVF40,Flat", gallery), made("Flat", gallery)
    both = autotune(
        index, exact, np.concatenate([sample, asked]), np.concatenate([own, NOBODY]), 5, 1.0
    ).curve
    apart = [autotune(index, exact, v, o, 5, 1.0).curve for v, o in ((sample, own), (asked, NOBODY))]
    assert both[0]["recall"] == pytest.approx(np.mean([curve[0]["recall"] for curve in apart]))


def test_duplicates_of_the_last_neighbor_count():
    # Every vector four times: which of the equals comes first is no matter of recall.
    gallery = np.repeat(normal(100), 4, axis=0)
    index, exact = made("IVF4,Flat", gallery), made("Flat", gallery)
    sample, own = drawn(gallery, 100, seed=0)
    assert autotune(index, exact, sample, own, k=1, target=1.0).parameters == "nprobe=1"


def test_compressed_vectors_are_judged_by_their_true_distances():
    gallery, asked = normal(600, d=8), normal(100, d=8, seed=1)
    index, exact = made("IVF4,PQ4x4np", gallery), made("Flat", gallery)
    with pytest.raises(
        UserError, match=r"index\.autotune=1\.0: no search parameters reach .* k=10; the best"
    ) as error:
        autotune(index, exact, asked, NOBODY, 10, 1.0)
    assert "nprobe=4 with 0." in str(error.value)
    assert "ht=" not in str(error.value)
    tuned = autotune(index, exact, asked, NOBODY, 10, 0.3)
    wanted, found = exact.search(asked, 10)[1], index.search(asked, 10)[1]
    assert knn_intersection_measure(found, wanted) == pytest.approx(tuned.recall)


def test_of_several_parameters_the_fewest_steps_up_are_chosen(gallery, asked):
    index, exact = made("IVF40,SQ4,RFlat", gallery), made("Flat", gallery)
    tuned = autotune(index, exact, asked, NOBODY, 10, 0.95)
    assert {part.split("=")[0] for part in tuned.parameters.split(",")} == {"nprobe", "k_factor_rf"}
    assert tuned.recall >= 0.95
    nprobe, factor = (
        dict(p.split("=") for p in tuned.parameters.split(","))[n] for n in ("nprobe", "k_factor_rf")
    )
    cheaper = [
        s["recall"]
        for s, n, f in zip(tuned.curve, values(tuned, "nprobe"), values(tuned, "k_factor_rf"), strict=True)
        if n <= int(nprobe) and f <= int(factor) and s["parameters"] != tuned.parameters
    ]
    assert cheaper
    assert max(cheaper) < 0.95


def test_a_graph_is_not_tried_narrower_than_it_is_asked_deep(gallery, asked):
    index, exact = made("HNSW8,Flat", gallery), made("Flat", gallery)
    assert values(autotune(index, exact, asked, NOBODY, 30, 0.5), "efSearch")[0] == 30


def test_the_sample_is_drawn_by_its_seed_and_knows_where_it_came_from(gallery):
    (a, own), (again, _), (other, _) = (drawn(gallery, 50, seed) for seed in (0, 0, 1))
    assert np.array_equal(a, again)
    assert not np.array_equal(a, other)
    assert np.array_equal(a, gallery[own])
    assert len(set(own.tolist())) == 50
    assert own.dtype == np.int64
    assert len(drawn(gallery[:20], 50, 0)[0]) == 20


@pytest.mark.parametrize("target", [0, -0.1, 1.01, "nan"])
def test_a_target_that_is_no_recall_is_refused(config, write_npz, target):
    write_npz()
    with pytest.raises(UserError, match=r"index\.autotune=.*: must be a recall above 0 and at most 1"):
        run(config("dataset=breastmnist", "encoder=pixels", "index=ivf", f"index.autotune={target}"))


def test_an_index_without_search_parameters_is_refused(gallery, asked):
    with pytest.raises(UserError, match=r"index\.autotune=0\.9: the index has no search parameters"):
        autotune(made("Flat", gallery), made("Flat", gallery), asked, NOBODY, 10, 0.9)


@pytest.mark.parametrize("k", [0, 20, 21])
def test_more_neighbors_than_there_are_cannot_be_recalled(k):
    few = normal(20)
    with pytest.raises(UserError, match=rf"recall at k={k} needs {k} images, and a query can find 19"):
        autotune(made("HNSW8,Flat", few), made("Flat", few), few, np.arange(20), k, 0.9)


def test_nothing_to_tune_on_is_refused(gallery):
    with pytest.raises(UserError, match="no validation vectors"):
        autotune(made("IVF4,Flat", gallery), made("Flat", gallery), normal(0), NOBODY[:0], 10, 0.9)


@pytest.mark.parametrize("protocol", ["query_gallery", "leave_one_out"])
@pytest.mark.parametrize("index", ["ivf", "hnsw"])
def test_a_run_tunes_its_index_without_the_test_queries(config, write_npz, monkeypatch, protocol, index):
    images = np.random.default_rng(0).integers(0, 255, (300, 28, 28)).astype(np.uint8)
    write_npz(n=300, test_images=images)
    asked = []
    inner = tuning.autotune
    monkeypatch.setattr(tuning, "autotune", lambda *a: asked.append(a) or inner(*a))
    overrides = (f"protocol={protocol}", f"index={index}", "index.autotune=0.9", "evaluation.ks=[1,5]")
    result = run(config("dataset=breastmnist", "encoder=pixels", "evaluation.resamples=100", *overrides))
    *_, sample, k, target = asked[0]
    assert (k, target) == (5, 0.9)
    queries = np.load(result.folder / "embeddings_query.npy")
    assert (sample.positions == -1).all()
    assert not (sample.vectors[:, None] == queries[None, :50]).all(axis=2).any()
    assert (result.report.autotune.split, result.report.autotune.on_queries) == ("val", False)
    report = result.report
    assert report.autotune.recall >= 0.9
    assert report.index.search == report.autotune.parameters
    assert report.autotune.parameters in {point.parameters for point in report.autotune.curve}
    assert "autotune: " in run_table(report, result.folder)
    assert verify(result.folder) == []


@pytest.mark.parametrize(
    ("sides", "split"),
    [(("test", "test"), "val"), (("val", "train"), "train"), (("val", "val"), "train")],
)
def test_neither_queries_nor_gallery_are_tuned_on_where_another_split_is_there(
    config, write_npz, sides, split
):
    """A run whose queries were val tuned on them."""
    write_npz(n=80)
    query, gallery = sides
    places = (f"protocol.query={query}", f"protocol.gallery={gallery}", "audit.enabled=false")
    run_of = config("dataset=breastmnist", "encoder=pixels", "index=ivf", "index.autotune=0.9",
                    "evaluation.ks=[1]", "evaluation.resamples=100", *places)  # fmt: skip
    report = run(run_of).report
    assert (report.autotune.split, report.autotune.on_queries) == (split, False)
    assert not any("on the images that are scored" in note for note in report.notes)


def test_a_dataset_without_another_split_is_tuned_on_what_is_scored_and_says_so(config):
    phantoms = ("dataset=chest_phantom", "dataset.n_train=0", "dataset.n_val=0", "dataset.n_test=80")
    report = run(config(*phantoms, "encoder=pixels", "protocol=leave_one_out", "index=ivf",
                        "index.autotune=0.9", "evaluation.ks=[1]")).report  # fmt: skip
    assert (report.autotune.split, report.autotune.on_queries) == ("test", True)
    assert any("on the images that are scored (split test)" in note for note in report.notes)


@pytest.mark.parametrize(("index", "key"), [("ivf", "nprobe"), ("hnsw", "ef_search")])
def test_what_is_tuned_cannot_be_set_by_hand_as_well(config, write_npz, index, key):
    write_npz(n=100)
    with pytest.raises(UserError, match=rf"index\.{key}=2 and index\.autotune=0\.9: .* one of the two"):
        run(config("dataset=breastmnist", f"index={index}", "index.autotune=0.9", f"index.{key}=2"))


def test_exact_search_has_nothing_to_tune_and_is_told_before_anything_is_embedded(
    config, write_npz, monkeypatch
):
    write_npz(n=100)
    monkeypatch.setattr("medretrieval.embed.sides.embed", lambda *a: pytest.fail("embedded first"))
    with pytest.raises(UserError, match=r"index\.autotune=0\.9: index=flat has no search parameters"):
        run(config("dataset=breastmnist", "encoder=pixels", "index.autotune=0.9"))
