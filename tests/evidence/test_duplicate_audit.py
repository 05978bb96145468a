import numpy as np
import pandas as pd
import pytest
from PIL import Image
from tests.tasks import task_of

from medretrieval import run
from medretrieval.config import AuditConfig
from medretrieval.datasets.base import Split
from medretrieval.datasets.phantom import ChestPhantom
from medretrieval.evidence import duplicate_audit as auditing
from medretrieval.evidence.duplicate_audit import audit, write_pairs
from medretrieval.figures.galleries import audit_picture
from medretrieval.images.perceptual_hash import image_hashes
from medretrieval.protocol.inputs import Inputs

CONFIG = AuditConfig(enabled=True, near_quantile=0.01, near_hash=2, max_pairs=50)


def phantoms(n, split="test", size=64):
    dataset = ChestPhantom(name="p", size=size, n_train=n, n_val=n, n_test=n, difficulty=0.5, seed=0)
    return dataset.load(split)


def replaced(split, images=None, labels=None):
    images = split.images if images is None else images
    return Split(split.name, images, split.labels if labels is None else labels)


def found(queries, gallery, config=CONFIG, vectors=None):
    task = task_of(queries, gallery)
    n = len(queries)  # without other vectors, all are at right angles
    q, g = vectors or np.split(np.eye(n + len(gallery), dtype=np.float32), [n])
    return audit(task, q, g, config), task


def test_different_images_are_no_pairs():
    result, _ = found(phantoms(20), phantoms(20, "train"))
    assert result.counts.pop("audited_queries") == 20
    assert set(result.counts.values()) == {0}
    assert result.pairs == []


def test_copies_are_counted_on_each_side_and_between():
    queries, gallery = phantoms(20), phantoms(20, "train")
    images, others = queries.images.copy(), gallery.images.copy()
    images[7] = images[8] = images[3]  # two copies within the queries
    others[0] = others[1] = images[3]  # one copy within the gallery, three queries have it there
    labels = gallery.labels.copy()
    labels[:2] = (queries.labels[3] + 1) % 5
    labels[1] = queries.labels[3]
    own = queries.labels.copy()
    own[7:9] = queries.labels[3]
    result, _ = found(replaced(queries, images, own), replaced(gallery, others, labels))
    assert result.counts["identical_within_query"] == 2
    assert result.counts["identical_within_gallery"] == 1
    assert result.counts["identical_between"] == 3
    assert result.counts["label_conflicts"] == 3
    assert [p.same_label for p in result.pairs if p.kind == "identical"] == [False] * 3 + [True] * 3


def test_in_one_split_an_image_is_no_pair_of_itself():
    split = phantoms(20)
    images = split.images.copy()
    images[9] = images[2]
    vectors = np.eye(20, dtype=np.float32)
    result, _ = found(*[replaced(split, images)] * 2, vectors=(vectors, vectors))
    assert result.counts["identical_between"] == 2
    assert [(p.query, p.gallery) for p in result.pairs if p.kind == "identical"] == [(2, 9)]  # not (9, 2)


def test_of_a_pair_that_only_one_query_compares_the_one_is_listed(monkeypatch):
    split = phantoms(20)
    images = split.images.copy()
    images[9] = images[2]
    sides = [replaced(split, images)] * 2
    monkeypatch.setattr(auditing, "_sample", lambda queries, gallery: np.array([3, 9, 12]))
    result, _ = found(*sides, vectors=(np.eye(20, dtype=np.float32),) * 2)
    assert [(p.query, p.gallery) for p in result.pairs if p.kind == "identical"] == [(9, 2)]


def test_a_brighter_and_noisier_copy_is_near_by_hash_and_not_identical():
    queries, gallery = phantoms(20), phantoms(20, "train")
    noise = np.random.default_rng(0).normal(0, 2, queries.images[4].shape)
    others = gallery.images.copy()
    others[11] = np.clip(queries.images[4] * 0.9 + 12 + noise, 0, 255).astype(np.uint8)
    labels = gallery.labels.copy()
    labels[11] = queries.labels[4]
    loose = AuditConfig(enabled=True, near_quantile=0.3, near_hash=2, max_pairs=50)
    result, _ = found(queries, replaced(gallery, others, labels), loose)
    assert result.counts["near_hash"] >= 1
    assert result.counts["identical_between"] == 0
    assert (4, 11) in {(p.query, p.gallery) for p in result.pairs if p.kind == "near_hash"}


