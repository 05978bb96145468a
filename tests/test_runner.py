import errno
import json
from pathlib import Path

import faiss
import numpy as np
import pandas as pd
import pytest
from omegaconf import OmegaConf

from medretrieval import run
from medretrieval.encoders.baselines import PixelEncoder
from medretrieval.errors import UserError
from medretrieval.protocol.ranking import Ranking
from medretrieval.runs import folder as results

PIXELS = ("dataset=breastmnist", "encoder=pixels", "metric=l2", "evaluation.ks=[1,3]", "evaluation.vote_k=3")


@pytest.fixture
def painted_file(write_npz):
    return write_npz(n=12)


@pytest.fixture
def encoded(monkeypatch):
    """How many images the pixel encoder was handed, by call."""
    calls = []
    real = PixelEncoder.encode

    def counting(self, images):
        calls.append(len(images))
        return real(self, images)

    monkeypatch.setattr(PixelEncoder, "encode", counting)
    return calls


def test_an_ideal_encoder_scores_one_and_chance_stands_beside_it(config, painted_file):
    scores = run(config(*PIXELS)).report.scores
    # Of 6 relevant images 1 or 3 can be among the first 1 or 3; everything else is perfect.
    assert scores.pop("chance_precision") == 0.5
    recalls = {name: scores.pop(name) for name in list(scores) if "recall" in name}
    assert recalls == {f"{m}recall_at_{k}": pytest.approx(k / 6) for m in ("", "macro_") for k in (1, 3)}
    assert scores.pop("vote_brier") == scores.pop("vote_calibration_error") == 0
    assert set(scores.values()) == {1.0}
    assert {"map", "r_precision", "map_at_r", "mrr", "ndcg_at_3", "map_at_3_hits"} <= scores.keys()


def test_shuffled_labels_score_the_chance_level(config, write_npz):
    rng = np.random.default_rng(0)
    labels = {f"{split}_labels": rng.permutation(np.arange(400) % 2) for split in ("train", "val", "test")}
    write_npz(n=400, **labels)
    report = run(config(*PIXELS)).report
    for name, expected in report.chance.items():
        # 400 queries; neighbors of like queries overlap, so the margin is wide.
        assert report.scores[name] == pytest.approx(expected, abs=0.1 if "recall" not in name else 0.01)


def test_the_folder_holds_everything_in_documented_form(config, painted_file, tmp_path):
    folder = run(config(*PIXELS, "protocol=leave_one_out"), tmp_path / "r").folder
    assert folder == tmp_path / "r"
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "scores.json", "per_query.parquet", "ranking.npz", "index.faiss", "embeddings_query.npy",
        "embeddings_gallery.npy", "config.yaml", "manifest.json", "tracking.json",
        "audit.parquet", "audit.png",
    }  # fmt: skip
    scores = json.loads((folder / "scores.json").read_text())
    assert {"scores", "timings_s", "counts", "encoder", "chance", "notes", "objective"} <= scores.keys()
    assert {
        "load",
        "embed",
        "index",
        "search",
        "score",
        "statistics",
        "ann_check",
        "audit",
        "figures",
        "other",
        "total",
    } == scores["timings_s"].keys()
    total = scores["timings_s"].pop("total")
    assert sum(scores["timings_s"].values()) == pytest.approx(total)
    assert min(scores["timings_s"].values()) >= 0
    assert scores["counts"] == {
        "queries": 12, "gallery": 12, "depth": 11, "queries_without_relevant": 0, "missing_results": 0
    }  # fmt: skip
    assert scores["encoder"]["random_weights"] is False
    ranking = Ranking.load(folder / "ranking.npz")
    assert ranking.ids.shape == (12, 11)
    assert list(ranking.query_ids[:2]) == ["test/0", "test/1"]
    assert not (ranking.ids == np.arange(12)[:, None]).any()
    vectors = np.load(folder / "embeddings_gallery.npy", allow_pickle=False)
    assert faiss.read_index(str(folder / "index.faiss")).ntotal == len(vectors) == 12
    assert OmegaConf.load(folder / "config.yaml").metric.name == "l2"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["data"]["query"]["count"] == 12
    assert manifest["seed"] == 0
    assert manifest["libraries"]["numpy"] == np.__version__


