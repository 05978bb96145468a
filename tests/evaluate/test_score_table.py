import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from tests.tasks import task_of

from medretrieval.config import EvaluationConfig
from medretrieval.datasets.base import Split
from medretrieval.errors import UserError
from medretrieval.evaluate import chance, score_table
from medretrieval.evaluate.evaluate import evaluate, objective_name
from medretrieval.evaluate.score_table import (
    ONE_CLASS,
    SCORES,
    Needs,
    Score,
    find,
    is_headline,
    less_is_better,
    query_scores,
    reported_scores,
)

OPTIONS = EvaluationConfig(ks=[1, 4], save_depth=None, vote_k=6)
LABEL_TYPES = ("single", "multi", "ordinal")


@pytest.mark.parametrize("label_type", LABEL_TYPES)
def test_every_reported_name_leads_back_to_its_entry_alone(label_type):
    reported = reported_scores([1, 5, 10], label_type)
    assert len({name for name, _, _ in reported}) == len(reported)
    for name, score, _ in reported:
        assert find(name) is score


def test_a_score_of_one_depth_is_reported_once_where_ks_name_its_depth_too():
    names = [name for name, _, _ in reported_scores([5, 100], "single")]
    assert names.count("map_at_100") == 1
    assert find("map_at_100").needs is Needs.FIRST_100
    assert find("map_at_5").name == "map_at_{k}"
    assert is_headline("map_at_100")


def test_labels_decide_which_scores_there_are():
    single, multi, ordinal = (set(query_scores([5], label_type)) for label_type in LABEL_TYPES)
    votes = {"majority_vote_at_5", "vote_accuracy"}
    assert single - multi == votes
    assert multi - single == ordinal - single == {"graded_ndcg_at_5"}
    assert votes <= ordinal


def test_neither_macro_means_nor_names_of_no_score_are_headline():
    assert is_headline("precision_at_5")
    for name in ("macro_precision_at_5", "precision_at_", "precision", "map_at_5_hits", "queries"):
        assert not is_headline(name)


def test_less_is_better_where_a_perfect_score_is_zero():
    task = random_task()
    labels = task.gallery.labels
    perfect = np.argsort(labels[:, None] != labels[None], axis=1, kind="stable")
    found = evaluate(fixed(perfect), task, task.max_depth, OPTIONS)
    for name, score, _ in reported_scores(OPTIONS.ks, "single"):
        if score.of_votes or name == "precision_at_1":
            assert found.scores[name] == (0 if less_is_better(name) else 1), name
    assert not less_is_better("macro_precision_at_1")
    assert not less_is_better("no_score")


def random_task():
    labels = np.random.default_rng(0).integers(0, 3, 40)
    only = Split("test", np.zeros((40, 1, 1), np.uint8), labels)
    return task_of(only, only)


def fixed(ids):
    distances = np.sort(np.random.default_rng(1).random(ids.shape).astype(np.float32), axis=1)
    return lambda rows, depth: (ids[rows, :depth].copy(), distances[rows, :depth].copy())


def shuffled(seed=2):
    return np.random.default_rng(seed).permuted(np.tile(np.arange(40), (40, 1)), axis=1)


LAST_OF_K = Score(
    "last_hit_at_{k}",
    meaning="whether result K is relevant",
    formula="h_K",
    of_query=lambda r, k: r.hits[:, k - 1].astype(np.float64),
    headline=True,
    less_is_better=True,
    label_types=ONE_CLASS,
)


@pytest.fixture
def with_entry(monkeypatch):
    """Put another entry into the table."""

    def add(entry):
        monkeypatch.setattr(score_table, "SCORES", (*SCORES, entry))

    return add


