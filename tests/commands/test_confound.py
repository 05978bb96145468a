"""`medretrieval confound` and `identity` on real runs: answers, --json and refusals in one line."""

import json

import numpy as np
import pytest
from pyarrow import parquet

from medretrieval import compose, run
from medretrieval.protocol.ranking import Ranking

BASE = (
    "dataset=chest_phantom", "dataset._target_=tests.toy_datasets.Patients", "dataset.size=32",
    "dataset.n_train=60", "dataset.n_test=60", "encoder=pixels", "evaluation.ks=[1,3]",
    "evaluation.resamples=200", "evaluation.vote_k=3", "evaluation.baseline=none", "audit.enabled=false",
    "figures.enabled=false", "tracking=none",
)  # fmt: skip
PLAIN = "dataset._target_=medretrieval.datasets.phantom.ChestPhantom"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Runs of several protocols, by name."""
    place = tmp_path_factory.mktemp("confound")
    kinds = {
        "fixed": (),
        "grouped": ("protocol=leave_one_group_out",),
        "short": ("evaluation.save_depth=3",),
        "copies": ("protocol.drop_duplicates=true",),
        "itself": ("protocol=leave_one_out", "protocol.exclude_self=false"),
        "strangers": (PLAIN,),
    }  # fmt: skip
    folders = {}
    for name, overrides in kinds.items():
        paths = (f"paths.outputs={place}", f"paths.cache={place / 'cache'}")
        folders[name] = run(compose(*BASE, *paths, *overrides), place / name).folder
    return folders


def answer(say, *words):
    code, out, err = say(*words, "--json")
    assert code == 0, err
    return json.loads(out)


@pytest.mark.parametrize("name", ["fixed", "grouped", "short", "copies"])
def test_the_index_is_that_of_the_saved_ranking(say, made, name):
    found = answer(say, "confound", made[name], "by=site", "k=3")
    ranking = Ranking.load(made[name] / "ranking.npz")
    images = parquet.read_table(made[name] / "images.parquet").to_pandas()
    sites = {role: images[images.role == role]["metadata.site"].to_numpy() for role in ("query", "gallery")}
    top = ranking.ids[:, :3]
    same_class = ranking.gallery_labels[top] == ranking.query_labels[:, None]
    same_site = sites["gallery"][top] == sites["query"][:, None]
    so, os = (same_class & ~same_site).sum(), (~same_class & same_site).sum()
    assert found["robustness_index"] == pytest.approx(so / (so + os))
    assert found["interval"][0] < found["robustness_index"] < found["interval"][1]
    assert found["mean_shares"]["same class, same value"] == pytest.approx((same_class & same_site).mean())
    assert len(found["per_query"]) == found["queries"] == 60
    assert (found["chance"] is None) == (name == "copies")
    assert found["cramers_v"] > 0.3
    assert sum(map(sum, found["gallery"]["counts"])) == len(ranking.gallery_ids)


def test_deeper_results_than_were_saved_are_searched_again(say, made):
    deep, saved = (answer(say, "confound", made[name], "by=site", "k=7") for name in ("short", "fixed"))
    assert deep["robustness_index"] == saved["robustness_index"]
    assert deep["interval"] == saved["interval"]


def test_unknown_values_are_left_out_and_counted(say, made):
    found = answer(say, "confound", made["fixed"], "by=sex", "k=3")
    assert (found["queries"], found["unknown_queries"]) == (58, 2)
    assert any("is not known" in remark for remark in found["remarks"])


@pytest.mark.parametrize("name", ["fixed", "grouped"])
def test_scores_with_and_without_own_patients_are_those_of_runs(say, made, tmp_path, name):
    found = answer(say, "identity", made[name], "k=3")
    protocol = "leave_one_group_out" if name == "grouped" else "query_gallery"
    for own, side in ((True, "with_own_patient"), (False, "without_own_patient")):
        cfg = compose(
            *BASE, f"protocol={protocol}", f"protocol.exclude_same_group={str(not own).lower()}",
            f"paths.outputs={tmp_path}", f"paths.cache={tmp_path / 'cache'}",
        )  # fmt: skip
        report = run(cfg, tmp_path / side).report
        for score, values in found["scores"].items():
            if score in report.scores:
                assert values[side] == pytest.approx(report.scores[score])
    for values in found["scores"].values():
        if values["change"] is not None:
            change, low, high = values["change"]
            assert low <= change <= high
            assert change == pytest.approx(values["without_own_patient"] - values["with_own_patient"])
    assert found["queries"] == found["of"] == 60
    assert 0 < found["first_result"]["chance"] < 0.1
    assert any("own patients out" in remark for remark in found["remarks"]) == (name == "grouped")


def test_the_first_results_of_own_patients_are_counted(say, made):
    found = answer(say, "identity", made["fixed"])
    ranking = Ranking.load(made["fixed"] / "ranking.npz")
    own = np.arange(60)[:, None] // 2 == ranking.ids // 2  # patients have the same two images in both splits
    assert found["first_result"]["share_of_own_patient"] == pytest.approx(own[:, 0].mean())
    assert found["first_3_results"]["share_of_own_patient"] == pytest.approx(own[:, :3].mean())


def test_people_read_both_answers(say, made):
    code, out, _ = say("confound", made["fixed"], "by=site")
    assert code == 0
    assert "robustness index 0." in out
    assert "Cramer's V 0." in out
    code, out, _ = say("identity", made["fixed"])
    assert code == 0
    assert "60 of 60 queries can find another image of their patient" in out
    assert "precision_at_3" in out


@pytest.mark.parametrize(
    ("words", "run_name", "said"),
    [
        (
            ("confound", "by=sight"),
            "fixed",
            "no column 'sight'; did you mean site? choose from: age, sex, site, view",
        ),
        (("confound", "by=site"), "strangers", "the dataset has no metadata"),
        (
            ("confound", "by=site", "k=61"),
            "fixed",
            "k=61: a query of this run can find 60 images; give 60 or less",
        ),
        (("identity",), "strangers", "it is not known which images are of one patient"),
        (("identity",), "copies", "which images are copies only the images tell"),
        (("identity",), "itself", "every query finds itself first"),
        (("identity", "k=61"), "fixed", "k=61: a query of this run can find 60 images; give 60 or less"),
    ],
)
def test_what_cannot_be_answered_is_refused(refused, made, words, run_name, said):
    assert said in refused(words[0], made[run_name], *words[1:])


def test_a_run_whose_index_is_gone_is_refused_where_it_is_needed(refused, say, made, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(made["fixed"], copy, symlinks=True)
    (copy / "index.faiss").unlink()
    assert answer(say, "confound", copy, "by=site", "k=3")["queries"] == 60
    assert "index.faiss: gone" in refused("identity", copy)


def test_a_damaged_file_of_images_is_refused(refused, made, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(made["fixed"], copy, symlinks=True)
    (copy / "images.parquet").write_bytes(b"PAR1 no more")
    assert "images.parquet is not the file that the run wrote" in refused("confound", copy, "by=site")
    assert "images.parquet: damaged" in refused("confound", copy, "by=site", "--unverified")