def test_hashes_of_resized_images_are_near_and_of_others_far():
    small, large = phantoms(30), phantoms(30, size=128)
    apart = np.bitwise_count(image_hashes(small.images)[:, None] ^ image_hashes(large.images)[None])
    assert np.median(np.diag(apart)) <= 4
    assert np.median(apart[~np.eye(30, dtype=bool)]) > 10


def test_hashes_are_signs_of_the_cosine_transform():
    fft = pytest.importorskip("scipy.fft")
    images = np.random.default_rng(0).integers(0, 256, (9, 32, 32)).astype(np.uint8)
    low = fft.dctn(images.astype(np.float64), axes=(1, 2))[:, :8, :8].reshape(9, -1)
    wanted = np.packbits(low > np.median(low[:, 1:], axis=1, keepdims=True), axis=1).view(np.uint64).ravel()
    assert np.array_equal(image_hashes(images), wanted)


def test_vectors_of_one_direction_are_near_by_embedding():
    queries, gallery = phantoms(5), phantoms(6, "train")
    q = np.random.default_rng(0).standard_normal((5, 64)).astype(np.float32)
    g = np.random.default_rng(1).standard_normal((6, 64)).astype(np.float32)
    g[3] = 2 * q[1]
    labels = gallery.labels.copy()
    labels[3] = queries.labels[1]
    result, _ = found(queries, replaced(gallery, labels=labels), vectors=(q, g))
    assert result.counts["near_embedding"] == 1
    assert [(p.query, p.gallery) for p in result.pairs] == [(1, 3)]


@pytest.mark.parametrize("one_split", [True, False])
@pytest.mark.parametrize("many_labels", [True, False])
def test_the_threshold_is_what_few_images_exceed_with_one_of_another_class(one_split, many_labels):
    rng = np.random.default_rng(7)
    labels = rng.random((130, 2)) < 0.4 if many_labels else rng.integers(0, 3, 130)
    images, vectors = rng.integers(0, 256, (130, 32, 32)).astype(np.uint8), rng.standard_normal((130, 6))
    images[8], vectors[8] = images[5], vectors[5]  # identical images are no evidence of what is near
    labels[5], labels[8] = ([0, 0], [0, 1]) if many_labels else (0, 1)
    places = (slice(None),) * 2 if one_split else (slice(0, 60), slice(60, None))
    sides = [Split(f"s{i * (not one_split)}", images[p], labels[p]) for i, p in enumerate(places)]
    q, g = (vectors[p].astype(np.float32) for p in places)
    result, _ = found(*sides, AuditConfig(True, 0.05, 0, 1000), (q, g))
    unit = [v.astype(float) / np.linalg.norm(v.astype(float), axis=1, keepdims=True) for v in (q, g)]
    cosine = unit[0] @ unit[1].T
    other = np.array([[np.any(a != b) for b in sides[1].labels] for a in sides[0].labels])
    copies = (sides[0].images[:, None] == sides[1].images[None]).all(axis=(2, 3))
    nearest = np.sort(np.where(other & ~copies, cosine, -2).max(axis=1))
    assert result.near_cosine == pytest.approx(nearest[int(np.ceil(0.95 * (len(nearest) - 1)))], abs=1e-9)
    assert np.mean(nearest > result.near_cosine + 1e-9) <= 0.05
    off = ~np.eye(len(q), len(g), dtype=bool) if one_split else True
    near = (cosine > result.near_cosine + 1e-9) & ~copies & off
    assert result.counts["near_embedding"] == near.any(axis=1).sum() > 0
    wanted = {(min(p), max(p)) if one_split else p for p in zip(*np.nonzero(near), strict=True)}
    assert {(p.query, p.gallery) for p in result.pairs if p.kind == "near_embedding"} == wanted


def test_of_one_class_no_threshold_can_be_fitted():
    split = Split("a", phantoms(9).images, np.zeros(9, np.int64))
    vectors = np.random.default_rng(0).standard_normal((9, 3)).astype(np.float32)
    result, _ = found(split, split, vectors=(vectors, vectors))
    assert result.near_cosine is None
    assert result.counts["near_embedding"] == 0


def test_the_hash_is_no_finding_where_it_pairs_different_images():
    rng = np.random.default_rng(0)
    scene = rng.integers(0, 256, (8, 8)).astype(np.uint8).repeat(8, 0).repeat(8, 1)
    images = np.clip(scene + rng.normal(0, 1, (40, 64, 64)), 0, 255).astype(np.uint8)
    alike, n = Split("a", images, np.arange(40) % 2), np.eye(40, dtype=np.float32)
    result, _ = found(alike, alike, vectors=(n, n))
    assert result.hash_collisions == 1
    assert result.counts["near_hash"] is None
    assert not [p for p in result.pairs if p.kind == "near_hash"]
    one_class, _ = found(*[Split("a", images, np.zeros(40, np.int64))] * 2, vectors=(n, n))
    assert one_class.counts["near_hash"] == 40
    small, _ = found(*[Split("a", images[:, ::3, ::3], np.zeros(40, np.int64))] * 2, vectors=(n, n))
    assert small.counts["near_hash"] is None  # 22 pixels


