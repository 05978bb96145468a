import csv
import io
import json
import sys

import pytest
from tests.refusals import refusal

from medretrieval.commands import verb
from medretrieval.config import root
from medretrieval.encoders import catalog
from medretrieval.encoders.card import Card

FILES = sorted(path.stem for path in (root() / "conf" / "encoder").glob("*.yaml"))


@pytest.fixture
def say(capsys, monkeypatch):
    """The verb's output; the libraries that know where their files are need not be asked in each test."""
    monkeypatch.setattr(catalog, "here", lambda entry: (entry.name == "pixels", "nothing needed"))

    def run(*words):
        assert verb("encoders").main(words) == 0
        return capsys.readouterr().out

    return run


def test_every_file_is_listed_with_its_card(say):
    facts = json.loads(say("--json"))["encoders"]
    assert [row["name"] for row in facts] == FILES
    by_name = {row["name"]: row for row in facts}
    assert by_name["biomedclip"]["text"] is True
    assert by_name["uni"]["dimension"] == 1024
    assert by_name["uni"]["access"].startswith("Ask for access")
    assert by_name["pixels"]["here"] is True
    assert "ChestMNIST" in by_name["rad_dino"]["overlap"]
    rows = list(csv.DictReader(io.StringIO(say("format=csv"))))
    assert [row["name"] for row in rows] == FILES
    assert all(row["license"] == (by_name[row["name"]]["license"] or "") for row in rows)


def test_the_table_is_short_and_one_name_shows_the_whole_card(say):
    lines = say().splitlines()
    assert lines[0].split() == ["name", "library", "size", "text", "license", "overlap", "access", "here"]
    assert [line.split()[0] for line in lines[2 : 2 + len(FILES)]] == FILES
    assert next(line for line in lines if line.startswith("uni ")).split()[-2:] == ["steps", "missing"]
    whole = say("uni")
    assert "  license: CC-BY-NC-ND-4.0, academic research only\n" in whole
    assert "  access: Ask for access at huggingface.co/MahmoodLab/UNI" in whole


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("zebra",), "encoders: of=zebra: no encoder's name contains it; see medretrieval encoders"),
        (("--json", "format=csv"), "encoders: --json and format=csv: both write to stdout; give one of them"),
    ],
)
def test_what_cannot_be_shown_is_refused(words, line):
    assert refusal(lambda: verb("encoders").main(words)) == line


def entry(name):
    return next(e for e in catalog.entries() if e.name == name)


def test_what_is_here_is_said_without_a_network(monkeypatch, tmp_path):
    def unreachable(*args, **kwargs):
        raise AssertionError("asked")

    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert catalog.here(entry("pixels")) == (True, "nothing needed")
    assert catalog.here(entry("efficientnet_lite0")) == (True, "installed package")
    assert catalog.here(entry("timm"))[0] is None
    is_here, said = catalog.here(entry("uni"))
    assert (is_here, "encoder.checkpoint=<path>" in said) == (False, True)
    assert said.startswith(
        "MahmoodLab/UNI is not in the hub's cache; run once with a network. Ask for access"
    )
    is_here, said = catalog.here(entry("medclip"))
    assert (is_here, "medclip-vit-pretrained.zip" in said) == (False, True)


def test_what_the_hub_s_cache_holds_is_here(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    held = entry("biovil_t")
    assert catalog.here(held)[0] is False
    place = tmp_path / "models--microsoft--BiomedVLP-BioViL-T"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "v1.0").write_text("abc")
    (place / "snapshots" / "abc").mkdir(parents=True)
    (place / "snapshots" / "abc" / "biovil_t_image_model_proj_size_128.pt").write_text("")
    assert catalog.here(held) == (True, "hub cache")


def test_a_package_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchxrayvision", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    is_here, said = catalog.here(entry("torchxrayvision"))
    assert is_here is False
    assert "pip install 'medretrieval[xrayvision]'" in said


def test_an_entry_knows_its_library_and_card():
    found = entry("rad_dino")
    assert (found.library, found.generic, found.text) == ("transformers", False, False)
    assert isinstance(found.card, Card)
    assert entry("transformers_clip").generic
    assert entry("medclip").text
