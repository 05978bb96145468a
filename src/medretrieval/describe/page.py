"""A description as one HTML page that needs nothing else: no script, no network, pictures in it."""

from datetime import datetime
from importlib.metadata import version
from pathlib import Path

from markupsafe import Markup

import medretrieval.report.page as report_page
from medretrieval.describe.description import Description
from medretrieval.describe.findings import KIND_WORDS, hash_words, percent
from medretrieval.describe.read import Sheet

HERE = Path(__file__).resolve().parent
TEMPLATE = "data.html.j2"


def render(facts: Description, sheet: Sheet, command: str, seed: int) -> str:
    """The page.

    Args:
        facts: what the dataset holds.
        sheet: images of each class and split.
        command: what makes the page again.
        seed: by which the images of the sheet were drawn.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"n": report_page.number, "percent": percent}
    return environment.get_template(TEMPLATE).render(
        facts=facts,
        sheet=sheet,
        present=[split.name for split in facts.splits if split.images],
        kinds=KIND_WORDS,
        hash_words=hash_words(facts),
        command=command,
        seed=seed,
        made=f"{datetime.now():%d %B %Y, %H:%M}",
        version=version("medretrieval"),
        style=Markup((report_page.HERE / "report.css").read_text(encoding="utf-8")),
    )
