"""The verb `query`: what in a finished run's gallery is like this picture, or fits this sentence?"""

import json
import logging
import re
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medretrieval.errors import UserError, choices
from medretrieval.figures.query_results import RESULTS, ROWS, draw, free_name, require_ours
from medretrieval.images.fit import Fit, as_in_dataset, thumbnail
from medretrieval.images.image_file import pictures_in, read
from medretrieval.query.novelty import NOVELTY_QUANTILE
from medretrieval.query.search import Answer, Query, SearchableRun
from medretrieval.runs.tables import table
from medretrieval.track.best_run import choose

USAGE = """medretrieval query run=<run> image=<picture> [key=value ...]
medretrieval query run=<run> text="chest X-ray with lung opacity" [key=value ...]

run=    a run's folder or MLflow run id; or a sweep (its id or folder), of which the best run is asked
image=  a PNG, JPEG, TIFF, BMP, WebP, GIF or DICOM file, a folder of them (asked in one batch), or several:
        image=a.png,b.png or image=a.png image=b.png
text=   a sentence, for encoders with a text tower; several: text="..." text="..."
k=      results a query (5)
fit=    how a picture that is no square becomes one: crop (default), pad, stretch
out=    the picture of query and results, a .png (query_<name>.png in this folder; none: no picture)
--json  JSON on stdout and nothing else there; a picture is drawn only where out= is given

Of the run's own configuration: encoder.*  device  paths.data  paths.cache  paths.outputs  tracking.uri
"""
KEYS = ("run", "image", "text", "k", "fit", "out")
OVERRIDES = ("device", "paths.data", "paths.cache", "paths.outputs", "tracking.uri", "dataset.root")
JSON = "--json"
SHOWN = 256  # pixels of a query's picture that are kept for drawing
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """The words of the command, checked."""

    run: str
    images: tuple[str, ...]
    texts: tuple[str, ...]
    k: int
    fit: Fit
    out: str | None
    as_json: bool
    overrides: tuple[str, ...]