@pytest.mark.realdata
def test_raw_pixels_are_near_where_they_are_nearer_than_images_of_two_classes(config, real_root):
    """A fixed cosine of 0.99 called 428 of the 624 images near-duplicates."""
    places = ("dataset=pneumoniamnist", "encoder=pixels", "metric=cosine", "protocol=leave_one_out",
              "evaluation.ks=[1]", f"paths.data={real_root}")  # fmt: skip
    report = run(config(*places)).report
    assert report.audit.near_embedding == 30
    assert report.audit.near_hash is None
    assert any("a near-duplicate in the gallery by pixels" in note for note in report.notes)


def test_chunks_change_nothing(monkeypatch):
    split = phantoms(30)
    images = split.images.copy()
    images[::3] = images[0]
    labels = split.labels.copy()
    labels[::3] = 0  # equal images are of one class, so that there is a hash to look at
    task = task_of(*[replaced(split, images, labels)] * 2)
    vectors = images.reshape(30, -1).astype(np.float32)
    loose = AuditConfig(True, 0.9, 20, 40)
    whole = audit(task, vectors, vectors, loose)
    monkeypatch.setattr("medretrieval.evidence.duplicate_audit.CHUNK_CELLS", 70)
    assert audit(task, vectors, vectors, loose) == whole
    assert len([p for p in whole.pairs if p.kind == "identical"]) == 40


@pytest.mark.parametrize("cells", [1, 70, 4_000_000])
def test_a_pair_on_the_threshold_counts_however_the_comparison_is_cut(cells, monkeypatch):
    """64 entries of 512 are not 0, half of them shared: the cosine is 0.5, in float32 a bit less or more."""
    monkeypatch.setattr("medretrieval.evidence.duplicate_audit.CHUNK_CELLS", cells)
    rng = np.random.default_rng(0)
    q, g = np.zeros((25, 512), np.float32), np.zeros((20, 512), np.float32)
    for i in range(20):
        ones = rng.permutation(512)[:96]
        q[i, ones[:64]], g[i, ones[32:]] = rng.uniform(0.1, 9), rng.uniform(0.1, 9)
    monkeypatch.setattr(auditing, "_fitted_cosine", lambda *a: 0.5 - 10.0**-auditing.COSINE_DIGITS)
    config = AuditConfig(True, 0.01, 0, 1000)
    result, _ = found(phantoms(25), phantoms(20, "train"), config, vectors=(q, g))
    wanted = {(i, j) for i in range(25) for j in range(20) if 2 * np.sum((q[i] > 0) & (g[j] > 0)) >= 64}
    assert {(p.query, p.gallery) for p in result.pairs if p.kind == "near_embedding"} == wanted
    assert {(i, i) for i in range(20)} <= wanted
    assert result.counts["near_embedding"] == len({i for i, _ in wanted}) == 20


@pytest.mark.parametrize("cells", [1, 300, 4_000_000])
def test_the_listed_pairs_are_the_first_of_all_by_float64(cells, monkeypatch):
    """Cosines that differ by less than float32 can tell: float64, pair by pair, says which come first."""
    monkeypatch.setattr("medretrieval.evidence.duplicate_audit.CHUNK_CELLS", cells)
    split = phantoms(30)
    vectors = (1 + 1e-4 * np.random.default_rng(0).standard_normal((60, 300))).astype(np.float32)
    monkeypatch.setattr(auditing, "_fitted_cosine", lambda *a: 0.9)
    config = AuditConfig(True, 0.01, 0, 7)
    result, task = found(split, phantoms(30, "train"), config, np.split(vectors, [30]))
    hashes = image_hashes(split.images), image_hashes(task.gallery.images)
    wanted = []
    for i, a in enumerate(vectors[:30].astype(np.float64)):
        for j, b in enumerate(vectors[30:].astype(np.float64)):
            cosine = round(float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum())), 6)
            same = bool(split.labels[i] == task.gallery.labels[j])
            wanted.append((same, int(np.bitwise_count(hashes[0][i] ^ hashes[1][j])), -cosine, i, j))
    listed = [p for p in result.pairs if p.kind == "near_embedding"]
    assert [(p.query, p.gallery) for p in listed] == [entry[3:] for entry in sorted(wanted)[:7]]
    assert [-p.cosine for p in listed] == [entry[2] for entry in sorted(wanted)[:7]]


