"""`make fuzz`: thousands of bad inputs, each in a sandbox, counted by how they end.

`python -m tests.fuzz inputs=5000 seed=0 [class ...]`. Exit code 1 where one ended in anything but the right
result or one line.
"""

import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from PIL import Image
from tests.fuzz.cases import CLASSES, OTHER, RUN, Cases
from tests.fuzz.sandbox import GOOD, Outcome, Sandbox
from tqdm import tqdm

from medretrieval import compose
from medretrieval.config import leaves

# Keys that say where things lie; what is written outside of the sandbox would be asked for.
NOT_DRAWN = ("paths.", "tracking.", "hydra.", "device", "threads")


def known_keys() -> list[str]:
    """The keys of the configuration that are drawn from."""
    from omegaconf import OmegaConf

    whole = OmegaConf.to_container(
        compose("dataset=breastmnist", "encoder=pixels", "index=ivf"), resolve=False
    )
    return [key for key in leaves(whole) if not key.startswith(NOT_DRAWN) and not key.endswith("_target_")]


def main(words: list[str]) -> int:
    """Draw inputs, run them, print what ended badly, and the counts."""
    asked = dict(word.split("=", 1) for word in words if "=" in word)
    wanted = [word for word in words if "=" not in word] or list(CLASSES)
    inputs, seed = int(asked.get("inputs", "5000")), int(asked.get("seed", "0"))
    limit = float(asked.get("minutes", "inf")) * 60
    counts: dict[str, Counter[Outcome]] = {name: Counter() for name in wanted}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        cases, sandbox = Cases(folder), Sandbox(folder)
        _finished_runs(cases, sandbox)
        keys, begin = known_keys(), time.monotonic()
        for number in tqdm(range(inputs), desc="inputs", disable=None):
            if time.monotonic() - begin > limit:
                break
            name = wanted[number % len(wanted)]
            rng = random.Random(f"{seed}/{name}/{number}")
            cases.restore()
            try:
                line = CLASSES[name](rng, cases, *([keys] if name == "keys" else []))
                ended = sandbox.run(line)
            except ValueError:  # no command line can hold that
                continue
            counts[name][ended.outcome] += 1
            if ended.outcome not in GOOD:
                print(f"\n== {name} {number}: {ended.outcome}\n{line}\n{ended.said}", flush=True)
        sandbox.close()
    print(table(counts))
    bad = [outcome for found in counts.values() for outcome in found.elements() if outcome not in GOOD]
    return int(bool(bad))


def _finished_runs(cases: Cases, sandbox: Sandbox) -> None:
    Image.new("L", (28, 28), 60).save(cases.folder / "query.png")
    for name, more in ((RUN, "metric=l2"), (OTHER, "metric=cosine")):
        ended = sandbox.run(cases.words(more, f"hydra.run.dir={cases.folder / name}"))
        if ended.outcome is not Outcome.DONE:
            sys.exit(f"the run that is to be damaged did not finish: {ended}")


def table(counts: dict[str, Counter[Outcome]]) -> str:
    """The counts of outcomes by class, as a Markdown table."""
    rows = ["| inputs | tried | " + " | ".join(Outcome) + " |", "| --- |" + " ---: |" * (len(Outcome) + 1)]
    for name, found in counts.items():
        counted = " | ".join(str(found[outcome]) for outcome in Outcome)
        rows.append(f"| {name} | {found.total()} | {counted} |")
    return "\n".join(rows)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
