"""Runs whose queries are sentences, with an encoder whose vectors are known."""

import json
import subprocess
import sys
from itertools import permutations

import numpy as np
import pytest
from safetensors.torch import save_file
from tests.conftest import painted
from tests.files import edit_json
from tests.tiny_models import TINY_READER, clip_state, write_clip_config
from tests.toy_encoders import Worded

from medretrieval import compose, run
from medretrieval.cache.store import Cache
from medretrieval.commands.inputs.cache import VERB as CACHE
from medretrieval.commands.many_runs.compare import VERB, options_of
from medretrieval.config import IndexConfig, MetricConfig
from medretrieval.embed.images import Embeddings
from medretrieval.errors import UserError
from medretrieval.evidence.zero_shot import cosines, image_recall, modality_gap, zero_shot
from medretrieval.index.faiss_index import build
from medretrieval.load import load_task
from medretrieval.protocol.ranking import Ranking
from medretrieval.report.compare import compare
from medretrieval.runs.manifest import read_manifest
from medretrieval.track.find_runs import load_run
from medretrieval.track.run_metrics import run_metrics
from medretrieval.verify import again, verify

WORDS = "encoder.words=[malignant,normal]"
ASK = (
    "dataset=breastmnist",
    "protocol=text_to_image",
    "encoder=random",
    "encoder._target_=tests.toy_encoders.Worded",
    "~encoder.dim",
    "~encoder.normalize",
    "~encoder.seed",
    "encoder.name=worded",
    f"+{WORDS}",
    "evaluation.ks=[1,2,4]",
    "evaluation.vote_k=2",
    "evaluation.resamples=100",
    "prompts.templates=['{}']",
    r"prompts.classes={malignant:[malignant],normal\, benign:[normal]}",
)
EACH = "protocol.prompts=each"
ASTRAY = "prompts.classes.malignant=[malignant,looks normal]"  # half of its sentences say the other class


def vectors_of(folder):
    return [np.load(folder / f"embeddings_{role}.npy") for role in ("query", "gallery")]


def test_sentences_that_name_their_class_find_it_and_nothing_else(config, write_npz):
    write_npz(n=12)
    result = run(config(*ASK))
    scores = result.report.scores
    assert {scores[f"precision_at_{k}"] for k in (1, 2, 4)} == {1.0}
    assert scores["map"] == scores["r_precision"] == scores["mrr"] == 1
    assert scores["recall_at_4"] == pytest.approx(4 / 6)
    assert result.report.counts.queries == 2
    assert {c: row.queries for c, row in result.report.per_class.items()} == {
        "malignant": 1,
        "normal, benign": 1,
    }
    assert "prompts, ensemble, queries test" in result.report.title
    ranking = Ranking.load(result.folder / "ranking.npz")
    assert list(ranking.query_ids) == ["prompt/malignant", "prompt/normal, benign"]
    assert (ranking.gallery_labels[ranking.ids[0, :6]] == 0).all()
    said = json.loads((result.folder / "prompts.json").read_text())
    assert said[1] == {"id": "prompt/normal, benign", "class": "normal, benign", "texts": ["normal"]}


def test_a_sentence_of_the_other_class_finds_the_other_class(config, write_npz):
    """Of the class's two sentences one finds it and one the other, so the mean over sentences is half."""
    write_npz(n=12)
    report = run(config(*ASK, EACH, ASTRAY)).report
    assert report.per_class["malignant"].scores["precision_at_4"] == 0.5
    assert report.per_class["normal, benign"].scores["precision_at_4"] == 1
    assert report.scores["precision_at_4"] == pytest.approx(2 / 3)
    assert report.zero_shot.accuracy == 1  # the ensemble leans to neither, and the other class to its own


def test_an_ensemble_of_both_classes_ranks_by_position_alone(config, write_npz):
    """(1, 1) is as near to (1, 0) as to (0, 1); the gallery's labels go 0, 1, 0, 1, ..."""
    write_npz(n=12)
    per_class = run(config(*ASK, ASTRAY)).report.per_class["malignant"].scores
    assert [per_class[f"precision_at_{k}"] for k in (1, 2, 4)] == [1, 0.5, 0.5]
    assert per_class["map"] == pytest.approx(np.mean([(i + 1) / (2 * i + 1) for i in range(6)]))


