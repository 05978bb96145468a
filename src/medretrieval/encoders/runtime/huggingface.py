"""What encoders take from transformers: where files are, strict loading, tokenizers, sentences to vectors.

No code from a repository is run (`trust_remote_code` stays off) and nothing is unpickled.
"""

import importlib.util
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medretrieval.encoders.runtime.weights import foreign, hub_file, hub_files
from medretrieval.errors import UserError, first_line

if TYPE_CHECKING:
    import torch

CONFIG = "config.json"
PREPROCESSOR = "preprocessor_config.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
TOKENIZER = (
    "tokenizer_config.json", "tokenizer.json", "vocab.txt", "vocab.json", "merges.txt", "spiece.model",
    "tokenizer.model", "special_tokens_map.json", "added_tokens.json",
)  # fmt: skip
TEXT_BATCH_SENTENCES = 256  # sentences at a time
# Numbers from 0 on that older versions of transformers saved with the weights; the model counts itself.
COUNTED = "position_ids"


@dataclass(frozen=True)
class Source:
    """Where a model's files are: a local folder, or a repository of the hub.

    Attributes:
        encoder: the encoder's name, for messages.
        model: the folder's path, or "owner/name".
        revision: a commit, tag or branch of the repository; None for its main branch.
    """

    encoder: str
    model: str
    revision: str | None = None

    @property
    def folder(self) -> Path | None:
        """The local folder; None for a repository.

        Raises:
            UserError: neither a folder that is there nor the name of a repository, or a folder's revision.
        """
        path = Path(self.model).expanduser()
        if path.is_dir():
            if self.revision is not None:
                raise UserError(
                    f"encoder.revision={self.revision}: only a repository of the hub has revisions, and "
                    f"encoder.model={self.model} is a folder; set it to null"
                )
            return path.absolute()
        if self.model.startswith(("/", ".", "~")) or not re.fullmatch(r"[\w.-]+/[\w.-]+", self.model):
            raise UserError(
                f"encoder.model={self.model}: no folder, and no repository of the hub; give owner/name, or a "
                f"folder with {CONFIG}, {PREPROCESSOR} and {WEIGHTS[0]}"
            )
        return None

    def file(self, *names: str) -> Path:
        """The first of some files that is there; of a repository from the hub's cache, else downloaded.

        Raises:
            UserError: none is there.
        """
        if self.folder is None:
            return hub_file(self.encoder, self.model, names, self.revision)
        for name in names:
            if (self.folder / name).is_file():
                return self.folder / name
        raise UserError(f"encoder.model={self.model}: that folder holds none of {', '.join(names)}")

    def tokenizer_folder(self) -> Path:
        """The folder of the tokenizer's files."""
        if self.folder is not None:
            return self.folder
        return hub_files(self.encoder, self.model, TOKENIZER, self.revision)


def require_transformers(encoder: str) -> None:
    """Refuse to go on without the package.

    Raises:
        UserError: how to install it.
    """
    if importlib.util.find_spec("transformers") is None:
        raise UserError(
            f"encoder={encoder}: needs the package transformers; pip install 'medretrieval[transformers]'"
        )


def filled(
    cls: Any,
    config: Any,
    state: Mapping[str, "torch.Tensor"],
    file: Path,
    prefix: str = "",
    aside: tuple[str, ...] = (),
) -> Any:
    """A model of transformers with exactly these weights, in float32 and evaluation mode.

    transformers itself maps names that it has changed since the file was written.

    Args:
        cls: the model's class.
        config: its configuration.
        state: tensors by name.
        file: where they are from, for messages.
        prefix: of the names of the model's tensors; others are left alone.
        aside: beginnings of names, after the prefix, of what the vector does not need: neither wanted nor
            refused.

    Raises:
        UserError: a tensor that is missing, left over or of another shape, by name.
    """
    tensors = {name: tensor for name, tensor in part(state, prefix).items() if not name.endswith(COUNTED)}
    with quiet():
        module, found = cls.from_pretrained(
            None, config=config, state_dict=tensors, output_loading_info=True, ignore_mismatched_sizes=True
        )
    wrong = [(name, "it has no tensor {!r}") for name in sorted(found["missing_keys"])]
    wrong += [(name, "it also has {!r}") for name in sorted(found["unexpected_keys"])]
    wrong += [
        (name, f"{{!r}} is {list(is_)}, not {list(wanted)}") for name, is_, wanted in found["mismatched_keys"]
    ]
    for name, detail in wrong:
        if not aside or not name.startswith(aside):
            raise UserError(foreign(file, cls.__name__, detail.format(prefix + name)))
    return module.float().eval()


def part(state: Mapping[str, "torch.Tensor"], prefix: str) -> dict[str, "torch.Tensor"]:
    """The tensors below a prefix, named without it."""
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' bars and reports: what matters of them is an error here."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def tokenizer_of(source: Source, kind: str = "AutoTokenizer") -> Any:
    """The tokenizer of a model.

    Args:
        source: where its files are.
        kind: the class of transformers that reads them.

    Raises:
        UserError: its files are missing or damaged, or want code of the repository's.
    """
    require_transformers(source.encoder)
    import transformers

    folder = source.tokenizer_folder()
    try:
        with quiet():
            return getattr(transformers, kind).from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
    except Exception as error:  # whatever is wrong with the files
        raise UserError(
            f"encoder={source.encoder}: no tokenizer can be read from {folder} ({first_line(error)})"
        ) from error


def sentences_to_vectors(
    ids: Sequence[Sequence[int]], embed: Callable[[NDArray[np.int64]], "torch.Tensor"]
) -> NDArray[np.float32]:
    """Embed tokenized sentences without padding: those of one length together.

    So a sentence's vector does not hang on the sentences beside it, where a model averages over padding too.

    Args:
        ids: tokens of each sentence, special ones included.
        embed: int64 [n, tokens] -> [n, dimension].

    Returns:
        float32 [sentences, dimension].
    """
    import torch

    rows: dict[int, NDArray[np.float32]] = {}
    for length in sorted({len(row) for row in ids}):
        places = [i for i, row in enumerate(ids) if len(row) == length]
        for begin in range(0, len(places), TEXT_BATCH_SENTENCES):
            part = places[begin : begin + TEXT_BATCH_SENTENCES]
            with torch.inference_mode():
                vectors = embed(np.array([ids[i] for i in part], np.int64)).float().cpu().numpy()
            rows |= dict(zip(part, vectors, strict=True))
    return np.stack([rows[i] for i in range(len(ids))])


def require_context(encoder: str, texts: Sequence[str], ids: Sequence[Sequence[int]], context: int) -> None:
    """Refuse a sentence that the text tower would cut.

    Raises:
        UserError: the sentence's beginning and how many tokens there may be.
    """
    for text, row in zip(texts, ids, strict=True):
        if len(row) > context:
            raise UserError(
                f"text={text[:40]!r}...: longer than the {context} tokens that encoder={encoder} reads; "
                "shorten it"
            )
