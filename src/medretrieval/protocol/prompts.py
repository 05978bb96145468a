"""Sentences as queries: the words that conf/prompts has for a dataset's classes, made into texts and labels.

Templates and ensembles: Radford et al. 2021, "Learning Transferable Visual Models From Natural Language
Supervision", arXiv:2103.00020, section 3.1.4.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medretrieval.cache.store import content_key
from medretrieval.config import Config, PromptsConfig, PromptUse
from medretrieval.datasets.base import Dataset
from medretrieval.errors import UserError, choices
from medretrieval.protocol.ranking import Labels
from medretrieval.vectors import l2_normalize

GAP = "{}"
PROMPT = "prompt/"  # what the ids of sentences begin with


@dataclass(frozen=True)
class Prompts:
    """Sentences as queries; takes the place of a split on the query side of a task.

    Attributes:
        classes: of the dataset, label i being classes[i].
        texts: every sentence, the classes in their order.
        members: int64 [texts], the class of each sentence.
        use: whether each sentence is a query, or each class.
        multi: labels are sets of findings.
    """

    classes: tuple[str, ...]
    texts: tuple[str, ...]
    members: NDArray[np.int64]
    use: PromptUse
    multi: bool

    name = kind = "prompts"
    groups = split = None

    @staticmethod
    def targets() -> None:
        """A hit is of the class that is asked for (`protocol.queries.Queries`)."""

    def __len__(self) -> int:
        return len(self.texts) if self.use == PromptUse.each else len(self.classes)

    @property
    def prompts(self) -> "Prompts":
        """Itself, as the query side of a task (`protocol.queries.Queries`)."""
        return self

    @property
    def ids(self) -> NDArray[np.str_]:
        """Names of the queries: "prompt/effusion/0" of a sentence, "prompt/effusion" of a class (str [q])."""
        if self.use == PromptUse.ensemble:
            return np.array([f"{PROMPT}{name}" for name in self.classes])
        first = np.searchsorted(self.members, self.members)
        places = zip(self.members, np.arange(len(self.texts)) - first, strict=True)
        return np.array([f"{PROMPT}{self.classes[c]}/{place}" for c, place in places])

    @cached_property
    def labels(self) -> Labels:
        """The class each query asks for: int64 [q], or one finding in bool [q, classes]."""
        numbers = self.members if self.use == PromptUse.each else np.arange(len(self.classes))
        return np.eye(len(self.classes), dtype=np.bool_)[numbers] if self.multi else numbers

    @property
    def content_sha256(self) -> str:
        """Hash of the sentences: what their vectors depend on."""
        return content_key({"texts": list(self.texts), "use": self.use.value})

    @property
    def labels_sha256(self) -> str:
        """Hash of the sentences' classes."""
        return content_key({"classes": list(self.classes), "members": self.members.tolist()})

    def document(self) -> list[dict[str, Any]]:
        """Every query with its class and its sentences, for prompts.json."""
        if self.use == PromptUse.each:
            said = [(int(c), [text]) for c, text in zip(self.members, self.texts, strict=True)]
        else:
            said = [(c, [self.texts[i] for i in np.flatnonzero(self.members == c)]) for c in range(len(self))]
        return [
            {"id": str(name), "class": self.classes[c], "texts": texts}
            for name, (c, texts) in zip(self.ids, said, strict=True)
        ]

    def queries(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Vectors of the queries from those of the sentences (float32 [texts, d] -> [q, d])."""
        return vectors if self.use == PromptUse.each else self._ensembles(vectors)

    def class_vectors(self, queries: NDArray[np.float32]) -> NDArray[np.float32]:
        """One direction a class from the queries' vectors (float32 [q, d] -> [classes, d])."""
        return l2_normalize(queries) if self.use == PromptUse.ensemble else self._ensembles(queries)

    def mean(self, vectors: NDArray[np.float32]) -> NDArray[np.float64]:
        """Mean of the sentences' directions, every class counting alike (float64 [d])."""
        return np.asarray(np.mean(self._means(vectors), axis=0, dtype=np.float64))

    def _ensembles(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        return l2_normalize(self._means(vectors))

    def _means(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        unit = l2_normalize(vectors)
        return np.stack([unit[self.members == c].mean(axis=0) for c in range(len(self.classes))])


def prompts_of(settings: Config, dataset: Dataset) -> Prompts:
    """The prompts of a run's dataset.

    Raises:
        UserError: the dataset has none, or they do not fit its classes.
    """
    use, config = settings.protocol.prompts, settings.prompts
    assert use is not None
    if config is None:
        raise UserError(
            f"dataset={dataset.name}: has no prompts for protocol={settings.protocol.name}; write "
            f"prompts/{dataset.name}.yaml (templates and classes) into conf/ or the folder of --config-dir, "
            "named as the dataset's own file there"
        )
    return Prompts(dataset.classes, *_texts(config, dataset), use, dataset.label_type == "multi")


def _texts(config: PromptsConfig, dataset: Dataset) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Every template with every phrasing, class by class."""
    where = f"prompts of dataset={dataset.name}"
    if not config.templates:
        raise UserError(
            f"{where}: templates is empty; give at least one, such as 'A chest X-ray with {GAP}.'"
        )
    for text in [*config.templates, *(phrase for words in config.classes.values() for phrase in words)]:
        if not isinstance(text, str):
            raise UserError(
                f"{where}: {text!r} is not read as text by YAML; put it in quotes, such as '{GAP}.'"
            )
    for template in config.templates:
        if template.count(GAP) != 1:
            raise UserError(f"{where}: template {template!r} needs {GAP} once, where the class's words go")
    for name in config.classes:
        if name not in dataset.classes:
            raise UserError(f"{where}: no class {name!r}; {choices(dataset.classes)}")
    texts: list[str] = []
    members: list[int] = []
    for number, name in enumerate(dataset.classes):
        phrases = config.classes.get(name) or []
        if not phrases or not all(phrase.strip() for phrase in phrases):
            raise UserError(f"{where}: class {name!r} has no words, or empty ones; add them under classes")
        said = [template.replace(GAP, phrase) for phrase in phrases for template in config.templates]
        if twice := [text for i, text in enumerate(said) if text in said[:i]]:
            raise UserError(f"{where}: class {name!r} says twice {twice[0]!r}; say it once")
        if shared := [text for text in said if text in texts]:
            other = dataset.classes[members[texts.index(shared[0])]]
            raise UserError(f"{where}: {shared[0]!r} is said for {other!r} and {name!r}; say it for one")
        texts += said
        members += [number] * len(said)
    return tuple(texts), np.array(members, dtype=np.int64)
