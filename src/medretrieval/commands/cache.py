"""The verb `cache`: what is kept between runs, whether it is whole, and making room."""

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medretrieval.commands.parts.amounts import bytes_text, count_text
from medretrieval.commands.words import JSON, Given, Option, Verb
from medretrieval.errors import UserError

if TYPE_CHECKING:
    from medretrieval.cache.maintenance import Kept

GB = 10**9
SHORT_KEY = 12


def _run(given: Given) -> int:
    place = _place(given)
    if given.action != "prune" and given.keep_gb is not None:
        raise VERB.refusal(f"--keep-gb: only for prune; {given.action} takes no such option")
    if given.action == "prune" and given.keep_gb is None:
        raise VERB.refusal("prune needs --keep-gb N: how many GB (10^9 bytes) may stay")
    try:
        return ACTIONS[given.action](place, given)
    except OSError as error:
        where = error.filename or place
        raise UserError(
            f"{where}: {error.strerror}; choose another cache with paths.cache=<folder>"
        ) from error


def _place(given: Given) -> Path:
    """The folder that is given, else paths.cache as conf/config.yaml has it, with MEDRETRIEVAL_CACHE."""
    from omegaconf import OmegaConf

    from medretrieval.config import expand, root

    if given.paths_cache is not None:
        return expand(str(given.paths_cache))
    return expand(str(OmegaConf.load(root() / "conf" / "config.yaml").paths.cache))


def _path(place: Path, given: Given) -> int:
    _print(given, {"cache": str(place)}, [str(place)])
    return 0


def _list(place: Path, given: Given) -> int:
    from medretrieval.cache.maintenance import contents
    from medretrieval.runs.tables import table

    found = contents(place)
    kept, left = [k for k in found if not k.leftover], [k for k in found if k.leftover and k.size]
    lines = table(["last used", "size", "kind", "key", "made from"], [_row(k) for k in kept]) if kept else []
    lines.append(
        f"{count_text(len(kept), 'entry', 'entries')}, {bytes_text(sum(k.size for k in kept))}, in {place}"
    )
    if left:
        size = bytes_text(sum(k.size for k in left))
        lines.append(
            f"{count_text(len(left), 'leftover', 'leftovers')}, {size}: medretrieval cache prune removes them"
        )
    leftovers = [{"path": str(k.path), "bytes": k.size} for k in left]
    _print(given, {"cache": str(place), "entries": [_entry(k) for k in kept], "leftovers": leftovers}, lines)
    return 0


def _verify(place: Path, given: Given) -> int:
    from medretrieval.cache.maintenance import damages

    damaged: list[dict[str, str]] = []

    def report(folder: Path, file: str) -> None:
        damaged.append({"entry": str(folder), "file": file})
        if not given.json:  # hashing takes its time: each as it is found
            print(f"{folder}: {file} is damaged; the next run that needs it makes it again")

    whole = damages(place, report)
    line = f"{count_text(whole, 'entry', 'entries')} whole, {len(damaged)} damaged, in {place}"
    _print(given, {"cache": str(place), "whole": whole, "damaged": damaged}, [line])
    return 1 if damaged else 0


def _prune(place: Path, given: Given) -> int:
    from medretrieval.cache.maintenance import prune

    done = prune(place, round(given.keep_gb * GB))
    lines = [
        f"{count_text(done.removed, 'item', 'items')} removed, {bytes_text(done.freed)} freed, "
        f"{bytes_text(done.size)} left in {place}"
    ]
    if done.in_use:
        lines.append(f"{count_text(done.in_use, 'entry', 'entries')} kept: another process is making them")
    content = {"cache": str(place), "removed": done.removed, "freed_bytes": done.freed}
    _print(given, content | {"left_bytes": done.size, "in_use": done.in_use}, lines)
    return 0


def _print(given: Given, content: Mapping[str, Any], lines: list[str]) -> None:
    print(json.dumps(content, indent=2) if given.json else "\n".join(lines))


def _entry(kept: "Kept") -> dict[str, Any]:
    used = datetime.fromtimestamp(kept.used, UTC).isoformat(timespec="seconds") if kept.used else None
    return {
        "kind": kept.kind,
        "key": kept.place.name,
        "path": str(kept.path),
        "bytes": kept.size,
        "last_used": used,
        "made_from": _origin(kept),
    }


