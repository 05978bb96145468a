import re
import shlex
from pathlib import Path

import pytest

from medretrieval import compose, run
from medretrieval.cli import VERBS
from medretrieval.config import check

README = (Path(__file__).parent.parent / "README.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, re.DOTALL)
COMMANDS = [
    line
    for language, text in BLOCKS
    if language == "bash"
    for line in text.splitlines()
    if line.startswith("med")
]
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in README.splitlines()
    if line.startswith("|") and "`medretrieval" in line
]


VERB = re.compile(r"medretrieval ([a-z]+) ")


def overrides(command):
    words = shlex.split(command)[1:]
    if "--config-dir" in words:
        del words[words.index("--config-dir") :][:2]
    return [word for word in words if "=" in word]


@pytest.mark.parametrize("command", [c for c in COMMANDS if "my_conf" not in c and not VERB.match(c)])
def test_every_command_composes(command):
    for words in (overrides(command), [word.split(",")[0] for word in overrides(command)]):
        if not any("," in word for word in words):
            check(compose(*words))


def test_every_verb_is_one():
    named = {found[1] for line in README.splitlines() if (found := VERB.match(line))}
    assert {"query", "explain", "compare", "cache"} <= named <= set(VERBS)


def test_the_encoder_of_the_readme_runs(command, tmp_path):
    for language in ("python", "yaml"):
        (text,) = [text for found, text in BLOCKS if found == language]
        path = tmp_path / text.splitlines()[0].removeprefix("# ")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    words = shlex.split(next(c for c in COMMANDS if "my_conf" in c))[1:]
    done = command(*words, "tracking=none", "dataset.n_train=50", "dataset.n_test=20")
    assert done.returncode == 0, done.stderr
    assert "chest_phantom · histogram · flat" in done.stdout


@pytest.mark.slow
@pytest.mark.realdata
@pytest.mark.parametrize("row", ROWS, ids=lambda row: " ".join(row[:2]))
def test_every_number_is_what_its_command_gives(row, config, real_root, tmp_path_factory):
    cache = tmp_path_factory.getbasetemp() / "cache of the readme"
    command = row[-1].strip("`")
    places = (f"paths.data={real_root}", f"paths.cache={cache}")
    scores = run(config(*overrides(command), *places)).report.scores
    said = [float(cell) for cell in row[2:5]]
    # Convolutions differ in the last bits between machines, which can swap neighbors.
    assert [scores[n] for n in ("precision_at_5", "map", "chance_precision")] == pytest.approx(said, abs=2e-3)


def test_the_table_of_numbers_is_there():
    assert len(ROWS) >= 4
