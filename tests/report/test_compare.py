import csv
import io
import json
import re
import shutil
import subprocess

import numpy as np
import pyarrow as pa
import pytest
from mlflow import MlflowClient
from pyarrow import parquet
from tests.files import edit_json
from tests.refusals import refusal

from medretrieval import run
from medretrieval.commands.many_runs.compare import VERB
from medretrieval.runs.saved.seal import unverified
from medretrieval.uncertainty.bootstrap import Resampling, bootstrap, intervals, paired_difference
from medretrieval.uncertainty.distributions import exact_interval
from medretrieval.uncertainty.half_intervals import PairedHalves
from medretrieval.uncertainty.half_samples import HalfSamples
from medretrieval.uncertainty.many_pairs import OfImages, OfQueries, corrected
from medretrieval.uncertainty.sign_flips import paired_permutation, sign_flips

BASE = ("dataset=breastmnist", "metric=l2", "evaluation.ks=[1,3]", "evaluation.resamples=100")
main = VERB.main
FEW = ("track=false", "resamples=500", "permutations=500")


@pytest.fixture(autouse=True)
def _as_they_are():
    """Tests here change files of runs, which is refused elsewhere (tests/test_verify.py)."""
    with unverified():
        yield


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def make(config, write_npz):
    """A finished run of 24 queries; the classes are easy for pixels and luck for random vectors."""
    write_npz(n=24)

    def made(*overrides):
        return run(config(*BASE, *overrides)).folder

    return made


@pytest.fixture
def good(make):
    return make("encoder=pixels")


@pytest.fixture
def bad(make):
    return make("encoder=random")


def rows_of(capsys):
    return list(csv.DictReader(io.StringIO(capsys.readouterr().out)))


def values_of(folder, score="precision_at_3"):
    return parquet.read_table(folder / "per_query.parquet")[score].to_numpy()


def rewrite(folder, **columns):
    found = parquet.read_table(folder / "per_query.parquet")
    for name, values in columns.items():
        found = found.set_column(found.schema.get_field_index(name), name, pa.array(values))
    parquet.write_table(found, folder / "per_query.parquet")


def copy_of(folder, name, values, label=None):
    """A run that differs from another in one score, and in its encoder's name."""
    target = folder.parent / name
    shutil.copytree(folder, target, symlinks=True)
    rewrite(target, precision_at_3=values)
    edit_json(target / "scores.json", lambda c: c.update(fingerprint=name))
    edit_json(target / "scores.json", lambda c: c["encoder"].update(name=label or name))
    return target


def refused(*words):
    return refusal(main, [str(word) for word in words])


def test_numbers_are_those_of_the_scores_of_each_query(good, bad, capsys):
    assert main([str(bad), str(good), "format=csv", "score=precision_at_3", *FEW]) == 0
    best, other = rows_of(capsys)
    assert [best["run"], other["run"]] == ["pixels", "random"]
    assert float(best["value"]) == 1.0
    assert (float(best["low"]), float(best["high"])) == pytest.approx(exact_interval(1.0, 24, 0.95))
    a, b = values_of(bad), values_of(good)
    difference = [float(other[f"difference{end}"]) for end in ("", "_low", "_high")]
    assert difference == pytest.approx(paired_difference(a, b, Resampling(500, 0.95, 0)))
    assert [float(other["low"]), float(other["high"])] == pytest.approx(
        intervals({"x": a}, Resampling(500, 0.95, 0))["x"]
    )
    assert float(other["p"]) == float(other["p_corrected"]) == paired_permutation(a, b, 500, 0)
    assert other["not_different"] == "false"
    assert best["p"] == best["difference"] == ""


