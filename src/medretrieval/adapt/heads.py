"""Trained adaptations: a linear map, or a network with one hidden layer, on vectors that stay as they are."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medretrieval.adapt.base import Choice, FitData, VectorAdaptation
from medretrieval.encoders.composed.composed import Tensors
from medretrieval.errors import UserError, choices, first_line

if TYPE_CHECKING:
    import torch

Floats = NDArray[np.float32]
CROSS_ENTROPY, SUPCON, PROXY_ANCHOR = LOSSES = ("cross_entropy", "supcon", "proxy_anchor")
CHECK_EPOCHS = 2  # epochs between two looks at val
SAME_SCORE = 1e-9  # val scores that differ by less are equal
PROXIES = "proxies"  # what a loss has learned beside the head


@dataclass(frozen=True)
class Training:
    """How a head is trained.

    Attributes:
        epochs: passes over train, at most.
        patience: looks at val without a better score after which it stops.
        weight_decay: of AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101).
        per_class: images of each class in a batch.
        device: "auto", "cpu", "cuda", "mps".
    """

    epochs: int
    patience: int
    weight_decay: float
    per_class: int
    device: str


class LinearHead(VectorAdaptation):
    """A linear map, trained on the labels of train and stopped by val.

    Losses: `cross_entropy` of a linear classifier on what the head gives, which is left away afterwards;
    `supcon` (Khosla et al. 2020, arXiv:2004.11362) and `proxy_anchor` (Kim et al. 2020, arXiv:2003.13911) of
    pytorch-metric-learning. Every batch has `per_class` images of each class: without a positive pair the
    loss `supcon` is 0. The proxies of `proxy_anchor` are trained too, and kept with the head.

    Args:
        name: short name.
        loss: one of LOSSES; of a list val chooses one.
        dim: numbers a vector afterwards; of a list val chooses one.
        learning_rate: of AdamW; of a list val chooses one.
        weight_decay: of AdamW, 0 or more.
        epochs: passes over train, at most.
        patience: looks at val (every CHECK_EPOCHS epochs) without a better score after which it stops.
        per_class: images of each class in a batch, 2 or more.
        device: "auto", "cpu", "cuda", "mps".
        refits: fits from other seeds, for the spread.
        seed: of the start and of the batches.

    Raises:
        UserError: a value out of its range.
    """

    uses_labels = True
    resamples = False  # another seed starts elsewhere
    judged = True

    def __init__(
        self,
        name: str,
        loss: str | list[str],
        dim: int | list[int],
        learning_rate: float | list[float],
        weight_decay: float,
        epochs: int,
        patience: int,
        per_class: int,
        device: str,
        refits: int,
        seed: int,
        **options: Any,
    ) -> None:
        super().__init__(name, refits, seed, loss=loss, dim=dim, learning_rate=learning_rate, **options)
        for one in self.options["loss"]:
            if one not in LOSSES:
                raise UserError(f"adapt.loss={one}: {choices(LOSSES)}")
        for key in ("dim", *options):
            _require(key, self.options[key], whole=True, least=1)
        _require("learning_rate", self.options["learning_rate"], whole=False, least=0, above=True)
        _require("weight_decay", [weight_decay], whole=False, least=0)
        for key, value, least in (
            ("epochs", epochs, 1),
            ("patience", patience, 1),
            ("per_class", per_class, 2),
        ):
            _require(key, [value], whole=True, least=least)
        self.training = Training(epochs, patience, weight_decay, per_class, device)

    def signature(self) -> dict[str, Any]:
        """What determines the fit beside data and choice."""
        training = {key: value for key, value in vars(self.training).items() if key != "device"}
        return super().signature() | {"training": training}

    def fit(self, data: FitData, choice: Choice, seed: int) -> Tensors:
        """Weights of the head ("0.weight", "0.bias", ...), mean and scale of train, and the loss's proxies.

        Raises:
            UserError: pytorch-metric-learning is wanted and not installed.
        """
        import torch

        device = _device(self.training.device)
        mean = np.mean(data.vectors, axis=0, dtype=np.float64).astype(np.float32)
        centered = data.vectors - mean
        scale = np.sqrt(np.mean(np.square(centered), dtype=np.float64)).astype(np.float32).reshape(1)
        if not scale[0] > 0:
            raise UserError("adapt: the vectors of split train do not differ; nothing can be fitted to them")
        with torch.random.fork_rng(devices=[]):  # what draws from torch later draws the same without a head
            torch.manual_seed(seed)
            head = self.head(data.vectors.shape[1], choice).to(device)
            criterion = _criterion(choice, len(data.classes)).to(device)
        before = {"mean": mean, "scale": scale}
        run = _Run(
            head,
            criterion,
            torch.from_numpy(np.ascontiguousarray(centered / scale)).to(device),
            torch.from_numpy(data.split.labels.astype(np.int64)).to(device),
            np.random.default_rng(seed),
        )
        return before | _trained(run, self.training, choice["learning_rate"], data, before)

    def head(self, dimension: int, choice: Choice) -> "torch.nn.Module":
        """The untrained head.

        Args:
            dimension: of the vectors.
            choice: a value of every option.
        """
        import torch

        return torch.nn.Sequential(torch.nn.Linear(dimension, choice["dim"]))

    def apply(self, fitted: Tensors, vectors: Floats) -> Floats:
        """As VectorAdaptation.apply: layer after layer, with what is negative set to 0 between them."""
        out = (vectors - fitted["mean"]) / fitted["scale"]
        layers = sorted({int(name.split(".")[0]) for name in fitted if name.endswith(".weight")})
        for number in layers:
            out = out @ fitted[f"{number}.weight"].T + fitted[f"{number}.bias"]
            if number != layers[-1]:
                out = np.maximum(out, 0)
        return np.ascontiguousarray(out, dtype=np.float32)


class MlpHead(LinearHead):
    """A network with one hidden layer, trained as `LinearHead`.

    Args:
        hidden: numbers of the hidden layer; of a list val chooses one.
        kwargs: see LinearHead.
    """

    def __init__(self, hidden: int | list[int], **kwargs: Any) -> None:
        super().__init__(hidden=hidden, **kwargs)

    def head(self, dimension: int, choice: Choice) -> "torch.nn.Module":
        """The untrained head."""
        import torch

        hidden, dim = choice["hidden"], choice["dim"]
        layers = torch.nn.Linear(dimension, hidden), torch.nn.ReLU(), torch.nn.Linear(hidden, dim)
        return torch.nn.Sequential(*layers)


def batches(
    labels: NDArray[np.int64], per_class: int, rng: np.random.Generator
) -> Iterator[NDArray[np.int64]]:
    """Positions of one epoch: every batch has `per_class` images of each class, of a small class repeatedly.

    Args:
        labels: int64 [n].
        per_class: images of each class in a batch.
        rng: the source of chance.

    Yields:
        int64 [classes * per_class], as many batches as the whole of train fills.
    """
    members = [np.flatnonzero(labels == number) for number in np.unique(labels)]
    count = max(1, len(labels) // (per_class * len(members)))
    drawn = []
    for rows in members:
        wanted = count * per_class
        rounds = [rng.permutation(rows) for _ in range(-(-wanted // len(rows)))]
        drawn.append(np.concatenate(rounds)[:wanted].reshape(count, per_class))
    yield from np.concatenate(drawn, axis=1)


@dataclass
class _Run:
    """One training: the head, its loss, and what both are trained on."""

    head: "torch.nn.Module"
    criterion: "torch.nn.Module"
    vectors: "torch.Tensor"
    labels: "torch.Tensor"
    rng: np.random.Generator

    def epoch(self, optimizer: "torch.optim.Optimizer", per_class: int) -> None:
        """One pass over train."""
        for rows in batches(self.labels.cpu().numpy(), per_class, self.rng):
            optimizer.zero_grad()
            loss = self.criterion(self.head(self.vectors[rows]), self.labels[rows])
            loss.backward()
            optimizer.step()

    def tensors(self) -> dict[str, NDArray[Any]]:
        """What the head has learned, and the loss's own numbers."""
        found = {name: value.detach().cpu().numpy().copy() for name, value in self.head.state_dict().items()}
        own = getattr(self.criterion, PROXIES, None)
        return found if own is None else found | {PROXIES: own.detach().cpu().numpy().copy()}