def test_findings_are_asked_for_one_by_one(config, write_npz):
    labels = (np.random.default_rng(0).random((30, 14)) < 0.2).astype(np.uint8)
    labels[:14] |= np.eye(14, dtype=np.uint8)
    write_npz("chestmnist", n=30, **{f"{s}_labels": labels for s in ("train", "val", "test")})
    names = "atelectasis,cardiomegaly,effusion,infiltration,mass,nodule,pneumonia,pneumothorax"
    words = f"+encoder.words=[{names},consolidation,edema,emphysema,fibrosis,pleural,hernia]"
    kept = [o for o in ASK if not o.startswith(("prompts", "dataset", f"+{WORDS}"))]
    result = run(config(*kept, "dataset=chestmnist", words))
    ranking = Ranking.load(result.folder / "ranking.npz")
    _, task = load_task(_settings(result.folder), None)
    np.testing.assert_array_equal(task.n_relevant, labels.sum(axis=0))
    np.testing.assert_array_equal(ranking.query_labels, np.eye(14, dtype=bool))
    hits = labels[ranking.ids[3, :4], 3]
    assert result.report.per_class["infiltration"].scores["precision_at_4"] == hits.mean()
    assert verify(result.folder) == []


def _settings(folder):
    from medretrieval.checks import check
    from medretrieval.runs.reopen import saved_config

    return check(saved_config(folder, ()))


@pytest.mark.parametrize("center", ["null", "train"])
@pytest.mark.parametrize(("index", "use"), [("flat", "each"), ("ivf", "ensemble"), ("hnsw", "each")])
def test_an_untouched_run_is_as_saved_and_comes_out_again(config, write_npz, center, index, use):
    write_npz(n=60)
    settings = (
        f"protocol.prompts={use}",
        f"index={index}",
        f"protocol.center={center}",
        "+encoder.offset=[0.3]",
    )
    result = run(config(*ASK, *settings))
    assert verify(result.folder) == []
    new = again(result.folder)
    assert new.folder != result.folder
    assert (new.results, new.surroundings) == ([], [])
    assert run(config(*ASK, *settings)).skipped


def test_other_sentences_are_other_data(config, write_npz):
    write_npz(n=12)
    folder = run(config(*ASK)).folder
    assert read_manifest(folder).data["query"].count == 2
    edit_json(
        folder / "manifest.json",
        lambda c: c["config"]["prompts"].update(templates=["a scan of {}"]),
    )
    assert any(line.startswith("query: content_sha256") for line in verify(folder))