@pytest.mark.parametrize("objective", ["precision_at_3", "macro_precision_at_3"])
def test_a_run_has_one_interval_wherever_it_is_shown(make, capsys, objective):
    """24 queries, so that the order of their ids (test/0, test/1, test/10, ...) is not that of the file."""
    how = (f"evaluation.objective={objective}", "evaluation.confidence=0.9", "seed=3")
    runs = [make("encoder=random", "encoder.seed=1", *how), make("encoder=random", "encoder.seed=2", *how)]
    main([*map(str, runs), "track=false", "permutations=100", "--json"])
    shown = json.loads(capsys.readouterr().out)
    assert shown["confidence"] == 0.9
    for row in shown["runs"]:
        own = json.loads((runs[0].parent / row["source"] / "scores.json").read_text())["intervals"][objective]
        assert own["low"] < own["high"]
        assert [row["low"], row["high"]] == pytest.approx([own["low"], own["high"]], abs=1e-15)


def test_intervals_are_made_as_usual_where_the_runs_differ_in_it(make, good, capsys):
    other = make("encoder=random", "evaluation.confidence=0.9", "evaluation.resamples=300")
    main([str(good), str(other), "track=false", "permutations=100"])
    assert "BCa bootstrap, 10000 resamples, seed 0" in capsys.readouterr().out
    main([str(good), str(other), "track=false", "permutations=100", "resamples=100", "seed=5"])
    assert "BCa bootstrap, 100 resamples, seed 5" in capsys.readouterr().out


def test_the_default_score_is_the_objective_of_the_first_run(make, capsys):
    first = make("encoder=pixels", "evaluation.objective=macro_map_at_3")
    main([str(first), str(make("encoder=random")), "format=csv", *FEW])
    rows = rows_of(capsys)
    assert {row["score"] for row in rows} == {"macro_map_at_3"}
    for row in rows:
        report = json.loads((first.parent / row["source"] / "scores.json").read_text())
        assert float(row["value"]) == pytest.approx(report["scores"]["macro_map_at_3"])


def test_p_is_corrected_for_the_comparisons_made(good, capsys):
    rng = np.random.default_rng(0)
    runs = [good] + [copy_of(good, f"e{i}", 1.0 - (rng.random(24) < i / 8)) for i in (1, 2, 4)]
    names = [str(r) for r in runs]
    values = np.stack([values_of(r) for r in runs], axis=1)
    best_first = np.argsort(-values.mean(axis=0), kind="stable")
    values = values[:, best_first]
    drawn = OfQueries(bootstrap(values, Resampling(500, 0.95, 0)), sign_flips(values, 500, 0))

    def expected(pairs):
        found = corrected(drawn, pairs, 0.95)
        return found.p, [end for ends in found.ends for end in ends]

    def shown(*words):
        main([*names, "score=precision_at_3", "format=csv", *words, *FEW])
        rows = rows_of(capsys)[1:]
        ends = [float(row[end]) for row in rows for end in ("low_corrected", "high_corrected")]
        return [float(row["p_corrected"]) for row in rows], ends, rows

    p, ends, rows = shown("baseline=pixels")
    with_best = [(1, 0), (2, 0), (3, 0)]
    every = [*with_best, (2, 1), (3, 1), (3, 2)]
    assert (p, ends) == (pytest.approx(expected(with_best)[0]), pytest.approx(expected(with_best)[1]))
    # Without a baseline the best is chosen on the same queries: corrected as part of all pairs.
    picked, ends, _ = shown()
    assert (picked, ends) == (pytest.approx(expected(every)[0][:3]), pytest.approx(expected(every)[1][:6]))
    assert shown("baseline=1")[:2] == (picked, ends)  # a number is known only once the table was seen
    p, _, rows = shown("family=all")
    assert len(rows) == 6
    assert p == pytest.approx(expected(every)[0])
    assert p[:3] == picked
    called = np.array(["pixels", "e1", "e2", "e4"])[best_first]
    means = dict(zip(called, values.mean(axis=0), strict=True))
    for row in rows:
        a, b = (means[row[side]] for side in ("run", "minus_run"))
        assert float(row["difference"]) == pytest.approx(a - b)
        assert float(row["difference"]) <= 0


