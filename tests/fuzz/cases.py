"""Classes of bad input. Each draws a command line, and prepares the files that it reads."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from tests.conftest import write_breastmnist
from tests.fuzz.values import damaged, factory, text, value

RUN, OTHER = "run", "other"  # finished runs that are copied and damaged
SMALL = (
    "dataset=breastmnist",
    "encoder=pixels",
    "encoder.side=8",
    "evaluation.ks=[1,3]",
    "evaluation.resamples=100",
    "evaluation.vote_k=3",
    "audit.enabled=false",
    "figures.enabled=false",
    "tracking=none",
    "force=true",
)
VERBS = (
    "verify",
    "again",
    "report",
    "log",
    "compare",
    "query",
    "explain",
    "confound",
    "identity",
    "list",
    "plan",
)
NAMES = (
    "Normal",
    "two\nlines",
    "3",
    "",
    " ",
    "a" * 255,
    "..",
    "ä",
    "true",
    "null",
    "a,b",
    "a=b",
    "\x1b[31m",
    "%d",
)


class Cases:
    """Where the files of the cases lie, and the finished runs that they damage.

    Args:
        folder: the sandbox's.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.out = folder, folder / "out"
        write_breastmnist(folder / "data", n=20)
        self.npz = (folder / "data" / "breastmnist.npz").read_bytes()

    def words(self, *more: str) -> list[str]:
        """A run of seconds into the sandbox."""
        return [*SMALL, f"paths.outputs={self.out}", *more]

    def restore(self) -> None:
        """Put back what a case has changed."""
        (self.folder / "data" / "breastmnist.npz").write_bytes(self.npz)
        for name in ("damaged", "conf", "pictures"):
            shutil.rmtree(self.folder / name, ignore_errors=True)

    def of_run(self, rng: random.Random, folder: Path) -> list[str]:
        """Words of a verb that reads a run's folder."""
        verb = rng.choice(VERBS)
        words = {
            "compare": [str(folder), str(self.folder / OTHER), "track=false"],
            "report": [str(folder), f"out={self.folder / 'report.html'}", "track=false"],
            "query": [
                f"run={folder}",
                f"image={self.folder / 'query.png'}",
                "out=" + str(self.folder / "q.png"),
            ],
            "log": [str(folder), f"uri=sqlite:///{self.folder / 'mlflow.db'}"],
            "list": [f"outputs={folder.parent}"],
            "plan": [f"run={folder}"],
        }
        return [verb, *words.get(verb, [f"run={folder}"])]


def keys(rng: random.Random, cases: Cases, known: list[str]) -> list[str]:
    """One or two keys of the configuration with values that nobody expects."""
    return cases.words(*(f"{rng.choice(known)}={value(rng)}" for _ in range(rng.choice((1, 1, 2)))))


def factories(rng: random.Random, cases: Cases) -> list[str]:
    """FAISS factory strings, and templates for building and searching."""
    quoted = json.dumps(factory(rng))
    more = [f"index.search={json.dumps(text(rng, 10))}"] if rng.random() < 0.2 else []
    return cases.words(f"index.factory={quoted}", *more)


def archives(rng: random.Random, cases: Cases) -> list[str]:
    """A dataset's npz file: damaged, or whole with other arrays in it."""
    path = cases.folder / "data" / "breastmnist.npz"
    if rng.random() < 0.6:
        path.write_bytes(damaged(rng, cases.npz))
    else:
        with np.load(path) as whole:
            arrays = dict(whole)
        name = rng.choice(sorted(arrays))
        changes: list[Callable[[Any], Any]] = [
            lambda a: a[:0],
            lambda a: a[:1],
            lambda a: a.astype(np.float64) * np.nan,
            lambda a: a.astype("U"),
            lambda a: a.ravel(),
            lambda a: a[..., None],
            lambda a: -a.astype(np.int64),
            lambda a: a.astype(bool),
            lambda a: np.concatenate([a, a]),
            lambda a: a * 0 + 200,
            lambda a: np.array(5),
            lambda a: a.astype("S"),
        ]
        arrays[name] = rng.choice(changes)(arrays[name])
        if rng.random() < 0.2:
            del arrays[rng.choice(sorted(arrays))]
        np.savez(path, **arrays)
    return cases.words()


def configurations(rng: random.Random, cases: Cases) -> list[str]:
    """A YAML file of the user's own: bytes damaged, or lines put in."""
    group = rng.choice(("encoder", "dataset", "index", "metric", "protocol", "experiments", "prompts"))
    source = {"encoder": "pixels", "dataset": "breastmnist", "index": "ivf", "metric": "l2"}
    conf = Path(__file__).resolve().parents[2] / "conf"
    name = source.get(group)
    content = (conf / group / f"{name}.yaml").read_bytes() if name else b"# @package _global_\nseed: 1\n"
    lines = (
        b"- a\n",
        b"a: &a [*a, *a]\n",
        b"? \n",
        b"\x00",
        b"\xff\xfe",
        b"a: b: c\n",
        b"defaults: [own]\n",
        b"<<: *x\n",
        b"_target_: os.system\n",
        b"a: !!python/object/apply:os.system [ls]\n",
        b"{" * 300,
        b"name: null\n",
        b"a: &a [x]\nb: &b [*a,*a,*a]\nc: [*b,*b,*b]\n",
        b"\t\n",
        b"--- \n--- \n",
        b"%YAML 9\n",
    )
    content = damaged(rng, content) if rng.random() < 0.5 else content + rng.choice(lines)
    (cases.folder / "conf" / group).mkdir(parents=True)
    (cases.folder / "conf" / group / "own.yaml").write_bytes(content)
    return [*cases.words(f"{group}=own"), f"--config-dir={cases.folder / 'conf'}"]


