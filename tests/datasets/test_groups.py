import numpy as np
import pandas as pd
import pytest

from medretrieval import run
from medretrieval.commands.many_runs.compare import VERB, options_of
from medretrieval.datasets.groups import common_codes, groups_sha256, identical_codes, read_groups
from medretrieval.errors import UserError
from medretrieval.report.compare import compare
from medretrieval.runs.tables import run_table
from medretrieval.track.find_runs import load_run

BASE = ("dataset=breastmnist", "encoder=random", "evaluation.ks=[1,3]", "evaluation.resamples=500")


@pytest.fixture
def write_groups(tmp_path):
    """Two images a patient, the same patients in all splits."""

    def write(n=40, rows=None, header="split,index,group", encoding="utf-8"):
        lines = rows or [f"{s},{i},p{i // 2}" for s in ("train", "val", "test") for i in range(n)]
        path = tmp_path / "groups.csv"
        path.write_text("\n".join([header, *lines]) + "\n", encoding=encoding)
        return path

    return write


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_groups_are_read_by_split_and_position(write_groups, encoding):
    rows = ["test,1,b", "train,0,c", "test,0, a "]
    assert read_groups(write_groups(rows=rows, encoding=encoding), "test", 2).tolist() == ["a", "b"]
    assert read_groups(
        write_groups(rows=["x,b,1,test", "y,a,0,test"], header="age,group,index,split"), "test", 2
    ).tolist() == ["a", "b"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["test,0,a"], r"1 of the 2 images of split 'test' have no row \(first test/1\)"),
        (["test,0,a", "test,1,b", "test,1,c"], r"line 4: a second row for image test/1"),
        (["test,0,a", "test,2,b"], r"line 3: index '2' is not an image of split 'test'; .* 0 to 1"),
        (["test,0,a", "test,-1,b"], r"line 3: index '-1' is not an image"),
        (["test,0,a", "test,1_0,b"], r"line 3: index '1_0' is not an image"),
        (["test,0,a", "test,1,"], r"line 3: image test/1 has an empty group"),
        (["tset,0,a"], r"line 2: no split 'tset'; choose from: train, val, test"),
        (["test,0,a,x"], r"line 2 has 4 fields, the header 3"),
        (['test,0,"a'], r"not a CSV file"),
    ],
)
def test_a_file_that_says_no_groups_is_refused_by_line(write_groups, rows, message):
    with pytest.raises(UserError, match=r"dataset\.groups=.*groups\.csv: " + message):
        read_groups(write_groups(rows=rows), "test", 2)


def test_other_files_are_refused_by_name(write_groups, tmp_path):
    with pytest.raises(UserError, match="must name the columns split,index,group"):
        read_groups(write_groups(header="split,index,patient"), "test", 2)
    with pytest.raises(UserError, match="not UTF-8"):
        read_groups(write_groups(rows=["test,0,Müller"], encoding="latin-1"), "test", 1)
    with pytest.raises(UserError, match="cannot be read"):
        read_groups(tmp_path / "none.csv", "test", 2)


def test_codes_are_equal_where_names_or_bytes_are():
    left, right = common_codes(np.array(["b", "a"]), np.array(["a", "c", "b"]))
    assert (left[:, None] == right).tolist() == [[False, False, True], [True, False, False]]
    images = np.random.default_rng(0).integers(0, 2, (20, 2, 2)).astype(np.uint8)
    first, second = identical_codes(images, images[::-1])
    same = (images[:, None] == images[::-1][None]).all(axis=(2, 3))
    assert np.array_equal(first[:, None] == second, same)


def test_the_hash_of_groups_knows_where_a_name_ends():
    assert groups_sha256(np.array(["a1", "2"])) != groups_sha256(np.array(["a", "12"]))
    assert groups_sha256(None) is None


def test_a_run_with_groups_draws_whole_groups_and_says_so(config, write_npz, write_groups):
    write_npz(n=40)
    path = write_groups()
    alone = run(config(*BASE)).report
    found = run(config(*BASE, f"dataset.groups={path}"))
    assert (alone.resampled, found.report.resampled) == ("queries", "groups")
    assert found.report.scores == alone.scores
    assert found.report.intervals != alone.intervals
    assert found.report.audit.groups_on_both_sides == 20
    assert found.report.audit.same_group == 40
    assert any(note.startswith("20 groups have images on both sides") for note in found.report.notes)
    frame = pd.read_parquet(found.folder / "per_query.parquet")
    assert frame["group"].tolist() == [f"p{i // 2}" for i in range(40)]
    kinds = pd.read_parquet(found.folder / "audit.parquet")["kind"]
    assert (kinds == "same_group").sum() == 80


