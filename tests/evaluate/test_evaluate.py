import dataclasses
import re

import numpy as np
import pandas as pd
import pytest
from tests.tasks import task_of

from medretrieval.config import EvaluationConfig
from medretrieval.datasets.base import Split
from medretrieval.errors import UserError
from medretrieval.evaluate.evaluate import evaluate, objective_name, require_depths
from medretrieval.evaluate.score_table import less_is_better, query_scores

SHALLOW = ("map", "map_at_r", "r_precision", "mrr")


def split(labels, name="test"):
    return Split(name, np.zeros((len(labels), 1, 1), np.uint8), np.asarray(labels))


# Scores of all queries together: they have no value for a single one.
VOTE = ("vote_balanced_accuracy", "vote_auroc", "vote_brier", "vote_calibration_error")


def options(*ks, save_depth=None, objective=None):
    return EvaluationConfig(ks=list(ks), save_depth=save_depth, objective=objective, vote_k=3)


def nearest(queries, gallery, depth):
    """An exact search by Euclidean distance, ties in the order of the gallery."""
    distances = np.linalg.norm(queries[:, None].astype(float) - gallery[None], axis=2)
    ids = np.argsort(distances, axis=1, kind="stable")[:, :depth]
    return fixed(ids, np.take_along_axis(distances, ids, axis=1))


def fixed(ids, distances=None):
    """A search with these results."""
    ids = np.asarray(ids)
    if distances is None:
        distances = np.where(ids < 0, np.inf, np.arange(ids.shape[1]))
    distances = distances.astype(np.float32)
    return lambda rows, depth: (ids[rows].copy(), distances[rows].copy())


def shuffled(queries, gallery, seed=0):
    """Whole rankings in random order."""
    return np.random.default_rng(seed).permuted(np.tile(np.arange(gallery), (queries, 1)), axis=1)


def leave_one_out(labels, exclude_self=True):
    only = split(labels)
    return task_of(only, only, exclude_self=exclude_self)


def query_gallery(query_labels, gallery_labels):
    return task_of(split(query_labels), split(gallery_labels, "train"))


def random_run(labels, *ks, **settings):
    """A random leave-one-out ranking of all images."""
    task = leave_one_out(labels)
    return evaluate(fixed(shuffled(len(labels), len(labels))), task, task.max_depth, options(*ks, **settings))


def same(a, b):
    """Whether two evaluations agree in everything but the clock."""
    if (a.scores, a.chance, a.counts) != (b.scores, b.chance, b.counts):
        return False
    if a.per_query.keys() != b.per_query.keys():
        return False
    pairs = [(a.per_query[name], b.per_query[name]) for name in a.per_query]
    pairs += [(getattr(a.ranking, f.name), getattr(b.ranking, f.name)) for f in dataclasses.fields(a.ranking)]
    return all(np.array_equal(x, y, equal_nan=x.dtype.kind == "f") for x, y in pairs)


def test_ideal_embeddings_score_the_best_value_of_every_score():
    labels = np.repeat(np.arange(4), 6)
    vectors, task = np.eye(4)[labels], leave_one_out(labels)
    # Five others of each class: at k = 5 precision and recall can both be 1.
    found = evaluate(nearest(vectors, vectors, 24), task, task.max_depth, options(5))
    assert found.scores.pop("chance_precision") == pytest.approx(5 / 23)
    assert [found.scores.pop(name) for name in VOTE] == [1, 1, 0, 0]
    names = query_scores([5], "single")
    assert found.scores.keys() == {*names, *(f"macro_{name}" for name in names)}
    assert found.scores == {name: 0.0 if less_is_better(name) else 1.0 for name in found.scores}


@pytest.mark.parametrize("protocol", ["leave_one_out", "query_gallery"])
def test_random_rankings_score_what_chance_expects(protocol):
    rng = np.random.default_rng(5)
    gallery = rng.choice(3, 50, p=[0.6, 0.3, 0.1])
    # Many rounds of the same fifty queries: independent rankings, so the standard error is honest.
    rounds = range(40)
    task = (
        leave_one_out(gallery)
        if protocol == "leave_one_out"
        else query_gallery(gallery, rng.permutation(gallery))
    )
    runs = [
        evaluate(fixed(shuffled(50, 50, seed)), task, task.max_depth, options(1, 5, 10)) for seed in rounds
    ]
    assert {"map", "mrr", "map_at_r", "ndcg_at_10", "map_at_5_hits", "hit_rate_at_1"} <= runs[0].chance.keys()
    for name, expected in runs[0].chance.items():
        means = np.array([run.scores[name] for run in runs])
        error = means.std(ddof=1) / np.sqrt(len(means))
        assert abs(means.mean() - expected) < 4 * error, name


