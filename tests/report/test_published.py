import csv
import dataclasses
import io
import json
import re
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
from tests.conftest import painted
from tests.files import edit_json
from tests.refusals import refusal
from tests.report.test_compare import fits, latex_tables
from tests.test_config import PRESETS

from medretrieval import compose, run
from medretrieval.cli.usage import all_choices
from medretrieval.commands.many_runs.compare import VERB
from medretrieval.config import published_folder
from medretrieval.evaluate.score_table import find
from medretrieval.report.matched_runs import scored
from medretrieval.report.published.beside import OwnScore, beside
from medretrieval.report.published.differences import differences
from medretrieval.report.published.rows import published_names, read_published
from medretrieval.runs.report import LeftOut
from medretrieval.runs.report_data import AdaptReport, ShapeReport
from medretrieval.track.find_runs import load_run
from medretrieval.track.tracker import Tracker
from medretrieval.uncertainty.bootstrap import Resampling, intervals

SMALL = (
    "dataset=pneumoniamnist", "evaluation.ks=[1,3,5]", "evaluation.resamples=200", "evaluation.baseline=none",
    "audit.enabled=false", "figures.enabled=false", "tracking=none",
)  # fmt: skip
QUERIES = 40
TABLE = "published=mahbod2025"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Forty images a split as in PneumoniaMNIST, one in eight of another class than it looks like."""
    folder = tmp_path_factory.mktemp("published")
    content = {}
    for seed, split in enumerate(("train", "val", "test")):
        labels = np.arange(QUERIES) % 2
        looks = np.where(np.arange(QUERIES) % 8 == 3, 1 - labels, labels)
        content |= {
            f"{split}_images": painted(looks, seed=seed),
            f"{split}_labels": labels[:, None].astype(np.uint8),
        }
    np.savez(folder / "pneumoniamnist.npz", **content)
    return folder


@pytest.fixture(scope="module")
def make(place):
    def made(*overrides):
        paths = (
            f"paths.{key}={place / name}" for key, name in (("data", ""), ("cache", "c"), ("outputs", "o"))
        )
        return run(compose(*SMALL, *paths, *overrides)).folder

    return made


@pytest.fixture(scope="module")
def pixels(make):
    return make("encoder=pixels")


@pytest.fixture(scope="module")
def chance(make):
    return make("encoder=random")


@pytest.fixture(scope="module")
def left_one_out(make):
    return load_run(make("encoder=pixels", "protocol=leave_one_out", "metric=l2"), "r")


@pytest.fixture
def loaded(pixels):
    return load_run(pixels, "r")


def changed(loaded, **changes):
    """A run of which one part of the report is another."""
    return dataclasses.replace(loaded, report=dataclasses.replace(loaded.report, **changes))


def shown(capsys, *arguments):
    assert VERB.main([str(word) for word in arguments]) == 0
    return capsys.readouterr()


def refused(*arguments):
    return refusal(VERB.main, [str(word) for word in arguments])


# The files


@pytest.mark.parametrize("name", published_names())
def test_every_table_is_whole(name):
    table = read_published(name)
    assert re.fullmatch(r"10\.\d{4,}/\S+", table.doi)
    assert len(table.citation) > 40
    assert all(find(score) for score in table.scores)
    assert all(50 < value <= 100 for values in table.rows.values() for value in values)
    assert table.queries > 0


def test_the_rows_are_those_of_the_paper():
    table = read_published("mahbod2025")
    assert list(table.scores.values()) == ["mAP@5", "mMV@5", "ACC@1", "ACC@3", "ACC@5"]
    assert table.rows["BiomedCLIP"] == [88.26, 85.58, 85.74, 93.43, 95.67]
    assert table.rows["UNI"] == [86.09, 84.29, 80.93, 93.43, 95.99]
    assert len(table.rows) == 8
    # Of the same query a hit at 1 is a hit at 3, and at 5.
    assert all(a <= b <= c for _, _, a, b, c in table.rows.values())


def test_tables_are_no_presets_and_are_part_of_the_package():
    assert published_folder().is_dir()
    assert all("published" not in str(path) for path in PRESETS)
    assert set(all_choices(None)["experiments"]) == {path.stem for path in PRESETS}
    build = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["tool"]["hatch"][
        "build"
    ]
    assert build["targets"]["wheel"]["force-include"]["experiments"] == "medretrieval/experiments"


def test_a_table_that_there_is_none_of_is_refused_with_those_there_are(pixels):
    line = refused(pixels, "published=mahbod2024")
    assert line == (
        "compare: published=mahbod2024: there is no such table; did you mean mahbod2025? choose from: "
        "mahbod2025"
    )
    assert "published=../x: there is no such table; choose from: " in refused(pixels, "published=../x")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda text: text.replace("doi:", "dio:"), "di.*: a key that is missing or unknown; it has to have"),
        (lambda text: text.replace("  metric:", "  distance:"), "distance: a key that is missing or unknown"),
        (lambda text: text.replace(", 95.99]", "]"), "UNI has 4 values for 5 scores"),
    ],
)
def test_a_damaged_table_is_refused(tmp_path, monkeypatch, change, says):
    (tmp_path / "t.yaml").write_text(change((published_folder() / "mahbod2025.yaml").read_text()))
    monkeypatch.setattr("medretrieval.report.published.rows.published_folder", lambda: tmp_path)
    assert re.search(says, refusal(read_published, "t"))


# Where a published value lies


@pytest.mark.parametrize(
    ("published", "distance"),
    [(85.0, 0), (80.0, 0), (90.0, 0), (91.5, 1.5), (78.25, -1.75), (90.004, 0), (79.996, 0), (90.02, 0.02)],
)
def test_the_distance_is_to_the_nearer_end_of_the_interval(published, distance):
    assert OwnScore(86.0, 80.0, 90.0).distance(published) == pytest.approx(distance)
    assert OwnScore(86.0, None, None).distance(published) is None


def test_each_score_has_the_interval_of_the_run(loaded):
    (found,) = beside([loaded], read_published("mahbod2025")).runs
    same = scored(loaded, "majority_vote_at_5")
    wanted = intervals({"x": same.values[:, 0]}, Resampling(200, 0.95, 0), n_relevant=same.n_relevant)["x"]
    own = found.scores["majority_vote_at_5"]
    assert (own.low, own.high) == pytest.approx(tuple(100 * end for end in wanted))
    assert 0 < own.low < own.value < own.high < 100
    for score in ("map_at_5_hits", "hit_rate_at_1"):
        own, said = found.scores[score], loaded.report.intervals.get(score)
        assert own.value == 100 * loaded.report.scores[score]
        if said:
            assert (own.low, own.high) == (100 * said.low, 100 * said.high)


def test_intervals_by_halves_are_taken_where_there_are_halves(left_one_out):
    found = beside([left_one_out], read_published("mahbod2025"))
    own = found.runs[0].scores["hit_rate_at_1"]
    said = left_one_out.report.intervals["hit_rate_at_1"]
    assert (own.low, own.high) == (100 * said.low, 100 * said.high)
    assert "what varies: images in both roles" in " ".join(found.notes)


# In which points protocols differ


def test_points_in_which_a_run_differs_are_said_one_a_line(loaded, left_one_out):
    table = read_published("mahbod2025")
    assert differences(loaded, table) == ["queries: 40, published 624"]
    assert differences(loaded, dataclasses.replace(table, queries=QUERIES)) == []
    assert differences(left_one_out, table) == [
        "gallery split: test, published train",
        "left out: exclude_self, published nothing",
        "metric: l2, published cosine",
        "queries: 40, published 624",
    ]


def test_every_point_can_differ(loaded):
    table = dataclasses.replace(read_published("mahbod2025"), queries=QUERIES)
    report = loaded.report
    encoder = dataclasses.replace(report.encoder, identity={"view": "checkpoint"})
    assert differences(changed(loaded, encoder=encoder), table) == ["view: checkpoint, published whole"]
    assert differences(changed(loaded, corrupt="noise@3"), table) == [
        "query images: noise@3, published clean"
    ]
    left_out = LeftOut(["drop_duplicates"], 3, 0, "map", None, None)
    assert differences(changed(loaded, left_out=left_out), table) == [
        "left out: drop_duplicates, published nothing"
    ]
    assert differences(changed(loaded, ann_loss=object()), table) == ["search: approximate, published exact"]
    small = dataclasses.replace(table, protocol=dataclasses.replace(table.protocol, image_size=224))
    assert differences(loaded, small) == ["image size: 28, published 224"]


@pytest.mark.parametrize(("uses_labels", "word"), [(True, "with"), (False, "without")])
def test_vectors_that_were_fitted_to_train_are_said(loaded, uses_labels, word):
    table = dataclasses.replace(read_published("mahbod2025"), queries=QUERIES)
    shape = ShapeReport(2, 1.0, 0.0)
    plain = {field.name: None for field in dataclasses.fields(AdaptReport)}
    adapt = AdaptReport(
        **plain | {"name": "lda", "uses_labels": uses_labels, "before": shape, "after": shape}
    )
    assert differences(changed(loaded, adapt=adapt), table) == [
        f"adaptation: lda, fitted to train {word} its labels, published none"
    ]


# What is refused


def test_a_run_without_a_score_is_told_the_option_that_computes_it(loaded):
    scores = {name: value for name, value in loaded.report.scores.items() if name != "hit_rate_at_3"}
    config = loaded.manifest.config
    config = config | {"evaluation": config["evaluation"] | {"ks": [1, 5, 10]}}
    manifest = dataclasses.replace(loaded.manifest, config=config)
    lacking = dataclasses.replace(changed(loaded, scores=scores), manifest=manifest)
    assert refusal(beside, [lacking], read_published("mahbod2025")) == (
        "compare: published=mahbod2025: r has no hit_rate_at_3; run it with evaluation.ks=[1,3,5,10]"
    )


def test_the_depths_are_enough_whatever_number_of_neighbors_votes(loaded):
    assert loaded.manifest.evaluation.vote_k != 5
    assert "majority_vote_at_5" in loaded.report.scores


def test_another_dataset_is_refused(pixels, tmp_path):
    folder = tmp_path / "r"
    shutil.copytree(pixels, folder, symlinks=True)
    edit_json(folder / "scores.json", lambda c: c.update(dataset="breastmnist"))
    assert refused(folder, TABLE) == (
        f"compare: published=mahbod2025: its rows are of dataset=pneumoniamnist, and {folder} is of "
        "breastmnist; give runs of pneumoniamnist"
    )


@pytest.mark.parametrize(
    "word",
    [
        "score=map",
        "baseline=x",
        "family=all",
        "resamples=500",
        "permutations=500",
        "confidence=0.9",
        "seed=1",
    ],
)
def test_options_of_tests_are_refused(word):
    key = word.partition("=")[0]
    line = refused("somewhere", TABLE, word)
    assert line == f"compare: {word}: has no effect with published=, which tests nothing; leave it out", key


# What is printed


def test_the_terminal_has_runs_rows_positions_and_notes(pixels, chance, capsys):
    out = shown(capsys, pixels, chance, TABLE).out
    lines = out.splitlines()
    assert lines[0].split() == ["encoder", "mAP@5", "mMV@5", "ACC@1", "ACC@3", "ACC@5", "source"]
    assert re.match(r"pixels +\d+\.\d\d \(\d+\.\d\d to \d+\.\d\d\)", lines[2])
    assert "VGG19" in lines[4]
    assert [line.split()[:2] for line in lines if line.startswith("beside")] == [
        ["beside", "pixels"], ["beside", "random"],
    ]  # fmt: skip
    assert "doi 10.1016/j.engappai.2025.110571" in out
    assert out.count("No difference is tested") == 1
    assert "pixels differs in queries: 40, published 624" in out
    assert not re.search(r"\bp\b ?[=<]|p corrected", out)


def test_one_run_is_enough_and_one_that_differs_in_nothing_is_said_so(pixels, capsys, monkeypatch):
    table = dataclasses.replace(read_published("mahbod2025"), queries=QUERIES)
    monkeypatch.setattr("medretrieval.report.published.rows.read_published", lambda name: table)
    out = shown(capsys, pixels, TABLE).out
    assert "No difference in image size, query split, gallery split, left out," in out
    assert out.splitlines()[-1].endswith("or number of queries: pixels.")


def test_json_and_csv_hold_the_same_numbers_in_full(pixels, chance, capsys):
    content = json.loads(shown(capsys, pixels, chance, TABLE, "--json").out)
    captured = shown(capsys, pixels, chance, TABLE, "format=csv")
    rows = list(csv.DictReader(io.StringIO(captured.out)))
    assert len(rows) == len(content["rows"]) == 2 * 8 * 5
    for row, said in zip(rows, content["rows"], strict=True):
        assert {key: "" if value is None else str(value) for key, value in said.items()} == row
        low, high, published = (float(row[key]) for key in ("low", "high", "published"))
        inside = low - 0.005 <= published <= high + 0.005
        assert row["position"] == ("inside" if inside else "above" if published > high else "below")
        assert inside == (float(row["distance"]) == 0)
    assert "No difference is tested" in captured.err
    assert [run["name"] for run in content["runs"]] == ["pixels", "random"]
    assert content["runs"][0]["differences"] == ["queries: 40, published 624"]
    assert content["doi"] == read_published("mahbod2025").doi


def test_markdown_and_latex_have_the_columns_they_announce(pixels, chance, capsys):
    out = shown(capsys, pixels, chance, TABLE, "format=markdown").out
    tables = re.findall(r"(?:^\|.*\n)+", out, re.M)
    assert [len(table.splitlines()) for table in tables] == [2 + 10, 2 + 8, 2 + 8]
    for table in tables:
        assert len({line.count("|") for line in table.splitlines()}) == 1
    needs, _, out = shown(capsys, pixels, chance, TABLE, "format=latex").out.partition("\n")
    assert needs.startswith("% in the preamble: ")
    found = latex_tables(out)
    assert len(found) == 3
    for columns, _, rows in found:
        for row in rows:
            assert all(column == "l" or fits(column, cell) for column, cell in zip(columns, row, strict=True))
    assert not re.search(r"(?<!\\)[_#%]", out)


def test_json_beside_a_format_is_refused():
    assert refused("x", TABLE, "--json", "format=csv").startswith("compare: --json and format=csv: both")


def test_random_weights_are_said(chance, tmp_path, capsys):
    folder = tmp_path / "r"
    shutil.copytree(chance, folder, symlinks=True)
    edit_json(folder / "scores.json", lambda c: c["encoder"].update(random_weights=True))
    out = shown(capsys, folder, TABLE).out
    assert "random*" in out
    assert "* RANDOM WEIGHTS" in out


def test_it_is_logged_where_that_is_wanted(pixels, capsys, monkeypatch):
    kept = []

    class Keeper(Tracker):
        def log_entry(self, entry):
            kept.append(entry)
            return "the diary"

    monkeypatch.setattr("medretrieval.track.tracker.tracker_of", lambda folder, uri: Keeper())
    captured = shown(capsys, pixels, TABLE, "track=true", "format=markdown")
    assert captured.err.splitlines()[-1] == "in the diary"
    (entry,) = kept
    assert entry.tags["published"] == "mahbod2025"
    assert entry.files.keys() == {"published.txt", "published.md", "published.csv", "published.tex"}
    assert entry.files["published.md"] == captured.out