def test_encoders_are_compared_within_exact_search(make, capsys):
    runs = [make(f"encoder={e}", f"index={i}") for e in ("pixels", "random") for i in ("flat", "hnsw")]
    main([*map(str, runs), "family=encoders", "format=csv", *FEW])
    out = capsys.readouterr()
    assert len(out.out.strip().splitlines()) == 3  # a header, the best, and the other exact one
    assert "exact search only; 2 approximate runs left out" in out.err
    line = refused(*runs[1::2], "family=encoders", *FEW)
    assert "0 of 2 runs searched exactly, and two are needed" in line


def test_runs_whose_queries_are_the_gallery_are_compared_by_halves(make, capsys):
    how = ("protocol=leave_one_out",)
    runs = [make("encoder=pixels", *how), make("encoder=random", *how)]
    main([*map(str, runs), "track=false", "--json"])
    shown = json.loads(capsys.readouterr().out)
    score, means = shown["score"], [row["value"] for row in shown["runs"]]
    halves = [HalfSamples.load(runs[0].parent / row["source"] / "halves.npz") for row in shown["runs"]]
    columns = np.stack([one.scores[score] for one in halves], axis=1)
    drawn = OfImages(PairedHalves(np.array(means), columns, halves[0].sides, 0.95), 10_000, 0)
    pair = shown["pairs"][0]
    assert [pair[k] for k in ("difference", "low", "high")] == pytest.approx(drawn.scores.difference(1, 0))
    assert pair["p"] == pytest.approx(drawn.p(1, 0))
    assert pair["low_corrected"] == pair["low"]
    assert any("images in both roles, by random halves" in note for note in shown["notes"])


def test_intervals_of_different_kinds_are_not_mixed(make):
    runs = [make("encoder=pixels"), make("encoder=random", "evaluation.resample=both")]
    line = refused(*runs, *FEW)
    assert "different kinds (queries; queries and gallery); compare runs with one evaluation.resample" in line


def test_what_only_a_single_planned_comparison_shows_is_said(good, capsys):
    """So that a run's own note (lower than pixels) and a comparison of many do not contradict each other."""
    rng = np.random.default_rng(1)
    runs = [good] + [copy_of(good, f"e{i}", 1.0 - 0.1 * (rng.random(24) < 0.3)) for i in range(6)]
    main([*map(str, runs), "score=precision_at_3", "--json", *FEW])
    shown = json.loads(capsys.readouterr().out)
    alone = [pair for pair in shown["pairs"] if pair["p"] < 0.05 <= pair["p_corrected"]]
    assert alone
    note = next(n for n in shown["notes"] if n.startswith("Below 0.05 only without the correction"))
    assert f"{alone[0]['run']} minus 1" in note


def test_a_baseline_by_name_and_by_number(good, bad, capsys):
    middle = copy_of(good, "middle", np.r_[np.zeros(3), np.ones(21)])
    names = [str(bad), str(good), str(middle)]
    main([*names, "baseline=middle", "score=precision_at_3", "format=csv", *FEW])
    rows = rows_of(capsys)
    assert [r["run"] for r in rows] == ["middle", "pixels", "random"]
    assert {r["minus_run"] for r in rows[1:]} == {"middle"}
    assert float(rows[1]["difference"]) > 0 > float(rows[2]["difference"])
    assert rows[1]["not_different"] == "true"  # three queries are not enough: p = 0.25
    main([*names, "baseline=2", "score=precision_at_3", "format=csv", *FEW])
    again = rows_of(capsys)
    assert [r["difference"] for r in again] == [r["difference"] for r in rows]
    main([*names, "baseline=3", "score=precision_at_3", *FEW])
    assert "run minus the baseline (number 3, random)" in capsys.readouterr().out
    line = refused(*names, "baseline=d", "score=precision_at_3", *FEW)
    assert "baseline=d: fits 2 runs; choose one of: 1 pixels; 2 middle; 3 random" in line
    assert "fits 0 runs" in refused(*names, "baseline=4", "score=precision_at_3", *FEW)


