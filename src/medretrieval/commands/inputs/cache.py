"""The verb `cache`: what is kept between runs, whether it is whole, and making room."""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medretrieval.commands.parts.amounts import bytes_text, count_text
from medretrieval.commands.words import JSON, OUTPUTS, Given, Option, Verb
from medretrieval.errors import UserError

if TYPE_CHECKING:
    from medretrieval.cache.maintenance import Kept, Pruned

GB = 10**9
SHORT_KEY = 12
SHOWN_RUNS = 20  # that lose something, in the text


def _run(given: Given) -> int:
    place = _place(given)
    for name, value in (
        ("--keep-gb", given.keep_gb),
        ("--dry-run", given.dry_run),
        ("outputs=", given.outputs),
    ):
        if given.action != "prune" and value not in (None, False):
            raise VERB.refusal(f"{name}: only for prune; {given.action} takes no such option")
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
    from medretrieval.cache.maintenance import contents, hash_memories

    found = contents(place)
    kept, left = [k for k in found if not k.leftover], [k for k in found if k.leftover and k.size]
    lines = _table(kept) if kept else []
    lines.append(
        f"{count_text(len(kept), 'entry', 'entries')}, {bytes_text(sum(k.size for k in kept))}, in {place}"
    )
    if left:
        size = bytes_text(sum(k.size for k in left))
        lines.append(
            f"{count_text(len(left), 'leftover', 'leftovers')}, {size}: medretrieval cache prune removes them"
        )
    if known := hash_memories(place):
        size = bytes_text(sum(path.stat().st_size for path in known))
        lines.append(
            f"{size} beside them: hashes of the files of {count_text(len(known), 'dataset')}, which need not "
            "be read again; pruning leaves them"
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
    from medretrieval.runs.saved.links import losing

    outputs = given.outputs or Path(str(OUTPUTS.default))
    done = prune(place, round(given.keep_gb * GB), dry_run=given.dry_run)
    lost = losing(outputs, [kept.path for kept in done.removed])
    items = count_text(len(done.removed), "item")
    if given.dry_run:
        lines = [*_doomed_table(done), f"{items} would be removed, {bytes_text(done.freed)} would be freed, "]
    else:
        lines = [f"{items} removed, {bytes_text(done.freed)} freed, "]
    lines[-1] += f"{bytes_text(done.size)} left in {place}"
    if done.in_use:
        lines.append(f"{count_text(done.in_use, 'entry', 'entries')} kept: another process is making them")
    lines += _lost_lines(lost, outputs, given.dry_run)
    content = {
        "cache": str(place),
        "dry_run": given.dry_run,
        "removed": len(done.removed),
        "freed_bytes": done.freed,
        "left_bytes": done.size,
        "in_use": done.in_use,
        "entries": [_entry(kept) for kept in done.removed if given.dry_run and not kept.leftover],
        "losing": {str(folder): names for folder, names in lost.items()},
    }
    _print(given, content, lines)
    return 0


def _doomed_table(doomed: "Pruned") -> list[str]:
    """What would go, the least recently used first; leftovers as one number."""
    entries = [kept for kept in doomed.removed if not kept.leftover]
    left = [kept for kept in doomed.removed if kept.leftover and kept.size]
    lines = _table(entries) if entries else []
    if left:
        lines.append(f"{count_text(len(left), 'leftover')}, {bytes_text(sum(kept.size for kept in left))}")
    return lines


def _lost_lines(lost: Mapping[Path, list[str]], outputs: Path, dry_run: bool) -> list[str]:
    """Which runs lose which of their links."""
    if not lost:
        return [f"no run in {outputs} links to {'it' if dry_run else 'what is gone'}"]
    verb = "would lose" if dry_run else "lost"
    lines = [
        f"{count_text(len(lost), 'run')} in {outputs} {verb} what they link to (scores and rankings stay; "
        "medretrieval again <run> makes it again):"
    ]
    lines += [f"  {folder}: {', '.join(names)}" for folder, names in list(lost.items())[:SHOWN_RUNS]]
    return [*lines, f"  and {len(lost) - SHOWN_RUNS} more"] if len(lost) > SHOWN_RUNS else lines


def _table(kept: "Sequence[Kept]") -> list[str]:
    from medretrieval.runs.tables import table

    header = ["last used", "size", "kind", "key", "made from"]
    return table(header, [_row(k) for k in kept], words=("last used", "key"))


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
            maker = _encoder(made["encoder"]) if "encoder" in made else _decoding(made["decoding"])
            return f"{maker} · unfinished, {count_text(len(entries), 'shard', 'shards')}"
        return ORIGINS[kept.kind](made, facts) if kept.kind in ORIGINS else ""
    except (LookupError, TypeError, AttributeError):
        return "unreadable"


def _encoder(identity: Mapping[str, Any]) -> str:
    said = [str(identity[k]) for k in ("kind", "model", "view", "precision") if identity.get(k) is not None]
    return " ".join(said) or next((str(v) for v in identity.values()), "encoder")


def _decoding(rule: Mapping[str, Any]) -> str:
    color = "gray" if rule["channels"] == 1 else "RGB"
    return f"files to {rule['size']} px, {color}, fit {rule['fit']}, frames {rule['frames']}"


ORIGINS: dict[str, Callable[[Mapping[str, Any], Mapping[str, Any]], str]] = {
    "embeddings": lambda made, facts: (
        f"{_encoder(made['encoder'])} · {made['split']} · {facts['shape'][0]} x {facts['shape'][1]}"
    ),
    "decoded": lambda made, facts: (
        f"{_decoding(made['decoding'])} · {count_text(facts['shape'][0], 'image')}"
    ),
    "indexes": lambda made, _: (
        f"{made['factory']} · {made['metric']['name']} · embeddings {made['embeddings'][:SHORT_KEY]}"
    ),
    "neighbors": lambda made, _: (
        f"{made['k']} a vector, {made.get('method', 'lists')} · embeddings {made['vectors'][0][:SHORT_KEY]}"
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
    usage=("list|verify|path [key=value ...]", "prune --keep-gb N [--dry-run] [key=value ...]"),
    options=(
        Option(
            "action",
            "list: show the entries, the least recently used first; verify: compare files with their hashes, "
            "exit code 1 if one is damaged; prune: remove leftovers, then the least recently used entries "
            "until no more than --keep-gb are left, and say which runs lose what; path: show where the cache "
            "is. The word alone, without action=, is enough",
            choices=tuple(ACTIONS),
            needed=True,
        ),
        Option("--keep-gb", "for prune: how many GB (10^9 bytes) may stay", "N", float, unset="none"),
        Option(
            "--dry-run",
            "for prune: show what would go and which runs would lose what, and remove nothing",
            type=bool,
            unset="remove it",
        ),
        Option(
            "outputs",
            "for prune: the folder that holds the runs which may lose something",
            "<folder>",
            Path,
            unset=str(OUTPUTS.default),
        ),
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
    examples=(
        "medretrieval cache list",
        "medretrieval cache prune --keep-gb 20 --dry-run",
        "medretrieval cache prune --keep-gb 20",
    ),
    bare="action",
)
