"""Fit an adaptation on train, choose its settings on val, and keep what was fitted."""

import dataclasses
import hashlib
import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medretrieval.adapt.base import GROUPS, Adaptation, FitData
from medretrieval.adapt.validation import Validation
from medretrieval.cache.entry import TRAINING_SUFFIX, canonical_sha256
from medretrieval.cache.store import Cache
from medretrieval.config import Config
from medretrieval.datasets.base import Split
from medretrieval.datasets.groups import groups_sha256
from medretrieval.embed.images import embed, identify
from medretrieval.embed.text import embed_texts
from medretrieval.encoders.base import Encoder
from medretrieval.encoders.composed.composed import ComposedEncoder, Described, JoinedEncoder, Tensors
from medretrieval.errors import UserError, first_line
from medretrieval.files import file_sha256
from medretrieval.protocol.inputs import Inputs

KIND = "adaptations"  # in the cache
FILE = "adaptation.safetensors"
FIT_FORMAT = 1  # raised when the same data and settings would give another fit
ABOUT = "medretrieval"  # the key of the file's metadata
JUDGE = "judge"  # the key of what chooses on val, among what determines a fit


@dataclass(frozen=True)
class Tried:
    """One choice of an adaptation's options, and its score on val."""

    choice: Mapping[str, Any]
    score: float


@dataclass(frozen=True)
class Fitted:
    """What was learned of train.

    Attributes:
        adaptation: what was fitted.
        choice: the value of every option.
        tensors: name -> array.
        path: the file they are in.
        digest: its SHA-256.
        tried: every choice, and its score on val; empty where nothing is chosen.
        seconds: that fitting and choosing took when it was done.
    """

    adaptation: Adaptation
    choice: Mapping[str, Any]
    tensors: Tensors
    path: Path
    digest: str
    tried: tuple[Tried, ...]
    seconds: float

    @property
    def val_score(self) -> float | None:
        """The objective on val of what was chosen."""
        return max((one.score for one in self.tried), default=None)

    def encoder(self, before: Encoder) -> Encoder:
        """The encoder after the adaptation."""
        return self.adaptation.adapted(before, self.tensors, self.digest)


@dataclass(frozen=True)
class Fitting:
    """What fits of one run have in common.

    Attributes:
        settings: the run's configuration.
        inputs: of the encoder before the adaptation, with train and val.
        cache: where fits are kept.
        kept: vectors of an encoder's parts, of train and val, that candidates have asked for.
    """

    settings: Config
    inputs: Inputs
    cache: Cache
    kept: dict[tuple[int, str], tuple[Encoder, NDArray[np.float32]]] = field(
        default_factory=dict, compare=False, repr=False
    )

    @property
    def train(self) -> Split:
        """The split that is fitted on."""
        assert self.inputs.train_split is not None
        return self.inputs.train_split

    def data(self, adaptation: Adaptation) -> FitData:
        """Train, and val as its judge."""

        def embedded(encoder: Encoder) -> NDArray[np.float32]:
            return embed(
                encoder, identify(encoder, self.cache), self.train, inputs.dataset.size, self.cache
            ).vectors

        inputs, validation = self.inputs, Validation.from_inputs(self.settings, self.inputs)

        def judge(tensors: Tensors) -> float:
            return self.score_on_val(adaptation, tensors, validation)

        vectors = embed(inputs.encoder, inputs.identity, self.train, inputs.dataset.size, self.cache).vectors
        whole = FitData(self.train, vectors, inputs.encoder, inputs.dataset.classes, judge, embed=embedded)
        if adaptation.share == 1:
            return whole
        part = whole.of_rows(share_of_train(self.train, adaptation))
        adaptation.require(part.split, inputs.dataset.classes, self.settings.metric)
        return part

    def score_on_val(self, adaptation: Adaptation, tensors: Tensors, validation: Validation) -> float:
        """The objective on val of a candidate."""
        candidate = adaptation.adapted(self.inputs.encoder, tensors, tensors_sha256(tensors))
        asked = validation.task.queries
        if asked.prompts is not None:
            queries = asked.prompts.queries(candidate.encode_text(asked.prompts.texts))
        else:
            queries = self._vectors(candidate, asked.split)
        gallery = queries if validation.one_set else self._vectors(candidate, validation.task.gallery)
        return validation.score(queries, gallery)

    def _vectors(self, candidate: Encoder, split: Split | None) -> NDArray[np.float32]:
        """A candidate's vectors, which are not kept: those of its parts come from the cache."""
        assert split is not None
        size = self.inputs.dataset.size
        if isinstance(candidate, ComposedEncoder):
            return np.asarray(
                candidate.combine([self._of_part(part, split, size) for part in candidate.parts])
            )
        return np.concatenate(list(candidate.stream(split.images)))

    def _of_part(self, part: Encoder, split: Split, size: int) -> NDArray[np.float32]:
        """Asked for once: a training looks at val dozens of times, and weights are hashed to name vectors."""
        key = (id(part), split.name)
        if key not in self.kept:
            vectors = embed(part, identify(part, self.cache), split, size, self.cache).vectors
            self.kept[key] = (part, vectors)
        return self.kept[key][1]

    def parts(self, adaptation: Adaptation) -> dict[str, Any]:
        """What determines a fit, as JSON values."""
        settings, inputs = self.settings, self.inputs
        validation = Validation.from_inputs(settings, inputs)
        splits, asked = (self.train, inputs.val_split), validation.task.queries
        return {
            "fit_format": FIT_FORMAT,
            "adaptation": adaptation.signature(),
            "encoder": dict(inputs.identity),
            "size": inputs.dataset.size,
            "images": [split and split.images_sha256 for split in splits],
            "labels": [split and split.labels_sha256 for split in splits],
            "groups": [split and groups_sha256(split.groups) for split in splits],
            "captions": [split and _captions_sha256(split) for split in splits],
            JUDGE: {
                "asked": [asked.kind, asked.content_sha256, asked.labels_sha256],
                "gallery": validation.task.gallery.name,
                "relevance": dataclasses.asdict(validation.task.relevance),
                "metric": settings.metric.name,
                "objective": validation.objective,
                "vote_k": settings.evaluation.vote_k,
            },
        }


