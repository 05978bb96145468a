"""How the benchmark measures: two ways of one task by turns in one process, and ratios with their spread."""

import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Row:
    """A task done in two ways.

    Attributes:
        what: the task, and "base / ours".
        base, ours: median seconds.
        ratio, low, high: base over ours: median, least and most of the turns.
        note: what else was read off.
    """

    what: str
    base: float
    ours: float
    ratio: float
    low: float
    high: float
    note: str = ""

    @property
    def cells(self) -> list[str]:
        spread = f"{self.low:.2f} .. {self.high:.2f}"
        return [self.what, f"{self.base:.4g}", f"{self.ours:.4g}", f"{self.ratio:.2f}", spread, self.note]


HEADER = ["what (base / ours)", "base", "ours", "ratio", "spread", "note"]


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def by_turns(
    what: str, base: Callable[[], object], ours: Callable[[], object], turns: int = 3, note: str = ""
) -> Row:
    """Time two calls alternately, after one turn of each that does not count."""
    base(), ours()
    pairs = [(seconds(base), seconds(ours)) for _ in range(turns)]
    return row(what, pairs, note)


def row(what: str, pairs: list[tuple[float, float]], note: str = "") -> Row:
    ratios = [a / b for a, b in pairs]
    return Row(
        what,
        statistics.median(a for a, _ in pairs),
        statistics.median(b for _, b in pairs),
        statistics.median(ratios),
        min(ratios),
        max(ratios),
        note,
    )


def peak_mib() -> float:
    """The most memory this process has held so far."""
    # Linux hands ru_maxrss down from the parent; VmHWM is the process's own.
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.exists() else []:
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
        1024**2 if sys.platform == "darwin" else 1024
    )