def main(arguments: list[str]) -> int:
    """Run the verb; returns the exit code.

    Raises:
        UserError: words that cannot be meant, no such run, files of it gone or damaged, no picture.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        return 0
    options = parse(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    out = _out(options)
    with tempfile.TemporaryDirectory() as aside:
        given = dict(word.split("=", 1) for word in options.overrides)
        chosen = choose(options.run, given, Path(aside))
        if chosen.why:
            _say(chosen.why)
        run = SearchableRun.open(chosen.folder, options.overrides)
        run.require_k(options.k)
        encoder, changed = run.encoder()
        queries = _queries(options, run)
        for line in changed + _remarks(queries):
            _say(line)
        answers = run.answer(queries, encoder, options.k)
    drawn = None if out is None else _draw(out, answers, run)
    if options.as_json:
        print(json.dumps(document(run, chosen.why, options.k, answers, drawn), indent=2, allow_nan=False))
    else:
        print(_text(run, options.k, answers, drawn))
    return 0


def parse(arguments: list[str]) -> Options:
    """Turn the command's words into checked options.

    Raises:
        UserError: a word that is unknown or given twice, or words that do not fit each other.
    """
    given: dict[str, list[str]] = {key: [] for key in KEYS}
    overrides: list[str] = []
    for word in arguments:
        key, equals, value = word.partition("=")
        if word == JSON:
            continue
        if not equals or (key not in KEYS and Path(word).is_dir()):
            key, value = "run", word
        elif key in OVERRIDES or key.startswith("encoder."):
            overrides.append(word)
            continue
        if word.startswith("-") or key not in KEYS:
            raise UserError(
                f"query: {word.split('=')[0]}: no such key; {choices([*KEYS, JSON, 'encoder.*', *OVERRIDES])}"
            )
        if not value.strip():
            raise UserError(f"query: {key}=: give a value")
        given[key].append(value)
    for key in ("run", "k", "fit", "out"):
        if len(given[key]) > 1:
            raise UserError(f"query: {key}={given[key][1]}: give one value, once")
    if not given["run"]:
        raise UserError("query wants a run: medretrieval query run=<run> image=<picture> (--help says more)")
    _check_asked(given)
    k, fit = (given["k"] or ["5"])[0], (given["fit"] or [Fit.crop.value])[0]
    if not re.fullmatch(r"[0-9]{1,9}", k) or int(k) < 1:
        raise UserError(f"query: k={k}: give a whole number, 1 or more")
    if fit not in list(Fit):
        raise UserError(f"query: fit={fit}: {choices(list(Fit))}")
    return Options(
        given["run"][0],
        tuple(given["image"]),
        tuple(given["text"]),
        int(k),
        Fit(fit),
        given["out"][0] if given["out"] else None,
        JSON in arguments,
        tuple(overrides),
    )


def _check_asked(given: dict[str, list[str]]) -> None:
    if given["image"] and given["text"]:
        raise UserError(
            "query: image= and text= are two questions; give one of them, then ask again with the other"
        )
    if not given["image"] and not given["text"]:
        raise UserError('query wants something to ask: image=<picture> or text="..."')
    if given["text"] and given["fit"]:
        raise UserError(f"query: fit={given['fit'][0]}: says how pictures become squares; text= has none")


def _queries(options: Options, run: SearchableRun) -> list[Query]:
    if options.texts:
        return [Query(text) for text in options.texts]
    paths = [path for word in options.images for path in _paths(word)]
    if not paths:
        raise UserError(f"query: image={options.images[0]}: names no picture")
    size, channels, queries = run.dataset.size, run.channels(), []
    for path in paths:  # one at a time: the pictures themselves may be large
        picture = read(path)
        pixels, remarks = picture.pixels, picture.remarks
        if pixels.ndim == 3 and channels == 1 and (pixels != pixels[..., :1]).any():
            remarks += ("in color, made gray as the gallery is",)
        image = as_in_dataset(pixels, size, channels, options.fit)
        queries.append(Query(str(path), image, thumbnail(pixels, SHOWN), remarks))
    return queries


def _paths(word: str) -> list[Path]:
    """The files that one image= names; a comma may be in a name or between names."""
    whole = Path(word).expanduser()
    names = [whole] if whole.exists() else [Path(part).expanduser() for part in word.split(",") if part]
    paths: list[Path] = []
    for name in names:
        if name.is_dir():
            found, skipped = pictures_in(name)
            paths += found
            if skipped:
                _say(f"{name}: {skipped} of {skipped + len(found)} files skipped, which are no pictures")
        else:
            paths.append(name)
    return paths


def _remarks(queries: Sequence[Query]) -> list[str]:
    """What was done to pictures, a line for each kind of it."""
    by_remark: dict[str, list[str]] = {}
    for query in queries:
        for remark in query.remarks:
            by_remark.setdefault(remark, []).append(query.name)
    return [
        f"{names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''}: {remark}"
        for remark, names in by_remark.items()
    ]


def _out(options: Options) -> Path | None:
    """Where the picture goes, None for no picture.

    Raises:
        UserError: no .png, or something else has that name.
    """
    if options.out == "none" or (options.out is None and options.as_json):
        return None
    if options.out is None:
        first = options.texts[0] if options.texts else Path(options.images[0].split(",")[0]).resolve().stem
        more = len(options.texts or options.images) > 1 or "," in "".join(options.images)
        stem = re.sub(r"[^\w.-]+", "_", first).strip("_.")[:60] or "asked"
        wanted = Path(f"query_{stem}{'_and_more' if more else ''}.png")
        found = free_name(wanted)
        if found != wanted:
            _say(f"{wanted}: is there already and not of this command; the picture goes to {found}")
        return found
    path = Path(options.out).expanduser()
    if path.suffix.lower() != ".png":
        raise UserError(f"query: out={options.out}: give a name that ends in .png, or none")
    if not path.parent.is_dir():
        raise UserError(f"query: out={options.out}: there is no folder {path.parent}")
    require_ours(path)
    return path


def _draw(out: Path, answers: Sequence[Answer], run: SearchableRun) -> Path | None:
    """Draw what can be drawn; None, with a line that says why, where nothing can."""
    try:
        gallery = run.gallery()
    except UserError as error:
        _say(f"no picture is drawn: {error}")
        return None
    try:
        draw(out, answers, gallery, run.report.title)
    except OSError as error:
        raise UserError(f"out={out}: cannot be written ({error.strerror})") from error
    if len(answers) > ROWS:
        _say(f"{out}: shows the first {ROWS} of {len(answers)} queries")
    if max(len(answer.neighbors) for answer in answers) > RESULTS:
        _say(f"{out}: shows the first {RESULTS} results of a query")
    return out


def document(
    run: SearchableRun, why: str | None, k: int, answers: Sequence[Answer], drawn: Path | None
) -> dict[str, Any]:
    """The answers as JSON values.

    run (its folder), chosen (why it and no other run of a sweep, or null), title, metric, k, random_weights,
    picture (path or null), and queries: of each image or text (the other is null), remarks, novelty (null
    for a text; distance, metric, quantile, limit, out_of_distribution) and results (rank, id, class,
    distance, split).
    """
    return {
        "run": str(run.folder),
        "chosen": why,
        "title": run.report.title,
        "metric": run.report.metric,
        "k": k,
        "random_weights": run.report.encoder.random_weights,
        "picture": None if drawn is None else str(drawn),
        "queries": [_one(answer) for answer in answers],
    }


def _one(answer: Answer) -> dict[str, Any]:
    query, near = answer.query, answer.novelty
    return {
        "image": None if query.image is None else query.name,
        "text": query.name if query.image is None else None,
        "remarks": list(query.remarks),
        "novelty": near
        and {
            "distance": near.distance,
            "metric": near.metric,
            "quantile": near.quantile,
            "limit": near.limit,
            "out_of_distribution": near.is_out_of_distribution,
        },
        "results": [
            {"rank": rank, "id": n.id, "class": n.label, "distance": n.distance, "split": n.split}
            for rank, n in enumerate(answer.neighbors, 1)
        ],
    }


def _text(run: SearchableRun, k: int, answers: Sequence[Answer], drawn: Path | None) -> str:
    lines = ["", run.report.title, f"run: {run.folder}"]
    for answer in answers:
        lines += ["", f"query: {answer.query.name}", ""]
        rows = [
            [str(rank), n.id, n.label, f"{round(n.distance, 4) + 0.0:.4f}", n.split]
            for rank, n in enumerate(answer.neighbors, 1)
        ]
        lines += table(["rank", "id", "class", "distance", "split"], rows)
        if len(rows) < k:
            lines.append(f"the index found {len(rows)} of {k}; index=flat finds all")
        lines += _nearness_lines(answer)
    far = sum(answer.novelty is not None and answer.novelty.is_out_of_distribution for answer in answers)
    if len(answers) > 1 and answers[0].novelty is not None:
        lines += ["", f"{far} of {len(answers)} queries are out of distribution"]
    lines += [] if drawn is None else ["", f"picture: {drawn}"]
    return "\n".join([*lines, ""])


def _nearness_lines(answer: Answer) -> list[str]:
    near = answer.novelty
    if answer.query.image is None:
        return ["no out-of-distribution check: sentences lie apart from images in any case"]
    if near is None:
        return ["no out-of-distribution check: the gallery is a single image"]
    said = (
        f"nearest {near.metric} distance {round(near.distance, 4) + 0.0:.4f}: greater than "
        f"{near.quantile:.1%} of the distances from gallery images to their own nearest neighbor "
        f"(limit {near.limit:.4f}, the {NOVELTY_QUANTILE:.0%} quantile)"
    )
    if near.is_out_of_distribution:
        return [said, "OUT OF DISTRIBUTION: these results say little about this picture"]
    return [said]


def _say(line: str) -> None:
    print(line, file=sys.stderr)