def run_files(rng: random.Random, cases: Cases) -> list[str]:
    """A finished run with one file damaged, gone, or replaced by a folder or by that of another run."""
    folder = _copy(cases)
    path = rng.choice(sorted(p for p in folder.rglob("*") if p.is_file() and ".hydra" not in p.parts))
    content, kind = path.read_bytes(), rng.random()
    path.unlink()
    if kind < 0.7:
        path.write_bytes(damaged(rng, content))
    elif kind < 0.85:
        path.mkdir()
    elif kind < 0.95 and (cases.folder / OTHER / path.name).is_file():
        shutil.copy(cases.folder / OTHER / path.name, path)
    return cases.of_run(rng, folder)


def run_documents(rng: random.Random, cases: Cases) -> list[str]:
    """A finished run with one value of a JSON file gone or of another type."""
    folder = _copy(cases)
    path = folder / rng.choice(("scores.json", "scores.json", "manifest.json"))
    document = json.loads(path.read_text())
    place = document
    while True:
        key = rng.choice(list(place)) if isinstance(place, dict) else rng.randrange(len(place))
        inner = place[key]
        if not isinstance(inner, dict | list) or not inner or rng.random() < 0.2:
            break
        place = inner
    if rng.random() < 0.4:
        del place[key]
    else:
        place[key] = rng.choice((None, -1, 1e400, "text", [], {}, True, 10**30, [[]], {"a": 1}, 0.5))
    path.write_text(json.dumps(document))
    return cases.of_run(rng, folder)


def pictures(rng: random.Random, cases: Cases) -> list[str]:
    """Folders of images with class names, file names and contents of every kind."""
    from PIL import Image

    root = cases.folder / "pictures"
    root.mkdir(exist_ok=True)
    modes = ("L", "RGB", "I;16", "1", "RGBA", "P") if rng.random() < 0.3 else ("L",)
    for name in rng.sample(NAMES, rng.choice((1, 2, 2, 2, 3))):
        folder = root / (name or "empty")
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(rng.choice((0, 4, 12, 12))):
            path = folder / f"{text(rng, 3).replace('/', '')}{number}.png"
            picture = Image.new(rng.choice(modes), (rng.randint(8, 20),) * 2, number % 2)
            picture.putpixel((number % 8, 3), 1)
            picture.save(path)
            if rng.random() < 0.03:
                path.write_bytes(damaged(rng, path.read_bytes()))
    words = [word for word in cases.words("metric=l2") if not word.startswith("dataset=")]
    skip = ["dataset.unreadable=skip"] if rng.random() < 0.5 else []
    shares = ["dataset.shares={train: 0.5, val: 0.0, test: 0.5}"] if rng.random() < 0.5 else []
    return [
        *words,
        "dataset=folder",
        f"dataset.root={json.dumps(str(root))}",
        "dataset.size=16",
        *skip,
        *shares,
    ]


WORDS = ("run", "k", "image", "text", "out", "score", "seed", "rows", "uri")
PLACES = (
    *("a?b", "a#b", "a b", "ä", "x" * 255, "x" * 256, "y/" * 2000, "%2f", "file", "a;b", "'", '"', "[1]"),
    *("${x}", "a=b", "\n", "~", "-"),
)


def verbs(rng: random.Random, cases: Cases) -> list[str]:
    """Verbs with words that they do not expect."""
    words = cases.of_run(rng, cases.folder / RUN)
    for _ in range(rng.choice((1, 2))):
        word = rng.choice((value(rng), f"{rng.choice(WORDS)}={value(rng)}", text(rng, 8)))
        words.insert(rng.randrange(1, len(words) + 1), word)
    return words


def places(rng: random.Random, cases: Cases) -> list[str]:
    """Outputs and cache in folders with names of every kind, or where there is a file."""
    (cases.folder / "file").write_text("")
    key, name = rng.choice(("paths.outputs", "paths.cache")), rng.choice(PLACES)
    return cases.words(f"{key}={json.dumps(str(cases.folder / name))}")


def _copy(cases: Cases) -> Path:
    """A copy of the finished run, with copies of what it links to."""
    return Path(shutil.copytree(cases.folder / RUN, cases.folder / "damaged"))


CLASSES: dict[str, Callable[..., list[str]]] = {
    "keys": keys,
    "factories": factories,
    "archives": archives,
    "configurations": configurations,
    "run files": run_files,
    "run documents": run_documents,
    "pictures": pictures,
    "verbs": verbs,
    "places": places,
}
