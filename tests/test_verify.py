import json
import sys

import numpy as np
import pandas as pd
import pytest

from medretrieval import cli, run
from medretrieval.commands.again import VERB as AGAIN
from medretrieval.commands.verify import VERB as VERIFY
from medretrieval.errors import UserError
from medretrieval.runs.manifest import differing
from medretrieval.runs.reopen import saved_config
from medretrieval.verify import again, verify

RUN = (
    "dataset=breastmnist",
    "encoder=random",
    "metric=l2",
    "evaluation.ks=[1,3]",
    "evaluation.resamples=100",
)


@pytest.fixture
def done(config, write_npz):
    write_npz(n=20)
    return run(config(*RUN)).folder


@pytest.mark.parametrize("index", ["flat", "ivf", "hnsw"])
@pytest.mark.parametrize("protocol", ["query_gallery", "leave_one_out"])
@pytest.mark.parametrize("depth", ["2", "null"])
def test_an_untouched_run_is_as_saved(config, write_npz, index, protocol, depth):
    write_npz(n=60)
    overrides = (f"index={index}", f"protocol={protocol}", f"evaluation.save_depth={depth}")
    assert verify(run(config(*RUN, *overrides)).folder) == []


def test_a_multi_label_run_is_as_saved(config, write_npz):
    labels = (np.random.default_rng(0).random((20, 14)) < 0.2).astype(np.uint8)
    write_npz("chestmnist", n=20, **{f"{s}_labels": labels for s in ("train", "val", "test")})
    assert verify(run(config(*RUN, "dataset=chestmnist")).folder) == []


def test_a_changed_score_is_found_with_its_size(done):
    report = json.loads((done / "scores.json").read_text())
    report["scores"]["map"] += 0.01
    (done / "scores.json").write_text(json.dumps(report))
    assert any("map is" in line and "-0.01" in line for line in verify(done))


def test_a_changed_ranking_is_found_with_its_first_query(done):
    with np.load(done / "ranking.npz") as npz:
        arrays = dict(npz)
    arrays["ids"][3, :2] = arrays["ids"][3, 1::-1]
    np.savez(done / "ranking.npz", **arrays)
    assert any("1 of 20 queries have other results" in line and "test/3" in line for line in verify(done))


def test_a_changed_score_of_a_query_is_found(done):
    table = pd.read_parquet(done / "per_query.parquet")
    table.loc[0, "mrr"] += 0.5
    table.to_parquet(done / "per_query.parquet")
    assert any("scores.json: mrr" in line for line in verify(done))


def test_changed_embeddings_are_found(done):
    path = (done / "embeddings_query.npy").resolve()
    vectors = np.load(path)
    np.save(path, vectors[::-1])
    assert any("when searched again" in line for line in verify(done))


def test_other_data_is_found(done, write_npz):
    write_npz(n=20, test_labels=np.arange(20) // 10)
    found = verify(done)
    assert any(line.startswith("query: labels_sha256") for line in found)
    assert not any("images" in line for line in found)


def test_files_that_are_gone_are_refused_with_the_way_out(done):
    (done / "index.faiss").resolve().unlink()
    with pytest.raises(UserError, match=r"index.faiss: gone .*medretrieval again"):
        verify(done)
    with pytest.raises(UserError, match="no finished run in it"):
        verify(done.parent)


def test_a_run_comes_out_again_from_its_manifest_alone(done, tmp_path):
    (done / "config.yaml").unlink()
    new = again(done, (f"paths.cache={tmp_path / 'empty'}",))
    assert (new.results, new.surroundings) == ([], [])
    assert new.folder != done
    assert (new.folder / "ranking.npz").read_bytes() == (done / "ranking.npz").read_bytes()


def test_what_does_not_come_out_again_is_told(done, write_npz):
    write_npz(n=20, train_labels=np.zeros(20))
    new = again(done)
    assert any(line.startswith("data.gallery.labels_sha256 was") for line in new.surroundings)
    assert any(line.startswith("precision_at_1") for line in new.results)


def change_manifest(folder, change):
    facts = json.loads((folder / "manifest.json").read_text())
    change(facts)
    (folder / "manifest.json").write_text(json.dumps(facts))


@pytest.mark.parametrize("threads", [None, 1])
def test_threads_of_what_ran_in_one_of_the_two_only_are_no_difference(done, capsys, threads):
    change_manifest(done, lambda facts: facts["threads"].update(torch=threads, omp_num_threads=None))
    facts = {"torch": 2 if threads is None else None, "omp_num_threads": "2"}
    new = again(done).folder
    change_manifest(new, lambda content: content["threads"].update(facts))
    assert differing(done, new) == []
    change_manifest(new, lambda content: content["threads"].update(faiss=64))
    assert [line.split(" ")[0] for line in differing(done, new)] == ["threads.faiss"]


def test_other_surroundings_of_equal_results_are_a_remark_and_no_failure(done, capsys):
    change_manifest(done, lambda facts: facts["libraries"].update(numpy="0.1"))
    assert AGAIN.main([str(done)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("the same ranking and scores")
    assert any(line.startswith("  libraries.numpy was 0.1, is ") for line in lines)


def test_the_verbs_exit_with_one_where_something_differs(done, capsys):
    assert VERIFY.main([str(done)]) == 0
    assert "20 rankings and all scores are as saved" in capsys.readouterr().out
    assert AGAIN.main([str(done)]) == 0
    report = json.loads((done / "scores.json").read_text())
    report["scores"]["map"] += 0.01
    (done / "scores.json").write_text(json.dumps(report))
    assert VERIFY.main([str(done)]) == 1
    assert AGAIN.main([str(done)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "ranking and scores are not the same:" in lines
    assert any("map is" in line for line in lines)


@pytest.mark.parametrize("arguments", [[], ["a", "b"], ["nowhere"]])
@pytest.mark.parametrize("verb", [VERIFY, AGAIN])
def test_anything_but_one_run_is_refused(verb, arguments):
    with pytest.raises(UserError, match=r"run= is missing|run= is given twice|nowhere: no folder"):
        verb.main(arguments)


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("foo=1", "again: foo=1: no such key; choose from: --json, outputs, run, uri, or a key of the"),
        ("index.foo=1", "index.foo: no such key; choose from: autotune,"),
        ("seed=x", "seed: Value 'x' of type 'str' could not be converted to Integer"),
    ],
)
def test_a_wrong_override_is_answered_with_one_line(done, monkeypatch, capsys, override, line):
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["medretrieval", "again", str(done), override])
    assert cli.main() == 1
    assert capsys.readouterr().err.startswith(f"medretrieval: {line}")


def test_an_override_has_the_type_that_its_text_says(done):
    overrides = ("encoder.dim=64", "encoder.name=[x", "device=cpu", "paths.data=12")
    cfg = saved_config(done, overrides)
    assert (cfg.encoder.dim, cfg.encoder.name, cfg.device) == (64, "[x", "cpu")
    assert (cfg.paths.data, cfg.dataset.root) == ("12", "12")