def test_the_terminal_says_what_was_resampled_counted_and_corrected(good, bad, capsys):
    twin = copy_of(good, "twin", values_of(good) * 0.999)
    main([str(good), str(bad), str(twin), "score=precision_at_3", *FEW])
    out = capsys.readouterr().out
    assert (
        "precision_at_3 over 24 queries. What varies: queries, the gallery held fixed; BCa bootstrap" in out
    )
    assert "run minus the best (number 1, pixels)" in out
    assert "corrected for 3 comparisons by their largest statistic" in out
    assert "The best was chosen on these same queries" in out
    assert re.search(r"^3 +random .* 0\.002\d +0\.00[2-6]\d +no$", out, re.M)
    main([str(good), str(bad), "score=precision_at_3", "confidence=0.999", "permutations=500", "track=false"])
    assert "no p can be below 0.002; give permutations=1000" in capsys.readouterr().out


def test_a_run_that_does_not_differ_is_marked(good, bad, capsys):
    close = copy_of(good, "close", np.r_[0.9, np.ones(23)])
    main([str(good), str(bad), str(close), "score=precision_at_3", *FEW])
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[1]: line.endswith(" yes") for line in lines[2:5]} == {
        "pixels": False, "close": True, "random": False
    }  # fmt: skip


def test_queries_without_a_relevant_image_are_left_out_and_counted(good, bad, capsys):
    for folder in (good, bad):
        counts = parquet.read_table(folder / "per_query.parquet")["n_relevant"].to_numpy().copy()
        counts[:4] = 0
        scores = [None] * 4 + values_of_file_order(folder)[4:]
        rewrite(folder, n_relevant=counts, precision_at_3=scores)
    main([str(good), str(bad), "score=precision_at_3", *FEW])
    assert "over 20 queries (4 without a relevant image left out)" in capsys.readouterr().out


def values_of_file_order(folder):
    return parquet.read_table(folder / "per_query.parquet")["precision_at_3"].to_pylist()


def test_queries_are_matched_by_id(good, bad, capsys):
    arguments = [str(good), str(bad), "score=precision_at_3", "format=csv", *FEW]
    main(arguments)
    before = rows_of(capsys)
    path = bad / "per_query.parquet"
    found = parquet.read_table(path)
    parquet.write_table(found.take(np.random.default_rng(0).permutation(len(found))), path)
    main(arguments)
    assert rows_of(capsys) == before


def test_findings_of_multi_label_sets_give_macro_means(good, bad, capsys):
    for folder in (good, bad):
        rewrite(folder, label=pa.array([[0], [0, 2], [2]] * 8, type=pa.list_(pa.int64())))
    rewrite(good, precision_at_3=np.random.default_rng(0).random(24) + 0.1)
    rewrite(bad, precision_at_3=np.random.default_rng(1).random(24))
    main([str(good), str(bad), "score=macro_precision_at_3", "format=csv", *FEW])
    rows = rows_of(capsys)
    scores = np.array(values_of_file_order(bad))
    members = np.tile([[1, 0], [1, 1], [0, 1]], (8, 1)).astype(bool)
    assert float(rows[1]["value"]) == pytest.approx(np.mean([scores[m].mean() for m in members.T]))
    shares = (members / members.sum(axis=0)).mean(axis=1)
    good_scores = np.array(values_of_file_order(good))
    p = paired_permutation(scores * shares, good_scores * shares, 500, 0)
    assert float(rows[1]["p"]) == p