def test_of_very_many_queries_a_sample_is_compared_and_its_size_said(monkeypatch):
    split = phantoms(30)
    images = split.images.copy()
    images[:] = images[0]
    monkeypatch.setattr("medretrieval.evidence.duplicate_audit.MAX_COMPARED_PAIRS", 30 * 7)
    result, _ = found(*[replaced(split, images)] * 2, vectors=(np.eye(30, dtype=np.float32),) * 2)
    assert result.counts["audited_queries"] == result.counts["identical_between"] == 7
    assert result.counts["identical_within_gallery"] == 29


def same(window, tile):
    """Whether two pieces of pictures agree but for the sign in a corner and a level of gray."""
    return np.abs(window - tile)[20:, 20:].max() <= 1


def test_pairs_and_picture_are_written(tmp_path):
    queries, gallery = phantoms(5), phantoms(5, "train")
    others = gallery.images.copy()
    others[2] = queries.images[4]
    result, task = found(queries, replaced(gallery, others))
    write_pairs(tmp_path / "a.parquet", result, task)
    table = pd.read_parquet(tmp_path / "a.parquet")
    assert table.loc[0, ["kind", "query_id", "gallery_id"]].tolist() == ["identical", "test/4", "train/2"]
    dataset = ChestPhantom(name="p", size=64, n_train=5, n_val=5, n_test=5, difficulty=0.5, seed=0)
    inputs = Inputs(dataset, None, {}, task, None)
    audit_picture(tmp_path / "a.png", result, inputs, "the run")
    drawn = np.asarray(Image.open(tmp_path / "a.png").convert("L"), float)
    side = 128  # a whole number of pixels for each of the image's
    tile = np.asarray(
        Image.fromarray(queries.images[4]).resize((side, side), Image.Resampling.NEAREST), float
    )
    windows = np.lib.stride_tricks.sliding_window_view(drawn, (side, side))
    middle = side // 2
    alike = np.abs(windows[..., middle, middle] - tile[middle, middle]) <= 1
    places = [at for at in zip(*np.nonzero(alike), strict=True) if same(windows[at], tile)]
    assert len(places) == 2  # the query and its copy, in one row
    assert places[0][0] == places[1][0]


def test_a_run_reports_its_look_alikes(config, write_npz):
    black = np.zeros((12, 28, 28), np.uint8)
    write_npz(test_images=black, train_images=black)
    result = run(config("dataset=breastmnist", "encoder=pixels", "metric=l2", "evaluation.ks=[1]"))
    assert result.report.audit.identical_between == 12
    assert result.report.audit.identical_within_query == 11
    assert any("12 query images have a byte-identical copy" in note for note in result.report.notes)
    assert (result.folder / "audit.png").exists()
    assert (result.folder / "audit.parquet").exists()


def test_no_audit_where_none_is_wanted(config, write_npz):
    write_npz()
    result = run(config("dataset=breastmnist", "encoder=pixels", "evaluation.ks=[1]", "audit.enabled=false"))
    assert result.report.audit is None
    assert not (result.folder / "audit.parquet").exists()


@pytest.mark.realdata
def test_the_known_copies_of_pneumoniamnist_are_found(config, real_root):
    places = ("dataset=pneumoniamnist", "encoder=random", f"paths.data={real_root}")
    train = run(config(*places)).report.audit
    names = ("identical_within_query", "identical_within_gallery", "identical_between")
    assert [getattr(train, name) for name in names] == [3, 18, 0]
    val = run(config(*places, "protocol.query=val")).report.audit
    assert val.identical_between == 8


def test_an_audit_is_made_once_for_all_indexes_and_anew_for_other_thresholds(config, write_npz, monkeypatch):
    write_npz()
    base = ("dataset=breastmnist", "encoder=pixels", "metric=l2", "evaluation.ks=[1]")
    first = run(config(*base))
    inner, made = auditing.audit, []
    monkeypatch.setattr(auditing, "audit", lambda *a: made.append(1) or inner(*a))
    again = run(config(*base, "index=ivf"))
    assert made == []
    assert again.report.audit == first.report.audit
    pairs = [pd.read_parquet(r.folder / "audit.parquet") for r in (first, again)]
    assert pairs[0].equals(pairs[1])
    run(config(*base, "audit.near_hash=0"))
    assert made == [1]
