"""Help and version: answered before Hydra starts, wherever they stand among the words."""

import importlib.metadata
import subprocess
import sys

import pytest

from medretrieval import cli


def imported_by(tmp_path, *words):
    """What `medretrieval <words>` prints, and the heavy modules that it has imported for it."""
    code = (
        f"import sys; sys.argv={['medretrieval', *words]!r}; from medretrieval.cli import main; main();"
        "print([m for m in ('torch','faiss','mlflow','medmnist') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    text, _, modules = done.stdout.rstrip().rpartition("\n")
    return text, modules


def test_help_shows_verbs_and_choices_without_a_heavy_import(tmp_path):
    text, heavy = imported_by(tmp_path, "--help")
    assert heavy == "[]"
    assert "clip_vit_b32" in text
    assert "clip_pneumonia" in text
    for verb in cli.VERBS:
        assert f"medretrieval {verb} " in text


@pytest.mark.parametrize(
    "words", [("dataset=x", "--help"), ("-m", "--help"), ("index=flat", "-h"), ("-m", "-h", "a=1")]
)
def test_help_is_the_same_after_any_other_word(words, say):
    assert say(*words) == say("--help")


def test_help_of_the_users_own_folder_lists_its_choices_too(say, tmp_path):
    (tmp_path / "mine" / "encoder").mkdir(parents=True)
    (tmp_path / "mine" / "encoder" / "stripes.yaml").write_text("")
    (tmp_path / "mine" / "experiments").mkdir()
    (tmp_path / "mine" / "experiments" / "two.yaml").write_text("")
    usual = say("--help")[1]
    for words in (
        ("--config-dir", "mine", "--help"),
        ("--help", "--config-dir=mine"),
        ("-cd", "mine", "index=ivf", "-h"),
    ):
        code, out, err = say(*words)
        assert (code, err) == (0, "")
        own = out.split("Your choices (mine):\n")[1].split("\n\n")[0].splitlines()
        assert [line.split() for line in own] == [["encoder=", "stripes"], ["experiments=", "two"]]
        assert "stripes" not in usual
        assert set(usual.splitlines()) <= set(out.splitlines())


def test_a_folder_that_is_not_there_is_said(refused):
    assert refused("--config-dir", "nowhere", "--help") == "--config-dir nowhere: there is no such folder"


def test_the_version_is_ours(say):
    said = f"medretrieval {importlib.metadata.version('medretrieval')}\n"
    assert say("--version") == (0, said, "")
    assert say("index=flat", "--version") == (0, said, "")


def test_a_verb_keeps_its_own_help(say):
    assert say("compare", "--help")[1].startswith("usage: medretrieval compare")


@pytest.mark.parametrize(
    ("word", "meant"), [("--hlep", "--help"), ("--multirum", "--multirun"), ("--versoin", "--version")]
)
def test_an_option_that_is_none_is_refused_with_what_was_meant(word, meant, refused):
    assert (
        refused("index=flat", word)
        == f"{word}: no such option; did you mean {meant}? see medretrieval --help"
    )


def test_options_of_hydra_are_let_through(command):
    done = command("--cfg", "job", "--package=index", "index=hnsw")
    assert done.returncode == 0, done.stderr
    assert "name: hnsw" in done.stdout
