"""What is said to fail, against counting one by one."""

import numpy as np
import pytest
from scipy.stats import skew
from tests.tasks import task_of

from medretrieval.config import EvaluationConfig
from medretrieval.datasets.base import Split
from medretrieval.evaluate.evaluate import evaluate
from medretrieval.evidence import failures
from medretrieval.evidence.failures import Outcome
from medretrieval.protocol.ranking import class_name
from medretrieval.protocol.relevance import Relevance

CLASSES = 4
K = 5


def labels_of(kind, n, rng):
    if kind == "multi":
        return rng.random((n, CLASSES)) < 0.3
    return rng.integers(0, CLASSES, n)


def judged(kind, seed=0, q=40, n=60, depth=20, missing=0.1):
    """A random run: results drawn without replacement, at random growing distances, some missing."""
    rng = np.random.default_rng(seed)
    blank = np.zeros((max(q, n), 2, 2), np.uint8)
    queries = Split("test", blank[:q], labels_of(kind, q, rng))
    gallery = Split("train", blank[:n], labels_of(kind, n, rng))
    ids = np.stack([rng.permutation(n)[:depth] for _ in range(q)])
    ids[rng.random(q) < missing, depth // 8 :] = -1
    distances = np.sort(rng.random((q, depth)).astype(np.float32), axis=1)
    distances[ids < 0] = np.inf
    relevance = Relevance(grades=CLASSES if kind == "ordinal" else None)
    task = task_of(queries, gallery, relevance)
    config = EvaluationConfig([1, K], depth, None, None, 3, "none", 100, 0.95)
    evaluation = evaluate(lambda rows, k: (ids[rows, :k], distances[rows, :k]), task, depth, config)
    return task, evaluation, Outcome.from_evaluation(evaluation, task, K)


KINDS = pytest.mark.parametrize("kind", ["single", "multi", "ordinal"])


def right(task, query, item):
    a, b = task.queries.labels[query], task.gallery.labels[item]
    return item >= 0 and (bool((a & b).any()) if a.ndim else a == b)


@KINDS
def test_precision_is_that_of_the_scores_and_hits_are_those_of_relevance(kind):
    task, evaluation, outcome = judged(kind)
    np.testing.assert_array_equal(outcome.precision, evaluation.per_query[f"precision_at_{K}"])
    for query, row in enumerate(evaluation.ranking.ids):
        assert outcome.hits[query].tolist() == [right(task, query, item) for item in row]


@KINDS
def test_hubs_are_counted_list_by_list(kind):
    task, evaluation, outcome = judged(kind)
    ids = evaluation.ranking.ids
    found = failures.hubs(ids, outcome, task.exclusions.dropped)
    for item in range(len(task.gallery)):
        lists = [q for q in np.flatnonzero(task.n_relevant > 0) if item in ids[q, :K]]
        wrong = [q for q in lists if not right(task, q, item)]
        assert (found.lists[item], found.wrong[item]) == (len(lists), len(wrong))
        spoiled = failures.spoiled(item, ids, outcome, 100)
        assert sorted(spoiled) == wrong
        places = [ids[q].tolist().index(item) for q in spoiled]
        assert places == sorted(places)
    assert found.skewness == pytest.approx(skew(found.lists))
    assert found.never_retrieved == np.mean(found.lists == 0)
    most = found.most_wrong(7)
    assert found.wrong[most].tolist() == sorted(found.wrong, reverse=True)[:7]
    assert found.lists.sum() == (ids[task.n_relevant > 0, :K] >= 0).sum()


def test_an_even_gallery_has_no_skew_and_one_hub_has_much():
    found = np.ones(100, np.bool_)
    assert failures.Hubs(1, np.full(100, 3), np.zeros(100, np.int64), found).skewness == 0
    assert failures.Hubs(1, np.eye(1, 100, dtype=np.int64)[0] * 50, np.zeros(100, int), found).skewness > 9


def test_items_that_nobody_may_find_are_no_antihubs():
    counts = np.array([2, 0, 0])
    assert failures.Hubs(1, counts, counts, np.array([True, True, False])).never_retrieved == 0.5


@KINDS
def test_confusion_is_the_mean_share_of_each_class(kind):
    task, evaluation, _ = judged(kind)
    asked, shown, ids = task.queries.labels, task.gallery.labels, evaluation.ranking.ids[:, :K]
    table = failures.confusion(ids, asked, shown, CLASSES)
    multi = asked.ndim == 2

    def member(labels, position, number):
        if not multi:
            return labels[position] == number
        return not labels[position].any() if number == CLASSES else labels[position][number]

    for row in range(len(table)):
        mine = [q for q in range(len(asked)) if member(asked, q, row)]
        for column in range(len(table)):
            shares = [sum(i >= 0 and member(shown, i, column) for i in ids[q]) / K for q in mine]
            assert table[row, column] == pytest.approx(np.mean(shares))


def test_rows_of_confusion_sum_to_one_and_a_class_without_queries_has_none():
    task, evaluation, _ = judged("single", missing=0)
    ids = evaluation.ranking.ids[:, :K]
    table = failures.confusion(ids, task.queries.labels, task.gallery.labels, CLASSES + 1)
    np.testing.assert_allclose(table[:CLASSES].sum(axis=1), 1)
    assert np.isnan(table[CLASSES]).all()
    assert (table[:CLASSES, CLASSES] == 0).all()


def fails(task, outcome, query):
    """Whether the first K of a query hold fewer relevant items than they could."""
    return outcome.hits[query][:K].sum() < min(K, task.n_relevant[query])


@KINDS
def test_the_worst_come_first(kind):
    task, evaluation, outcome = judged(kind)
    worst = failures.worst_queries(outcome, 10)
    ap = outcome.average_precision
    order = sorted(
        [q for q in np.flatnonzero(outcome.counted) if fails(task, outcome, q)],
        key=lambda q: (evaluation.per_query[f"precision_at_{K}"][q], ap[q], q),
    )
    assert worst.tolist() == order[:10]


def test_what_does_not_fail_is_not_shown_as_a_failure():
    """R of 5, 2, 1 and 0; the second and third have all that they can find among five."""
    hits = np.array([[1, 1, 0, 1, 1], [1, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 0, 0]], bool)
    precision = np.array([0.8, 0.4, 0.2, np.nan])
    outcome = Outcome(5, hits, precision, precision, np.array([5, 2, 1, 0]))
    assert outcome.failed.tolist() == [True, False, False, False]
    assert failures.worst_queries(outcome, 8).tolist() == [0]


@KINDS
def test_a_perfect_ranking_has_no_failure_to_show(kind):
    task, _, outcome = judged(kind)
    n_relevant = task.n_relevant
    hits = np.arange(outcome.hits.shape[1]) < n_relevant[:, None]
    precision = np.where(n_relevant > 0, np.minimum(n_relevant, K) / K, np.nan)
    perfect = Outcome(K, hits, precision, np.ones(len(hits)), n_relevant)
    assert failures.worst_queries(perfect, 8).tolist() == []
    spoilt = hits.copy()
    query = int(np.flatnonzero(n_relevant > 0)[3])
    spoilt[query, 0] = False
    one = Outcome(K, spoilt, precision, np.ones(len(hits)), n_relevant)
    assert failures.worst_queries(one, 8).tolist() == [query]


def test_the_confidently_wrong_are_wrong_near_and_in_order():
    _, evaluation, outcome = judged("single", q=300)
    first, hit = evaluation.ranking.distances[:, 0], outcome.hits[:, 0]
    found = failures.confidently_wrong(outcome, evaluation.ranking.distances, 1000)
    usual = first[hit]
    wanted = [q for q in range(300) if not hit[q] and first[q] <= np.median(usual)]
    assert sorted(found.queries) == wanted
    assert (np.diff(first[found.queries]) >= 0).all()
    np.testing.assert_allclose(found.nearer_than, [(usual > first[q]).mean() for q in found.queries])


def test_without_a_right_first_result_every_wrong_one_counts():
    hits = np.zeros((2, 1), np.bool_)
    outcome = Outcome(1, hits, np.zeros(2), np.zeros(2), np.ones(2, np.int64))
    found = failures.confidently_wrong(outcome, np.array([[0.5], [0.2]], np.float32), 5)
    assert found.queries.tolist() == [1, 0]
    assert found.nearer_than.tolist() == [1, 1]


@pytest.mark.parametrize("count", [1, 4, 7, 8])
def test_the_sample_has_as_many_of_each_class(count):
    labels = np.array([0] * 50 + [1] * 3 + [2] * 10)
    allowed = np.ones(63, np.bool_)
    allowed[60:] = False
    drawn = failures.balanced_sample(labels, allowed, count, seed=3).by_class
    counts = np.bincount(labels[drawn], minlength=3)
    assert len(set(drawn.tolist())) == count
    assert counts.max() - counts.min() <= 1
    assert allowed[drawn].all()
    assert drawn.tolist() == failures.balanced_sample(labels, allowed, count, seed=3).by_class.tolist()
    assert (np.diff(labels[drawn]) >= 0).all()


def test_the_sample_takes_all_there_are_and_another_seed_draws_others():
    labels = np.array([0] * 50 + [1] * 3)
    allowed = np.ones(53, np.bool_)
    drawn = failures.balanced_sample(labels, allowed, 20, seed=0).by_class
    assert np.bincount(labels[drawn]).tolist() == [17, 3]
    assert len(failures.balanced_sample(labels, allowed, 99, seed=0).queries) == 53
    assert drawn.tolist() != failures.balanced_sample(labels, allowed, 20, seed=1).by_class.tolist()


def test_a_query_of_several_findings_is_drawn_once():
    labels = np.ones((6, 3), np.bool_)
    drawn = failures.balanced_sample(labels, np.ones(6, np.bool_), 6, seed=0)
    assert sorted(drawn.queries) == sorted(drawn.by_class) == list(range(6))


def test_classes_take_turns_and_queries_without_a_finding_are_one_of_them():
    labels = np.repeat([0, 1, 2], [50, 10, 3])
    for seed in range(5):
        drawn = failures.balanced_sample(labels, np.arange(63) != 11, 9, seed)
        turns = labels[drawn.queries].reshape(3, 3)
        assert (turns == turns[0]).all()
        assert sorted(turns[0]) == [0, 1, 2]
        assert sorted(drawn.by_class) == sorted(drawn.queries)
        assert 11 not in drawn.queries
    several = np.array([[1, 0], [1, 1], [0, 0], [0, 1]], bool)
    drawn = failures.balanced_sample(several, np.ones(4, bool), 9, 0)
    assert sorted(drawn.queries) == [0, 1, 2, 3]
    assert drawn.drawn_for[drawn.queries.tolist().index(2)] == 2


def test_images_are_named_by_their_findings():
    labels = np.array([[True, False, True], [False, False, False]])
    names = ("mass", "nodule", "hernia")
    assert [class_name(labels, i, names) for i in (0, 1)] == ["mass, hernia", "none"]
    assert class_name(np.array([2]), 0, names) == "hernia"