def _trained(
    run: _Run, how: Training, learning_rate: float, data: FitData, before: dict[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    """Train until val gets no better, and give what was best on val."""
    import torch
    from tqdm import tqdm

    learned = [*run.head.parameters(), *run.criterion.parameters()]
    optimizer = torch.optim.AdamW(learned, lr=learning_rate, weight_decay=how.weight_decay)
    best, best_score, worse = run.tensors(), -np.inf, 0
    for number in tqdm(range(1, how.epochs + 1), desc="train head", unit="epoch", leave=False, disable=None):
        run.epoch(optimizer, how.per_class)
        if number % CHECK_EPOCHS and number != how.epochs:
            continue
        found = run.tensors()
        if not all(np.isfinite(value).all() for value in found.values()):
            raise UserError(
                f"adapt.learning_rate={learning_rate}: the training left all bounds; choose a lower one"
            )
        score = data.judge(before | found)
        if score > best_score + SAME_SCORE:
            best, best_score, worse = found, score, 0
        elif (worse := worse + 1) >= how.patience:
            break
    return best


def _criterion(choice: Choice, classes: int) -> "torch.nn.Module":
    """The loss of a choice, with what it learns itself."""
    import torch

    if choice["loss"] == CROSS_ENTROPY:
        return _classifier(choice["dim"], classes)
    try:
        from pytorch_metric_learning import losses
    except ImportError as error:
        raise UserError(
            f"adapt.loss={choice['loss']}: needs the package pytorch-metric-learning ({first_line(error)}); "
            "pip install 'medretrieval[adapt]', or adapt.loss=cross_entropy"
        ) from error
    made: torch.nn.Module = losses.SupConLoss()
    if choice["loss"] == PROXY_ANCHOR:
        made = losses.ProxyAnchorLoss(classes, choice["dim"])
    return made


def _classifier(dim: int, classes: int) -> "torch.nn.Module":
    """Cross-entropy of a linear classifier on the head's vectors."""
    import torch

    class Classifier(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.classes = torch.nn.Linear(dim, classes)

        def forward(self, vectors: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.cross_entropy(self.classes(vectors), labels)

    return Classifier()


def _device(name: str) -> "torch.device":
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


def _require(key: str, values: list[Any], whole: bool, least: float, above: bool = False) -> None:
    """Refuse a value that is no number, or too small."""
    for value in values:
        number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
        if not number or value < least or (above and value == least):
            kind = "a whole number" if whole else "a number"
            raise UserError(
                f"adapt.{key}={value}: must be {kind} {'above' if above else 'of at least'} {least}"
            )
