"""The stage: from a run's inputs to those of the adapted encoder, and what was fitted for it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medretrieval.adapt.base import Adaptation
from medretrieval.adapt.fit import (
    Fitted,
    Fitting,
    fit_and_choose,
    identity_sha256,
    join,
    read_tensors,
)
from medretrieval.adapt.saved import SavedAdaptation
from medretrieval.cache.store import Cache
from medretrieval.config import Config, is_set
from medretrieval.embed.images import identify
from medretrieval.encoders.base import Encoder
from medretrieval.encoders.composed.composed import JoinedEncoder
from medretrieval.errors import UserError
from medretrieval.files import file_sha256
from medretrieval.instantiate import instantiate, require_known_code
from medretrieval.protocol.inputs import Inputs

ADAPTATION = "adaptation.safetensors"  # in a run's folder
JOINED = "joined.safetensors"


@dataclass(frozen=True)
class Adapted:
    """A run's inputs after everything that is fitted on train.

    Attributes:
        inputs: with the encoder whose vectors are indexed.
        before: with the encoder before the adaptation; the same object where there is none.
        fitted: the adaptation; None where there is none.
        files: name in the run's folder -> what was fitted.
    """

    inputs: Inputs
    before: Inputs
    fitted: Fitted | None
    files: Mapping[str, Path]


def adapt(settings: Config, inputs: Inputs, cache: Cache) -> Adapted:
    """Fit on train what a run's encoder and adaptation want to have fitted.

    Args:
        settings: the run's configuration.
        inputs: with train and val, where anything is fitted.
        cache: where fits are kept.

    Raises:
        UserError: what cannot be fitted to this dataset, by this encoder, or with these values.
    """
    before, joined = join(inputs, cache)
    files = {} if joined is None else {JOINED: joined}
    if not is_set(settings.adapt):
        return Adapted(before, before, None, files)
    adaptation = adaptation_of(settings)
    assert inputs.train_split is not None
    adaptation.require(inputs.train_split, inputs.dataset.classes, settings.metric)
    adaptation.require_encoder(before.encoder)
    if isinstance(adaptation, SavedAdaptation):
        _require_unseen(adaptation, before)
    fitted = fit_and_choose(Fitting(settings, before, cache), adaptation)
    encoder = fitted.encoder(before.encoder)
    after = before.with_encoder(encoder, identify(encoder, cache))
    return Adapted(after, before, fitted, files | {ADAPTATION: fitted.path})


def adaptation_of(settings: Config) -> Adaptation:
    """The adaptation that a configuration names.

    Raises:
        UserError: no such class, or values it refuses.
    """
    return instantiate(settings.adapt, Adaptation, "adapt")  # type: ignore[type-abstract]


def restored(encoder: Encoder, settings: Config, folder: Path) -> Encoder:
    """A finished run's encoder with what was fitted for it, from the run's folder.

    Args:
        encoder: as configured.
        settings: the run's configuration.
        folder: of the run.

    Raises:
        UserError: a file is gone or damaged, or names code from elsewhere.
    """
    if isinstance(encoder, JoinedEncoder):
        encoder = encoder.with_fitted(read_tensors(folder / JOINED)[0], file_sha256(folder / JOINED))
    if not is_set(settings.adapt):
        return encoder
    tensors, about = read_tensors(folder / ADAPTATION)
    node: dict[str, Any] = about["adapt"] if "file" in settings.adapt else settings.adapt
    require_known_code(node, folder / ADAPTATION, "adapt")
    adaptation = instantiate(node, Adaptation, "adapt")  # type: ignore[type-abstract]
    return adaptation.adapted(encoder, tensors, file_sha256(folder / ADAPTATION))


def _require_unseen(saved: SavedAdaptation, inputs: Inputs) -> None:
    """Refuse a file of another encoder, or one that was fitted to the images that ask."""
    saved.require_same(identity_sha256(inputs.identity), inputs.encoder.name)
    queries = inputs.task.queries
    if queries.content_sha256 in (saved.about.get("fitted_on"), saved.about.get("chosen_on")):
        raise UserError(
            f"adapt.file={saved.file}: was fitted to the images of split {queries.name}, which are the "
            "queries "
            "of this run; score it on a split that it has not seen"
        )
