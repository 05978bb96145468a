"""An adaptation that an earlier run has fitted, used as it is."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medretrieval.adapt.base import Adaptation, Choice, FitData
from medretrieval.adapt.fit import read_tensors
from medretrieval.encoders.base import Encoder
from medretrieval.encoders.composed.composed import Tensors
from medretrieval.errors import UserError
from medretrieval.files import file_sha256
from medretrieval.instantiate import instantiate, require_known_code

OWN = "medretrieval.adapt."  # a file may name no other code


class SavedAdaptation(Adaptation):
    """What an earlier run fitted: its adaptation.safetensors. Nothing is fitted or chosen again.

    Args:
        name: short name.
        file: adaptation.safetensors of a run's folder.

    Raises:
        UserError: no such file, or one that names code from elsewhere.
    """

    def __init__(self, name: str, file: str) -> None:
        super().__init__(name, refits=0, seed=0)
        path = Path(file).expanduser()
        if not path.is_file():
            raise UserError(f"adapt.file={file}: there is no such file; give adaptation.safetensors of a run")
        self.file, self.file_digest = path, file_sha256(path)
        self.tensors, self.about = read_tensors(path)
        node: Any = self.about.get("adapt")
        if not isinstance(node, dict) or not str(node.get("_target_", "")).startswith(OWN):
            raise UserError(
                f"adapt.file={file}: names no adaptation of medretrieval; give that of a run's folder"
            )
        require_known_code(node, path, "adapt")
        self.inner = instantiate(node, Adaptation, "adapt")  # type: ignore[type-abstract]
        self.serves_text = self.inner.serves_text

    def signature(self) -> dict[str, Any]:
        """The file's hash."""
        return super().signature() | {"file_sha256": self.file_digest}

    @property
    def choice(self) -> Mapping[str, Any]:
        """The values that were chosen then."""
        return dict(self.about.get("choice") or {})

    def require_same(self, identity_sha256: str, encoder: str) -> None:
        """Refuse vectors of another encoder than the file was fitted to.

        Raises:
            UserError: naming both.
        """
        if self.about.get("encoder") != identity_sha256:
            raise UserError(
                f"adapt.file={self.file}: was fitted to the vectors of "
                f"encoder={self.about.get('encoder_name')} "
                f"(its weights, preprocessing and view), and this run's encoder={encoder} is another; use "
                "that "
                "encoder with the same options, or fit anew"
            )

    def origin(self, about: Mapping[str, Any]) -> Mapping[str, Any]:
        """What the saved file says: it was fitted to other images than this run's train, perhaps."""
        return self.about

    def fit(self, data: FitData, choice: Choice, seed: int) -> Tensors:
        """What the file holds."""
        return self.tensors

    def adapted(self, encoder: Encoder, fitted: Tensors, digest: str) -> Encoder:
        """As the adaptation that was saved."""
        return self.inner.adapted(encoder, fitted, digest)
