"""Training in epochs: stopped early by val, and resumed where it was interrupted."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medretrieval.adapt.checkpoint import Checkpoint, State
from medretrieval.encoders.composed.composed import Tensors
from medretrieval.errors import UserError, first_line

if TYPE_CHECKING:
    import torch

SAME_SCORE = 1e-9  # val scores that differ by less are equal
WRITE_EVERY_S = 1.0  # a shorter training is as quickly done again
STEP = "step"  # the one part of AdamW's state that has not the shape of what is learned
WEIGHTS, OPTIMIZER, BEST = "weights/", "optimizer/", "best/"


@dataclass(frozen=True)
class Training:
    """How something is trained.

    Attributes:
        epochs: passes over train, at most.
        patience: looks at val without a better score after which it stops.
        weight_decay: of AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101).
        per_class: images of each class in a batch; None where batches are of pairs.
        device: "auto", "cpu", "cuda", "mps"; no part of a key.

    Raises:
        UserError: a value out of its range.
    """

    epochs: int
    patience: int
    weight_decay: float
    per_class: int | None
    device: str

    def __post_init__(self) -> None:
        require_numbers("weight_decay", [self.weight_decay], whole=False, least=0)
        for key, least in (("epochs", 1), ("patience", 1), ("per_class", 2)):
            if (value := getattr(self, key)) is not None:
                require_numbers(key, [value], whole=True, least=least)

    def signature(self) -> dict[str, Any]:
        """What determines the training."""
        return {key: value for key, value in vars(self).items() if key != "device"}


class Trainee(ABC):
    """What is trained.

    Args:
        learned: name -> what the optimizer changes.
        rng: the source of chance of its batches.
    """

    def __init__(self, learned: Mapping[str, "torch.nn.Parameter"], rng: np.random.Generator) -> None:
        self.learned, self.rng = dict(learned), rng

    @abstractmethod
    def epoch(self, optimizer: "torch.optim.Optimizer") -> None:
        """One pass over train."""

    @abstractmethod
    def tensors(self) -> dict[str, NDArray[Any]]:
        """What is kept of what it has learned, as copies."""


@dataclass
class _Progress:
    """How far a training is."""

    best: Tensors
    score: float = -np.inf
    worse: int = 0
    epoch: int = 0
    done: bool = False
    written: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class Schedule:
    """Of one training: how, how fast, and who judges it.

    Attributes:
        training: epochs, patience, weight decay.
        learning_rate: of AdamW.
        judge: a score on val of what `Trainee.tensors` gives, the larger the better.
        look_every: epochs between two looks at val; the last epoch is looked at too.
        checkpoint: where its state is kept.
    """

    training: Training
    learning_rate: float
    judge: Callable[[Tensors], float]
    look_every: int
    checkpoint: Checkpoint


def train(trainee: Trainee, schedule: Schedule, what: str) -> Tensors:
    """Train until val gets no better, from the last state that was kept; gives what was best on val.

    Args:
        trainee: trained in place.
        schedule: how.
        what: is trained, for the progress bar.

    Raises:
        UserError: the training leaves all bounds.
    """
    import torch
    from tqdm import tqdm

    how = schedule.training
    optimizer = torch.optim.AdamW(
        trainee.learned.values(), lr=schedule.learning_rate, weight_decay=how.weight_decay
    )
    progress = _restored(trainee, optimizer, schedule.checkpoint) or _Progress(trainee.tensors())
    with tqdm(
        total=how.epochs,
        initial=progress.epoch,
        desc=f"train {what}",
        unit="epoch",
        leave=False,
        disable=None,
    ) as bar:
        while not progress.done:
            trainee.epoch(optimizer)
            progress.epoch += 1
            last = progress.epoch == how.epochs
            if last or progress.epoch % schedule.look_every == 0:
                _look(trainee, schedule, progress)
                bar.set_postfix(val=f"{progress.score:.4f}")
            progress.done |= last
            bar.update()
            if time.monotonic() - progress.written >= WRITE_EVERY_S:
                schedule.checkpoint.write(_state(trainee, optimizer, progress))
                progress.written = time.monotonic()
    return progress.best


def _look(trainee: Trainee, schedule: Schedule, progress: _Progress) -> None:
    """Ask val, and note whether it got better."""
    found = trainee.tensors()
    if not all(np.isfinite(value).all() for value in found.values()):
        raise UserError(
            f"adapt.learning_rate={schedule.learning_rate}: the training left all bounds; choose a lower one"
        )
    score = schedule.judge(found)
    if score > progress.score + SAME_SCORE:
        progress.best, progress.score, progress.worse = found, score, 0
    else:
        progress.worse += 1
        progress.done = progress.worse >= schedule.training.patience


def _state(trainee: Trainee, optimizer: "torch.optim.Optimizer", progress: _Progress) -> State:
    tensors = {WEIGHTS + name: value.detach().cpu().numpy() for name, value in trainee.learned.items()}
    names = list(trainee.learned)
    for number, values in optimizer.state_dict()["state"].items():
        for key, value in values.items():
            tensors[f"{OPTIMIZER}{names[number]}/{key}"] = value.cpu().numpy()
    about = {"epoch": progress.epoch, "score": progress.score, "worse": progress.worse, "done": progress.done}
    return State(
        tensors | {BEST + name: value for name, value in progress.best.items()},
        about | {"random": trainee.rng.bit_generator.state},
    )


def _restored(
    trainee: Trainee, optimizer: "torch.optim.Optimizer", checkpoint: Checkpoint
) -> _Progress | None:
    """Put a trainee and its optimizer where they were; None where nothing was kept."""
    import torch

    kept = checkpoint.read()
    if kept is None:
        return None
    state: dict[int, dict[str, torch.Tensor]] = {}
    with torch.no_grad():
        for number, (name, value) in enumerate(trainee.learned.items()):
            value.copy_(torch.from_numpy(kept.tensors[WEIGHTS + name]).reshape(value.shape))
            start = f"{OPTIMIZER}{name}/"
            mine = {k.removeprefix(start): v for k, v in kept.tensors.items() if k.startswith(start)}
            if mine:  # what no loss has reached yet has no state
                # A file holds a single number as an array of one; the count of steps is one.
                shapes = {key: () if key == STEP else value.shape for key in mine}
                state[number] = {k: torch.from_numpy(v).reshape(shapes[k]) for k, v in mine.items()}
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    about = kept.about
    trainee.rng.bit_generator.state = about["random"]
    best = {k.removeprefix(BEST): v for k, v in kept.tensors.items() if k.startswith(BEST)}
    return _Progress(best, about["score"], about["worse"], about["epoch"], about["done"])


def device_of(name: str) -> "torch.device":
    """The device that a configuration names; a GPU where there is one for "auto".

    Raises:
        UserError: it is not there.
    """
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"device={name}: not available here ({first_line(error)}); use device=auto"
        ) from error
    return torch.device(name)


def require_numbers(key: str, values: list[Any], whole: bool, least: float, above: bool = False) -> None:
    """Refuse a value of adapt.<key> that is no number, or too small.

    Raises:
        UserError: naming the first of them.
    """
    for value in values:
        number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
        if not number or value < least or (above and value == least):
            kind = "a whole number" if whole else "a number"
            raise UserError(
                f"adapt.{key}={value}: must be {kind} {'above' if above else 'of at least'} {least}"
            )
