"""A sentence encoder in the layout of sentence-transformers: a folder, or the zip file of a PyPI package.

Nothing of it is executed, unpickled or unpacked: its files are read as they lie.
"""

import functools
import hashlib
import importlib.metadata
import importlib.util
import json
import logging
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medretrieval.encoders.runtime.huggingface import (
    filled,
    quiet,
    require_transformers,
    sentences_to_vectors,
)
from medretrieval.encoders.runtime.weights import MissingWeightsError
from medretrieval.errors import UserError, first_line
from medretrieval.files import file_sha256
from medretrieval.vectors import l2_normalize

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

PACKAGE = "package:"
EXTRA = "pip install 'medretrieval[sentences]'"
MODULES, CONFIG, WEIGHTS, TOKENIZER = "modules.json", "config.json", "model.safetensors", "tokenizer.json"
PROMPTS = "config_sentence_transformers.json"
# Where the most tokens of a sentence stand: the first in files of sentence-transformers before 5.
LENGTHS = ("sentence_bert_config.json", "tokenizer_config.json")
TRANSFORMER, POOLING, NORMALIZE = STEPS = ("Transformer", "Pooling", "Normalize")
NEEDED = (MODULES, CONFIG, WEIGHTS, TOKENIZER)
OPTIONAL = (PROMPTS, *LENGTHS)
LIBRARIES = ("torch", "transformers", "tokenizers")


class ModelFiles:
    """The files of a model, in a folder or in a zip file.

    Args:
        place: the folder, or the zip file.

    Raises:
        UserError: a zip file that cannot be read.
    """

    def __init__(self, place: Path) -> None:
        self.place = place
        try:
            self._zip = zipfile.ZipFile(place) if place.is_file() else None
        except (OSError, zipfile.BadZipFile) as error:
            raise UserError(f"{place}: no zip file that can be read ({first_line(error)})") from error

    def __contains__(self, name: str) -> bool:
        return (self.place / name).is_file() if self._zip is None else name in self._zip.namelist()

    def read(self, name: str) -> bytes:
        """A file's content.

        Raises:
            UserError: it is not there, or is damaged.
        """
        if name not in self:
            raise UserError(
                f"encoder.sentences: {self.place} has no {name}, which the layout of "
                "sentence-transformers asks for"
            )
        try:
            return (self.place / name).read_bytes() if self._zip is None else self._zip.read(name)
        except (OSError, zipfile.BadZipFile, zipfile.zlib.error) as error:  # type: ignore[attr-defined]
            raise UserError(f"{self.place}: {name} cannot be read ({first_line(error)})") from error

    def json(self, name: str) -> Any:
        """A JSON file's content; an empty mapping where an optional one is not there.

        Raises:
            UserError: as `read`, or no JSON.
        """
        if name in OPTIONAL and name not in self:
            return {}
        try:
            return json.loads(self.read(name))
        except ValueError as error:
            raise UserError(f"{self.place}: {name} is no JSON ({first_line(error)})") from error