def test_folders_of_runs_skipped_jobs_and_duplicates_of_a_run(good, bad, tmp_path, capsys):
    job = tmp_path / "outputs" / "sweeps" / "20260101" / "0_job"
    job.mkdir(parents=True)
    (job / "skipped.json").write_text(json.dumps({"run": str(bad)}))
    main(["20260101", str(good), str(bad), str(good.parent), "format=csv", *FEW])
    assert [r["run"] for r in rows_of(capsys)] == ["pixels", "random"]
    shutil.copytree(good, tmp_path / "elsewhere", symlinks=True)
    main([str(good), "elsewhere", str(bad), "format=csv", *FEW])
    assert len(rows_of(capsys)) == 2
    assert "is the only run given" in refused(good, "elsewhere", *FEW)
    again = copy_of(good, "again", values_of_file_order(good))
    (again / "skipped.json").write_text(json.dumps({"run": "gone"}))  # skipped once, then forced
    main([str(again), str(bad), "format=csv", *FEW])
    assert len(rows_of(capsys)) == 2
    shutil.rmtree(bad)
    assert "20260101: no finished run in it" in refused(good, "20260101", *FEW)


def test_the_sweep_of_the_command_line(command, write_npz, tmp_path, capsys):
    write_npz(n=24)
    done = command("-m", *BASE, "tracking=none", "encoder=pixels,random", "index=flat,ivf")
    assert done.returncode == 0, done.stderr
    (sweep,) = (tmp_path / "outputs" / "sweeps").iterdir()
    main([sweep.name, "format=csv", *FEW])
    names = ["pixels flat", "pixels ivf nprobe=1", "random flat", "random ivf nprobe=1"]
    assert sorted(r["run"] for r in rows_of(capsys)) == names


def test_runs_whose_reports_are_alike_are_named_by_their_configuration(make, capsys):
    seeds = [str(make("encoder=random", f"seed={seed}")) for seed in (1, 2)]
    main([*seeds, "format=csv", *FEW])
    assert sorted(r["run"] for r in rows_of(capsys)) == ["random seed=1", "random seed=2"]


@pytest.fixture
def tracked_runs(config, write_npz, tmp_path, monkeypatch):
    write_npz(n=24)
    uri = f"sqlite:///{tmp_path}/outputs/mlflow.db"
    # MLflow keeps its connections by URI: a relative one would be the last test's database.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    on = ("tracking=mlflow", f"tracking.uri={uri}", "tracking.experiment=study")
    found = [run(config(*BASE, *on, f"encoder={e}"), sweep="s1").folder for e in ("pixels", "random")]
    run(config(*BASE, *on, "tracking.experiment=other", "encoder=random", "seed=1"), sweep="s10")
    return found, MlflowClient(tracking_uri=uri)


def test_runs_from_mlflow_and_the_comparison_logged_there(tracked_runs, capsys):
    folders, client = tracked_runs
    ids = [json.loads((f / "tracking.json").read_text())["run_id"] for f in folders]
    expected = None
    for words in (["study"], ["s1"], ids, [ids[0], str(folders[1])]):
        track = "track=true" if words == ["study"] else "track=false"
        assert main([*words, "score=precision_at_3", "format=csv", *FEW[1:], track]) == 0
        rows = [{k: v for k, v in row.items() if k != "source"} for row in rows_of(capsys)]
        assert rows == (expected := expected or rows)
    (found,) = client.search_runs(
        [client.get_experiment_by_name("study").experiment_id], "tags.comparison = 'precision_at_3'"
    )
    assert found.info.status == "FINISHED"
    assert found.info.run_name == "compare 2 runs precision_at_3"
    assert found.data.params["permutations"] == "500"
    pair = "2 random minus 1 pixels"
    assert found.data.metrics[f"difference/{pair}"] == float(expected[1]["difference"])
    assert found.data.metrics[f"p/{pair}"] == float(expected[1]["p"])
    files = {f.path for f in client.list_artifacts(found.info.run_id)}
    assert files == {f"comparison.{suffix}" for suffix in ("txt", "md", "csv", "tex")}
    assert "| 1 | pixels |" in found.data.tags["mlflow.note.content"]
    assert main(["study", *FEW]) == 0  # a comparison is not a run to compare
    assert len(capsys.readouterr().out.splitlines()) == 2 + 2 + 1 + 3


