"""Every score, one entry each: the names that runs report, and all else that is known of a score.

Evaluation, chance, headline and direction of a score, the names that evaluation.objective takes, and the
tables of the documentation come from `SCORES`. A new score is a function in `scores` and an entry here.
"""

import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from medretrieval.evaluate import closed_forms, knn_vote, scores
from medretrieval.evaluate.closed_forms import RandomRanking, for_each
from medretrieval.evaluate.knn_vote import Vote
from medretrieval.evaluate.query_results import CAPTIONS, QueryResults, ScoredLabels

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
MAP_DEPTH = 100  # of the mAP that every run has, whatever its index
MACRO = "macro_"  # before the name of a mean over classes of class means
ANY_LABELS: tuple[ScoredLabels, ...] = ("single", "multi", "ordinal", CAPTIONS)
ONE_CLASS: tuple[ScoredLabels, ...] = ("single", "ordinal")
BY_DEGREES: tuple[ScoredLabels, ...] = ("multi", "ordinal")


class Needs(Enum):
    """How deep a ranking a score needs; where it is less deep, the score is left out. The value says it."""

    FIRST_K = "the first K"
    VOTERS = "the neighbors that vote"
    FIRST_100 = "the first 100, which is always searched"
    FIRST_HIT = "a hit for every query, or the whole gallery"
    MOST_FIRST_HITS = "a hit for more than half of the queries"
    LARGEST_R = "as many as the largest R"
    GALLERY = "the whole gallery"


@dataclass(frozen=True)
class Score:
    """One score.

    A score has a value for each query (`of_query`), or only for the votes (`of_votes`) or the ranks
    (`of_ranks`) of all queries together, or is itself the expectation of a random ranking (none of these,
    and `chance`).

    Attributes:
        name: as runs report it; "{k}" stands for a depth of evaluation.ks.
        meaning: one line of plain English.
        formula: in the symbols of `scores`, K being the depth.
        of_query: results of queries and depth -> float64 [q]. A score without a depth ignores it.
        of_votes: the votes of all queries with R > 0 and their classes, int64 [q] -> the score; None where
            it is not defined.
        of_ranks: the rank of the first hit of all queries with R > 0, float64 [q], inf where the results have
            none -> the score; inf where it is not known.
        chance: what a random ranking is expected to score, for each query, and depth -> float64 [q]; None
            where it depends on more than R and N: `chance.without_closed_form` computes or draws it, as deep
            as ks and votes go.
        exact_chance: when that is exact and nothing is drawn; "" where it is always drawn.
        needs: how deep a ranking the score needs.
        highest: R of queries and depth -> the largest value that each can have, float64 [q]; None for 1.
        headline: whether it is shown in the terminal, with its interval.
        less_is_better: whether the least value is the best.
        label_types: of the datasets that have this score; "captions" where captions ask, whatever the labels.
        other_names: what papers and libraries call it.
    """

    name: str
    meaning: str
    formula: str
    of_query: Callable[[QueryResults, int], Floats] | None = None
    of_votes: Callable[[Vote, Ints], float | None] | None = None
    of_ranks: Callable[[Floats], float] | None = None
    chance: Callable[[RandomRanking, int], Floats] | None = None
    exact_chance: str = ""
    needs: Needs = Needs.FIRST_K
    highest: Callable[[Ints, int], Floats] | None = None
    headline: bool = False
    less_is_better: bool = False
    label_types: tuple[ScoredLabels, ...] = ANY_LABELS
    other_names: str = ""

    @property
    def at_depth(self) -> bool:
        """Whether there is one such score for each depth of evaluation.ks."""
        return "{k}" in self.name

    @property
    def is_chance(self) -> bool:
        """Whether the score is itself the expectation of a random ranking."""
        return self.of_query is None and self.of_votes is None and self.of_ranks is None

    @property
    def is_drawn(self) -> bool:
        """Whether its chance depends on more than R and N: `chance.without_closed_form`."""
        return self.chance is None and self.needs in (Needs.FIRST_K, Needs.VOTERS)