def test_reported_scores_are_the_means_of_the_saved_ones(config, painted_file):
    result = run(config(*PIXELS, "encoder=random"))
    table = pd.read_parquet(result.folder / "per_query.parquet")
    assert list(table["id"][:2]) == ["test/0", "test/1"]
    for name in ("precision_at_3", "map", "mrr", "ndcg_at_3", "majority_vote_at_3"):
        assert result.report.scores[name] == pytest.approx(table[name].mean())
        by_class = table.groupby("label")[name].mean().mean()
        assert result.report.scores[f"macro_{name}"] == pytest.approx(by_class)


def test_saved_scores_follow_from_the_saved_ranking(config, painted_file):
    folder = run(config(*PIXELS, "encoder=random", "evaluation.save_depth=null")).folder
    ranking, table = Ranking.load(folder / "ranking.npz"), pd.read_parquet(folder / "per_query.parquet")
    hits = ranking.gallery_labels[ranking.ids] == ranking.query_labels[:, None]
    assert np.allclose(hits[:, :3].mean(axis=1), table["precision_at_3"])
    precision = np.cumsum(hits, axis=1) / np.arange(1, hits.shape[1] + 1)
    assert np.allclose((precision * hits).sum(axis=1) / hits.sum(axis=1), table["map"])


def test_save_depth_cuts_the_saved_ranking_and_no_score(config, painted_file):
    whole = run(config(*PIXELS, "encoder=random", "evaluation.save_depth=null"))
    cut = run(config(*PIXELS, "encoder=random", "evaluation.save_depth=2"))
    assert Ranking.load(cut.folder / "ranking.npz").depth == 2
    assert Ranking.load(whole.folder / "ranking.npz").depth == 12
    assert cut.report.scores == whole.report.scores


@pytest.mark.parametrize("index", ["flat", "ivf", "hnsw", "ivfpq"])
def test_what_is_saved_does_not_change_what_is_searched(config, write_npz, index):
    """A gallery large enough that nprobe and efSearch depend on how deep is asked."""
    write_npz(n=400)
    depths = ["null", "2", "100", "400"]
    base = (*PIXELS, "encoder=random", f"index={index}")
    found = [run(config(*base, f"evaluation.save_depth={depth}")).report for depth in depths]
    assert len({(r.index.search, r.counts.depth) for r in found}) == 1
    assert all(r.scores == found[0].scores for r in found)


@pytest.mark.parametrize(
    "choice",
    ["index=flat", "index=ivf", "index=ivfpq", "index=hnsw", "index.ef_search=4", "evaluation.ks=[1,100]"],
)
def test_every_run_has_one_map_and_its_chance_and_interval(config, write_npz, choice):
    write_npz(n=400)
    index = ("index=hnsw",) if "ef_search" in choice else ()
    report = run(config(*PIXELS, "encoder=random", *index, choice)).report
    for part in (report.scores, report.chance, report.intervals, report.lift):
        assert "map_at_100" in part
    assert report.chance["map_at_100"] == pytest.approx(report.scores["map_at_100"], abs=0.05)
    assert list(report.scores).count("map_at_100") == 1
    if "ef_search" in choice:
        assert report.counts.depth == 4
        assert any("map_at_100 comes from a search of its own" in note for note in report.notes)
        wide = run(config(*PIXELS, "encoder=random", "index=hnsw", "index.ef_search=100")).report
        assert report.scores["map_at_100"] == wide.scores["map_at_100"]
        assert report.scores["macro_map_at_100"] == wide.scores["macro_map_at_100"]


def test_map_at_100_is_the_whole_map_of_a_small_gallery(config, painted_file):
    report = run(config(*PIXELS, "encoder=random")).report
    assert report.scores["map_at_100"] == report.scores["map"]
    assert report.chance["map_at_100"] == pytest.approx(report.chance["map"], abs=1e-12)


