"""What `make setup` installs: by uv or pip, and with PINNED=1 in the versions of constraints.txt."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
LINES = [
    line for line in (REPOSITORY / "constraints.txt").read_text().splitlines() if not line.startswith("#")
]
PINNED = {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in LINES)}


def requirements(*extras):
    """The dependencies, and those of extras with the extras that they name."""
    found = [Requirement(text) for text in PROJECT["dependencies"]] if not extras else []
    for extra in extras:
        for text in PROJECT["optional-dependencies"][extra]:
            requirement = Requirement(text)
            own = requirement.name == PROJECT["name"]
            found += requirements(*requirement.extras) if own else [requirement]
    return found


EVERY = [*requirements(), *requirements(*PROJECT["optional-dependencies"])]
INSTALLED = [*requirements(), *requirements("dev")]


def test_constraints_are_names_and_versions_alone():
    assert len(LINES) > 100
    assert [line for line in LINES if not re.fullmatch(r"[A-Za-z0-9][\w.-]*==\d[0-9A-Za-z.]*", line)] == []
    assert len(PINNED) == len(LINES)


@pytest.mark.parametrize("requirement", sorted(INSTALLED, key=str), ids=str)
def test_every_dependency_that_is_installed_is_pinned(requirement):
    assert canonicalize_name(requirement.name) in PINNED


@pytest.mark.parametrize("requirement", sorted(EVERY, key=str), ids=str)
def test_what_is_pinned_is_within_the_bounds(requirement):
    version = PINNED.get(canonicalize_name(requirement.name))
    assert version is None or requirement.specifier.contains(version, prereleases=True)


def recipe(tmp_path, *words, uv):
    """What make would do, with or without a uv on the path."""
    path = tmp_path / "bin"
    path.mkdir()
    for program in ("awk", "python3", "sh"):
        (path / program).symlink_to(shutil.which(program))
    if uv:
        (path / "uv").write_text("#!/bin/sh\n")
        (path / "uv").chmod(0o755)
    done = subprocess.run(
        [shutil.which("make"), "-n", "setup", f"VENV={tmp_path / 'venv'}", *words],
        cwd=REPOSITORY, env={"PATH": str(path)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout


@pytest.mark.parametrize("pinned", [False, True])
def test_uv_is_taken_where_it_is_installed_else_pip(pinned, tmp_path):
    words = ["PINNED=1"] if pinned else []
    (tmp_path / "with").mkdir()
    (tmp_path / "without").mkdir()
    by_uv, by_pip = recipe(tmp_path / "with", *words, uv=True), recipe(tmp_path / "without", *words, uv=False)
    assert re.search(r"/uv venv .*\n.*/uv pip install --python .*/bin/python .*'\.\[dev\]'", by_uv)
    assert re.search(r"python3 -m venv .*\n.*/bin/python -m pip install .*'\.\[dev\]'", by_pip)
    assert "uv pip" not in by_pip
    assert [("-c constraints.txt" in text) for text in (by_uv, by_pip)] == [pinned, pinned]