def share_of_train(train: Split, adaptation: Adaptation) -> NDArray[np.int64]:
    """Positions of a random share of train, rounded up: of the images of each class, or of the groups.

    Args:
        train: the split.
        adaptation: says the share, of what, and the seed; more of the share has less of it within it.
    """
    rng = np.random.default_rng(adaptation.seed)
    if adaptation.share_of == GROUPS and train.groups is not None:
        names, codes = np.unique(train.groups, return_inverse=True)
        drawn = rng.permutation(len(names))[: math.ceil(adaptation.share * len(names))]
        return np.flatnonzero(np.isin(codes, drawn))
    labels = train.labels if train.labels.ndim == 1 else np.zeros(len(train), np.int64)
    kept = []
    for number in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == number))
        kept.append(members[: math.ceil(adaptation.share * len(members))])
    return np.sort(np.concatenate(kept))


def fit_and_choose(fitting: Fitting, adaptation: Adaptation) -> Fitted:
    """Fit every choice on train, and keep the one that scores best on val; of equal ones the first.

    Args:
        fitting: train, val and configuration.
        adaptation: what is fitted.

    Raises:
        UserError: what the adaptation refuses, or a val split that is too small.
    """
    choices, parts = adaptation.choices(), fitting.parts(adaptation)
    state = _state_folder(fitting.cache, parts)

    def make(folder: Path) -> Mapping[str, Any]:
        import time

        from tqdm import tqdm

        start = time.perf_counter()
        data = dataclasses.replace(fitting.data(adaptation), state_folder=state)
        best: tuple[float, dict[str, Any], Tensors] | None = None
        tried = []
        for choice in tqdm(choices, desc=f"fit {adaptation.name} on train", leave=False, disable=None):
            tensors = adaptation.fit(data, choice, adaptation.seed)
            score = data.judge(tensors)
            tried.append({"choice": choice, "score": score})
            if best is None or score > best[0]:
                best = score, choice, tensors
        assert best is not None
        write_tensors(folder / FILE, best[2], adaptation.origin(about_fit(fitting, adaptation, best[1])))
        return {"choice": best[1], "tried": tried, "seconds": time.perf_counter() - start}

    entry = fitting.cache.get_or_make(KIND, parts, make)
    shutil.rmtree(state, ignore_errors=True)
    facts, path = entry.facts, entry.folder / FILE
    tried = tuple(Tried(one["choice"], one["score"]) for one in facts["tried"])
    tensors = read_tensors(path)[0]
    return Fitted(adaptation, facts["choice"], tensors, path, file_sha256(path), tried, facts["seconds"])


