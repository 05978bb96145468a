"""Our scores under their names, and torchmetrics' under the same, for tests and benchmark."""

from types import SimpleNamespace

from medretrieval.evaluate.score_table import reported_scores


def our_scores(hits, relevant, ks):
    """Every score of hits that has a closed-form expectation, float64 [q] each."""
    results = SimpleNamespace(hits=hits, n_relevant=relevant)
    return {
        name: score.of_query(results, k)
        for name, score, k in reported_scores(ks, "single")
        if score.of_query and score.chance
    }


def torchmetrics_of(ks):
    from torchmetrics import retrieval as tm

    found = {"map": tm.RetrievalMAP(), "r_precision": tm.RetrievalRPrecision(), "mrr": tm.RetrievalMRR()}
    for k in ks:
        found |= {
            f"precision_at_{k}": tm.RetrievalPrecision(top_k=k),
            f"recall_at_{k}": tm.RetrievalRecall(top_k=k),
            f"hit_rate_at_{k}": tm.RetrievalHitRate(top_k=k),
            f"map_at_{k}_hits": tm.RetrievalMAP(top_k=k),
            f"ndcg_at_{k}": tm.RetrievalNormalizedDCG(top_k=k),
        }
    return found