def _row(kept: "Kept") -> list[str]:
    day = f"{datetime.fromtimestamp(kept.used):%Y-%m-%d %H:%M}" if kept.used else "never"
    return [day, bytes_text(kept.size), kept.kind, kept.place.name[:SHORT_KEY], _origin(kept)]


def _origin(kept: "Kept") -> str:
    """What made an entry, in words."""
    from medretrieval.cache.maintenance import about as read_about

    if kept.outdated:
        return "made by an older version; no run uses it"
    try:
        entries = kept.entries
        about = read_about(entries[0])
        made, facts = about["made_from"], about["facts"]
        if kept.unfinished:
            return f"{_encoder(made['encoder'])} · unfinished, {count_text(len(entries), 'shard', 'shards')}"
        return ORIGINS[kept.kind](made, facts) if kept.kind in ORIGINS else ""
    except (LookupError, TypeError, AttributeError):
        return "unreadable"


def _encoder(identity: Mapping[str, Any]) -> str:
    said = [str(identity[k]) for k in ("kind", "model", "precision") if identity.get(k) is not None]
    return " ".join(said) or next((str(v) for v in identity.values()), "encoder")


ORIGINS: dict[str, Callable[[Mapping[str, Any], Mapping[str, Any]], str]] = {
    "embeddings": lambda made, facts: (
        f"{_encoder(made['encoder'])} · {made['split']} · {facts['shape'][0]} x {facts['shape'][1]}"
    ),
    "indexes": lambda made, _: (
        f"{made['factory']} · {made['metric']['name']} · embeddings {made['embeddings'][:SHORT_KEY]}"
    ),
    "baselines": lambda made, _: (
        f"{_encoder(made['encoder'])} · {made['protocol']['name']} · {made['metric']['name']}"
    ),
    "audits": lambda made, _: (
        f"embeddings {' and '.join(dict.fromkeys(k[:SHORT_KEY] for k in made['embeddings']))}"
    ),
    "fidelities": lambda made, _: _encoder(made["encoder"]),
    "novelty": lambda made, _: (
        f"{made['metric']['name']} · embeddings with SHA-256 {made['embeddings_sha256'][:SHORT_KEY]}"
    ),
    "maps": lambda made, _: (
        f"{made['method']} · embeddings {', '.join(key[:SHORT_KEY] for key in made['embeddings'].values())}"
    ),
    "texts": lambda made, _: (
        f"{_encoder(made['encoder'])} · {count_text(len(made['texts']), 'text', 'texts')}"
    ),
    "queries": lambda made, _: f"prompts, {made['use']} · texts {made['texts'][:SHORT_KEY]}",
    "centered": lambda made, _: (
        f"{' '.join(made['mean_of'])} {made['embeddings'][:SHORT_KEY]} minus their mean"
    ),
    "identities": lambda made, _: _encoder(made["signature"]),
}


ACTIONS: dict[str, Callable[[Path, Given], int]] = {
    "list": _list,
    "verify": _verify,
    "prune": _prune,
    "path": _path,
}

VERB = Verb(
    "cache",
    usage=("list|verify|path [key=value ...]", "prune --keep-gb N [key=value ...]"),
    options=(
        Option(
            "action",
            "list: show the entries, the least recently used first; verify: compare files with their hashes, "
            "exit code 1 if one is damaged; prune: remove leftovers, then the least recently used entries "
            "until no more than --keep-gb are left; path: show where the cache is. The word alone, without "
            "action=, is enough",
            choices=tuple(ACTIONS),
            needed=True,
        ),
        Option("--keep-gb", "for prune: how many GB (10^9 bytes) may stay", "N", float, unset="none"),
        Option(
            "paths.cache",
            "folder of the cache",
            "<folder>",
            Path,
            unset="MEDRETRIEVAL_CACHE, or ~/.cache/medretrieval",
        ),
        JSON,
    ),
    run=_run,
    examples=("medretrieval cache list", "medretrieval cache prune --keep-gb 20"),
    bare="action",
)
