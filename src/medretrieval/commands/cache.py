"""The verb `cache`: what is kept between runs, whether it is whole, and making room."""

from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from medretrieval.cache import maintenance as keep
from medretrieval.config import expand, root
from medretrieval.errors import UserError, choices
from medretrieval.runs.tables import table

GB = 10**9
KEEP = "--keep-gb"
PLACE = "paths.cache="
SHORT_KEY = 12


def main(arguments: list[str]) -> int:
    """Do `list`, `verify`, `prune --keep-gb N` or `path`; returns the exit code.

    Args:
        arguments: the action, its options, and paths.cache=<folder> for another cache than the default.

    Raises:
        UserError: no such action or option, or a cache that cannot be changed.
    """
    if not arguments or arguments[0] not in ACTIONS:
        said = f"cache {arguments[0]}: there is no such action" if arguments else "cache: wants an action"
        raise UserError(f"{said}; {choices(list(ACTIONS))}")
    places = [a.removeprefix(PLACE) for a in arguments[1:] if a.startswith(PLACE)]
    options = [a for a in arguments[1:] if not a.startswith(PLACE)]
    place = expand(places[-1] if places else _default())
    try:
        return ACTIONS[arguments[0]](place, options)
    except OSError as error:
        where = error.filename or place
        raise UserError(f"{where}: {error.strerror}; {PLACE}<folder> names a cache of your own") from error


def _default() -> str:
    """paths.cache as conf/config.yaml has it, with MEDRETRIEVAL_CACHE."""
    return str(OmegaConf.load(root() / "conf" / "config.yaml").paths.cache)


def _path(place: Path, options: list[str]) -> int:
    _no_options("path", options)
    print(place)
    return 0


def _list(place: Path, options: list[str]) -> int:
    _no_options("list", options)
    found = keep.contents(place)
    kept, left = [k for k in found if not k.leftover], [k for k in found if k.leftover and k.size]
    if kept:
        print("\n".join(table(["last used", "size", "kind", "key", "made from"], [_row(k) for k in kept])))
    print(f"{_count(len(kept), 'entry', 'entries')}, {_bytes(sum(k.size for k in kept))}, in {place}")
    if left:
        size = _bytes(sum(k.size for k in left))
        print(f"{_count(len(left), 'leftover', 'leftovers')}, {size}: medretrieval cache prune removes them")
    return 0


def _verify(place: Path, options: list[str]) -> int:
    _no_options("verify", options)
    damaged: list[Path] = []

    def report(folder: Path, file: str) -> None:
        damaged.append(folder)
        print(f"{folder}: {file} is damaged; a run that wants it makes it again")

    whole = keep.damages(place, report)
    print(f"{_count(whole, 'entry', 'entries')} whole, {len(damaged)} damaged, in {place}")
    return 1 if damaged else 0


def _prune(place: Path, options: list[str]) -> int:
    done = keep.prune(place, round(_keep(options) * GB))
    print(
        f"{_count(done.removed, 'thing', 'things')} removed, {_bytes(done.freed)} freed, "
        f"{_bytes(done.size)} left in {place}"
    )
    if done.in_use:
        print(f"{_count(done.in_use, 'entry', 'entries')} stayed: another process is making them")
    return 0


def _keep(options: list[str]) -> float:
    words = [word for option in options for word in option.split("=", 1)]
    if len(words) != 2 or words[0] != KEEP:
        raise UserError(f"cache prune wants {KEEP} N: how many GB (10^9 bytes) may stay")
    try:
        wanted = float(words[1])
    except ValueError:
        wanted = -1.0
    if not 0 <= wanted < float("inf"):
        raise UserError(f"{KEEP} {words[1]}: must be a number of GB, 0 or more")
    return wanted


def _no_options(action: str, options: list[str]) -> None:
    if options:
        raise UserError(f"cache {action} {options[0]}: no such option; choose from: {PLACE}<folder>")


def _row(kept: keep.Kept) -> list[str]:
    day = f"{datetime.fromtimestamp(kept.used):%Y-%m-%d %H:%M}" if kept.used else "never"
    return [day, _bytes(kept.size), kept.kind, kept.place.name[:SHORT_KEY], _origin(kept)]


def _origin(kept: keep.Kept) -> str:
    """What made an entry, in words."""
    if kept.outdated:
        return "an older version; no run uses it"
    try:
        entries = kept.entries
        about = keep.about(entries[0])
        made, facts = about["made_from"], about["facts"]
        if kept.unfinished:
            return f"{_encoder(made['encoder'])} · unfinished, {_count(len(entries), 'shard', 'shards')}"
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
    "texts": lambda made, _: f"{_encoder(made['encoder'])} · {_count(len(made['texts']), 'text', 'texts')}",
    "queries": lambda made, _: f"prompts, {made['use']} · texts {made['texts'][:SHORT_KEY]}",
    "centered": lambda made, _: (
        f"{' '.join(made['mean_of'])} {made['embeddings'][:SHORT_KEY]} less their mean"
    ),
    "identities": lambda made, _: _encoder(made["signature"]),
}


def _count(n: int, one: str, many: str) -> str:
    return f"{n} {one if n == 1 else many}"


def _bytes(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


ACTIONS: dict[str, Callable[[Path, list[str]], int]] = {
    "list": _list,
    "path": _path,
    "prune": _prune,
    "verify": _verify,
}
