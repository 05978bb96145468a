import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from tests.conftest import SMALL_RUN, write_breastmnist
from tests.files import edit_json, raise_score, reseal

from medretrieval import compose, run
from medretrieval.commands.one_run.again import VERB as AGAIN
from medretrieval.commands.one_run.verify import VERB as VERIFY
from medretrieval.errors import UserError
from medretrieval.runs.manifest import differing
from medretrieval.runs.reopen import saved_config
from medretrieval.runs.saved.seal import problems
from medretrieval.verify import again, verify


@pytest.mark.parametrize("index", ["flat", "ivf", "hnsw"])
@pytest.mark.parametrize("protocol", ["query_gallery", "leave_one_out"])
@pytest.mark.parametrize("depth", ["2", "null"])
def test_an_untouched_run_is_as_saved(config, write_npz, index, protocol, depth):
    write_npz(n=60)
    overrides = (f"index={index}", f"protocol={protocol}", f"evaluation.save_depth={depth}")
    assert verify(run(config(*SMALL_RUN, *overrides)).folder) == []


def test_a_run_with_pictures_and_maps_in_mlflow_is_as_saved(config, write_npz, database):
    write_npz(n=20)
    tracked = ("tracking=mlflow", f"tracking.uri={database}", "figures.enabled=true", "figures.queries=2")
    assert verify(run(config(*SMALL_RUN, *tracked)).folder) == []


def test_a_multi_label_run_is_as_saved(config, write_npz):
    labels = (np.random.default_rng(0).random((20, 14)) < 0.2).astype(np.uint8)
    write_npz("chestmnist", n=20, **{f"{s}_labels": labels for s in ("train", "val", "test")})
    assert verify(run(config(*SMALL_RUN, "dataset=chestmnist")).folder) == []


def test_a_changed_score_is_found_with_its_size(small_run):
    raise_score(small_run)
    assert any("map is" in line and "-0.01" in line for line in verify(small_run))


def test_a_changed_ranking_is_found_with_its_first_query(small_run):
    with np.load(small_run / "ranking.npz") as npz:
        arrays = dict(npz)
    arrays["ids"][3, :2] = arrays["ids"][3, 1::-1]
    np.savez(small_run / "ranking.npz", **arrays)
    assert any(
        "1 of 20 queries have other results" in line and "test/3" in line for line in verify(small_run)
    )


def test_a_changed_score_of_a_query_is_found(small_run):
    table = pd.read_parquet(small_run / "per_query.parquet")
    table.loc[0, "mrr"] += 0.5
    table.to_parquet(small_run / "per_query.parquet")
    assert any("scores.json: mrr" in line for line in verify(small_run))


def test_changed_embeddings_are_found(small_run):
    path = (small_run / "embeddings_query.npy").resolve()
    vectors = np.load(path)
    np.save(path, vectors[::-1])
    assert any("when searched again" in line for line in verify(small_run))


