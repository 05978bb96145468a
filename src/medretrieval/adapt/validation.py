"""The task on val that hyper-parameters are chosen by: the run's own, with val in the place of test."""

import dataclasses
import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medretrieval.config import Config
from medretrieval.errors import UserError
from medretrieval.evaluate.evaluate import evaluate, objective_name
from medretrieval.evaluate.score_table import MAP_DEPTH, Needs, find
from medretrieval.index.exact_search import exact_search
from medretrieval.protocol.captions import Captions, captions_of
from medretrieval.protocol.exclusions import Exclusions
from medretrieval.protocol.inputs import Inputs
from medretrieval.protocol.queries import Queries
from medretrieval.protocol.task import RetrievalTask

MAX_WHOLE_CELLS = 20_000_000  # queries times gallery items whose whole rankings are scored for one candidate
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Validation:
    """Scores candidates on val by the configured objective.

    Attributes:
        settings: the run's configuration.
        task: val queries train where the run's gallery is train, else val. Images of a query's own group are
            left out where groups are known. Where sentences ask, the same ones search val, or val's captions.
        objective: name of the score.
    """

    settings: Config
    task: RetrievalTask
    objective: str

    @classmethod
    def from_inputs(cls, settings: Config, inputs: Inputs) -> "Validation":
        """The task that mirrors a run's.

        Raises:
            UserError: val has too few images for the depths of the scores, or none of a query's class.
        """
        val, train = inputs.val_split, inputs.train_split
        assert val is not None  # `load` reads them where something is adapted
        assert train is not None
        asked = inputs.task.queries.prompts
        gallery = train if asked is None and inputs.task.gallery.name == train.name else val
        queries: Queries = val
        if asked is not None:  # the same sentences search val; captions are those of val
            own, where = settings.prompts, f"dataset={inputs.dataset.name}"
            assert own is not None
            of_val = isinstance(asked, Captions)
            queries = captions_of(val, inputs.dataset.classes, own, where) if of_val else asked
        grouped = asked is None and val.groups is not None and gallery.groups is not None
        protocol = dataclasses.replace(
            settings.protocol,
            exclude_self=asked is None,
            exclude_same_group=grouped,
            drop_duplicates=False,
        )
        out = Exclusions.from_protocol(queries, gallery, protocol)
        task = RetrievalTask.from_sides(queries, gallery, out, inputs.task.relevance)
        if not (task.n_relevant > 0).any() or task.max_depth < 1:
            raise UserError(
                f"adapt: no image of split val has a relevant image in split {gallery.name} to choose by"
            )
        return cls(settings, task, objective_name(settings.evaluation, inputs.task))

    @property
    def one_set(self) -> bool:
        """Whether val queries itself."""
        return self.task.queries_are_gallery

    def score(self, queries: Floats, gallery: Floats) -> float:
        """The objective of a candidate's vectors, by exact search.

        Args:
            queries: of val, float32 [v, m].
            gallery: of the gallery of `task`, float32 [n, m].

        Raises:
            UserError: the ranking is too short for the objective.
        """
        task, metric = self.task, self.settings.metric
        config = dataclasses.replace(self.settings.evaluation, ks=self._ks(), save_depth=1)
        depth = self._depth(max(*config.ks, config.vote_k))
        found = evaluate(lambda rows, k: exact_search(queries[rows], gallery, metric, k), task, depth, config)
        if self.objective not in found.scores:
            raise UserError(
                f"evaluation.objective={self.objective}: split val ({len(task.queries)} images) is too "
                "small to "
                "choose adapt's settings by it; name a score at a smaller depth"
            )
        return found.scores[self.objective]

    def _ks(self) -> list[int]:
        """The depths that are scored: that of the objective, where it has one."""
        ks = sorted({min(k, self.task.max_depth) for k in self.settings.evaluation.ks})
        named = re.search(r"_at_(\d+)", self.objective)
        return [int(named[1])] if named and int(named[1]) in ks else ks

    def _depth(self, least: int) -> int:
        """How deep candidates are searched: as deep as the objective looks, where memory allows."""
        most, entry = self.task.max_depth, find(self.objective)
        assert entry is not None  # `objective_name` has found it
        if entry.needs in (Needs.FIRST_K, Needs.VOTERS):
            return min(most, least)
        if entry.needs is not Needs.FIRST_100 and len(self.task.queries) * most <= MAX_WHOLE_CELLS:
            return most
        return min(most, max(least, MAP_DEPTH))