def test_shuffled_labels_score_what_chance_expects():
    rng = np.random.default_rng(6)
    vectors, labels = rng.normal(size=(400, 8)), rng.permutation(np.arange(400) % 4)
    task = leave_one_out(labels)
    found = evaluate(nearest(vectors, vectors, 400), task, task.max_depth, options(1, 5))
    for name, expected in found.chance.items():
        values = found.per_query[name.removeprefix("macro_")]
        assert abs(found.scores[name] - expected) < 4 * values.std() / 20, name


@pytest.mark.parametrize("cells", [1, 70, 1000])
def test_the_size_of_a_chunk_changes_nothing_but_the_last_bit(monkeypatch, cells):
    labels = np.random.default_rng(2).integers(0, 3, 37)
    whole = random_run(labels, 1, 5)
    monkeypatch.setattr("medretrieval.evaluate.evaluate.CHUNK_CELLS", cells)
    chunked = random_run(labels, 1, 5)
    assert chunked.per_query.keys() == whole.per_query.keys()
    assert same(chunked, dataclasses.replace(whole, per_query=chunked.per_query, scores=chunked.scores))
    assert chunked.scores == pytest.approx(whole.scores, rel=1e-13)
    for name, values in whole.per_query.items():
        np.testing.assert_allclose(chunked.per_query[name], values, rtol=1e-13, err_msg=name)


def test_the_size_of_a_chunk_changes_nothing(monkeypatch):
    labels = np.random.default_rng(2).integers(0, 3, 37)
    whole = random_run(labels, 5, 10, 30)
    for cells in (1, 70, 120, 500):
        monkeypatch.setattr("medretrieval.evaluate.evaluate.CHUNK_CELLS", cells)
        assert same(random_run(labels, 5, 10, 30), whole)


def test_searches_come_in_order_and_no_chunk_is_larger_than_allowed(monkeypatch):
    monkeypatch.setattr("medretrieval.evaluate.evaluate.CHUNK_CELLS", 60)
    task, asked = leave_one_out(np.zeros(19, int)), []
    found = shuffled(19, 19)

    def search(rows, depth):
        asked.append((rows.start, rows.stop, depth))
        return found[rows].copy(), np.zeros((rows.stop - rows.start, 19), np.float32)

    evaluate(search, task, 18, options(1))
    assert asked == [(b, min(b + 3, 19), 19) for b in range(0, 19, 3)]


def doubles():
    """Ten pairs of byte-identical images and their labels."""
    return np.repeat(np.arange(10.0), 2)[:, None], np.repeat([0, 1], 10)


def test_leave_one_out_never_finds_the_query_even_among_identical_images():
    vectors, labels = doubles()
    task = leave_one_out(labels)
    ids = evaluate(nearest(vectors, vectors, 20), task, task.max_depth, options(1)).ranking.ids
    positions = np.arange(20)
    assert ids.shape == (20, 19)
    assert not (ids == positions[:, None]).any()
    # The first result is the query's double.
    assert ids[:, 0].tolist() == (positions ^ 1).tolist()
    assert all(sorted([*row, i]) == positions.tolist() for i, row in enumerate(ids))


