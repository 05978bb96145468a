"""Trained adaptations: a linear map, or a network with one hidden layer, on vectors that stay as they are."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medretrieval.adapt.base import Adaptation, Choice, FitData, VectorAdaptation
from medretrieval.adapt.checkpoint import Checkpoint
from medretrieval.adapt.linear import Center
from medretrieval.adapt.losses import LOSSES, PROXIES, batches, criterion
from medretrieval.adapt.training import Schedule, Trainee, Training, device_of, require_numbers, train
from medretrieval.encoders.composed.composed import Tensors
from medretrieval.errors import UserError, choices

if TYPE_CHECKING:
    import torch

Floats = NDArray[np.float32]
CHECK_EPOCHS = 2  # epochs between two looks at val


class LinearHead(VectorAdaptation):
    """A linear map, trained on the labels of train and stopped by val.

    Losses: see `losses.criterion`. Every batch has `per_class` images of each class: without a positive pair
    the loss `supcon` is 0. Proxies are trained too, and kept with the head.

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
            require_numbers(key, self.options[key], whole=True, least=1)
        require_numbers("learning_rate", self.options["learning_rate"], whole=False, least=0, above=True)
        self.training = Training(epochs, patience, weight_decay, per_class, device)

    def signature(self) -> dict[str, Any]:
        """What determines the fit beside data and choice."""
        return super().signature() | {"training": self.training.signature()}

    def fit(self, data: FitData, choice: Choice, seed: int) -> Tensors:
        """Weights of the head ("0.weight", "0.bias", ...), mean and scale of train, and the loss's proxies.

        Raises:
            UserError: pytorch-metric-learning is wanted and not installed.
        """
        import torch

        device = device_of(self.training.device)
        mean = np.mean(data.vectors, axis=0, dtype=np.float64).astype(np.float32)
        centered = data.vectors - mean
        scale = np.sqrt(np.mean(np.square(centered), dtype=np.float64)).astype(np.float32).reshape(1)
        if not scale[0] > 0:
            raise UserError("adapt: the vectors of split train do not differ; nothing can be fitted to them")
        with torch.random.fork_rng(devices=[]):  # what draws from torch later draws the same without a head
            torch.manual_seed(seed)
            head = self.head(data.vectors.shape[1], choice).to(device)
            loss = criterion(choice["loss"], choice["dim"], len(data.classes)).to(device)
        before = {"mean": mean, "scale": scale}
        assert self.training.per_class is not None
        run = _HeadRun(
            head,
            loss,
            torch.from_numpy(np.ascontiguousarray(centered / scale)).to(device),
            torch.from_numpy(data.split.labels.astype(np.int64)).to(device),
            self.training.per_class,
            np.random.default_rng(seed),
        )
        schedule = Schedule(
            self.training,
            choice["learning_rate"],
            lambda found: data.judge(before | dict(found)),
            CHECK_EPOCHS,
            Checkpoint(data.checkpoint(choice, seed)),
        )
        return before | dict(train(run, schedule, "head"))

    def without_labels(self) -> Adaptation:
        """The mean of train subtracted, as a head does first whatever the labels are."""
        return Center("center", 0, self.seed)

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


class _HeadRun(Trainee):
    """One training: the head, its loss, and what both are trained on."""

    def __init__(
        self,
        head: "torch.nn.Module",
        loss: "torch.nn.Module",
        vectors: "torch.Tensor",
        labels: "torch.Tensor",
        per_class: int,
        rng: np.random.Generator,
    ) -> None:
        own = {f"loss.{name}": value for name, value in loss.named_parameters()}
        super().__init__(dict(head.named_parameters()) | own, rng)
        self.head, self.loss, self.vectors, self.labels = head, loss, vectors, labels
        self.per_class = per_class

    def epoch(self, optimizer: "torch.optim.Optimizer") -> None:
        """One pass over train."""
        for rows in batches(self.labels.cpu().numpy(), self.per_class, self.rng):
            optimizer.zero_grad()
            loss = self.loss(self.head(self.vectors[rows]), self.labels[rows])
            loss.backward()
            optimizer.step()

    def tensors(self) -> dict[str, NDArray[Any]]:
        """What the head has learned, and the loss's own proxies."""
        found = {name: value.detach().cpu().numpy().copy() for name, value in self.head.state_dict().items()}
        own = getattr(self.loss, PROXIES, None)
        return found if own is None else found | {PROXIES: own.detach().cpu().numpy().copy()}