def fit_variant(
    fitting: Fitting, adaptation: Adaptation, choice: Mapping[str, Any], name: str, data: FitData, seed: int
) -> Fitted:
    """Fit a given choice on other data than the run's own: shuffled labels, a sample, the other folds.

    Args:
        fitting: train, val and configuration.
        adaptation: what is fitted.
        choice: a value of every option.
        name: what the data is, part of the key: it has to say all that was drawn.
        data: what is fitted on.
        seed: of the fit.
    """
    parts = fitting.parts(adaptation) | {"variant": name, "choice": dict(choice), "fit_seed": seed}
    if not adaptation.judged:  # what val says of it has no part in it
        del parts[JUDGE]
    state = _state_folder(fitting.cache, parts)

    def make(folder: Path) -> Mapping[str, Any]:
        resumable = dataclasses.replace(data, state_folder=state)
        write_tensors(folder / FILE, adaptation.fit(resumable, choice, seed), {"variant": name})
        return {}

    entry = fitting.cache.get_or_make(KIND, parts, make)
    shutil.rmtree(state, ignore_errors=True)
    path = entry.folder / FILE
    return Fitted(adaptation, choice, read_tensors(path)[0], path, file_sha256(path), (), 0.0)


def _state_folder(cache: Cache, parts: Mapping[str, Any]) -> Path:
    """Where the trainings of a fit keep their state, under the lock of the fit's entry."""
    place = cache.place(KIND, parts)
    return place.with_name(place.name + TRAINING_SUFFIX)


def join(inputs: Inputs, cache: Cache) -> tuple[Inputs, Path | None]:
    """An encoder made of others, joined by what is fitted on train; any other as it is.

    Args:
        inputs: with train, where the encoder wants it.
        cache: where fits are kept.

    Returns:
        the inputs with the encoder ready to embed, and the file of what was fitted.
    """
    encoder, train = inputs.encoder, inputs.train_split
    if not isinstance(encoder, JoinedEncoder):
        return inputs, None
    assert train is not None  # `load` reads it for such an encoder
    size = inputs.dataset.size
    sides = [embed(part, identify(part, cache), train, size, cache) for part in encoder.parts]
    parts = {
        "fit_format": FIT_FORMAT,
        "join": dict(inputs.identity),
        "embeddings": [side.key for side in sides],
        "captions": _captions_sha256(train),
        "groups": groups_sha256(train.groups),
    }

    def make(folder: Path) -> Mapping[str, Any]:
        described = Described(train.captions, train.groups, _encoder_of_texts(encoder, cache))
        fitted = encoder.fit([side.vectors for side in sides], described)
        write_tensors(folder / FILE, fitted, {"joins": encoder.name})
        return {}

    path = cache.get_or_make(KIND, parts, make).folder / FILE
    ready = encoder.with_fitted(read_tensors(path)[0], file_sha256(path))
    return inputs.with_encoder(ready, identify(ready, cache)), path


def _encoder_of_texts(
    encoder: JoinedEncoder, cache: Cache
) -> Callable[[Sequence[str]], NDArray[np.float32]] | None:
    """Sentences by the encoder's text tower, kept in the cache."""
    tower = encoder.text_tower
    return None if tower is None else lambda texts: embed_texts(tower, texts, encoder.name, cache).vectors


def about_fit(fitting: Fitting, adaptation: Adaptation, choice: Mapping[str, Any]) -> dict[str, Any]:
    """What a file of fitted tensors says of itself."""
    val = fitting.inputs.val_split
    return {
        "adapt": dict(fitting.settings.adapt) | dict(choice),
        "choice": dict(choice),
        "encoder": identity_sha256(fitting.inputs.identity),
        "encoder_name": fitting.inputs.encoder.name,
        "dataset": fitting.inputs.dataset.name,
        "fitted_on": fitting.train.images_sha256,
        "chosen_on": None if val is None else val.images_sha256,
    }


def identity_sha256(identity: Mapping[str, Any]) -> str:
    """SHA-256 of what determines an encoder's vectors."""
    return canonical_sha256(dict(identity))


def write_tensors(path: Path, tensors: Tensors, about: Mapping[str, Any]) -> None:
    """Write arrays and what they are (safetensors)."""
    from safetensors.numpy import save_file

    arrays = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    save_file(arrays, path, metadata={ABOUT: json.dumps(about, sort_keys=True)})


def read_tensors(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Arrays, and what the file says of itself.

    Raises:
        UserError: no such file, or one that `write_tensors` did not write.
    """
    from safetensors import safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
            about = json.loads((file.metadata() or {})[ABOUT])
    except Exception as error:  # a damaged file makes the reader raise anything
        raise UserError(
            f"{path}: not a file of a fitted adaptation ({first_line(error)}); give the "
            "adaptation.safetensors "
            "of a run's folder"
        ) from error
    if not isinstance(about, dict):
        raise UserError(f"{path}: not a file of a fitted adaptation; give that of a run's folder")
    return tensors, about


def tensors_sha256(tensors: Tensors) -> str:
    """SHA-256 over names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name])
        digest.update(f"{name}{array.dtype.str}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _captions_sha256(split: Split) -> str | None:
    return None if split.captions is None else canonical_sha256({"captions": list(split.captions)})
