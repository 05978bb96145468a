"""Scores against the libraries that others use, on random rankings, on real ones, whole and short."""

import numpy as np
import pytest
from tests.oracles import our_scores, torchmetrics_of

from medretrieval import run
from medretrieval.protocol.ranking import Ranking
from medretrieval.protocol.relevance import Relevance

KS = (1, 5, 10)


def random_hits(size=30, queries=25, seed=0):
    """Hits of random rankings of `size` items, bool [queries, size]."""
    rng = np.random.default_rng(seed)
    relevance = rng.random((queries, size)) < rng.uniform(0.05, 0.9, (queries, 1))
    relevance[:, -1] |= ~relevance.any(axis=1)
    return relevance


@pytest.fixture(scope="session")
def real_hits(real_root, tmp_path_factory):
    """Whole rankings of PneumoniaMNIST's test images by raw pixels, byte-identical images among them."""
    from medretrieval import compose

    outputs = tmp_path_factory.mktemp("agreement")
    result = run(
        compose(
            "tracking=none", "dataset=pneumoniamnist", "encoder=pixels", "protocol=leave_one_out",
            "evaluation.save_depth=null", f"paths.outputs={outputs}", f"paths.data={real_root}",
            f"paths.cache={outputs}/cache",
        )
    )  # fmt: skip
    ranking = Ranking.load(result.folder / "ranking.npz")
    return Relevance().hits(ranking.ids, ranking.query_labels, ranking.gallery_labels)


@pytest.fixture(params=["random", pytest.param("real", marks=pytest.mark.realdata)])
def relevance(request):
    return random_hits() if request.param == "random" else request.getfixturevalue("real_hits")


@pytest.mark.parametrize("depth", [None, 7])
def test_each_query_agrees_with_trec_eval(relevance, depth):
    pytrec_eval = pytest.importorskip("pytrec_eval")
    hits = relevance[:, :depth]
    qrels = {str(q): {f"d{i}": int(x) for i, x in enumerate(row)} for q, row in enumerate(relevance)}
    ranked = {str(q): {f"d{i}": float(-i) for i in range(hits.shape[1])} for q in range(len(hits))}
    measures = {
        "P.1,5,10",
        "recall.1,5,10",
        "ndcg_cut.1,5,10",
        "success.1,5,10",
        "map",
        "Rprec",
        "recip_rank",
    }
    found = pytrec_eval.RelevanceEvaluator(qrels, measures).evaluate(ranked)
    names = {"map": "map", "r_precision": "Rprec", "mrr": "recip_rank"}
    for k in KS:
        names |= {f"precision_at_{k}": f"P_{k}", f"recall_at_{k}": f"recall_{k}"}
        names |= {f"ndcg_at_{k}": f"ndcg_cut_{k}", f"hit_rate_at_{k}": f"success_{k}"}
    values = our_scores(hits, relevance.sum(axis=1), KS)
    for name, theirs in names.items():
        wanted = [found[str(q)][theirs] for q in range(len(hits))]
        np.testing.assert_allclose(values[name], wanted, rtol=1e-9, atol=1e-9, err_msg=name)


def test_means_agree_with_torchmetrics(relevance):
    torch = pytest.importorskip("torch")
    pytest.importorskip("torchmetrics")
    metrics = torchmetrics_of(KS)
    relevance = relevance[:100]
    n = relevance.shape[1]
    # Positive and all different: torchmetrics drops items at or below zero.
    order = np.broadcast_to(1 / np.arange(1.0, n + 1), relevance.shape)
    queries = np.broadcast_to(np.arange(len(relevance))[:, None], relevance.shape)
    arrays = [torch.tensor(np.ascontiguousarray(a).ravel()) for a in (order, relevance, queries)]
    values = our_scores(relevance, relevance.sum(axis=1), KS)
    for name, metric in metrics.items():
        assert values[name].mean() == pytest.approx(float(metric(*arrays)), rel=1e-6), name


def test_means_agree_with_pytorch_metric_learning(relevance):
    torch = pytest.importorskip("torch")
    ac = pytest.importorskip("pytorch_metric_learning.utils.accuracy_calculator")
    # Each query is a class of its own, so that R can differ from query to query.
    classes = np.arange(1, len(relevance) + 1)[:, None]
    queries, neighbors = torch.tensor(classes), torch.tensor(np.where(relevance, classes, 0))
    relevant = relevance.sum(axis=1)
    known = [(int(c), int(r)) for c, r in zip(classes[:, 0], relevant, strict=True)]
    counts = tuple(zip(*known, strict=True))
    common = (False, False, torch.eq)
    theirs = {
        "map": ac.mean_average_precision(neighbors, queries, False, counts, *common),
        "map_at_r": ac.mean_average_precision(neighbors, queries, False, counts, *common, at_r=True),
        "r_precision": ac.r_precision(neighbors, queries, False, counts, *common),
        "mrr": ac.mean_reciprocal_rank(neighbors, queries, *common),
        **{f"precision_at_{k}": ac.precision_at_k(neighbors, queries, k, *common) for k in KS},
    }
    values = our_scores(relevance, relevant, KS)
    for name, wanted in theirs.items():
        single = name == "mrr"  # float32 there
        assert values[name].mean() == pytest.approx(float(wanted), rel=1e-6 if single else 1e-9), name
