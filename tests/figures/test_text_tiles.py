"""Runs whose queries are sentences, in pictures, questions and reports."""

import base64
import io
import json
import re

import numpy as np
import pytest
from PIL import Image
from tests.test_text_to_image import ASK, EACH

from medretrieval import cli, run
from medretrieval.config import PromptUse
from medretrieval.datasets.base import Split
from medretrieval.figures.text_tiles import SIDE_PIXELS, pictures
from medretrieval.protocol.prompts import Prompts


def prompts(*texts, use=PromptUse.each):
    return Prompts(("a", "b"), texts, np.arange(len(texts)) * 2 // len(texts), use, False)


@pytest.fixture
def say(monkeypatch, capsys, tmp_path):
    """The command in tmp_path: exit code, what it printed, what it said beside."""
    monkeypatch.chdir(tmp_path)

    def said(*words):
        monkeypatch.setattr("sys.argv", ["medretrieval", *map(str, words)])
        capsys.readouterr()
        code = cli.main()
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return said


def test_images_are_shown_as_they_are_and_sentences_as_words():
    images = np.arange(2 * 9, dtype=np.uint8).reshape(2, 3, 3)
    assert np.array_equal(np.stack(pictures(Split("test", images, np.zeros(2, np.int64)))), images)
    one, other = pictures(prompts("a heart", "a lung"))
    assert one.shape == other.shape == (SIDE_PIXELS, SIDE_PIXELS)
    assert not np.array_equal(one, other)
    assert np.array_equal(one, pictures(prompts("a heart", "clear"))[0])
    ensemble = pictures(prompts("a heart", "hearts", "a lung", "lungs", use=PromptUse.ensemble))
    assert len(ensemble) == 2
    assert not np.array_equal(ensemble[0], one)  # "and 1 more"


def test_a_long_sentence_stays_within_its_picture():
    (sheet, _) = pictures(prompts("a very long sentence of many words " * 20, "short"))
    paper = sheet[0, 0]
    margins = (sheet[:4], sheet[-4:], sheet[:, :4], sheet[:, -3:])
    assert all((edge == paper).all() for edge in margins)
    assert (sheet != paper).any()


@pytest.mark.parametrize("use", [(), (EACH,)])
def test_pictures_of_a_run_show_its_sentences(config, write_npz, use):
    write_npz()
    folder = run(config(*ASK, *use, "figures.enabled=true")).folder
    shown = json.loads((folder / "figures" / "examples.json").read_text())
    ids = {p["id"]: p for p in json.loads((folder / "prompts.json").read_text())}
    assert {row["id"] for row in shown["retrieval"]} == set(ids)
    assert all(row["class"] == ids[row["id"]]["class"] for row in shown["retrieval"])
    assert all(result["relevant"] for row in shown["retrieval"] for result in row["results"][:2])
    assert shown["size"] == [28, 28]
    for name, uri in shown["thumbnails"].items():
        picture = Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1])))
        assert picture.size == ((SIDE_PIXELS, SIDE_PIXELS) if name in ids else (28, 28))
    page = (folder / "figures" / "embedding_map.html").read_text()
    assert all(name.replace("/", r"\u002f") in page for name in ids)
    assert "prompts" in page


def test_a_run_of_sentences_is_asked_unless_its_images_are_centered(config, write_npz, say):
    write_npz()
    plain, centered = (run(config(*ASK, *more)).folder for more in ((), ("protocol.center=train",)))
    code, printed, _ = say("query", f"run={plain}", "text=malignant", "k=2", "--json")
    assert code == 0
    found = json.loads(printed)["queries"][0]["results"]
    assert [result["class"] for result in found] == ["malignant"] * 2
    for words in (("query", f"run={centered}", "text=malignant"), ("explain", centered, "query=test/3")):
        code, _, printed = say(*words)
        assert code == 1
        assert len(printed.strip().splitlines()) == 1
        assert "the mean embedding is subtracted from its images (protocol.center=train)" in printed


def test_a_report_shows_runs_of_sentences_centered_or_not_in_one_table(config, write_npz, say, tmp_path):
    write_npz()
    runs = [
        run(config(*ASK, EACH, *more, "figures.enabled=true")) for more in ((), ("protocol.center=train",))
    ]
    code, _, printed = say("report", *(r.folder for r in runs), "track=false", f"out={tmp_path / 'r.html'}")
    assert code == 0, printed
    page = (tmp_path / "r.html").read_text()
    assert len(re.findall(r'<h3 id="g\d-runs">Runs</h3>', page)) == 1
    assert 'class="gallery"' in page
    assert "prompt/malignant/0" in page
    assert not [line for line in page.splitlines() if 'class="warn"' in line and "examples.json" in line]
