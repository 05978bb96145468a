"""Explanations in a run and afterwards: files, numbers, notes, the verb and its refusals."""

import json

import numpy as np
import pytest
from PIL import Image
from tests.tiny_models import TINY_READER, add_clip

from medretrieval import cli, compose, run
from medretrieval.commands.one_run.explain import VERB
from medretrieval.errors import UserError
from medretrieval.explain.faithfulness import Deletion, summary
from medretrieval.explain.pairs import Explanations
from medretrieval.runs import folder as results
from medretrieval.runs.warnings import _about_maps
from medretrieval.track.run_metrics import MAX_METRICS, run_metrics
from medretrieval.uncertainty.bootstrap import Resampling

PHANTOMS = (
    "dataset=chest_phantom", "dataset.size=48", "dataset.n_train=20", "dataset.n_test=15", "encoder=timm",
    "encoder.model=test_resnet", "encoder.pretrained=null", "encoder.runtime=torch", "evaluation.ks=[1,3]",
    "evaluation.vote_k=3", "evaluation.resamples=200",
)  # fmt: skip
EXPLAIN = ("explain.enabled=true", "explain.pairs=5", "explain.steps=2")


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    where = tmp_path_factory.mktemp("explained")
    places = (f"paths.outputs={where / 'outputs'}", f"paths.cache={where / 'cache'}")
    return run(compose("tracking=none", *places, *PHANTOMS, *EXPLAIN), where / "run")


def verb(*arguments):
    return VERB.main([str(a) for a in arguments])


def test_a_run_writes_maps_curves_and_numbers(done):
    found = done.report.explain
    assert found.layer == "layer4"
    assert found.deletion.pairs == 5
    assert found.pointing.queries == 4  # five classes, one of them clear
    details = json.loads((done.folder / results.EXPLAINED).read_text())
    rows = details["rows"]
    for name in ("area_marked", "area_random"):
        assert getattr(found.deletion, name) == pytest.approx(np.mean([r["deletion"][name] for r in rows]))
    for row in rows:
        assert row["query"].startswith("test/")
        assert row["result"].startswith("train/")
        assert len(row["deletion"]["marked"]) == len(details["removed"]) == 3
        assert row["deletion"]["marked"][0] == pytest.approx(row["cosine"], abs=1e-4)
    for name in (results.EXPLANATIONS, results.DELETION):
        with Image.open(done.folder / name) as picture:
            assert len(picture.convert("RGB").getcolors(1 << 24)) > 100
    assert "explain" in done.report.timings_s
    (note,) = [n for n in done.report.notes if n.startswith(results.EXPLANATIONS)]
    assert "5 pairs" in note


def test_mlflow_gets_the_numbers_under_flat_names(done):
    values, found = run_metrics(done.report), done.report.explain
    assert values["explain/deletion_advantage"] == found.deletion.advantage
    assert values["explain/pointing_other_class_hits_gain"] == found.pointing.other_class.hits_gain
    assert len(values) <= MAX_METRICS
    assert all(isinstance(v, int | float) for v in values.values())


def test_without_it_a_run_says_so_and_draws_nothing(config):
    plain = run(config(*PHANTOMS))
    assert plain.report.explain is None
    assert "explain" not in plain.report.timings_s
    assert not (plain.folder / results.EXPLANATIONS).exists()
    assert not [name for name in run_metrics(plain.report) if name.startswith("explain/")]


def test_images_without_masks_have_no_pointing_game(config, write_npz):
    write_npz()
    found = run(config("dataset=breastmnist", *PHANTOMS[4:], *EXPLAIN)).report.explain
    assert found.pointing is None
    assert found.deletion.pairs == 5


def test_a_note_says_what_the_maps_are_worth():
    def note(areas):
        curves = [Deletion(np.full(3, marked), np.full(3, random)) for marked, random in areas]
        return _about_maps(Explanations([], "layer", summary(curves, [], Resampling(500, 0.95, 0))))[0]

    assert "lowers the cosine faster" in note([(0.4, 0.5), (0.3, 0.5), (0.4, 0.6)] * 4)
    for doubtful in ([(0.4, 0.5), (0.6, 0.5), (0.5, 0.5)] * 4, [(0.4, 0.5)] * 9):  # nine give no interval
        assert "is not shown to lower the cosine faster" in note(doubtful)
        assert "do not trust the maps" in note(doubtful)
    assert _about_maps(None) == []