def test_centering_takes_from_each_side_the_mean_of_the_train_split(config, write_npz):
    write_npz(n=12, train_labels=np.zeros((12, 1), np.uint8), train_images=painted(np.arange(12) // 9))
    offsets = "+encoder.offset=[2.0,0.5]", "+encoder.text_offset=[0.1,3.0]"
    plain = run(config(*ASK, *offsets, EACH, ASTRAY))
    done = run(config(*ASK, *offsets, EACH, ASTRAY, "protocol.center=train"))

    def unit(x):
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    query, gallery = vectors_of(plain.folder)
    train = np.eye(2)[np.arange(12) // 9] + [2.0, 0.5]
    wanted = unit(unit(gallery) - unit(train).mean(axis=0))
    malignant, normal = unit(query)[:2], unit(query)[2:]  # classes count alike, whatever they have to say
    said = unit(unit(query) - (malignant.mean(axis=0) + normal.mean(axis=0)) / 2)
    found = vectors_of(done.folder)
    np.testing.assert_allclose(found[0], said, atol=1e-5)
    np.testing.assert_allclose(found[1], wanted, atol=1e-5)
    assert done.report.modality_gap.distance < plain.report.modality_gap.distance
    assert (done.folder / "index.faiss").resolve() != (plain.folder / "index.faiss").resolve()
    manifest = json.loads((done.folder / "manifest.json").read_text())
    assert manifest["data"]["center"]["split"] == "train"
    assert done.report.protocol.center == "train"
    assert "centered on train" in done.report.title
    write_npz(n=12, train_images=painted(np.arange(12) % 2, seed=9))
    assert not run(config(*ASK, *offsets, EACH, ASTRAY, "protocol.center=train")).skipped


def test_copies_in_the_gallery_can_count_once(config, write_npz):
    images = painted(np.arange(12) % 2, seed=2)
    images[2:6:2] = images[0]
    write_npz(n=12, test_images=images)
    report = run(config(*ASK, "protocol.drop_duplicates=true")).report
    assert report.scores["recall_at_4"] == pytest.approx(np.mean([4 / 4, 4 / 6]))
    assert report.left_out.dropped == 2


def test_what_needs_images_is_left_out_and_said(config, write_npz):
    write_npz(n=12)
    result = run(config(*ASK))
    assert result.report.audit is None
    assert result.report.baseline is None
    notes = " ".join(result.report.notes)
    assert "No pixels baseline: raw pixels cannot answer sentences" in notes
    assert "only 2 sentences: too few for intervals" in notes
    assert "Modality gap: the mean sentence and the mean image" in notes
    assert "not independent queries" not in notes
    assert "not independent queries" in " ".join(run(config(*ASK, EACH)).report.notes)
    assert run(config("dataset=breastmnist", "encoder=pixels")).report.zero_shot is None


def test_an_encoder_without_words_is_refused_before_any_image_is_embedded(config, write_npz, tmp_path):
    write_npz(n=12)
    with pytest.raises(UserError, match="encoder=random: has no text tower"):
        run(config("dataset=breastmnist", "protocol=text_to_image", "encoder=random"))
    assert not (tmp_path / "cache" / "embeddings").exists()


@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        (lambda v: v * np.nan, "the embedding of sentence .* is not finite"),
        (lambda v: v[:1], r"gave \[1, 2\] for 2 sentences"),
        (
            lambda v: np.pad(v, ((0, 0), (0, 1))),
            "gives sentences 3 numbers and images 2",
        ),
    ],
)
def test_vectors_of_sentences_that_cannot_be_right_are_refused(config, write_npz, monkeypatch, spoil, line):
    write_npz(n=12)
    asked = config(*ASK)
    sound = Worded.encode_text
    monkeypatch.setattr(
        "tests.toy_encoders.Worded.encode_text", lambda self, texts: spoil(sound(self, texts))
    )
    with pytest.raises(UserError, match=f"encoder=worded: {line}"):
        run(asked)


def test_the_cache_says_what_it_keeps_of_sentences(config, write_npz, tmp_path, capsys):
    write_npz(n=12)
    run(config(*ASK, EACH, "protocol.center=train"))
    CACHE.main(["list", f"paths.cache={tmp_path / 'cache'}"])
    listed = capsys.readouterr().out
    assert "worded · 2 texts" in listed
    assert "prompts, each · texts" in listed
    assert listed.count("minus their mean") == 2
    assert "unreadable" not in listed


def test_a_warm_run_of_a_clip_loads_no_torch(tmp_path, write_npz):
    """The first run embeds sentences and images of a model with random weights, the second takes both."""
    folder = tmp_path / "clip"
    folder.mkdir()
    write_clip_config(folder, config=TINY_READER)
    save_file(clip_state(folder), folder / "open_clip_model.safetensors")
    write_npz(n=12)
    overrides = [o for o in ASK if "encoder" not in o] + [
        "encoder=open_clip", "encoder.name=tiny", "encoder.runtime=torch",
        f"encoder.model=local-dir:{folder}",
        f"encoder.checkpoint={folder}/open_clip_model.safetensors", "protocol.center=train", "force=true",
        "tracking=none", f"paths.outputs={tmp_path / 'outputs'}",
    ]  # fmt: skip
    first = run(compose(*overrides))
    code = (
        "import sys; from medretrieval import compose, run; run(compose(*sys.argv[1:]));"
        "print([m for m in ('torch', 'open_clip', 'openvino') if m in sys.modules])"
    )
    warm = subprocess.run([sys.executable, "-c", code, *overrides], capture_output=True, text=True)
    assert warm.returncode == 0, warm.stderr
    assert warm.stdout.splitlines()[-1] == "[]"
    assert not first.report.encoder.cached


def test_runs_with_and_without_centering_can_be_compared_and_other_queries_not(config, write_npz):
    write_npz(n=12)
    places = [run(config(*ASK, EACH, *more)).folder for more in ([], ["protocol.center=train"])]
    runs = [load_run(folder, str(folder)) for folder in places]
    options = options_of(VERB.parse([*map(str, places), "resamples=100", "permutations=100"]), runs)
    names = compare(runs, options).names
    assert len(set(names)) == 2
    other = run(config(*ASK)).folder
    with pytest.raises(UserError, match=r"protocol\.prompts is each"):
        compare([load_run(folder, str(folder)) for folder in (places[0], other)], options)


def test_numbers_of_zero_shot_and_gap_go_to_mlflow_flat(config, write_npz):
    write_npz(n=60)
    report = run(config(*ASK, "index=hnsw", "evaluation.baseline=none")).report
    flat = run_metrics(report)
    assert flat["zero_shot/accuracy"] == 1
    assert flat["modality_gap/distance"] == report.modality_gap.distance
    assert flat["modality_gap/recall_images"] == report.modality_gap.recall.images
    assert all(isinstance(value, int | float) for value in flat.values())


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_zero_shot_scores_are_those_of_scikit_learn(classes):
    from sklearn import metrics

    rng = np.random.default_rng(classes)
    labels = rng.permutation(np.arange(60) % classes)
    cosine = rng.normal(size=(60, classes)).round(1) + 0.5 * np.eye(classes)[labels]  # with ties
    names = tuple(f"c{i}" for i in range(classes))
    found, named = zero_shot(cosine, labels, names), cosine.argmax(axis=1)
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(labels, named))
    assert found["balanced_accuracy"] == pytest.approx(metrics.balanced_accuracy_score(labels, named))
    np.testing.assert_array_equal(found["confusion"], metrics.confusion_matrix(labels, named))
    others = np.stack([np.delete(cosine, c, axis=1).max(axis=1) for c in range(classes)], axis=1)
    areas = [metrics.roc_auc_score(labels == c, (cosine - others)[:, c]) for c in range(classes)]
    assert found["macro_auroc"] == pytest.approx(np.mean(areas))
    if classes == 2:
        difference = metrics.roc_auc_score(labels, cosine[:, 1] - cosine[:, 0])
        assert found["macro_auroc"] == pytest.approx(difference)