def test_metrics_of_many_pairs_are_logged_in_batches(tracked_runs, monkeypatch, capsys):
    folders, client = tracked_runs
    monkeypatch.setattr("medretrieval.track.mlflow.entries.METRIC_BATCH", 4)
    third = copy_of(folders[0], "a(b)*", np.r_[0.5, np.ones(23)])
    main([*map(str, folders), str(third), "score=precision_at_3", "family=all", "track=true", *FEW[1:]])
    captured = capsys.readouterr()
    assert "RANDOM WEIGHTS" not in captured.out
    assert "in MLflow at" in captured.err
    experiment = client.get_experiment_by_name("study").experiment_id
    (found,) = client.search_runs([experiment], "tags.comparison = 'precision_at_3'")
    assert len(found.data.metrics) == 3 * 3
    assert "difference/2 a-b-- minus 1 pixels" in found.data.metrics


def test_mlflow_away_is_a_line_and_no_failure(good, bad, capsys, caplog):
    blocked = "uri=sqlite:////proc/nowhere/mlflow.db"
    assert main([str(good), str(bad), blocked, "track=true", *FEW[1:]]) == 0
    assert "pixels" in capsys.readouterr().out
    (line,) = caplog.messages
    assert re.fullmatch(
        r"MLflow at sqlite.* cannot be reached \(.*\); what compare made is not logged there", line
    )


def test_another_protocol_and_another_split_are_refused(make, good, bad):
    line = refused(good, make("protocol=leave_one_out", "encoder=pixels"), *FEW)
    assert "protocol.gallery is train in" in line
    assert "but test in" in line
    line = refused(good, bad, make("protocol.query=val", "encoder=pixels"), *FEW)
    assert f"protocol.query is test in {good} but val in" in line
    own = make("protocol=leave_one_out", "protocol.exclude_self=false", "encoder=pixels")
    line = refused(make("protocol=leave_one_out", "encoder=pixels"), own, *FEW)
    assert "protocol.exclude_self is True in" in line


def test_an_experiment_of_several_tasks_is_compared_task_by_task(tracked_runs, config, tmp_path, capsys):
    """Two datasets share an experiment after the README's own commands."""
    uri = f"sqlite:///{tmp_path}/outputs/mlflow.db"
    on = ("tracking=mlflow", f"tracking.uri={uri}", "tracking.experiment=study", "evaluation.resamples=100")
    small = (
        "dataset.size=32",
        "dataset.n_train=40",
        "dataset.n_val=5",
        "dataset.n_test=20",
        "figures.enabled=false",
    )
    for encoder in ("pixels", "random"):
        run(config("dataset=chest_phantom", *small, *on, "evaluation.ks=[1,3]", f"encoder={encoder}"))
    alone = run(config(*BASE, *on, "protocol=leave_one_out", "encoder=pixels")).folder
    assert main(["study", *FEW]) == 0
    said = capsys.readouterr()
    for heading in (
        "breastmnist, query_gallery, precision_at_3",
        "chest_phantom, query_gallery, precision_at_3",
    ):
        assert heading in said.out.splitlines()
    assert said.out.count("over 24 queries") == said.out.count("over 20 queries") == 1
    assert "not compared, the only run of its kind: breastmnist, leave_one_out, precision_at_3" in said.err
    main(["study", *FEW, "--json"])
    found = json.loads(capsys.readouterr().out)
    assert [len(one["runs"]) for one in found] == [2, 2]
    assert {one["task"].split(",")[0] for one in found} == {"breastmnist", "chest_phantom"}
    assert "format=csv: it holds one table" in refused("study", "format=csv", *FEW)
    # Runs that are named one by one are meant to be compared with each other.
    folders, _ = tracked_runs
    assert "protocol.gallery is train in" in refused(folders[0], folders[1], alone, *FEW)


def test_two_datasets_are_refused_by_their_names(good, config):
    other = run(config(*BASE, "dataset=chest_phantom", "dataset.size=32", "encoder=pixels")).folder
    line = refused(good, other, *FEW)
    assert f"compare: the dataset is breastmnist in {good} but chest_phantom in {other}" in line
    assert "sha256" not in line


