"""Our scores under their names, and torchmetrics' under the same, for tests and benchmark."""

from medretrieval.evaluate import scores


def our_scores(hits, relevant, ks):
    """Every score of hits that has a closed-form expectation, float64 [q] each."""
    found = {
        "map": scores.average_precision(hits, relevant),
        "map_at_r": scores.average_precision_at_r(hits, relevant),
        "r_precision": scores.r_precision(hits, relevant),
        "mrr": scores.reciprocal_rank(hits),
    }
    for k in ks:
        found |= {
            f"precision_at_{k}": scores.precision_at(hits, k),
            f"recall_at_{k}": scores.recall_at(hits, relevant, k),
            f"hit_rate_at_{k}": scores.hit_rate_at(hits, k),
            f"map_at_{k}": scores.average_precision_at(hits, relevant, k),
            f"map_at_{k}_hits": scores.average_precision_at_hits(hits, k),
            f"ndcg_at_{k}": scores.ndcg_at(hits, relevant, k),
        }
    return found


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