@pytest.mark.slow
def test_maps_of_real_weights_find_what_the_similarity_rests_on(config):
    """The gradient of the cosine itself, with its length free, fails this (-0.01)."""
    options = ("dataset.n_train=100", "dataset.n_test=50", "explain.pairs=25", "evaluation.baseline=none")
    found = run(config(*options, "dataset.size=224", "explain.enabled=true")).report.explain
    assert found.deletion.intervals["advantage"].low > 0
    assert found.deletion.wins > 0.6


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (("encoder=pixels",), "encoder=pixels: explain needs a model on torch"),
        ((*PHANTOMS, "explain.pairs=0"), "explain.pairs=0: must be 1 or more"),
        ((*PHANTOMS, "explain.steps=1"), "explain.steps=1: must be 2 or more"),
        ((*PHANTOMS, "protocol=text_to_image"), "explain.enabled=true: draws maps of image queries"),
    ],
)
def test_what_cannot_be_explained_is_refused_before_anything_is_embedded(config, tmp_path, options, line):
    with pytest.raises(UserError, match=line):
        run(config("explain.enabled=true", *options))
    assert not list(tmp_path.glob("**/embeddings"))


def test_the_verb_explains_a_query_and_its_first_results(done, tmp_path, capsys):
    out = tmp_path / "pair.png"
    assert verb(done.folder, "query=test/3", "k=2", f"out={out}", "--json") == 0
    content = json.loads(capsys.readouterr().out)
    ranking = np.load(done.folder / results.RANKING, allow_pickle=False)
    wanted = [str(ranking["gallery_ids"][i]) for i in ranking["ids"][3][:2]]
    assert [pair["result"] for pair in content["pairs"]] == wanted
    # The metric is cosine distance, so the pair's cosine is what the run ranked by.
    cosines = [pair["cosine"] for pair in content["pairs"]]
    np.testing.assert_allclose(cosines, 1 - ranking["distances"][3][:2], atol=1e-4)
    with Image.open(out) as picture:
        assert picture.width > 500


def test_the_verb_explains_any_two_images_in_a_table(done, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    assert verb(done.folder, "query=test/3", "result=train/7") == 0
    header, _, row, place = capsys.readouterr().out.splitlines()
    assert header.split()[:3] == ["query", "result", "cosine"]
    assert row.split()[:2] == ["test/3", "train/7"]
    assert place == "picture: explain_test-3.png"
    assert (tmp_path / "explain_test-3.png").exists()


def test_the_verb_explains_a_sentence_on_an_image(config, monkeypatch, tmp_path, capsys):
    add_clip(monkeypatch, config=TINY_READER)
    folder = run(config(*PHANTOMS[:4], "encoder=open_clip", "encoder.model=tiny", *PHANTOMS[7:])).folder
    words = ("query=test/3", "text=a large heart", f"out={tmp_path / 'text.png'}", "explain.steps=3")
    assert verb(folder, *words, "--json") == 0
    (pair,) = json.loads(capsys.readouterr().out)["pairs"]
    assert (pair["query"], pair["text"], pair["result"]) == (None, "a large heart", "test/3")
    assert len(pair["deletion"]["marked"]) == 4
    assert pair["deletion"]["marked"][0] == pytest.approx(pair["cosine"], abs=1e-5)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "explain: query= is missing; medretrieval explain <run> query=<image>"),
        (["query=test/15"], "query=test/15: split test has the images test/0 to test/14"),
        (["query=3"], "query=3: no image has such an id"),
        (["query=train/3"], "query=train/3: was no query of this run"),
        (["query=test/3", "result=test/99"], "result=test/99: split test has"),
        (["query=test/3", "k=21"], "k=21: the run kept 20 results"),
        (["query=test/3", "k=0"], "explain: k=0: give a whole number, 1 or more"),
        (["query=test/3", "k=2", "text=lungs"], "explain: k= and text=: give one of them"),
        (["query=test/3", "text= "], "explain: text=: give a value"),
        (["query=test/3", "text=lungs"], "encoder=test_resnet: has no text tower"),
        (["query=test/3", "out=nowhere/a.png"], "explain: out=nowhere/a.png: there is no folder nowhere"),
        (["query=test/3", "out=a.pdf"], "explain: out=a.pdf: give a name that ends in .png"),
        (["query=test/3", "encoder.seed=1"], "its weights_sha256 is .* a query must be embedded as"),
        (["query=test/3", "dataset.seed=1"], "split 'test' held other images when it ran"),
    ],
)
def test_the_verb_answers_a_mistake_with_one_line_and_no_picture(done, monkeypatch, tmp_path, words, line):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=line.replace("(", r"\(").replace("[", r"\[")):
        verb(done.folder, *words)
    assert not list(tmp_path.glob("*.png"))


def test_a_key_that_is_none_is_answered_with_one_line_by_every_verb(done, monkeypatch, capsys):
    for name, words in (("explain", ["query=test/3"]), ("verify", [])):
        monkeypatch.setattr("sys.argv", ["medretrieval", name, str(done.folder), *words, "bogus=3"])
        assert cli.main() == 1
        assert capsys.readouterr().err.startswith(
            f"medretrieval: {name}: bogus=3: no such key; choose from: --config-dir, --json, "
        )
