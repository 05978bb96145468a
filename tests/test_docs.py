import importlib
import re
import shlex
import subprocess
import sys
import tomllib
from importlib.resources import files

import pytest
import yaml
from tests.pages import REPOSITORY, Page, overrides, words
from tests.test_architecture import LAYERS

from medretrieval.checks import check
from medretrieval.cli import VERBS
from medretrieval.config import compose
from medretrieval.evaluate.score_docs import with_tables

DOCS = [Page(path) for path in sorted((REPOSITORY / "docs").glob("*.md"))]
EXPERIMENTS = [Page(path) for path in sorted((REPOSITORY / "experiments").glob("*.md"))]
TOP = [Page(REPOSITORY / name) for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")]
PAGES = {page.name: page for page in [*TOP, *DOCS, *EXPERIMENTS]}
COMMANDS = sorted({command for page in PAGES.values() for command in page.commands})
RUNS = [command for command in COMMANDS if words(command) and "=" in words(command)[0]]
OWN = "--config-dir my_conf"


def alternatives(command):
    """What a sweep's first run would be, and for each other value of each key one run with it."""
    choices = [re.split(r",(?![^\[]*\])", word.partition("=")[2]) for word in overrides(command)]
    keys = [word.partition("=")[0] for word in overrides(command)]
    first = [values[0] for values in choices]
    runs = [first]
    for place, values in enumerate(choices):
        runs += [[*first[:place], value, *first[place + 1 :]] for value in values[1:]]
    return [[f"{key}={value}" for key, value in zip(keys, run, strict=True)] for run in runs]


@pytest.mark.parametrize("command", [c for c in RUNS if OWN not in c])
def test_every_run_composes(command):
    for run in alternatives(command):
        check(compose(*run))


def test_there_are_runs_and_verbs_to_look_at():
    assert len(RUNS) > 20
    assert {words(c)[0] for c in COMMANDS if words(c)} >= {"query", "explain", "compare", "cache", "verify"}


@pytest.mark.parametrize("command", [c for c in COMMANDS if words(c) and c not in RUNS])
def test_every_verb_is_one(command):
    assert words(command)[0] in (*VERBS, "--help", "--dry-run")


@pytest.mark.parametrize("name", PAGES)
def test_every_link_leads_somewhere(name):
    page = PAGES[name]
    for target in page.links:
        path, _, fragment = target.partition("#")
        file = (page.path.parent / path).resolve() if path else page.path
        assert file.exists(), f"{name}: {target}"
        if fragment:
            assert fragment in PAGES[file.relative_to(REPOSITORY).as_posix()].anchors, f"{name}: {target}"


def test_links_and_anchors_are_seen_as_readers_see_them(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.pages.REPOSITORY", tmp_path)
    (tmp_path / "a.md").write_text(
        "# `map_at_K`, and *its* kin\n![p](x/y.png) [z](z.md#there) [out](https://a.b)\n"
        "```bash\nmedretrieval a=1  # b\n[no](link.md)\n# none\n```\n`medretrieval\n--multirun b=<a b>,2`\n"
    )
    page = Page(tmp_path / "a.md")
    assert page.links == ["x/y.png", "z.md#there"]
    assert page.anchors == {"map_at_k-and-its-kin"}
    assert [words(command) for command in page.commands] == [["a=1"], ["b=x,2"]]


def test_every_page_is_in_the_navigation_and_the_other_way_round():
    def pages(node):
        if isinstance(node, str):
            return [node]
        nodes = node.values() if isinstance(node, dict) else node
        return [page for child in nodes for page in pages(child)]

    named = pages(yaml.safe_load((REPOSITORY / "mkdocs.yml").read_text())["nav"])
    beside = [page.name for page in [*TOP, *EXPERIMENTS] if page.name != "README.md"]
    there = {page.name.removeprefix("docs/") for page in DOCS} | set(beside)
    assert len(named) == len(set(named))
    assert set(named) == there
    linked = {target.partition("#")[0].removeprefix("../") for target in PAGES["docs/index.md"].links}
    assert linked == there - {"index.md"}


def test_the_components_of_the_page_run(command, tmp_path):
    page = PAGES["docs/add.md"]
    for language, text in page.blocks:
        if language in ("python", "yaml"):
            path = tmp_path / text.splitlines()[0].removeprefix("# ")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    own = [shlex.split(line)[1:] for line in page.commands if OWN in line]
    assert len(own) == 5
    together = {w.split("=")[0]: w for line in own for w in line if "=" in w and "pixels" not in w}
    done = command("--config-dir", "my_conf", *together.values())
    assert done.returncode == 0, done.stderr
    assert "stripes · histogram · ivf_sq8" in done.stdout
    assert "precision_at_5 " in (tmp_path / "diary.txt").read_text()


def test_the_options_of_verbs_are_up_to_date(monkeypatch):
    monkeypatch.syspath_prepend(REPOSITORY / "docs")
    tables = importlib.import_module("verb_tables")
    text = PAGES["docs/verbs.md"].text
    assert with_tables(text, tables.TABLES) == text, "python docs/verb_tables.py docs/verbs.md"
    for name in VERBS:
        assert name in PAGES["docs/verbs.md"].anchors


def test_the_table_of_encoders_is_up_to_date(monkeypatch):
    monkeypatch.syspath_prepend(REPOSITORY / "docs")
    tables = importlib.import_module("encoder_table")
    text = PAGES["docs/encoders.md"].text
    assert with_tables(text, tables.TABLES) == text, "python docs/encoder_table.py docs/encoders.md"


def test_the_page_of_the_architecture_names_every_module_and_layer():
    text = PAGES["docs/architecture.md"].text
    package = REPOSITORY / "src" / "medretrieval"
    rows = {
        folder: line
        for line in text.splitlines()
        for folder in re.findall(r"`(\w+/|\w+\.py)`", line.partition("|")[2].partition("|")[0])
    }
    for path in package.rglob("*.py"):
        if path.parent == package and not path.stem.startswith("__"):
            assert path.name in rows
        elif path.parent != package and path.stem != "__init__":
            room = path.relative_to(package).parts[0]  # a folder in a room is told of in the room's row
            assert f"`{path.stem}`" in rows[f"{room}/"], path
    (layers,) = [block for _, block in PAGES["docs/architecture.md"].blocks if block.startswith("private")]
    assert re.findall(r"\w+", layers) == [name for name in LAYERS if name != "__main__"]


def test_the_lines_of_python_on_the_scores_page_run():
    (code,) = [text for language, text in PAGES["docs/scores.md"].blocks if language == "python"]
    setup, last = code.rstrip().rsplit("\n", 1)
    names = {}
    exec(setup, names)
    assert [float(score[0]) for score in eval(last, names)] == [0.4, 0.2]


def test_the_citation_is_that_of_the_package():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= set(citation)
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])


def test_readers_of_the_package_are_told_that_it_is_typed():
    assert (files("medretrieval") / "py.typed").is_file()


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site" / "api" / "evaluate.html").exists()
