"""What an adaptation is to the rest of the pipeline: fitted on train, an encoder of its own afterwards."""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from medretrieval.cache.entry import canonical_sha256
from medretrieval.config import MetricConfig
from medretrieval.datasets.base import Split
from medretrieval.encoders.base import Encoder
from medretrieval.encoders.composed.composed import ComposedEncoder, Tensors
from medretrieval.errors import UserError, choices

Floats = NDArray[np.float32]
Choice = Mapping[str, Any]
GROUPS, IMAGES = UNITS = ("groups", "images")


@dataclass(frozen=True)
class FitData:
    """What an adaptation is fitted on.

    Attributes:
        split: the images of train, with labels, groups and captions; perhaps a sample of them.
        vectors: float32 [n, d] of these images, as the encoder gives them; may be memory-mapped.
        encoder: gives them.
        classes: names of the labels.
        judge: the configured objective on val of a candidate, the larger the better.
        embed: what another encoder gives of the whole of train, float32 [N, m], kept in the cache.
        rows: positions of the images in the whole of train, int64 [n]; None for all.
        state_folder: where trainings keep their state until the fit is done; None keeps none.
    """

    split: Split
    vectors: Floats
    encoder: Encoder
    classes: tuple[str, ...]
    judge: Callable[[Tensors], float]
    embed: Callable[[Encoder], Floats] | None = None
    rows: NDArray[np.int64] | None = None
    state_folder: Path | None = None

    def checkpoint(self, choice: Choice, seed: int) -> Path | None:
        """The file of the state of one training (`checkpoint.Checkpoint`)."""
        if self.state_folder is None:
            return None
        key = canonical_sha256({"choice": dict(choice), "seed": seed})
        return self.state_folder / f"{key[:16]}.safetensors"

    def of_rows(self, rows: NDArray[np.int64]) -> "FitData":
        """Of some of the images (positions, int64 [r])."""
        split, take = self.split, rows
        captions = None if split.captions is None else tuple(split.captions[i] for i in take)
        part = replace(
            split,
            images=split.images[take],
            labels=split.labels[take],
            captions=captions,
            masks=None,
            groups=None if split.groups is None else split.groups[take],
            metadata=None,
            clean=None,
        )
        rows = take if self.rows is None else self.rows[take]
        return replace(self, split=part, vectors=np.asarray(self.vectors[take]), rows=rows)

    def with_labels(self, labels: NDArray[Any]) -> "FitData":
        """The same images with other labels."""
        return replace(self, split=replace(self.split, labels=labels))

    def with_captions(self, captions: tuple[str, ...]) -> "FitData":
        """The same images with other captions."""
        return replace(self, split=replace(self.split, captions=captions))


