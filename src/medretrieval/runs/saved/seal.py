"""Whether a run's folder holds what the run wrote: SHA-256 of every file, in manifest.json, and of that file.

Who changes a file and the sums of it leaves no trace here; `verify` recomputes the numbers for that.
"""

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from medretrieval.cache.entry import canonical_sha256, kept_sha256
from medretrieval.errors import UserError
from medretrieval.files import file_sha256
from medretrieval.runs.folder import LINKED, MANIFEST, MLFLOW_SOURCE, read_json
from medretrieval.runs.manifest import Manifest

OWN = "sha256"  # the key of manifest.json's own sum
_unverified: ContextVar[bool] = ContextVar("unverified", default=False)


@contextlib.contextmanager
def unverified() -> Iterator[None]:
    """Within the block `require_as_written` refuses nothing."""
    before = _unverified.set(True)
    try:
        yield
    finally:
        _unverified.reset(before)


def sealed(manifest: Manifest, aside: Path) -> str:
    """The text of manifest.json for files that lie in a folder.

    Args:
        manifest: all but the sums.
        aside: the folder; links count as what they lead to.
    """
    files = {
        path.relative_to(aside).as_posix(): kept_sha256(path.resolve()) or file_sha256(path)
        for path in sorted(aside.rglob("*"))
        if path.is_file()
    }
    whole = dataclasses.replace(manifest, files=files, sha256="")
    return dataclasses.replace(whole, sha256=_own_sum(json.loads(whole.to_text()))).to_text()


def problems(folder: Path, links: bool = False, source: str | None = None) -> list[str]:
    """Files of a finished run that are not those that it wrote, a sentence each.

    Args:
        folder: the run's folder, of this results format.
        links: whether files that it links to in the cache are read too; these may be large.
        source: what to call the run in messages; of one that is in MLflow not every file is here.

    Raises:
        UserError: no finished run, or a manifest.json that is no JSON.
    """
    document = read_json(folder, MANIFEST, source)
    if document.get(OWN) != _own_sum(document):
        return [f"{MANIFEST} was changed after the run had written it"]
    found = []
    for name, wanted in document["files"].items():
        path = folder / name
        if not links and (path.is_symlink() or (name in LINKED and not path.exists())):
            continue  # what lies in the cache has sums there, and who needs it says that it is gone
        if not path.exists():
            if source is None or not source.startswith(MLFLOW_SOURCE):
                found.append(f"{name} is gone")
        elif not path.is_file():
            found.append(f"{name} is no file any more")
        elif file_sha256(path) != wanted:
            found.append(f"{name} is not the file that the run wrote")
    return found


def require_as_written(folder: Path, source: str | None = None) -> None:
    """Refuse a run whose files are not those of its manifest.json.

    Args:
        folder: the run's folder, of this results format.
        source: what to call the run in messages; None for its folder.

    Raises:
        UserError: naming the first of them.
    """
    if _unverified.get():
        return
    found = problems(folder, source=source)
    if found:
        more = f" ({len(found) - 1} more)" if len(found) > 1 else ""
        named = (source or str(folder)).removeprefix(MLFLOW_SOURCE)
        raise UserError(
            f"{source or folder}: {found[0]}{more}; repeat the run with: medretrieval again {named}, or use "
            "it as it is with --unverified"
        )


def _own_sum(document: dict[str, Any]) -> str:
    return canonical_sha256({key: value for key, value in document.items() if key != OWN})
