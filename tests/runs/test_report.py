"""scores.json and per_query.parquet of real runs hold what docs/results-format.md says, or are refused."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet
from tests.files import edit_json

from medretrieval import run
from medretrieval.errors import UserError
from medretrieval.runs import folder as run_folder
from medretrieval.runs.format_page import ARRAYS, page
from medretrieval.runs.report import RunReport, read_report, scores_of_any_format
from medretrieval.runs.typed_json import from_json, to_json

PAGE = Path(__file__).parents[2] / "docs" / "results-format.md"
BASE = ("dataset=breastmnist", "evaluation.ks=[1,3]", "evaluation.resamples=100")
PIXELS = (*BASE, "encoder=pixels")
SENTENCES = (
    *BASE, "protocol=text_to_image", "encoder=random", "encoder._target_=tests.toy_encoders.Worded",
    "~encoder.dim", "~encoder.normalize", "~encoder.seed", "encoder.name=worded",
    "+encoder.words=[malignant,normal]", "prompts.templates=['{}']",
    r"prompts.classes={malignant:[malignant],normal\, benign:[normal]}",
)  # fmt: skip
PHANTOMS = (
    "dataset.size=48", "dataset.n_train=20", "dataset.n_test=15", "encoder=timm",
    "encoder.model=test_resnet", "encoder.pretrained=null", "encoder.runtime=torch", "evaluation.ks=[1,3]",
    "evaluation.resamples=200",
)  # fmt: skip


def sections():
    """Of the committed page: heading -> the names in the first column of its table."""
    found = {}
    for part in re.split(r"\n(?=##)", PAGE.read_text())[1:]:
        heading = part.splitlines()[0].lstrip("# ")
        found[heading] = re.findall(r"(?m)^\| `([^`]+)`", part)
    return found


def linked(heading):
    """Of the committed page: key -> the section that its type links to, with one for objects of it."""
    part = next(
        p for p in re.split(r"\n(?=##)", PAGE.read_text()) if p.lstrip("# ").startswith(heading + "\n")
    )
    return {
        key: (name, kind.strip().startswith("object of"), kind.strip().startswith("list of"))
        for key, kind, name in re.findall(r"(?m)^\| `(\w+)` \|([^|\[]*)\[(\w+)\]\(#\w+\)", part)
    }


def require_documented(content, heading):
    """The keys of a JSON object are those that the page has under a heading, and so on below it."""
    assert list(content) == sections()[heading]
    for key, (name, of_names, of_list) in linked(heading).items():
        values = content[key].values() if of_names else content[key] if of_list else [content[key]]
        for value in values:
            if value is not None:
                require_documented(value, name)


def check(folder):
    """A run's files hold the keys, columns and arrays that are on the page, and no others."""
    found = sections()
    for name in (run_folder.SCORES, run_folder.MANIFEST):
        require_documented(json.loads((folder / name).read_text()), name)
    report = read_report(folder)
    columns = parquet.read_schema(folder / run_folder.PER_QUERY)
    documented = [name for name in found[run_folder.PER_QUERY] if name in run_folder.QUERY_COLUMNS]
    assert documented == list(run_folder.QUERY_COLUMNS)
    facts = [name for name in columns.names if name in documented]
    assert facts == columns.names[: len(facts)]
    assert facts == documented[: len(facts)]
    for name in columns.names[len(facts) :]:
        assert name in report.scores
        assert str(columns.field(name).type) == "double"
    with np.load(folder / run_folder.RANKING, allow_pickle=False) as arrays:
        assert set(arrays.files) == set(found[run_folder.RANKING])
        for name, (kind, _) in ARRAYS.items():
            assert any(
                arrays[name].dtype.name.startswith(one.split()[0]) and arrays[name].ndim == one.count(",") + 1
                for one in kind.split(" or ")
            )
    others = found["Other files"]
    for path in folder.iterdir():
        assert path.name in {*found, *others} or f"{path.name}/" in others
    return report


def test_the_page_is_what_the_types_say():
    assert PAGE.read_text() == page(), "python -m medretrieval.runs.format_page docs/results-format.md"


def test_a_plain_run_is_documented(config, write_npz):
    write_npz(n=24)
    report = check(run(config(*PIXELS, "encoder=random")).folder)
    assert report.baseline.difference is not None
    assert report.ann_loss is report.explain is report.zero_shot is None
    assert report.audit.same_group is None


def test_an_approximate_tuned_run_with_groups_left_out_is_documented(config, write_npz, tmp_path):
    write_npz(n=60)
    rows = [f"{split},{i},p{i // 2}\n" for split in ("train", "val", "test") for i in range(60)]
    (tmp_path / "groups.csv").write_text("split,index,group\n" + "".join(rows))
    groups = (f"dataset.groups={tmp_path / 'groups.csv'}", "protocol.exclude_same_group=true")
    folder = run(config(*PIXELS, *groups, "index=ivf", "index.autotune=0.9")).folder
    report = check(folder)
    assert list(report.ann_loss.recall) == [1, 3]
    assert report.ann_loss.changes
    assert report.autotune.curve
    assert report.left_out.change is not None
    assert report.audit.groups_on_both_sides == 30
    assert "group" in parquet.read_schema(folder / run_folder.PER_QUERY).names


