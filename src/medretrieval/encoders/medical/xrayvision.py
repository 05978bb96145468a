"""DenseNets of TorchXRayVision (Cohen et al., MIDL 2022, arXiv:2111.00595), without the classifier."""

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medretrieval.encoders.medical.published import PublishedEncoder
from medretrieval.encoders.runtime.steps import CropSquare, Gray
from medretrieval.encoders.runtime.torch_runtime import Loaded
from medretrieval.encoders.runtime.weights import read_state, strict_state
from medretrieval.errors import UserError, choices

if TYPE_CHECKING:
    import torch

# Names of torchxrayvision.models.model_urls, and the files that it downloads for them.
FILES = {
    f"densenet121-res224-{name}": f"{data}-densenet121-d121-tw-lr001-rot45-tr15-sc15-seed0-best.pt"
    for name, data in {
        "all": "nih-pc-chex-mimic_ch-google-openi-kaggle",
        "rsna": "kaggle",
        "nih": "nih",
        "pc": "pc",
        "chex": "chex",
        "mimic_nb": "mimic_nb",
        "mimic_ch": "mimic_ch",
    }.items()
}
THRESHOLDS = "op_threshs"  # of the classifier's outputs
SIDE_PIXELS = 224
RANGE = 1024  # the library's images go from -1024 to 1024
STEPS = "gray, square from the middle, resized to 224 (bilinear), in [-1024, 1024]"


class XrayVisionEncoder(PublishedEncoder):
    """A DenseNet121 of TorchXRayVision.

    The library publishes whole pickled models, which are not read here: the file has to be a state dict.
    Resizing is Pillow's; the library's own, of scikit-image or torch, rounds otherwise.

    Args:
        kwargs: see PublishedEncoder and TorchEncoder.

    Raises:
        UserError: as PublishedEncoder, or another model.
    """

    library = "torchxrayvision"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if self.model not in FILES:
            raise UserError(f"encoder.model={self.model}: {choices(list(FILES))}")

    @property
    def distribution(self) -> str:
        """The PyPI name of the model library."""
        return "torchxrayvision"

    def place(self) -> Path | None:
        """Where the library keeps what it has downloaded."""
        return Path("~/.torchxrayvision/models_data").expanduser() / FILES[self.model]

    def signature(self) -> dict[str, Any]:
        """As every torch encoder."""
        self.require_packages()
        return super().signature()

    def require_packages(self) -> None:
        """As TorchEncoder: the library."""
        if importlib.util.find_spec("torchxrayvision") is None:
            raise UserError(
                f"encoder={self.name}: needs the package torchxrayvision; pip install "
                "'medretrieval[xrayvision]'"
            )

    def load(self, device: "torch.device") -> Loaded:
        """Build the model and read its weights.

        Raises:
            UserError: weights that are missing, pickled, or not exactly this model's.
        """
        self.require_packages()
        from torchxrayvision.models import DenseNet

        file = self.file
        module = DenseNet()
        if file is not None:
            state = {name: tensor for name, tensor in self._read(file).items() if name != THRESHOLDS}
            module.load_state_dict(strict_state(file, state, module.state_dict(), self.model))
        module = module.eval().to(device)
        return Loaded(
            module=module,
            features=lambda pixels: module.features2(pixels[:, :1] * RANGE),
            transform=_transform(),
            preprocessing={"steps": STEPS},
            pooling="mean",
            weights_sha256=self.weights_hash(file, module),
        )

    def _read(self, file: Path) -> dict[str, "torch.Tensor"]:
        try:
            return read_state(file)
        except UserError as error:
            raise UserError(
                f"encoder={self.name}: {file} is not a state dict; the library's files are pickled models, "
                "which run code as they are opened and are not opened here. If you trust the file, convert "
                "it once: import torch; torch.save(torch.load(FILE, weights_only=False).state_dict(), NEW), "
                "and give encoder.checkpoint=NEW"
            ) from error


def _transform() -> Any:
    from torchvision.transforms import Compose, Normalize, Resize, ToTensor

    # Gives -1 to 1, which the features scale to the library's range.
    steps = [Gray(), CropSquare(), Resize((SIDE_PIXELS, SIDE_PIXELS), antialias=True)]
    return Compose([*steps, ToTensor(), Normalize([0.5] * 3, [0.5] * 3)])