def test_three_indexes_and_two_metrics_embed_each_split_once(config, painted_file, encoded):
    for index in ("flat", "ivf", "hnsw"):
        for metric in ("cosine", "l2"):
            run(config(*PIXELS, f"index={index}", f"metric={metric}"))
    assert encoded == [12, 12]


def test_the_query_itself_counts_only_where_asked(config, painted_file):
    pair = ("encoder=random", "protocol=leave_one_out")
    without = run(config(*PIXELS, *pair))
    with_self = run(config(*PIXELS, *pair, "protocol.exclude_self=false"))
    assert with_self.report.scores["precision_at_1"] == 1.0
    assert without.report.scores["precision_at_1"] < 1.0
    assert "the query itself counted" in with_self.report.title


def test_the_objective_is_what_the_configuration_says(config, painted_file):
    assert run(config(*PIXELS)).report.objective.name == "precision_at_3"
    chosen = run(config(*PIXELS, "evaluation.objective=macro_recall_at_1"))
    assert chosen.objective == pytest.approx(1 / 6)


def test_a_finished_configuration_is_skipped_until_forced(config, painted_file, encoded, caplog):
    first = run(config(*PIXELS))
    caplog.set_level("INFO")
    again = run(config(*PIXELS))
    assert again.skipped
    assert again.folder == first.folder
    assert str(first.folder) in caplog.text
    forced = run(config(*PIXELS, "force=true"))
    assert not forced.skipped
    assert forced.folder != first.folder
    assert forced.report.scores == first.report.scores
    assert encoded == [12, 12]


@pytest.mark.parametrize(
    "change", ["evaluation.ks=[1,2]", "metric=cosine", "seed=1", "protocol=leave_one_out", "encoder.side=14"]
)
def test_another_configuration_is_not_skipped(config, painted_file, change):
    run(config(*PIXELS))
    assert not run(config(*PIXELS, change)).skipped