def test_other_data_is_found(small_run, write_npz):
    write_npz(n=20, test_labels=np.arange(20) // 10)
    found = verify(small_run)
    assert any(line.startswith("query: labels_sha256") for line in found)
    assert not any("images" in line for line in found)


def _scores(change):
    return lambda folder: edit_json(folder / "scores.json", change)


def _ranking(change):
    def falsify(folder):
        with np.load(folder / "ranking.npz") as npz:
            arrays = dict(npz)
        change(arrays)
        np.savez(folder / "ranking.npz", **arrays)

    return falsify


def _table(change):
    def falsify(folder):
        path = folder / "per_query.parquet"
        change(pd.read_parquet(path)).to_parquet(path)

    return falsify


def _swap(arrays):
    arrays["ids"][0, :2] = arrays["ids"][0, 1::-1]


FALSIFIED = {
    "objective": _scores(lambda c: c["objective"].update(value=c["objective"]["value"] + 1e-3)),
    "another objective": _scores(lambda c: c["objective"].update(name="map", value=c["scores"]["map"])),
    "interval": _scores(lambda c: c["intervals"]["map"].update(low=c["intervals"]["map"]["low"] + 1e-3)),
    "chance": _scores(lambda c: c["chance"].update(map=c["chance"]["map"] - 1e-3)),
    "lift": _scores(lambda c: c["lift"].update(map=9.0)),
    "baseline": _scores(lambda c: c["baseline"]["scores"].update(map=0.1)),
    "baseline difference": _scores(lambda c: c["baseline"]["difference"].update(value=0.9)),
    "notes": _scores(lambda c: c.update(notes=[])),
    "audit": _scores(lambda c: c["audit"].update(near_hash=77)),
    "counts": _scores(lambda c: c["counts"].update(queries=21)),
    "name": _scores(lambda c: c.update(dataset="another")),
    "index name": _scores(lambda c: c["index"].update(name="hnsw")),
    "fingerprint": _scores(lambda c: c.update(fingerprint="0" * 64)),
    "invented score": _scores(lambda c: c["scores"].update(precision_at_7=0.99)),
    "class score": _scores(lambda c: next(iter(c["per_class"].values())).update(queries=3)),
    "ids": _ranking(_swap),
    "distances": _ranking(lambda a: a.update(distances=a["distances"] * 0.5)),
    "query labels": _ranking(lambda a: a.update(query_labels=a["query_labels"][::-1].copy())),
    "gallery labels": _ranking(lambda a: a.update(gallery_labels=1 - a["gallery_labels"])),
    "rotated rows": _table(lambda t: pd.concat([t[1:], t[:1]], ignore_index=True)),
    "renamed rows": _table(lambda t: t.assign(id="x" + t["id"])),
    "dropped rows": _table(lambda t: t[:-1]),
    "duplicate rows": _table(lambda t: pd.concat([t, t[:1]], ignore_index=True)),
    "column left out": _table(lambda t: t.drop(columns=["mrr"])),
}


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    """A run that tests falsify copies of, with its own data and cache."""
    place = tmp_path_factory.mktemp("honest")
    write_breastmnist(place / "data", n=20)
    places = [f"paths.{name}={place / name}" for name in ("data", "cache", "outputs")]
    return run(compose("tracking=none", "figures.enabled=false", *SMALL_RUN, *places)).folder


@pytest.mark.parametrize("what", FALSIFIED)
def test_what_is_falsified_is_found_by_its_sum_and_without_it(honest, tmp_path, what):
    folder = shutil.copytree(honest, tmp_path / "falsified", symlinks=True)
    FALSIFIED[what](folder)
    reseal(folder)
    assert problems(folder, links=True) == []
    assert len(verify(folder)) > 0
    restored = shutil.copytree(honest, tmp_path / "copied", symlinks=True)
    assert (problems(restored, links=True), problems(restored)) == ([], [])


@pytest.mark.parametrize(
    "file", ["scores.json", "ranking.npz", "per_query.parquet", "config.yaml", "manifest.json"]
)
def test_a_changed_file_is_refused_by_the_verbs_that_use_it(honest, tmp_path, refused, say, file):
    folder = shutil.copytree(honest, tmp_path / "changed", symlinks=True)
    content = (folder / file).read_bytes()
    (folder / file).write_bytes(
        content.replace(b"breastmnist", b"breastmnisT") if b"breastmnist" in content else content + b"\n"
    )
    Image.new("L", (28, 28)).save(tmp_path / "asked.png")
    for words in (["compare", folder, honest], ["report", folder], ["query", folder, "image=asked.png"]):
        line = refused(*words)
        assert f"{file} " in line
        assert "--unverified" in line
    if file == "config.yaml":
        assert say("query", folder, "image=asked.png", "--unverified")[0] == 0
    assert any(file in line for line in verify(folder))


def test_files_that_are_gone_are_refused_with_the_way_out(small_run):
    (small_run / "index.faiss").resolve().unlink()
    with pytest.raises(UserError, match=r"index.faiss: gone .*medretrieval again"):
        verify(small_run)
    with pytest.raises(UserError, match="no finished run in it"):
        verify(small_run.parent)


def test_a_run_comes_out_again_from_its_manifest_alone(small_run, tmp_path):
    (small_run / "config.yaml").unlink()
    new = again(small_run, (f"paths.cache={tmp_path / 'empty'}",))
    assert (new.results, new.surroundings) == ([], [])
    assert new.folder != small_run
    assert (new.folder / "ranking.npz").read_bytes() == (small_run / "ranking.npz").read_bytes()


def test_what_does_not_come_out_again_is_told(small_run, write_npz):
    write_npz(n=20, train_labels=np.zeros(20))
    new = again(small_run)
    assert any(line.startswith("data.gallery.labels_sha256 was") for line in new.surroundings)
    assert any(line.startswith("precision_at_1") for line in new.results)


@pytest.mark.parametrize("threads", [None, 1])
def test_threads_of_what_ran_in_one_of_the_two_only_are_no_difference(small_run, capsys, threads):
    edit_json(
        small_run / "manifest.json",
        lambda facts: facts["threads"].update(torch=threads, omp_num_threads=None),
    )
    facts = {"torch": 2 if threads is None else None, "omp_num_threads": "2"}
    new = again(small_run).folder
    edit_json(new / "manifest.json", lambda content: content["threads"].update(facts))
    assert differing(small_run, new) == []
    edit_json(new / "manifest.json", lambda content: content["threads"].update(faiss=64))
    assert [line.split(" ")[0] for line in differing(small_run, new)] == ["threads.faiss"]


def test_other_surroundings_of_equal_results_are_a_remark_and_no_failure(small_run, capsys):
    edit_json(small_run / "manifest.json", lambda facts: facts["libraries"].update(numpy="0.1"))
    assert AGAIN.main([str(small_run)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("the same ranking and scores")
    assert any(line.startswith("  libraries.numpy was 0.1, is ") for line in lines)


def test_the_verbs_exit_with_one_where_something_differs(small_run, capsys):
    assert VERIFY.main([str(small_run)]) == 0
    assert "20 rankings and all scores are as saved" in capsys.readouterr().out
    assert AGAIN.main([str(small_run)]) == 0
    raise_score(small_run)
    assert VERIFY.main([str(small_run)]) == 1
    assert AGAIN.main([str(small_run)]) == 1
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
        (
            "foo=1",
            "again: foo=1: no such key; choose from: --config-dir, --json, outputs, run, uri, or a key",
        ),
        ("index.foo=1", "index.foo: no such key; choose from: autotune,"),
        ("seed=x", "seed: Value 'x' of type 'str' could not be converted to Integer"),
    ],
)
def test_a_wrong_override_is_answered_with_one_line(small_run, refused, override, line):
    assert refused("again", small_run, override).startswith(line)


def test_an_override_has_the_type_that_its_text_says(small_run):
    overrides = ("encoder.dim=64", "encoder.name=[x", "device=cpu", "paths.data=12")
    cfg = saved_config(small_run, overrides)
    assert (cfg.encoder.dim, cfg.encoder.name, cfg.device) == (64, "[x", "cpu")
    assert (cfg.paths.data, cfg.dataset.root) == ("12", "12")