def test_an_entry_is_all_that_a_new_score_needs(with_entry):
    with_entry(LAST_OF_K)
    task, ids = random_task(), shuffled()
    found = evaluate(fixed(ids), task, 8, OPTIONS)
    hits = task.gallery.labels[found.ranking.ids] == task.gallery.labels[:, None]
    for k in OPTIONS.ks:
        np.testing.assert_array_equal(found.per_query[f"last_hit_at_{k}"], hits[:, k - 1])
        assert found.scores[f"last_hit_at_{k}"] == hits[:, k - 1].mean()
    assert found.scores["macro_last_hit_at_4"] != found.scores["last_hit_at_4"]
    # No closed form is given, so its chance is drawn: here it is the share of relevant images.
    drawn = chance.without_closed_form(task, found.vote_distances, OPTIONS, 0)
    assert drawn["last_hit_at_4"].value == pytest.approx(found.scores["chance_precision"], abs=0.03)
    assert is_headline("last_hit_at_4")
    assert less_is_better("macro_last_hit_at_4")
    assert "last_hit_at_4" not in query_scores(OPTIONS.ks, "multi")


@pytest.mark.parametrize("less", [False, True])
def test_only_a_score_of_which_more_is_better_can_be_the_objective(with_entry, less):
    with_entry(dataclasses.replace(LAST_OF_K, less_is_better=less))
    objective = dataclasses.replace(OPTIONS, objective="macro_last_hit_at_4")
    if less:
        with pytest.raises(UserError, match=r"evaluation\.objective=macro_last_hit_at_4: .*precision_at_4"):
            objective_name(objective, random_task())
    else:
        assert objective_name(objective, random_task()) == "macro_last_hit_at_4"


@pytest.mark.parametrize(
    ("needs", "depth", "is_there"),
    [
        (Needs.FIRST_K, 4, True),
        (Needs.GALLERY, 38, False),
        (Needs.GALLERY, 39, True),
        (Needs.LARGEST_R, 4, False),
        (Needs.LARGEST_R, 38, True),
        (Needs.FIRST_HIT, 4, False),  # some query has none as its first
        (Needs.FIRST_HIT, 39, True),
    ],
)
def test_a_score_stays_out_where_the_ranking_is_less_deep_than_it_needs(with_entry, needs, depth, is_there):
    with_entry(
        dataclasses.replace(
            LAST_OF_K, name="first_hit", of_query=lambda r, _: r.hits[:, 0] * 1.0, needs=needs
        )
    )
    found = evaluate(fixed(shuffled()), random_task(), depth, OPTIONS)
    assert ("first_hit" in found.per_query) == ("macro_first_hit" in found.scores) == is_there


def test_a_score_that_needs_more_than_is_drawn_has_no_chance(with_entry):
    with_entry(dataclasses.replace(LAST_OF_K, name="first_hit", needs=Needs.GALLERY))
    task = random_task()
    found = evaluate(fixed(shuffled()), task, task.max_depth, OPTIONS)
    assert not [
        n for n in chance.without_closed_form(task, found.vote_distances, OPTIONS, 0) if "first_hit" in n
    ]
    assert "first_hit" not in found.chance


def test_a_new_score_of_degrees_can_be_drawn(with_entry):
    first_gain = dataclasses.replace(
        LAST_OF_K,
        name="gain_at_{k}",
        of_query=lambda r, k: r.gains[:, :k].mean(axis=1),
        label_types=("multi",),
    )
    with_entry(first_gain)
    labels = np.random.default_rng(0).random((40, 4)) < 0.4
    only = Split("test", np.zeros((40, 1, 1), np.uint8), labels)
    task = task_of(only, only)
    found = evaluate(fixed(shuffled()), task, 8, OPTIONS)
    drawn = chance.without_closed_form(task, found.vote_distances, OPTIONS, 0)
    gains = task.relevance.mean_gain(labels, labels, task.exclusions)[task.n_relevant > 0]
    assert drawn["gain_at_4"].value == pytest.approx(gains.mean(), abs=0.02)


def test_hits_alone_are_enough_for_a_score_of_hits():
    results = SimpleNamespace(hits=np.array([[True, False]]), n_relevant=np.array([1]))
    assert find("precision_at_2").of_query(results, 2).tolist() == [0.5]