def test_other_data_under_the_same_name_is_not_skipped(config, write_npz):
    write_npz(n=12)
    run(config(*PIXELS))
    write_npz(n=12, test_labels=np.arange(12) // 6)
    assert not run(config(*PIXELS)).skipped


def test_a_run_of_an_older_format_is_run_again(config, painted_file, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("medretrieval.runs.identity.FORMAT", 1)
        run(config(*PIXELS))
    assert not run(config(*PIXELS)).skipped


def test_a_deleted_run_is_run_again(config, painted_file):
    first = run(config(*PIXELS))
    (first.folder / "scores.json").unlink()
    assert not run(config(*PIXELS)).skipped


def test_random_weights_are_marked_in_every_output(config, painted_file, caplog):
    from medretrieval.runs.tables import run_table, sweep_table

    model = ("encoder=timm", "encoder.model=test_resnet", "encoder.pretrained=null", "evaluation.ks=[1]")
    report = run(config("dataset=breastmnist", *model)).report
    assert report.encoder.random_weights is True
    assert "RANDOM WEIGHTS" in report.title
    assert "RANDOM WEIGHTS" in run_table(report, Path("x"))
    assert "RANDOM WEIGHTS" in sweep_table([report])
    assert "RANDOM WEIGHTS" in caplog.text


def test_a_class_of_one_member_is_refused_in_leave_one_out(config, write_npz):
    write_npz(n=12, test_labels=np.array([1] + [0] * 11))
    with pytest.raises(UserError, match=r"single image of class 'normal, benign'"):
        run(config(*PIXELS, "protocol=leave_one_out"))


def test_splits_that_share_no_class_are_refused(config, write_npz):
    write_npz(n=12, test_labels=np.ones(12), train_labels=np.zeros(12))
    with pytest.raises(UserError, match="share no class"):
        run(config(*PIXELS))


def test_a_k_larger_than_the_gallery_is_refused_before_embedding(config, painted_file, encoded):
    with pytest.raises(UserError, match=r"k=12 is larger than the 11 images"):
        run(config(*PIXELS, "protocol=leave_one_out", "evaluation.ks=[12]"))
    with pytest.raises(UserError, match=r"index.nlist=13: more cells than the gallery has vectors \(12\)"):
        run(config(*PIXELS, "index=ivf", "index.nlist=13"))
    assert encoded == []


def test_an_objective_that_the_index_cannot_give_is_refused(config, write_npz):
    write_npz(n=120)
    with pytest.raises(UserError, match=r"evaluation.objective=map: index=hnsw gives 100 of 120"):
        run(config(*PIXELS, "index=hnsw", "evaluation.objective=map"))


def test_a_full_disk_leaves_no_run_behind(config, painted_file, tmp_path, monkeypatch):
    def full(self, path):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Ranking, "save", full)
        with pytest.raises(OSError, match="No space left"):
            run(config(*PIXELS), tmp_path / "r")
    assert not (tmp_path / "r").exists()
    assert not run(config(*PIXELS)).skipped


def test_an_interrupted_embedding_goes_on(config, painted_file, monkeypatch):
    def interrupted(self, images):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(PixelEncoder, "encode", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(config(*PIXELS))
    assert run(config(*PIXELS)).report.scores["precision_at_1"] == 1.0


def test_a_read_only_cache_serves_what_is_in_it(config, painted_file, monkeypatch):
    run(config(*PIXELS))
    monkeypatch.setattr("medretrieval.cache.store.Cache._require_writable", lambda *a: pytest.fail("wrote"))
    assert run(config(*PIXELS, "force=true")).report.encoder.cached is True


def test_approximate_indexes_leave_out_what_needs_the_whole_ranking(config, write_npz):
    write_npz(n=200)
    report = run(config(*PIXELS, "index=hnsw")).report
    assert "map" not in report.scores
    assert "precision_at_3" in report.scores
    assert any("left out" in note for note in report.notes)


def test_a_sweep_over_metrics_that_rank_alike_says_so(config, painted_file):
    normalized = run(config(*PIXELS, "encoder.normalize=true"))
    assert any("rank them alike" in note for note in normalized.report.notes)


def test_multi_label_queries_without_a_finding_are_left_out(config, write_npz):
    rng = np.random.default_rng(0)
    labels = (rng.random((20, 14)) < 0.2).astype(np.uint8)
    labels[0] = 0
    write_npz("chestmnist", n=20, **{f"{s}_labels": labels for s in ("train", "val", "test")})
    result = run(config("dataset=chestmnist", "encoder=pixels", "evaluation.ks=[1,3]"))
    alone = int((labels.sum(axis=1) == 0).sum())
    assert result.report.counts.queries_without_relevant == alone >= 1
    table = pd.read_parquet(result.folder / "per_query.parquet")
    assert np.isnan(table["precision_at_3"][0])
    assert "majority_vote_at_3" not in table
    assert list(table["label"][0]) == []


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("protocol", "expected"),
    [
        ("leave_one_out", {"precision_at_5": 0.8404, "map": 0.6845, "chance_precision": 0.5305}),
        ("query_gallery", {"precision_at_5": 0.8109, "map": 0.6858, "chance_precision": 0.5605}),
    ],
)
def test_pixels_on_pneumoniamnist_score_what_was_measured(config, real_root, protocol, expected):
    overrides = (
        "dataset=pneumoniamnist",
        "encoder=pixels",
        f"protocol={protocol}",
        f"paths.data={real_root}",
    )
    scores = run(config(*overrides)).report.scores
    assert {name: round(scores[name], 4) for name in expected} == pytest.approx(expected, abs=2e-4)


def test_results_are_put_in_place_with_scores_last(tmp_path, monkeypatch, config, painted_file):
    moved = []
    real = Path.replace

    def watching(self, target):
        if self.parent.name == ".partial":
            moved.append(self.name)
        return real(self, target)

    monkeypatch.setattr(Path, "replace", watching)
    run(config(*PIXELS))
    assert moved[-1] == results.SCORES