def test_a_run_with_metadata_is_documented(config):
    patients = ("dataset._target_=tests.toy_datasets.Patients", *PHANTOMS[:3], "encoder=pixels")
    folder = run(config(*patients, "evaluation.resamples=100", "evaluation.subgroups=[sex,age]")).folder
    report = check(folder)
    assert {row.column for row in report.subgroups.values} == {"sex", "age"}
    images = parquet.read_table(folder / run_folder.IMAGES)
    names = [name for name in images.column_names if not name.startswith(run_folder.METADATA)]
    documented = list(run_folder.IMAGE_COLUMNS)
    assert [*names, "metadata.<column>"] == documented
    assert images.column_names[3:] == [f"metadata.{name}" for name in ("sex", "age", "view", "site")]
    assert images["role"].to_pylist() == ["query"] * 15 + ["gallery"] * 20
    assert images["id"].to_pylist()[::15] == ["test/0", "train/0", "train/15"]


def test_a_multi_label_run_is_documented(config, write_npz):
    labels = (np.random.default_rng(0).random((40, 14)) < 0.3).astype(np.uint8)
    write_npz("chestmnist", n=40, **{f"{s}_labels": labels for s in ("train", "val", "test")})
    report = check(run(config(*PIXELS, "dataset=chestmnist")).folder)
    assert report.vote.abstention is None


def test_a_run_of_sentences_is_documented(config, write_npz):
    write_npz(n=60)
    report = check(run(config(*SENTENCES, "index=hnsw")).folder)
    assert report.zero_shot.confusion is not None
    assert report.modality_gap.recall is not None
    assert report.audit is report.baseline is None


def test_an_explained_run_is_documented(config):
    explained = ("explain.enabled=true", "explain.pairs=20", "explain.steps=2")
    report = check(run(config(*PHANTOMS, *explained)).folder)
    assert report.explain.deletion.intervals
    assert report.explain.pointing.intervals
    assert report.encoder.identity["weights_sha256"]


@pytest.fixture
def done(config, write_npz):
    write_npz(n=12)
    return run(config(*PIXELS))


def test_what_is_read_is_what_was_written(done):
    assert read_report(done.folder) == done.report
    assert from_json(RunReport, json.loads(done.report.to_text())) == done.report


def test_a_number_may_be_written_without_its_point(done):
    edit_json(done.folder / "scores.json", lambda c: c["scores"].update(map=1))
    read = read_report(done.folder).scores["map"]
    assert read == 1.0
    assert isinstance(read, float)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: c.update(extra=1), "extra is no key of it"),
        (lambda c: c["speed"]["latency_ms"].pop("p95"), "speed.latency_ms.p95 is missing"),
        (lambda c: c["counts"].update(depth=True), "counts.depth is True, where a whole number is needed"),
        (lambda c: c["counts"].update(depth=1.5), "counts.depth is 1.5, where a whole number is needed"),
        (lambda c: c["scores"].update(map="0.9"), "scores.map is '0.9', where a number is needed"),
        (lambda c: c["scores"].update(map=None), "scores.map is None, where a number is needed"),
        (lambda c: c["protocol"].update(exclude_self=1), "protocol.exclude_self is 1, where true or false"),
        (lambda c: c.update(title=None), "title is None, where a text is needed"),
        (lambda c: c["notes"].append(3), "notes[0] is 3, where a text is needed"),
        (lambda c: c.update(notes={}), "notes is {}, where a list is needed"),
        (lambda c: c.update(speed=[]), "speed is [], where an object is needed"),
        (lambda c: c["intervals"].update(map=[0, 1]), "intervals.map is [0, 1], where an object is needed"),
    ],
)
def test_a_file_that_is_not_of_its_type_is_refused_by_its_key(done, change, says):
    edit_json(done.folder / "scores.json", lambda c: c.update(notes=[]))
    edit_json(done.folder / "scores.json", change)
    with pytest.raises(UserError) as caught:
        read_report(done.folder)
    line = str(caught.value)
    assert line.startswith(f"{done.folder}: scores.json: {says}")
    assert line.endswith(f"; repeat the run with: medretrieval again {done.folder}")


def test_depths_are_whole_numbers_and_stay_so():
    assert to_json(from_json(dict[int, float], {"5": 0.5, "10": 1.0})) == {"5": 0.5, "10": 1.0}
    with pytest.raises(ValueError, match="recall has the key 'five', where a whole number is needed"):
        from_json(dict[int, float], {"five": 0.5}, "recall")


@pytest.mark.parametrize(("told", "found"), [(5, "5"), (99, "99"), (None, "3 or before")])
def test_a_run_of_another_format_is_refused_by_its_name_and_its_scores_can_be_read(done, told, found):
    def change(content):
        del content["format"]
        content.update({} if told is None else {"format": told}, other=1)

    edit_json(done.folder / "scores.json", change)
    with pytest.raises(UserError) as caught:
        read_report(done.folder, "MLflow run abc")
    assert str(caught.value) == (
        f"MLflow run abc: a run of results format {found}, and this version reads 10; repeat the run with: "
        "medretrieval again abc"
    )
    assert scores_of_any_format(done.folder) == done.report.scores


def test_a_finished_run_that_cannot_be_read_is_run_again(config, done):
    assert run(config(*PIXELS)).skipped
    edit_json(done.folder / "scores.json", lambda c: c.pop("speed"))
    assert not run(config(*PIXELS)).skipped