def test_other_groups_in_the_same_file_are_another_run(config, write_npz, write_groups):
    write_npz(n=40)
    override = f"dataset.groups={write_groups()}"
    assert not run(config(*BASE, override)).skipped
    assert run(config(*BASE, override)).skipped
    write_groups(rows=[f"{s},{i},p{i}" for s in ("train", "val", "test") for i in range(40)])
    assert not run(config(*BASE, override)).skipped


def test_leaving_out_a_patient_changes_the_score_and_the_change_is_said(config, write_npz, write_groups):
    # The twin of each image is the only one that looks like it.
    rng = np.random.default_rng(0)
    labels = (rng.random(20) < 0.5).astype(np.uint8).repeat(2)
    images = rng.integers(0, 200, (20, 28, 28)).repeat(2, axis=0)
    images = (images + rng.integers(0, 9, images.shape)).astype(np.uint8)
    arrays = {f"{s}_{what}": array for s in ("train", "val", "test")
              for what, array in (("images", images), ("labels", labels[:, None]))}  # fmt: skip
    write_npz(n=40, **arrays)
    base = (*BASE, "encoder=pixels", "protocol=leave_one_out", "evaluation.objective=precision_at_1")
    base = (*base, f"dataset.groups={write_groups()}")
    plain, strict = run(config(*base)), run(config(*base, "protocol.exclude_same_group=true"))
    assert plain.report.scores["precision_at_1"] == 1.0
    assert plain.report.left_out is None
    left_out = strict.report.left_out
    assert strict.report.scores["precision_at_1"] < 0.8
    assert left_out.options == ["exclude_same_group"]
    assert left_out.without == 1.0
    change = left_out.change
    assert change.value == pytest.approx(strict.report.scores["precision_at_1"] - 1.0)
    assert change.low < change.value < change.high
    assert any("Leaving out same group changes precision_at_1 by -" in n for n in strict.report.notes)
    assert "exclude same group" in strict.report.title
    assert not any("exclude_same_group=true" in note for note in strict.report.notes)
    # The baseline and chance play by the same rules.
    assert strict.report.chance["precision_at_1"] < plain.report.chance["precision_at_1"]


def test_dropping_duplicates_leaves_no_copy_to_find(config, write_npz):
    rng = np.random.default_rng(1)
    images = rng.integers(0, 255, (20, 28, 28)).astype(np.uint8)
    write_npz(n=20, test_images=images, train_images=np.concatenate([images[:10]] * 2))
    base = (*BASE, "encoder=pixels", "evaluation.objective=hit_rate_at_1", "protocol.drop_duplicates=true")
    found = run(config(*base)).report
    assert found.counts.depth == 9  # ten pictures, and a query's own is not among them
    assert found.left_out.dropped == 10
    assert found.left_out.pairs == 10


def test_compare_draws_groups_and_refuses_runs_of_other_groups(config, write_npz, write_groups):
    write_npz(n=40)
    override = f"dataset.groups={write_groups()}"
    folders = [run(config(*BASE, override, f"encoder.seed={i}")).folder for i in range(2)]
    runs = [load_run(folder, str(folder)) for folder in folders]
    found = compare(runs, options_of(VERB.parse([str(f) for f in folders]), runs))
    assert "What varies: groups (20 groups), the gallery held fixed" in found.notes[0]
    other = run(config(*BASE, "encoder.seed=2")).folder
    with pytest.raises(UserError, match="the groups of the queries are not the same"):
        compare([*runs, load_run(other, "other")], options_of(VERB.parse([str(f) for f in folders]), runs))


def test_one_patient_is_too_few_to_say_anything_of_the_spread_and_no_crash(config, write_npz, write_groups):
    write_npz(n=40)
    rows = [f"{s},{i},{'p' if s == 'test' else i}" for s in ("train", "val", "test") for i in range(40)]
    base = (*BASE, f"dataset.groups={write_groups(rows=rows)}", "index=hnsw", "protocol.drop_duplicates=true")
    result = run(config(*base))
    assert result.report.intervals == {}
    assert result.report.ann_loss.changes == {}
    assert result.report.baseline.difference is None
    assert result.report.left_out.change is None
    assert "against exact search: recall@3" in run_table(result.report, result.folder)