# Scores at a depth that stand side by side are reported depth by depth.
SCORES = (
    Score(
        "chance_precision",
        meaning="expected precision of a random ranking of this gallery",
        formula="R / N, N being the images the query can find",
        chance=for_each(closed_forms.share_of_relevant),
    ),
    Score(
        "precision_at_{k}",
        meaning="share of the first K results that are relevant",
        formula="sum(h_1..h_K) / K",
        of_query=lambda r, k: scores.precision_at(r.hits, k),
        chance=for_each(closed_forms.precision_at),
        headline=True,
        other_names="trec_eval P_K, ranx precision@K; OML divides by min(K, R)",
    ),
    Score(
        "recall_at_{k}",
        meaning="share of all relevant images that are among the first K results",
        formula="sum(h_1..h_K) / R",
        of_query=lambda r, k: scores.recall_at(r.hits, r.n_relevant, k),
        chance=for_each(closed_forms.recall_at),
        highest=lambda relevant, k: np.minimum(k, relevant) / np.maximum(relevant, 1),
        headline=True,
        other_names='trec_eval recall_K, ranx recall@K; not the "Recall@K" of metric learning (hit rate)',
    ),
    Score(
        "hit_rate_at_{k}",
        meaning="1 if at least one of the first K results is relevant",
        formula="max(h_1..h_K)",
        of_query=lambda r, k: scores.hit_rate_at(r.hits, k),
        chance=for_each(closed_forms.hit_rate_at),
        headline=True,
        other_names='"ACC@K" of Mahbod et al. 2025, "Recall@K" of metric-learning and CLIP papers, OML cmc@K',
    ),
    Score(
        "map_at_{k}",
        meaning="average precision over the first K results: relevant ones count more the earlier they stand",
        formula="sum over i <= K of h_i P_i, divided by min(K, R)",
        of_query=lambda r, k: scores.average_precision_at(r.hits, r.n_relevant, k),
        chance=for_each(closed_forms.average_precision_at),
        other_names="mAP@K of CLIP-style papers",
    ),
    Score(
        "map_at_{k}_hits",
        meaning="the sum of map_at_K divided by the hits among the first K: it does not fall when relevant "
        "images are missed",
        formula="sum over i <= K of h_i P_i, divided by max(1, sum(h_1..h_K))",
        of_query=lambda r, k: scores.average_precision_at_hits(r.hits, k),
        chance=for_each(closed_forms.average_precision_at_hits),
        other_names='"mAP@K" of Mahbod et al. 2025 and OML, torchmetrics RetrievalMAP(top_k=K)',
    ),
    Score(
        "ndcg_at_{k}",
        meaning="relevant results among the first K, discounted by the logarithm of their rank, as a share "
        "of the best possible ranking",
        formula="sum over i <= K of h_i / log2(i + 1), divided by the same sum of min(K, R) ones",
        of_query=lambda r, k: scores.ndcg_at(r.hits, r.n_relevant, k),
        chance=for_each(closed_forms.ndcg_at),
        headline=True,
        other_names="trec_eval ndcg_cut_K",
    ),
    Score(
        "majority_vote_at_{k}",
        meaning="1 if the query's class is (one of) the most frequent among the first K results; ties count "
        "as correct",
        formula="1 if the class of the query is a mode of the classes of results 1..K, else 0",
        of_query=lambda r, k: scores.majority_vote_at(r.classes_at(k), r.query_classes, k),
        exact_chance="exact; by drawing where queries find very different images",
        label_types=ONE_CLASS,
        other_names='"mMV@K" of Mahbod et al. 2025',
    ),
    Score(
        f"map_at_{MAP_DEPTH}",
        meaning=f"average precision over the first {MAP_DEPTH} results: the mAP that every run has, whatever "
        "its index",
        formula=f"sum over i <= {MAP_DEPTH} of h_i P_i, divided by min({MAP_DEPTH}, R)",
        of_query=lambda r, _: scores.average_precision_at(r.hits, r.n_relevant, MAP_DEPTH),
        chance=lambda ranking, _: ranking.each(closed_forms.average_precision_at, MAP_DEPTH),
        needs=Needs.FIRST_100,
        headline=True,
        other_names="mAP@100 of CLIP-style papers; `map` where a query can find no more than 100",
    ),
    Score(
        "map",
        meaning="average precision over the whole ranking",
        formula="sum over all i of h_i P_i, divided by R",
        of_query=lambda r, _: scores.average_precision(r.hits, r.n_relevant),
        chance=for_each(closed_forms.average_precision),
        needs=Needs.GALLERY,
        headline=True,
        other_names="trec_eval map, torchmetrics RetrievalMAP without top_k",
    ),
    Score(
        "map_at_r",
        meaning="average precision over the first R results, R being the query's number of relevant images",
        formula="sum over i <= R of h_i P_i, divided by R",
        of_query=lambda r, _: scores.average_precision_at_r(r.hits, r.n_relevant),
        chance=for_each(closed_forms.average_precision_at_r),
        needs=Needs.LARGEST_R,
        other_names="pytorch-metric-learning mean_average_precision_at_r",
    ),
    Score(
        "r_precision",
        meaning="share of the first R results that are relevant",
        formula="sum(h_1..h_R) / R",
        of_query=lambda r, _: scores.r_precision(r.hits, r.n_relevant),
        chance=for_each(closed_forms.share_of_relevant),
        needs=Needs.LARGEST_R,
        headline=True,
        other_names="trec_eval Rprec",
    ),
    Score(
        "mrr",
        meaning="reciprocal rank of the first relevant result: 1 if it stands first, 1/2 if second",
        formula="1 / rank of the first hit, 0 without one",
        of_query=lambda r, _: scores.reciprocal_rank(r.hits),
        chance=for_each(closed_forms.reciprocal_rank),
        needs=Needs.FIRST_HIT,
        headline=True,
        other_names="trec_eval recip_rank",
    ),
    Score(
        "median_rank",
        meaning="rank of the first relevant result, the middle one of all queries: 1 best",
        formula="median over queries of the rank of the first hit (of an even number the middle two's mean)",
        of_ranks=lambda ranks: float(np.median(ranks)),
        exact_chance="exact where every query has one relevant image, else by drawing",
        needs=Needs.MOST_FIRST_HITS,
        headline=True,
        less_is_better=True,
        label_types=(CAPTIONS,),
        other_names='"MedR" of papers on images and text',
    ),
    Score(
        "graded_ndcg_at_{k}",
        meaning="nDCG by degrees: a result gains the Jaccard index of its findings and the query's, or with "
        "ordered classes 1 - distance / (classes - 1)",
        formula="sum over i <= K of gain_i / log2(i + 1), divided by the same sum of the best ranking",
        of_query=lambda r, k: scores.graded_ndcg_at(r.gains, r.ideal(k), k),
        chance=closed_forms.graded_ndcg_at,
        headline=True,
        label_types=BY_DEGREES,
        other_names="sklearn ndcg_score, trec_eval ndcg_cut_K with graded judgments; not the 2^gain - 1 of "
        "learning to rank",
    ),
    Score(
        "vote_accuracy",
        meaning="1 if the distance-weighted vote of the evaluation.vote_k nearest neighbors names the class "
        "of the query",
        formula="1 if the class with the largest share of the votes is the query's, else 0",
        of_query=lambda r, _: r.vote.right(r.query_classes),
        needs=Needs.VOTERS,
        headline=True,
        exact_chance="exact for few classes, votes and queries, else by drawing",
        label_types=ONE_CLASS,
        other_names="accuracy of Dudani's distance-weighted k-NN rule (1976)",
    ),
    Score(
        "vote_balanced_accuracy",
        meaning="accuracy of the same vote when every class weighs alike",
        formula="mean over classes of the share of their queries that the vote names rightly",
        of_votes=lambda vote, labels: knn_vote.balanced_accuracy(vote.predicted, labels),
        needs=Needs.VOTERS,
        exact_chance="exact for few classes, votes and queries, else by drawing",
        label_types=ONE_CLASS,
        other_names="sklearn balanced_accuracy_score",
    ),
    Score(
        "vote_brier",
        meaning="squared error of the shares of the votes, summed over the classes: 0 best, 2 worst (with "
        "two classes twice what scikit-learn's brier_score_loss gives by default)",
        formula="mean over queries of the sum over classes of (share - truth)^2",
        of_votes=lambda vote, labels: knn_vote.brier_score(vote.probabilities, labels),
        needs=Needs.VOTERS,
        less_is_better=True,
        exact_chance="exact",
        label_types=ONE_CLASS,
        other_names="Brier score (1950), sklearn brier_score_loss with scale_by_half=False",
    ),
    Score(
        "vote_calibration_error",
        meaning="how far the winning share of the votes is from the share of queries that are right",
        formula="mean over 15 equal bins of confidence of |accuracy - confidence|, by size of the bin",
        of_votes=lambda vote, labels: knn_vote.calibration_error(vote.confidence, vote.right(labels)),
        needs=Needs.VOTERS,
        less_is_better=True,
        label_types=ONE_CLASS,
        other_names="expected calibration error (Guo et al. 2017)",
    ),
    Score(
        "vote_auroc",
        meaning="how well the shares of the votes tell each class from the rest: 0.5 chance, 1 best",
        formula="area under the ROC curve, one class against the rest, mean over classes (with two classes: "
        "of the second)",
        of_votes=lambda vote, labels: knn_vote.macro_auroc(vote.probabilities, labels),
        needs=Needs.VOTERS,
        label_types=ONE_CLASS,
        other_names='sklearn roc_auc_score(multi_class="ovr")',
    ),
)