def test_without_exclusion_a_query_finds_itself_first_or_its_earlier_double():
    vectors, labels = doubles()
    task = leave_one_out(labels, exclude_self=False)
    assert (task.exclusions.overfetch, task.max_depth) == (0, 20)
    found = evaluate(nearest(vectors, vectors, 20), task, 20, options(1))
    assert found.ranking.ids[:, 0].tolist() == (np.arange(20) // 2 * 2).tolist()
    single = np.arange(20.0)[:, None]
    found = evaluate(nearest(single, single, 20), task, 20, options(1))
    assert found.ranking.ids[:, 0].tolist() == list(range(20))
    assert found.per_query["recall_at_1"].tolist() == [1 / 10] * 20  # the query counts among its ten


def test_excluding_the_query_changes_nothing_where_it_is_not_in_the_gallery():
    task = query_gallery([0, 1], [0, 1, 1])
    assert (task.exclusions.overfetch, task.max_depth) == (0, 3)
    assert task.n_relevant.tolist() == [1, 2]


def test_missing_results_are_counted_and_are_misses():
    task = query_gallery([1, 1], [0, 1, 1])
    # The last image of the gallery is relevant: -1 must not stand for it.
    found = evaluate(fixed([[1, -1, -1], [0, -1, -1]]), task, 3, options(1, 3))
    assert found.counts["missing_results"] == 4
    assert found.per_query["precision_at_3"] == pytest.approx([1 / 3, 0])
    assert found.per_query["recall_at_3"].tolist() == [0.5, 0]
    assert found.per_query["map"].tolist() == [0.5, 0]
    assert found.per_query["majority_vote_at_3"].tolist() == [1, 0]
    assert found.ranking.distances[0].tolist() == [0, np.inf, np.inf]


def test_missing_results_are_counted_only_where_a_score_looks():
    task = query_gallery([1, 1], [0, 1, 1])
    assert evaluate(fixed([[1, -1, -1], [-1] * 3]), task, 3, options(1, 2)).counts["missing_results"] == 3


@pytest.mark.parametrize(
    ("depth", "kept"),
    [
        (6, {"map", "map_at_r", "r_precision", "mrr"}),
        (5, {"map_at_r", "r_precision", "mrr"}),
        (4, {"map_at_r", "r_precision", "mrr"}),  # the largest R is 4
        (3, {"mrr"}),
        (2, {"mrr"}),  # the first hit of the query of class 1 stands second
        (1, set()),
    ],
)
def test_a_short_ranking_gives_only_the_scores_it_is_deep_enough_for(depth, kept):
    task = query_gallery([0, 1], [0, 0, 0, 0, 1, 1])
    ids = np.array([[0, 1, 2, 3, 4, 5], [0, 4, 5, 1, 2, 3]])
    found = evaluate(fixed(ids[:, :depth]), task, depth, options(1))
    for names in (found.scores, found.per_query, found.chance):
        assert {name for name in SHALLOW if name in names} == kept
    assert {name for name in SHALLOW if f"macro_{name}" in found.scores} == kept
    assert "precision_at_1" in found.scores


def test_scores_at_a_depth_do_not_depend_on_how_deep_the_ranking_is():
    task = leave_one_out(np.random.default_rng(3).integers(0, 3, 30))
    ids = shuffled(30, 30)
    deep = evaluate(fixed(ids), task, 29, options(1, 5))
    short = evaluate(fixed(ids[:, :6]), task, 5, options(1, 5))
    at_depth = {n: value for n, value in deep.scores.items() if re.search(r"_at_[15](_|$)", n)}
    assert len(at_depth) >= 28
    assert {name: short.scores[name] for name in at_depth} == pytest.approx(at_depth, rel=1e-12)


def test_queries_without_relevant_items_are_counted_and_left_out_of_the_means():
    ids, gallery = shuffled(5, 8), [0, 0, 1, 1, 1, 2, 2, 2]
    found = evaluate(fixed(ids), query_gallery([0, 1, 7, 2, 8], gallery), 8, options(1, 4))
    assert found.counts["queries_without_relevant"] == 2
    assert found.counts["queries"] == 5
    for values in found.per_query.values():
        assert np.isnan(values).tolist() == [False, False, True, False, True]
    rest = evaluate(fixed(ids[[0, 1, 3]]), query_gallery([0, 1, 2], gallery), 8, options(1, 4))
    assert found.scores == pytest.approx(rest.scores)
    assert found.chance == pytest.approx(rest.chance)


def test_where_no_query_has_relevant_items_there_are_no_scores():
    found = evaluate(fixed(shuffled(2, 3)), query_gallery([3, 4], [0, 1, 2]), 3, options(1))
    assert (found.scores, found.chance, found.counts["queries_without_relevant"]) == ({}, {}, 2)


def test_macro_means_are_means_over_classes_of_class_means():
    labels = np.random.default_rng(4).choice(4, 60, p=[0.7, 0.15, 0.1, 0.05])
    gallery = labels[labels != 3]  # class 3 has nothing to find and is no class of the mean
    task = query_gallery(labels, gallery)
    found = evaluate(fixed(shuffled(60, len(gallery))), task, task.max_depth, options(1, 5))
    frame = pd.DataFrame(found.per_query).assign(label=labels).dropna()
    wanted = frame.groupby("label").mean().mean()
    assert set(wanted.index) == set(query_scores([1, 5], "single"))
    for name, value in wanted.items():
        assert found.scores[f"macro_{name}"] == pytest.approx(value), name
        assert found.scores[name] == pytest.approx(frame[name].mean()), name


def test_macro_means_agree_with_pytorch_metric_learning():
    torch = pytest.importorskip("torch")
    calculator = pytest.importorskip("pytorch_metric_learning.utils.accuracy_calculator").AccuracyCalculator
    rng = np.random.default_rng(1)
    vectors, labels = rng.normal(size=(80, 5)).astype(np.float32), rng.choice(3, 80, p=[0.6, 0.3, 0.1])
    task = leave_one_out(labels)
    ours = evaluate(nearest(vectors, vectors, 80), task, task.max_depth, options(1)).scores
    names = {
        "precision_at_1": "precision_at_1",
        "r_precision": "r_precision",
        "mean_average_precision_at_r": "map_at_r",
        "mean_average_precision": "map",
    }
    for macro in (False, True):
        options_ = {"k": None, "avg_of_avgs": macro, "device": torch.device("cpu"), "include": tuple(names)}
        theirs = calculator(**options_).get_accuracy(torch.tensor(vectors), torch.tensor(labels))
        for their_name, name in names.items():
            assert ours["macro_" * macro + name] == pytest.approx(theirs[their_name], rel=1e-6)


def test_macro_means_of_a_multi_label_task_count_a_query_for_each_of_its_findings():
    labels = np.random.default_rng(8).random((30, 4)) < [0.6, 0.3, 0.2, 0.0]
    found = random_run(labels, 1, 5)
    kept = found.per_query["map"] == found.per_query["map"]
    assert found.counts["queries_without_relevant"] == (~kept).sum() >= (~labels.any(axis=1)).sum() > 0
    for name, values in found.per_query.items():
        # The fourth finding has no query.
        wanted = [values[labels[:, c] & kept].mean() for c in range(3)]
        assert found.scores[f"macro_{name}"] == pytest.approx(np.mean(wanted)), name
        assert found.scores[name] == pytest.approx(values[kept].mean()), name


def test_a_multi_label_task_has_no_majority_vote():
    found = random_run(np.eye(3, dtype=bool)[[0, 0, 1, 1, 2, 2]], 1, 2)
    assert not [name for name in found.scores if "majority_vote" in name]
    assert found.per_query.keys() == set(query_scores([1, 2], "multi"))


@pytest.mark.parametrize("save_depth", [1, 7, 100])
def test_save_depth_cuts_the_saved_ranking_and_no_score(save_depth):
    labels = np.random.default_rng(9).integers(0, 2, 20)
    whole, cut = random_run(labels, 1, 10), random_run(labels, 1, 10, save_depth=save_depth)
    assert np.array_equal(cut.ranking.ids, whole.ranking.ids[:, :save_depth])
    assert np.array_equal(cut.ranking.distances, whole.ranking.distances[:, :save_depth])
    assert same(cut, dataclasses.replace(whole, ranking=cut.ranking))


def test_a_depth_that_no_query_can_fill_is_refused():
    task = leave_one_out([0, 0, 1, 1])
    require_depths(task, options(1, 3))
    with pytest.raises(UserError, match=r"evaluation\.ks=\[1, 4\].* 3 images of split 'test'"):
        require_depths(task, options(1, 4))
    require_depths(leave_one_out([0, 0, 1, 1], exclude_self=False), options(1, 4))


@pytest.mark.parametrize(("ks", "name"), [([1, 5, 10], "precision_at_5"), ([3], "precision_at_3")])
def test_the_objective_is_precision_at_the_middle_depth_unless_one_is_named(ks, name):
    assert objective_name(options(*ks), leave_one_out([0, 0])) == name


def test_every_score_of_which_more_is_better_and_its_macro_mean_can_be_the_objective():
    names = random_run(np.arange(12) % 2, 1, 5).scores.keys() - {"chance_precision", *VOTE}
    for name in names:
        if not less_is_better(name):
            assert objective_name(options(1, 5, objective=name), leave_one_out([0, 0])) == name


@pytest.mark.parametrize("name", ["accuracy", "precision_at_2", "macro_macro_map", "precision"])
def test_an_unknown_objective_is_refused_with_what_there_is(name):
    with pytest.raises(UserError, match=rf"evaluation\.objective={name}: .*precision_at_5.*map_at_5_hits"):
        objective_name(options(1, 5, objective=name), leave_one_out([0, 0]))


def test_majority_vote_is_no_objective_of_a_multi_label_task():
    with pytest.raises(UserError, match="majority_vote_at_5"):
        objective_name(options(1, 5, objective="majority_vote_at_5"), leave_one_out(np.eye(2, dtype=bool)))