def test_other_data_are_refused(make, good, write_npz):
    write_npz(n=24, train_images=np.zeros((24, 28, 28), np.uint8))
    line = refused(good, make("encoder=pixels"), *FEW)
    assert "the images of the gallery are not the same in" in line
    write_npz(n=24, test_labels=np.array([[0], [1], [1]] * 8, np.uint8))
    assert "the labels of the queries are not the same in" in refused(good, make("encoder=pixels"), *FEW)


@pytest.mark.parametrize(
    ("column", "values", "what"),
    [
        ("id", [f"x/{i}" for i in range(24)], "query ids"),
        ("label", [0] * 24, "labels"),
        ("n_relevant", [5] * 24, "counts of relevant images"),
    ],
)
def test_other_queries_are_refused(good, bad, column, values, what):
    rewrite(bad, **{column: values})
    assert f"{good} and {bad} differ in their {what} (column '{column}'" in refused(good, bad, *FEW)


def test_a_score_that_a_run_lacks_is_refused_with_those_it_has(good, bad):
    found = parquet.read_table(bad / "per_query.parquet")
    parquet.write_table(found.drop_columns(["map"]), bad / "per_query.parquet")
    line = refused(good, bad, "score=map", *FEW)
    assert line.startswith(f"compare: score=map: {bad} has no such score; choose from")
    assert "precision_at_3" in line
    assert " map," not in line
    assert "score=macro_nonsense" in refused(good, bad, "score=macro_nonsense", *FEW)


def test_a_damaged_run_is_refused(good, bad):
    rewrite(bad, precision_at_3=np.r_[np.nan, np.ones(23)])
    assert "precision_at_3 is missing for some queries" in refused(good, bad, "score=precision_at_3", *FEW)
    edit_json(bad / "scores.json", lambda c: c.pop("protocol"))
    assert f"{bad}: scores.json: protocol is missing; repeat the run with" in refused(good, bad, *FEW)
    (bad / "scores.json").write_text("{")
    assert f"{bad}: scores.json: damaged, not valid JSON" in refused(good, bad, *FEW)


@pytest.mark.parametrize(
    ("word", "says"),
    [
        (
            "scores=map",
            "scores=map: no such key; did you mean score? choose from: --config-dir, --json, --unverified,",
        ),
        ("format=html", "format=html: choose from: csv, latex, markdown, terminal"),
        ("track=maybe", "track=maybe: choose from: false, true"),
        ("resamples=many", "resamples=many: give a whole number, 100 or more"),
        ("permutations=10", "permutations=10: give a whole number, 100 or more"),
        ("confidence=95", "confidence=95: give a number, 0.5 to 0.9999"),
        ("seed=", "seed=: give a value"),
    ],
)
def test_mistyped_keys_are_refused(word, says):
    assert says in refused("somewhere", word)


def test_what_is_not_there_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    assert "empty: no finished run in it" in refused("empty", *FEW)
    line = refused("nowhere", *FEW)
    assert line.startswith("nowhere: no folder, no sweep in outputs/sweeps, and no finished run")
    assert not (tmp_path / "outputs").exists()  # looking made nothing
    assert "compare: run= is missing; medretrieval compare <run> <run>" in refused("format=csv")
    assert refused("x", "seed=1", "seed=2") == "compare: seed=2: seed= is given twice; give it once"


def test_an_mlflow_server_that_is_away_is_named():
    line = refused("nowhere", "uri=http://127.0.0.1:9", *FEW)
    assert line.startswith("nowhere: no such folder, and MLflow at http://127.0.0.1:9 cannot be read")


def test_random_weights_are_said(good, bad, capsys):
    edit_json(bad / "scores.json", lambda c: c["encoder"].update(random_weights=True))
    main([str(good), str(bad), *FEW])
    out = capsys.readouterr().out
    assert "random*" in out
    assert "* RANDOM WEIGHTS" in out