class ReportedScore(NamedTuple):
    """A score as a run reports it: "precision_at_5" for the entry "precision_at_{k}" and k = 5."""

    name: str
    score: Score
    k: int


def reported_scores(ks: Sequence[int], label_type: ScoredLabels) -> list[ReportedScore]:
    """Every score that a run can have, in the order of the table.

    Args:
        ks: depths of evaluation.ks.
        label_type: of the dataset, or "captions".

    >>> [reported.name for reported in reported_scores([1, 5], "multi")][:3]
    ['chance_precision', 'precision_at_1', 'recall_at_1']
    """
    valid = [score for score in SCORES if label_type in score.label_types]
    found = []
    for at_depth, group in itertools.groupby(valid, key=lambda score: score.at_depth):
        together = list(group)
        depths = ks if at_depth else (0,)
        found += [ReportedScore(score.name.format(k=k), score, k) for k in depths for score in together]
    return [reported for reported in found if find(reported.name) is reported.score]


def query_scores(ks: Sequence[int], label_type: ScoredLabels) -> list[str]:
    """Names of the scores that each single query has; the rest is of all queries together."""
    return [name for name, score, _ in reported_scores(ks, label_type) if score.of_query]


def find(name: str) -> Score | None:
    """The entry of a reported score, by its name without `macro_`; None for no score.

    >>> find("map_at_5_hits").name
    'map_at_{k}_hits'
    """
    fits = [score for score in SCORES if re.fullmatch(score.name.replace("{k}", r"\d+"), name)]
    # A score of one depth, map_at_100, goes before those that have any.
    return min(fits, key=lambda score: score.at_depth, default=None)


def highest_values(names: Sequence[str], n_relevant: Ints) -> Floats:
    """The largest value that each query can have of each score, float64 [q, scores].

    Args:
        names: of scores, without `macro_`.
        n_relevant: R of each query, int64 [q].
    """
    columns = []
    for name in names:
        score, depth = find(name), re.search(r"_at_(\d+)", name)
        if score is None or score.highest is None or depth is None:
            columns.append(np.ones(len(n_relevant)))
        else:
            columns.append(score.highest(n_relevant, int(depth[1])))
    return np.stack(columns, axis=1)


def is_headline(name: str) -> bool:
    """Whether a score is shown in the terminal, with its interval; a macro mean is not."""
    score = find(name)
    return score is not None and score.headline


def less_is_better(name: str) -> bool:
    """Whether the least value of a score or macro mean is the best."""
    score = find(name.removeprefix(MACRO))
    return score is not None and score.less_is_better