class SentenceEncoder:
    """Sentences to vectors: a transformer, the mean over its tokens, of length 1 where the model says so.

    Reimers and Gurevych 2019, "Sentence-BERT", arXiv:1908.10084. On torch in fp32, on the CPU. A sentence
    that is longer than the model reads is cut there, special tokens included, as sentence-transformers does
    and the card of all-MiniLM-L6-v2 says (256 word pieces); the log says how many were.

    Args:
        encoder: the encoder's name, for messages.
        where: "package:<module>" (its one zip file, found without importing the module) or a folder.

    Raises:
        UserError: (when its files are asked for) no such package or folder.
    """

    def __init__(self, encoder: str, where: str) -> None:
        self.encoder = encoder
        self.where = where

    @functools.cached_property
    def place(self) -> Path:
        """The folder, or the zip file of the package.

        Raises:
            UserError: there is none.
        """
        if not self.where.startswith(PACKAGE):
            folder = Path(self.where).expanduser().absolute()
            if not folder.is_dir():
                raise UserError(
                    f"encoder.sentences={self.where}: no such folder; give one in the layout of "
                    f"sentence-transformers, or {PACKAGE}<module>"
                )
            return folder
        module = self.where.removeprefix(PACKAGE)
        spec = importlib.util.find_spec(module) if module.isidentifier() else None
        if spec is None or spec.origin is None:
            raise MissingWeightsError(
                f"encoder={self.encoder}: its sentence encoder comes from a PyPI package with the module "
                f"{module}, which is not installed; {EXTRA}, or give a folder with encoder.sentences=<folder>"
            )
        files = sorted(Path(spec.origin).parent.rglob("*.zip"))
        if len(files) != 1:
            raise UserError(
                f"encoder.sentences={self.where}: the package holds {len(files)} zip files, not one"
            )
        return files[0]

    @functools.cached_property
    def files(self) -> ModelFiles:
        """What the model is made of."""
        return ModelFiles(self.place)

    def here(self) -> tuple[bool, str]:
        """As Encoder.here."""
        try:
            require_transformers(self.encoder)
            return True, "installed package" if self.place.is_file() else "folder"
        except UserError as error:
            return False, str(error)

    def signature(self) -> dict[str, Any]:
        """The hash of the zip file, or of each file in the folder that counts; loads no model."""
        require_transformers(self.encoder)
        if self.place.is_file():
            said: dict[str, Any] = {"file_sha256": file_sha256(self.place)}
        else:
            said = {f"{name}_sha256": file_sha256(self.place / name) for name in self._names}
        return said | {"versions": _versions()}

    def identity(self) -> dict[str, Any]:
        """The hash of each file that counts, wherever it lies, and the versions of what computes."""
        require_transformers(self.encoder)
        hashes = {f"{name}_sha256": hashlib.sha256(self.files.read(name)).hexdigest() for name in self._names}
        return hashes | {"versions": _versions()}

    @functools.cached_property
    def _steps(self) -> Mapping[str, str]:
        """Kind of step -> its folder, as modules.json says.

        Raises:
            UserError: steps that this class does not do.
        """
        said = self.files.json(MODULES)
        try:
            steps = [(str(step["type"]).rpartition(".")[2], str(step["path"])) for step in said]
        except (TypeError, KeyError) as error:
            raise UserError(f"{self.place}: {MODULES} is no list of steps with type and path") from error
        kinds = tuple(kind for kind, _ in steps)
        if kinds not in (STEPS, STEPS[:2]):
            raise UserError(
                f"encoder.sentences={self.where}: its steps are {', '.join(kinds)}; here a model may have "
                f"{', '.join(STEPS[:2])} and then {NORMALIZE}, in this order"
            )
        if steps[0][1]:
            raise UserError(
                f"encoder.sentences={self.where}: its {TRANSFORMER} lies in the folder {steps[0][1]}; it has "
                "to lie beside modules.json"
            )
        return dict(steps)

    @property
    def _pooling(self) -> str:
        return f"{self._steps[POOLING]}/{CONFIG}"

    @property
    def _names(self) -> tuple[str, ...]:
        """The files that change vectors."""
        return (*NEEDED, self._pooling, *(name for name in OPTIONAL if name in self.files))

    def _require_mean(self) -> None:
        """Refuse another pooling than the mean over tokens, and words put before each sentence."""
        said = self.files.json(self._pooling)
        older = [key for key, value in said.items() if key.startswith("pooling_mode_") and value is True]
        if said.get("pooling_mode", "mean") != "mean" or older not in ([], ["pooling_mode_mean_tokens"]):
            found = said.get("pooling_mode", ", ".join(older))
            raise UserError(
                f"encoder.sentences={self.where}: pools by {found}; here a model may pool by the mean"
            )
        if self.files.json(PROMPTS).get("default_prompt_name"):
            raise UserError(
                f"encoder.sentences={self.where}: puts a prompt before each sentence (default_prompt_name in "
                f"{PROMPTS}), which is not supported here"
            )

    @functools.cached_property
    def context(self) -> int:
        """The most tokens that are read of a sentence, special ones among them."""
        older, newer = (self.files.json(name) for name in LENGTHS)
        if isinstance(most := older.get("max_seq_length"), int):
            return most
        positions = self.files.json(CONFIG).get("max_position_embeddings")
        known = [n for n in (newer.get("model_max_length"), positions) if isinstance(n, int)]
        if not known:
            raise UserError(
                f"encoder.sentences={self.where}: none of its files says how long a sentence may be"
            )
        return min(known)

    @functools.cached_property
    def _tokenizer(self) -> Any:
        from tokenizers import Tokenizer

        try:
            tokenizer = Tokenizer.from_str(self.files.read(TOKENIZER).decode())
        except UserError:
            raise
        except Exception as error:  # whatever is wrong with the file
            raise UserError(f"{self.place}: {TOKENIZER} is no tokenizer ({first_line(error)})") from error
        tokenizer.no_padding()  # the file may ask for some, and for another length than the model's
        tokenizer.no_truncation()
        return tokenizer

    @functools.cached_property
    def _module(self) -> Any:
        """The transformer with exactly the file's weights; a pooler may be there, as it is not used."""
        import torch
        from safetensors.torch import load
        from transformers import AutoConfig, AutoModel

        self._require_mean()
        said = dict(self.files.json(CONFIG))
        try:
            config = AutoConfig.for_model(said.pop("model_type"), **said)
            with torch.device("meta"), quiet():
                cls = type(AutoModel.from_config(config, trust_remote_code=False))
        except Exception as error:  # an unknown or damaged configuration makes it raise anything
            raise UserError(
                f"encoder.sentences={self.where}: {CONFIG} is of no model that transformers builds "
                f"({first_line(error)})"
            ) from error
        content = self.files.read(WEIGHTS)
        try:
            state: dict[str, torch.Tensor] = load(content)
        except Exception as error:  # a damaged file makes the reader raise anything
            raise UserError(f"{self.place}: {WEIGHTS} cannot be read ({first_line(error)})") from error
        return filled(cls, config, state, self.place / WEIGHTS, aside=("pooler.",))

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed sentences; a sentence's vector does not depend on those beside it.

        Args:
            texts: at least one.

        Returns:
            float32 [n, dimension], of length 1 where the model has that step.

        Raises:
            UserError: a model that is not whole, or not of a kind that is supported.
        """
        require_transformers(self.encoder)
        import torch

        module, context = self._module, self.context
        uncut = [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]
        if cut := sum(len(row) > context for row in uncut):
            log.warning(
                "encoder=%s: of %d of %d sentences only the first %d tokens are read, as many as the "
                "sentence encoder takes", self.encoder, cut, len(texts), context,
            )  # fmt: skip
            self._tokenizer.enable_truncation(context)
            uncut = [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]
            self._tokenizer.no_truncation()

        def mean(ids: NDArray[np.int64]) -> "torch.Tensor":
            hidden: torch.Tensor = module(input_ids=torch.from_numpy(ids)).last_hidden_state
            return hidden.mean(dim=1)

        vectors = sentences_to_vectors(uncut, mean)
        return l2_normalize(vectors) if NORMALIZE in self._steps else vectors


def _versions() -> dict[str, str]:
    """Of what computes the vectors: another version may compute others."""
    return {name: importlib.metadata.version(name) for name in LIBRARIES}
