"""`medretrieval --dry-run ...`: Hydra composes the run, or the runs of a sweep, and each is only planned."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medretrieval.commands.parts.amounts import bytes_text, count_text
from medretrieval.errors import UserError

if TYPE_CHECKING:
    from medretrieval.dry_run import RunPlan, SidePlan

DRY_RUN, JSON = "--dry-run", "--json"
ALL_COMBINATIONS = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"


def hydra_words(arguments: Sequence[str], aside: Path) -> list[str]:
    """The words for Hydra: those of the command line, one job after the other, and what it writes set aside.

    Args:
        arguments: of the command line.
        aside: an empty folder, thrown away afterwards.
    """
    ours = (DRY_RUN, JSON)
    kept = [
        w for w in arguments if w not in ours and not w.startswith(("hydra/launcher=", "hydra.launcher."))
    ]
    places = [f"hydra.{kind}.dir='{aside}'" for kind in ("run", "sweep")]
    added = [*places, "hydra.output_subdir=null", "~hydra.callbacks.medretrieval"]
    # Right behind the last override: Hydra's parser wants all of them in a row, and the last of a key counts.
    overrides = [i for i, word in enumerate(kept) if "=" in word and not word.startswith("-")]
    end = overrides[-1] + 1 if overrides else len(kept)
    return [*kept[:end], *added, *kept[end:]]


@dataclass
class Plans:
    """What the jobs of a command would do, collected as Hydra calls them.

    Attributes:
        explain: the one line for an exception that the user can mend; None for a bug.
        runs: a plan, or the reason why that run would fail.
    """

    explain: Callable[[BaseException], UserError | None]
    runs: "list[RunPlan | str]" = field(default_factory=list)

    def add(self, cfg: Any) -> float:
        """Plan one job; the task function of Hydra.

        Raises:
            UserError: a sweep that decides by the scores what to run next.
        """
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode

        from medretrieval.dry_run import plan

        hydra = HydraConfig.get()
        if hydra.mode == RunMode.MULTIRUN and hydra.sweeper["_target_"] != ALL_COMBINATIONS:
            raise UserError(
                f"{DRY_RUN}: this sweeper chooses its runs by their scores; a dry run takes sweeps over all "
                "combinations"
            )
        try:
            self.runs.append(plan(cfg))
        except Exception as error:
            line = self.explain(error)
            if line is None:
                raise
            self.runs.append(str(line))
        return 0.0

    @property
    def failing(self) -> bool:
        """Whether a run would fail."""
        return any(isinstance(run, str) for run in self.runs)

    def text(self) -> str:
        """The plans for the terminal."""
        return "\n".join(["dry run: nothing is embedded, written or tracked", "", *self._lines(), ""])

    def document(self) -> dict[str, Any]:
        """The plans as JSON values.

        runs (title, finished: the folder that has its results or null, identified, failure: a line or null),
        embeddings (encoder, split, roles, images, to_embed, in_cache, seconds or null, bytes or null), each
        once however many runs use it, and seconds and bytes: of what is to be embedded, null where not known.
        """
        sides = self._sides()
        return {
            "runs": [
                {"title": None, "finished": None, "identified": None, "failure": run}
                if isinstance(run, str)
                else {
                    "title": run.title,
                    "finished": None if run.finished is None else str(run.finished),
                    "identified": run.identified,
                    "failure": None,
                }
                for run in self.runs
            ],
            "embeddings": [
                {
                    "encoder": side.encoder,
                    "split": side.split,
                    "roles": roles,
                    "images": side.images.images,
                    "to_embed": side.images.missing,
                    "in_cache": side.images.kept,
                    "seconds": side.seconds,
                    "bytes": side.new_bytes,
                }
                for side, roles in sides
            ],
            "seconds": _total([side.seconds for side, _ in sides]),
            "bytes": _total([side.new_bytes for side, _ in sides]),
        }

    def _planned(self) -> "list[RunPlan]":
        """The runs that would be run."""
        return [run for run in self.runs if not isinstance(run, str) and run.finished is None]

    def _sides(self) -> "list[tuple[SidePlan, list[str]]]":
        """What the runs embed, each split of each encoder once, with its roles."""
        found: dict[str, tuple[SidePlan, list[str]]] = {}
        for run in self._planned():
            for side in run.sides:
                roles = found.setdefault(side.images.key, (side, []))[1]
                if side.role not in roles:
                    roles.append(side.role)
        return list(found.values())

    def _lines(self) -> list[str]:
        lines = [self._run_line(number, run) for number, run in enumerate(self.runs, 1)]
        planned, sides = self._planned(), self._sides()
        if not planned:
            return [*lines, "", "nothing to run"]
        return [*lines, "", *_embeddings_table(sides), *_unknown_lines(planned), "", *_totals(planned, sides)]

    def _run_line(self, number: int, run: "RunPlan | str") -> str:
        head = f"run {number}/{len(self.runs)}  " if len(self.runs) > 1 else ""
        if isinstance(run, str):
            return f"{head}would fail: {run}"
        done = (
            ""
            if run.finished is None
            else f"  (finished already in {run.finished}; force=true runs it again)"
        )
        return f"{head}{run.title}{done}"


def _embeddings_table(sides: "Sequence[tuple[SidePlan, list[str]]]") -> list[str]:
    from medretrieval.runs.tables import table

    rows = [
        [
            side.encoder,
            side.split,
            ", ".join(roles),
            str(side.images.images),
            "in the cache" if side.images.kept else str(side.images.missing),
            "-" if side.images.missing == 0 else _time(side.seconds),
        ]
        for side, roles in sides
    ]
    return table(["encoder", "split", "role", "images", "to embed", "time"], rows)


def _unknown_lines(planned: "Sequence[RunPlan]") -> list[str]:
    """What the table does not know, and where its rates are from."""
    sides = [side for run in planned for side in run.sides if side.images.missing]
    rates = {side.encoder: side.rate for side in sides if side.rate is not None}
    lines = [
        f"{name}: {rate.images_per_s:.1f} images/s when {rate.split} was embedded ({rate.made_at[:10]})"
        for name, rate in rates.items()
    ]
    new = dict.fromkeys(s.encoder for run in planned if not run.identified for s in run.sides)
    lines += [
        f"{name}: not used with this cache yet, so how fast it is and how long its vectors are is unknown"
        for name in new
    ]
    slow = dict.fromkeys(side.encoder for side in sides if side.rate is None and side.encoder not in new)
    lines += [f"{name}: has embedded nothing in this cache yet, so its speed is unknown" for name in slow]
    sentences = max(run.sentences for run in planned)
    return lines + ([f"sentences: {sentences}"] if sentences else [])


def _totals(planned: "Sequence[RunPlan]", sides: "Sequence[tuple[SidePlan, list[str]]]") -> list[str]:
    known = {run.index.key: run.index.new_bytes for run in planned if run.index is not None}
    indexes = [*known.values(), *(None for run in planned if run.index is None)]
    similar = [run.similar for run in planned]
    like = next((run for run in similar if run is not None), None)
    source = f" (as in runs of this dataset, protocol and index, such as {like.folder})" if like else ""
    others = [None if run is None else run.other_s for run in similar]
    folders = [None if run is None else run.size for run in similar]
    return [
        f"time of embedding: {_sum([side.seconds for side, _ in sides], _time)}",
        f"time of everything else: {_sum(others, _time)}{source}",
        f"disk, in the cache: embeddings {_sum([side.new_bytes for side, _ in sides], _size)}, "
        f"indexes {_sum(indexes, _size)}",
        f"disk, in {count_text(len(planned), 'run folder')}: {_sum(folders, _size)}",
    ]


def _total(parts: Sequence[float | None]) -> float | None:
    """The sum; None where a part is not known."""
    known = [part for part in parts if part is not None]
    return sum(known) if len(known) == len(parts) else None


def _sum(parts: Sequence[float | None], text: Callable[[float | None], str]) -> str:
    """The sum of what is known, in words."""
    known = [part for part in parts if part is not None]
    unknown = len(parts) - len(known)
    if not known or not unknown:
        return text(_total(parts))
    return f"{text(sum(known))}, and {unknown} of {len(parts)} unknown"


def _time(seconds: float | None) -> str:
    from medretrieval.sweep.progress import in_words

    if seconds is None:
        return "unknown"
    return in_words(seconds) if seconds else "none"


def _size(size: float | None) -> str:
    return "unknown" if size is None else bytes_text(size)