# Forms of MedMNIST's own CSVs: a line a row, the name of the image in the source last.
OF_CT = [
    "train,0,train-112-8-sagittal-028",
    "train,1,train-112-8-sagittal-031",
    "train,2,train-7-3-sagittal-101",
    "val,0,train-7-1-sagittal-044",
    "test,0,test-7-1-sagittal-044",
    "test,1,test-12-2-sagittal-009",
]
OF_CHESTS = [
    "test,0,person1000_bacteria_2931",
    "test,1,person1000_bacteria_2932",
    "test,2,IM-0115-0001",
    "test,3,NORMAL2-IM-0115-0001",
    "test,4,NORMAL2-IM-0115-0002",
]
CT_RULE, CHEST_RULE = r"^[a-z]+-\d+", r"^(person\d+|(?:NORMAL2-)?IM-\d+)"
SOURCES = "split,index,image_id"


def test_the_patient_is_found_in_the_names_of_the_source(write_groups):
    path = write_groups(rows=OF_CT, header=SOURCES)
    assert read_groups(path, "train", 3, CT_RULE).tolist() == ["train-112", "train-112", "train-7"]
    assert read_groups(path, "val", 1, CT_RULE).tolist() == ["train-7"]  # the patient of train/2
    assert read_groups(path, "test", 2, CT_RULE).tolist() == ["test-7", "test-12"]
    path = write_groups(rows=OF_CHESTS, header=SOURCES)
    found = read_groups(path, "test", 5, CHEST_RULE).tolist()
    assert found == ["person1000", "person1000", "IM-0115", "NORMAL2-IM-0115", "NORMAL2-IM-0115"]
    assert read_groups(path, "test", 5, r"(\d+)[-_]").tolist()[:3] == ["1000", "1000", "0115"]


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("(", r"^dataset\.group_rule=\(: no regular expression \(.*\); write one"),
        (r"person\d+", r"line 4: dataset\.group_rule=.* finds no group in 'IM-0115-0001'"),
        (r"(person)?.*", r"line 4: dataset\.group_rule=.* finds no group"),
        (r"[-_]\d*(1)$|\d", r"^dataset\.group_rule=.*: finds '1' in all 2 names of split 'train'"),
    ],
)
def test_a_rule_that_finds_no_patients_is_refused(write_groups, rule, message):
    rows = [*OF_CHESTS, "train,0,IM-1", "train,1,person_1"]
    split, n = ("train", 2) if "$" in rule else ("test", 5)
    with pytest.raises(UserError, match=message):
        read_groups(write_groups(rows=rows, header=SOURCES), split, n, rule)


def test_a_file_tells_groups_in_one_way(write_groups):
    path = write_groups(rows=OF_CT, header=SOURCES)
    with pytest.raises(UserError, match=r"column image_id and no column group; give dataset\.group_rule="):
        read_groups(path, "train", 3)
    path = write_groups(rows=["train,0,a,train-1-2"], header="split,index,group,image_id")
    with pytest.raises(UserError, match=r"has a column group, so dataset\.group_rule has no effect"):
        read_groups(path, "train", 1, CT_RULE)
    assert read_groups(path, "train", 1).tolist() == ["a"]
    path = write_groups(rows=["TRAIN,0,train-1-2"], header=SOURCES)
    with pytest.raises(UserError, match="no split 'TRAIN'; choose from: train, val, test"):
        read_groups(path, "train", 1, CT_RULE)
    path = write_groups(rows=["train,0,x"], header="split,index,name")
    with pytest.raises(UserError, match="must name the columns split,index,image_id, each once"):
        read_groups(path, "train", 1, CT_RULE)


def test_a_run_takes_its_patients_from_the_names_and_a_rule_alone_is_refused(config, write_npz, write_groups):
    write_npz(n=40)
    rows = [f"{s},{i},person{i // 2}_virus_{i}" for s in ("train", "val", "test") for i in range(40)]
    named = f"dataset.groups={write_groups(rows=rows, header=SOURCES)}"
    rule = r"dataset.group_rule='^(person\d+|(?:NORMAL2-)?IM-\d+)'"
    found = run(config(*BASE, named, rule, "protocol.exclude_same_group=true"))
    assert found.report.resampled == "groups"
    frame = pd.read_parquet(found.folder / "per_query.parquet")
    assert frame["group"].tolist() == [f"person{i // 2}" for i in range(40)]
    with pytest.raises(UserError, match=r"dataset\.group_rule=.*: has no effect without dataset\.groups="):
        run(config(*BASE, rule))
    plain = f"dataset.groups={write_groups(rows=[r.split('_')[0] for r in rows])}"
    assert run(config(*BASE, plain, "protocol.exclude_same_group=true")).skipped  # the same patients
