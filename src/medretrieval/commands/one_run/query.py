"""The verb `query`: what in a finished run's gallery is like this picture, or fits this sentence?"""

import json
import logging
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from medretrieval.commands.parts.named_runs import chosen_run
from medretrieval.commands.words import (
    CONFIG_DIR,
    JSON,
    OUTPUTS,
    UNVERIFIED,
    URI,
    Given,
    Option,
    Verb,
    one_run,
    picture_path,
)
from medretrieval.errors import UserError

if TYPE_CHECKING:
    from medretrieval.query.search import Answer, Query, SearchableRun

FITS = ("crop", "pad", "stretch")


def _run(given: Given) -> int:
    from medretrieval.commands.parts.query_answers import document, remark_lines, text
    from medretrieval.query.search import SearchableRun
    from medretrieval.track.best_run import require_here

    _check_asked(given)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    out = _out(given)
    with tempfile.TemporaryDirectory() as aside:
        chosen = chosen_run(given, Path(aside))
        require_here(chosen.folder, Path(aside), given.run)
        run = SearchableRun.open(chosen.folder, given.overrides)
        run.require_k(given.k)
        encoder, changed = run.encoder()
        queries = _queries(given, run)
        for line in changed + remark_lines(queries):
            _say(line)
        answers = run.answer(queries, encoder, given.k)
    drawn = None if out is None else _draw(out, answers, run)
    if given.json:
        print(json.dumps(document(run, chosen.why, given.k, answers, drawn), indent=2, allow_nan=False))
    else:
        print(text(run, given.k, answers, drawn))
    return 0


def _check_asked(given: Given) -> None:
    if given.image and given.text:
        raise VERB.refusal("image= and text= cannot be combined; give one of them")
    if not given.image and not given.text:
        raise VERB.refusal('no query; give image=<picture> or text="..."')
    if given.text and given.fit is not None:
        raise VERB.refusal(f"fit={given.fit}: only for image=, not for text=")


def _queries(given: Given, run: "SearchableRun") -> "list[Query]":
    from medretrieval.images.fit import Fit
    from medretrieval.query.pictures import picture_queries
    from medretrieval.query.search import Query

    if given.text:
        return [Query(text) for text in given.text]
    queries, skipped = picture_queries(given.image, run, Fit(given.fit) if given.fit else None)
    for line in skipped:
        _say(line)
    return queries


def _out(given: Given) -> Path | None:
    """Where the picture goes, None for no picture.

    Raises:
        UserError: no .png, or something else has that name.
    """
    from medretrieval.figures.query_results import free_name, require_ours

    if given.out == "none" or (given.out is None and given.json):
        return None
    if given.out is None:
        first = given.text[0] if given.text else Path(given.image[0].split(",")[0]).resolve().stem
        more = len(given.text or given.image) > 1 or "," in "".join(given.image)
        stem = re.sub(r"[^\w.-]+", "_", first).strip("_.")[:60] or "asked"
        wanted = Path(f"query_{stem}{'_and_more' if more else ''}.png")
        found = free_name(wanted)
        if found != wanted:
            _say(f"{wanted}: exists already and was not written by this command; writing to {found}")
        return found
    path = picture_path(VERB.name, given.out)
    require_ours(path)
    return path


def _draw(out: Path, answers: "Sequence[Answer]", run: "SearchableRun") -> Path | None:
    """Draw what can be drawn; None, with a line that says why, where nothing can."""
    from medretrieval.figures.query_results import RESULTS, ROWS, draw

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


def _say(line: str) -> None:
    print(line, file=sys.stderr)


VERB = Verb(
    "query",
    usage=("run=<run> image=<picture> [key=value ...]", 'run=<run> text="..." [key=value ...]'),
    options=(
        one_run(),
        Option(
            "image",
            "a PNG, JPEG, TIFF, BMP, WebP, GIF or DICOM file, or a folder of them (searched in one batch); "
            "several: image=a.png,b.png or image=a.png image=b.png",
            "<picture>",
            unset="none; text= is needed then",
            many=True,
        ),
        Option(
            "text",
            "a sentence, for encoders with a text tower; may be given several times",
            "<sentence>",
            unset="none; image= is needed then",
            many=True,
        ),
        Option("k", "results per query", "<n>", int, least=1, default=5),
        Option(
            "fit",
            "how a picture that is not square is made square",
            choices=FITS,
            unset=f"as the dataset's own pictures were (dataset.fit); {FITS[0]} where it does not say",
        ),
        Option(
            "out",
            "the picture of query and results to write, a .png file; none writes no picture",
            "<file>",
            unset="query_<name>.png in this folder; with --json none",
        ),
        URI,
        OUTPUTS,
        CONFIG_DIR,
        UNVERIFIED,
        JSON,
    ),
    run=_run,
    examples=(
        "medretrieval query run=outputs/runs/first image=chest.png k=10",
        'medretrieval query run=20260101-120000-000000 text="chest X-ray with lung opacity"',
    ),
    overrides=("dataset.root", "device", "encoder.*", "paths.cache", "paths.data"),
)