def test_zero_shot_of_findings_is_the_area_of_each(config):
    from sklearn import metrics

    rng = np.random.default_rng(0)
    labels, cosine = rng.random((50, 4)) < 0.3, rng.normal(size=(50, 4))
    labels[:, 3] = False
    found = zero_shot(cosine, labels, ("a", "b", "c", "d"))
    assert found["auroc"].keys() == {"a", "b", "c"}  # nobody has d
    assert found["macro_auroc"] == pytest.approx(metrics.roc_auc_score(labels[:, :3], cosine[:, :3]))
    assert "accuracy" not in found


def test_the_gap_is_that_of_all_pairs():
    rng = np.random.default_rng(0)
    text, image = (
        rng.normal(size=(5, 4)).astype(np.float32) + 1,
        rng.normal(size=(7, 4)).astype(np.float32) * 9,
    )
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (text, image))
    found = modality_gap(text, image)
    assert found["distance"] == pytest.approx(np.linalg.norm(a.mean(axis=0) - b.mean(axis=0)), rel=1e-5)
    assert found["cosine_text_image"] == pytest.approx(float((a @ b.T).mean()), rel=1e-5)
    for name, side in (("cosine_text_text", a), ("cosine_image_image", b)):
        pairs = [side[i] @ side[j] for i, j in permutations(range(len(side)), 2)]
        assert found[name] == pytest.approx(float(np.mean(pairs)), rel=1e-4)
    assert modality_gap(text[:1], image)["cosine_text_text"] is None
    np.testing.assert_allclose(cosines(image, text), b @ a.T, atol=1e-6)


def test_images_that_ask_an_index_leave_themselves_out(tmp_path):
    """Exact search finds all; one cell of twenty finds what of the exact ten is in it."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(200, 6)).astype(np.float32)
    gallery = Embeddings(vectors, tmp_path / "v.npy", "key", True, 1.0)
    cosine = MetricConfig("cosine", "inner_product", True)
    ivf = IndexConfig(name="ivf", factory="IVF{nlist},Flat", search="nprobe={nprobe}", nlist=20, nprobe=1)
    flat = build(IndexConfig(name="flat", factory="Flat"), cosine, gallery, 10, 0, Cache(tmp_path / "c"))
    cells = build(ivf, cosine, gallery, 10, 0, Cache(tmp_path / "c"))
    assert image_recall(flat, vectors, 30, 10, 0) == 1
    found = image_recall(cells, vectors, 200, 10, 0)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    similar = unit @ unit.T - 9 * np.eye(200)
    exact = np.argsort(-similar, axis=1)[:, :10]
    ids = cells.search(vectors, 11)[0]
    wanted = np.mean([len(set(exact[i]) & (set(ids[i]) - {i})) / 10 for i in range(200)])
    assert found == pytest.approx(wanted, abs=0.005)
    assert 0 < found < 1