@pytest.mark.parametrize("pairs", ["best", "all"])
def test_markdown_and_latex_have_the_columns_they_announce(good, bad, capsys, pairs):
    names = [str(good), str(bad), str(copy_of(good, "odd", np.r_[0.5, np.ones(23)], label="a|b_c & d"))]
    arguments = [*names, "score=precision_at_3", f"family={pairs}", *FEW]
    main([*arguments, "format=markdown"])
    tables = re.findall(r"(?:^\|.*\n)+", capsys.readouterr().out, re.M)
    assert len(tables) == (1 if pairs == "best" else 2)
    for lines in tables:
        assert len({len(re.split(r"(?<!\\)\|", line)) for line in lines.splitlines()}) == 1
        assert len(lines.splitlines()) == 2 + 3
    assert r"a\|b_c & d" in tables[0]
    main([*arguments, "format=latex"])
    out = capsys.readouterr().out
    needs, _, out = out.partition("\n")
    assert needs == r"% in the preamble: \usepackage{booktabs} \usepackage{siunitx}"
    tables = latex_tables(out)
    assert len(tables) == (1 if pairs == "best" else 2)
    for columns, head, rows in tables:
        spans = [int(m[1]) if (m := re.match(r"\\multicolumn\{(\d)\}", cell)) else 1 for cell in head]
        assert sum(spans) == len(columns)
        assert len(rows) == 3
        for row in rows:
            assert len(row) == len(columns)
            for column, cell in zip(columns, row, strict=True):
                assert column == "l" or fits(column, cell), (column, cell)
    assert r"a|b\_c \& d" in out
    assert not re.search(r"(?<!\\)[_#%]", out)


def latex_tables(text):
    """Of each tabular of booktabs: its columns, the cells of its head, and those of its rows.

    Anything that is not of this form, in this order, fails.
    """
    found = []
    for spec, body in re.findall(r"\\begin\{tabular\}\{([^\n]*)\}\n(.*?)\n\\end\{tabular\}", text, re.S):
        columns = re.findall(r"l|S\[table-format=[<-]*\d\.\d\]", spec)
        assert " ".join(columns) == spec
        top, head, middle, *rows, bottom = body.splitlines()
        assert [top, middle, bottom] == [r"\toprule", r"\midrule", r"\bottomrule"]
        lines = []
        for line in [head, *rows]:
            assert line.endswith(r" \\")
            assert braces_match(line)
            lines.append([cell.strip() for cell in re.split(r"(?<!\\)&", line.removesuffix(r" \\"))])
        found.append((columns, lines[0], lines[1:]))
    return found


def braces_match(line):
    depth = 0
    for brace in re.findall(r"(?<!\\)[{}]", line):
        depth += 1 if brace == "{" else -1
        assert depth >= 0
    return depth == 0


def fits(column, cell):
    """Whether a cell is a number that its column has room for, words in braces, or nothing."""
    marks, whole, digits = re.fullmatch(r"S\[table-format=([<-]*)(\d)\.(\d)\]", column).groups()
    if not cell or re.fullmatch(r"\{.*\}", cell):
        return True
    number = re.fullmatch(r"(<?)(-?)(\d+)(?:\.(\d+))?", cell)
    return bool(
        number
        and all(mark in marks for mark in number[1] + number[2])
        and len(number[3]) <= int(whole)
        and len(number[4] or "") <= int(digits)
    )


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX on the PATH")
def test_latex_compiles(good, bad, tmp_path, capsys):
    main([str(good), str(bad), "family=all", *FEW, "format=latex"])
    preamble = r"\documentclass{article}\usepackage{booktabs}\usepackage{siunitx}\begin{document}"
    text = "\n".join([preamble, capsys.readouterr().out, r"\end{document}"])
    (tmp_path / "t.tex").write_text(text)
    done = subprocess.run(
        ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "t.tex"],
        cwd=tmp_path, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "t.pdf").stat().st_size > 5_000