def read_share(value: object) -> float:
    """The value of adapt.share.

    Raises:
        UserError: no number above 0 and at most 1.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        raise UserError(f"adapt.share={value}: must be above 0 and at most 1")
    return float(value)


def read_units(value: object) -> str:
    """The value of adapt.share_of.

    Raises:
        UserError: neither "groups" nor "images".
    """
    if value not in UNITS:
        raise UserError(f"adapt.share_of={value}: {choices(UNITS)}")
    return str(value)


class Adaptation(ABC):
    """Changes an encoder by what it learns on train. A new one is a subclass and a file in conf/adapt/.

    Attributes:
        name: short name for tables, tags and file names.
        options: the values of what can be chosen on val: option -> the values to choose from.
        refits: how often it is fitted again, on random samples of train (`resamples`) or from other seeds,
            for the spread of its scores.
        seed: of everything that is drawn.
        uses_labels: whether it reads labels.
        uses_captions: whether it reads captions.
        resamples: whether a refit takes another sample of train; else only the seed changes.
        serves_text: whether sentences can be compared with adapted images.
        judged: whether a fit asks val itself, as to stop early.
        share: of train that it is fitted on, above 0 and at most 1 (`share_of_train`).
        share_of: what is drawn for that: "groups", whole ones, or "images".
    """

    BESIDE: ClassVar[Mapping[str, Callable[[object], Any]]] = {"share": read_share, "share_of": read_units}

    uses_labels = False
    uses_captions = False
    resamples = True
    serves_text = False
    judged = False
    share = 1.0
    share_of = GROUPS

    def __init__(self, name: str, refits: int, seed: int, **options: Any) -> None:
        """Keep what can be chosen.

        Args:
            name: short name.
            refits: 0 or more.
            seed: of everything that is drawn.
            options: option -> a value, or a list of values of which val chooses.

        Raises:
            UserError: a negative number of refits, or an empty list.
        """
        if refits < 0:
            raise UserError(f"adapt.refits={refits}: must be 0 or more")
        self.name, self.refits, self.seed = name, refits, seed
        self.options: dict[str, list[Any]] = {}
        for key, value in options.items():
            values = list(value) if isinstance(value, list | tuple) else [value]
            if not values:
                raise UserError(f"adapt.{key}=[]: give a value, or a list of values of which val chooses one")
            self.options[key] = values

    def choices(self) -> list[dict[str, Any]]:
        """Every combination of the options, in the order of the configuration."""
        return [
            dict(zip(self.options, values, strict=True))
            for values in itertools.product(*self.options.values())
        ]

    def signature(self) -> dict[str, Any]:
        """What determines the fit beside data and choice."""
        kind = type(self)
        name = f"{kind.__module__}.{kind.__qualname__}"
        of = {"share": self.share, "share_of": self.share_of}
        return {"class": name, "options": self.options, "seed": self.seed} | of

    def require(self, train: Split, classes: tuple[str, ...], metric: MetricConfig) -> None:
        """Refuse before any work what cannot be fitted, or compared.

        Args:
            train: what it is fitted on.
            classes: names of the labels.
            metric: that compares the adapted vectors.

        Raises:
            UserError: labels are used, and images have several findings or a class has no image in train.
        """
        if not self.uses_labels:
            return
        if train.labels.ndim == 2:
            raise UserError(
                f"adapt={self.name}: uses one class an image, and this dataset has several findings; "
                "use adapt=whiten, pca or center"
            )
        if absent := sorted(set(range(len(classes))) - set(np.unique(train.labels).tolist())):
            raise UserError(
                f"adapt={self.name}: class {classes[absent[0]]!r} has no image in split train, so nothing "
                "can "
                "be learned of it; use adapt=whiten, pca or center, or other splits"
            )

    def require_encoder(self, encoder: Encoder) -> None:  # noqa: B027  # most fit any encoder
        """Refuse before any work an encoder that cannot be adapted so.

        Raises:
            UserError: what to use instead.
        """

    @abstractmethod
    def fit(self, data: FitData, choice: Choice, seed: int) -> Tensors:
        """What is learned of train.

        Args:
            data: the images of train and their vectors.
            choice: a value of every option.
            seed: of everything that is drawn.

        Returns:
            name -> array.

        Raises:
            UserError: a value that does not fit these vectors.
        """

    @abstractmethod
    def adapted(self, encoder: Encoder, fitted: Tensors, digest: str) -> Encoder:
        """The encoder after the adaptation.

        Args:
            encoder: the one before.
            fitted: what `fit` gave.
            digest: SHA-256 of it, part of the new encoder's identity.
        """

    def origin(self, about: Mapping[str, Any]) -> Mapping[str, Any]:
        """What the file of a fit says of itself; of one that was saved before, what that file says."""
        return about

    def without_labels(self) -> "Adaptation | None":
        """What the same does without labels, beside which shuffled labels are held; None: no adaptation."""
        return None


class VectorAdaptation(Adaptation):
    """An adaptation of vectors: the encoder itself stays as it is, and its embeddings come from the cache."""

    @abstractmethod
    def apply(self, fitted: Tensors, vectors: Floats) -> Floats:
        """Adapted vectors.

        Args:
            fitted: what `fit` gave.
            vectors: float32 [n, d].

        Returns:
            float32 [n, m].
        """

    def adapted(self, encoder: Encoder, fitted: Tensors, digest: str) -> Encoder:
        """The encoder followed by the adaptation."""
        return AdaptedEncoder(encoder, self, fitted, digest)


class AdaptedEncoder(ComposedEncoder):
    """An encoder followed by a fitted adaptation of its vectors.

    Args:
        encoder: gives the vectors.
        adaptation: changes them.
        fitted: what was fitted.
        digest: SHA-256 of it.
    """

    def __init__(self, encoder: Encoder, adaptation: VectorAdaptation, fitted: Tensors, digest: str) -> None:
        super().__init__(encoder.name, (encoder,), encoder.batch_size)
        self.adaptation, self.fitted, self.digest = adaptation, fitted, digest

    def settings(self) -> dict[str, Any]:
        """The adaptation's class, and what was fitted."""
        return {"kind": "adapted", "adaptation": self.adaptation.signature()["class"], "fitted": self.digest}

    def combine(self, vectors: Sequence[Floats]) -> Floats:
        """Adapt the encoder's vectors."""
        return self.adaptation.apply(self.fitted, np.asarray(vectors[0]))

    def encode_text(self, texts: Sequence[str]) -> Floats:
        """As Encoder.encode_text, adapted as images are.

        Raises:
            UserError: the adaptation is for images alone.
        """
        if not self.adaptation.serves_text:
            raise UserError(
                f"adapt={self.adaptation.name}: is fitted on images, and sentences cannot be compared with "
                "what it makes of them; set adapt=none"
            )
        return self.adaptation.apply(self.fitted, self.parts[0].encode_text(texts))
