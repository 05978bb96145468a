"""Tab: what is offered, and that bash and zsh get it into the line."""

import os
import shutil
import subprocess
import sys

import pytest

from medretrieval.cli.completion import SCRIPTS, completions
from medretrieval.cli.usage import all_choices
from medretrieval.commands import VERBS


@pytest.fixture
def program(tmp_path):
    """An environment in which `medretrieval` is a program."""
    path = tmp_path / "bin" / "medretrieval"
    path.parent.mkdir()
    path.write_text(f'#!/bin/sh\nexec {sys.executable} -m medretrieval "$@"\n')
    path.chmod(0o755)
    return os.environ | {"PATH": f"{path.parent}:{os.environ['PATH']}"}


def test_the_first_word_is_a_verb_or_a_key():
    offered = completions("medretrieval ")
    assert {f"{verb} " for verb in VERBS} | {"dataset=", "encoder=", "index=", "index.", "seed="} <= set(
        offered
    )


def test_after_keys_no_verb_is_offered():
    assert not {f"{verb} " for verb in VERBS} & set(completions("medretrieval index=flat "))


@pytest.mark.parametrize(
    "group",
    ["dataset", "encoder", "index", "metric", "protocol", "adapt", "rerank", "tracking", "experiments"],
)
def test_every_choice_of_a_group_is_offered(group):
    offered = completions(f"medretrieval -m {group}=")
    assert offered == [f"{group}={name} " for name in sorted(all_choices(None)[group])]


def test_in_a_sweep_the_values_before_stay():
    assert completions("medretrieval -m index=flat,hn") == ["index=flat,hnsw ", "index=flat,hnsw_sq8 "]


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("medretrieval index.np", ["index.nprobe="]),
        ("medretrieval evaluation.baseline=", ["evaluation.baseline=none ", "evaluation.baseline=pixels "]),
        ("medretrieval force=", ["force=false ", "force=true "]),
        ("medretrieval protocol.query=te", ["protocol.query=test "]),
        ("medretrieval dataset.diff", ["dataset.difficulty="]),  # of the default dataset
        ("medretrieval dataset=pneumoniamnist dataset.diff", []),
        ("medretrieval encoder.check", ["encoder.checkpoint="]),  # of the file that the default starts from
        ("medretrieval --multi", ["--multirun "]),
        ("medretrieval data dataset=pn", ["dataset=pneumoniamnist "]),
        ("medretrieval data ou", ["out="]),
        ("medretrieval plan delt", ["delta="]),
        ("medretrieval compare family=", ["family=all ", "family=best ", "family=encoders "]),
        ("medretrieval compare --j", ["--json "]),
        ("medretrieval zebra", []),
    ],
)
def test_keys_and_values_are_offered(line, offered):
    assert completions(line) == offered


def test_choices_of_the_users_own_folder_are_offered(tmp_path):
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "own_index.yaml").write_text("name: own_index\n")
    assert completions(f"medretrieval --config-dir {tmp_path} index=own") == ["index=own_index "]


def test_sweeps_are_offered_where_a_run_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs" / "sweeps" / "20260101-1").mkdir(parents=True)
    assert completions("medretrieval report 2026") == ["20260101-1 "]
    assert completions("medretrieval report run=") == ["run=20260101-1 "]


@pytest.mark.parametrize(
    ("line", "replies"),
    [
        ("medretrieval index=hn", ["hnsw ", "hnsw_sq8 "]),  # bash wants what follows the =
        ("medretrieval comp", ["compare "]),
        ("medretrieval compare family=b", ["best "]),
        ("medretrieval zebra", []),
    ],
)
def test_bash_gets_them_from_the_script(line, replies, program, tmp_path):
    code = (
        'source <(medretrieval --completion bash); complete -p medretrieval >&2; COMP_LINE="$1"; '
        'COMP_POINT=${#1}; COMP_WORDS=(medretrieval); _medretrieval; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "-c", code, "bash", line],
        cwd=tmp_path,
        env=program,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "-F _medretrieval medretrieval" in done.stderr
    assert [reply for reply in done.stdout.split("\n") if reply] == replies


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
def test_zsh_gets_them_from_the_script(program, tmp_path):
    code = (
        'compadd() { print -l -- "$@" }; compdef() { }; source <(medretrieval --completion zsh); '
        "words=(medretrieval index=hn); CURRENT=2; PREFIX=index=hn; _medretrieval"
    )
    done = subprocess.run(
        ["zsh", "-f", "-c", code], cwd=tmp_path, env=program, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-2:] == ["index=hnsw ", "index=hnsw_sq8 "]


def test_the_shell_may_follow_an_equals_sign(say):
    assert say("--completion=zsh") == say("--completion", "zsh")


def test_another_shell_is_refused(refused):
    assert refused("--completion", "bsh") == "--completion bsh: did you mean bash? choose from: bash, zsh"
    assert set(SCRIPTS) == {"bash", "zsh"}
