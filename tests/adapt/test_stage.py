"""The stage in whole runs: fitted on train, chosen on val, kept, restored, refused where it would leak."""

import json

import numpy as np
import pytest

from medretrieval import run
from medretrieval.adapt import fit as fitting
from medretrieval.adapt.fit import read_tensors
from medretrieval.adapt.linear import WithinClass
from medretrieval.errors import UserError
from medretrieval.query.search import Query, SearchableRun
from medretrieval.runs.report import read_report
from medretrieval.verify import again, verify

RUN = (
    "dataset=breastmnist",
    "encoder=pixels",
    "encoder.side=7",
    "evaluation.ks=[1,3]",
    "audit.enabled=false",
)
ADAPT = (*RUN, "adapt=within_class", "adapt.shrinkage=[0.1,0.9]", "adapt.refits=2")


@pytest.fixture
def hard(write_npz):
    """Images whose class is a faint square beside what differs within classes: pixels hardly find it."""
    arrays = {}
    for seed, (split, n) in enumerate((("train", 80), ("val", 40), ("test", 40))):
        rng = np.random.default_rng(seed)
        labels = np.arange(n) % 2
        images = np.full((n, 7, 7), 120.0)
        images[:, :, 3:] += rng.normal(0, 60, (n, 1, 1)) + rng.normal(
            0, 60, (n, 7, 1)
        )  # differs within classes
        images[:, 0, 0] += np.where(labels == 1, 12, -12)
        images += rng.normal(0, 6, images.shape)
        images = images.clip(0, 255).astype(np.uint8).repeat(4, axis=1).repeat(4, axis=2)
        arrays |= {f"{split}_images": images}
        arrays |= {f"{split}_labels": labels[:, None].astype(np.uint8)}
    return write_npz(**arrays)


def test_an_adaptation_finds_what_the_vectors_hide_and_is_held_against_the_rest(hard, config):
    plain = run(config(*RUN)).report
    report = run(config(*ADAPT)).report
    assert plain.adapt is None
    assert plain.stages == []
    assert report.scores["precision_at_1"] > plain.scores["precision_at_1"] + 0.1
    (gain,) = report.stages
    assert (gain.stage, gain.choice, gain.score) == ("adapt", "within_class", "precision_at_3")
    assert gain.without == pytest.approx(plain.scores["precision_at_3"])
    assert gain.with_it == pytest.approx(report.scores["precision_at_3"])
    assert gain.change.low > 0
    found = report.adapt
    assert found.choice["shrinkage"] in (0.1, 0.9)
    assert {one.choice["shrinkage"] for one in found.tried} == {0.1, 0.9}
    assert found.val_score == max(one.score for one in found.tried)
    assert found.val_gap == pytest.approx(found.val_score - gain.with_it)
    assert len(found.refits) == 2
    assert found.shuffled.change.low <= 0  # labels without a meaning teach nothing
    assert found.out_of_fold is not None  # test queries train
    assert found.pixels.with_it == gain.with_it  # beside it the adapted pixels, of 28 x 28 here
    assert found.pixels.without != report.baseline.scores["precision_at_3"]  # and the unadapted ones
    assert report.baseline.scores == plain.baseline.scores
    assert any("uses the labels of train" in note for note in report.notes)


def test_nothing_of_test_has_a_say(hard, config, write_npz):
    folder = run(config(*ADAPT)).folder
    with np.load(hard) as npz:
        arrays = dict(npz)
    arrays["test_labels"] = 1 - arrays["test_labels"]
    arrays["test_images"] = arrays["test_images"][:, ::-1].copy()
    write_npz(**arrays)
    other = run(config(*ADAPT)).folder
    first, second = (read_tensors(f / "adaptation.safetensors")[0] for f in (folder, other))
    np.testing.assert_array_equal(first["matrix"], second["matrix"])
    assert read_report(folder).scores != read_report(other).scores


def test_a_second_run_fits_nothing(hard, config, monkeypatch):
    run(config(*ADAPT))

    def refuse(*args):
        raise AssertionError("fitted again")

    monkeypatch.setattr(WithinClass, "fit", refuse)
    assert run(config(*ADAPT, "index=ivf")).report.stages[0].stage == "adapt"


def test_leave_one_out_chooses_by_leave_one_out_on_val(hard, config):
    report = run(config(*ADAPT, "protocol=leave_one_out")).report
    assert report.adapt.out_of_fold is None
    assert report.stages[0].change is not None
    assert report.adapt.val_score is not None


def test_verify_again_and_query_use_what_was_fitted(hard, config):
    folder = run(config(*ADAPT)).folder
    assert verify(folder) == []
    assert again(folder).results == []
    searchable = SearchableRun.open(folder)
    encoder, changed = searchable.encoder()
    assert changed == []
    with np.load(hard) as npz:
        image = npz["test_images"][0]
    (answer,) = searchable.answer([Query("a", image, image)], encoder, 3)
    ranking = searchable.ranking
    assert [neighbor.position for neighbor in answer.neighbors] == ranking.ids[0, :3].tolist()
    assert [n.distance for n in answer.neighbors] == pytest.approx(
        ranking.distances[0, :3].tolist(), abs=1e-5
    )


@pytest.mark.parametrize(
    ("words", "width"),
    [
        (ADAPT, 49),
        (
            (
                *RUN,
                "adapt=mlp_head",
                "adapt.dim=5",
                "adapt.learning_rate=0.01",
                "adapt.epochs=2",
                "adapt.refits=0",
            ),
            5,
        ),
    ],
    ids=["within_class", "mlp_head"],
)
def test_what_was_fitted_serves_other_runs(hard, config, words, width):
    file = run(config(*words)).folder / "adaptation.safetensors"
    first = read_report(file.parent)
    done = run(config(*RUN, "adapt=saved", f"adapt.file={file}"))
    assert done.report.scores == first.scores
    assert done.report.adapt.name == "saved"
    # It says where it comes from, and serves without the first run's folder.
    copy = done.folder / "adaptation.safetensors"
    assert read_tensors(copy)[1] == read_tensors(file)[1]
    file.unlink()
    encoder, changed = SearchableRun.open(done.folder).encoder()
    assert changed == []
    assert encoder.encode(np.zeros((1, 28, 28), np.uint8)).shape == (1, width)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("protocol.query=train",), "protocol.query=train: adapt=within_class is fitted on split train"),
        (("protocol.query=val",), "protocol.query=val: adapt=within_class is chosen on split val"),
        (("protocol.gallery=val",), "protocol.gallery=val"),
        (("protocol.center=train",), "protocol.center"),
        (("adapt=pca", "adapt.dim=99"), "adapt.dim=99: larger than the vectors of split train allow"),
        (("adapt.shrinkage=2",), "adapt.shrinkage=2"),
    ],
)
def test_bad_input_is_one_line(hard, config, overrides, said):
    with pytest.raises(UserError) as refused:
        run(config(*RUN, "adapt=within_class", *overrides))
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_saved_adaptation_of_another_encoder_is_refused(hard, config):
    file = run(config(*ADAPT)).folder / "adaptation.safetensors"
    with pytest.raises(UserError, match="was fitted to the vectors of encoder=pixels"):
        run(config(*RUN, "encoder.side=5", "adapt=saved", f"adapt.file={file}"))


def test_a_saved_adaptation_that_has_seen_the_queries_is_refused(hard, config, write_npz):
    file = run(config(*ADAPT)).folder / "adaptation.safetensors"
    with np.load(hard) as npz:
        arrays = dict(npz)
    for what in ("images", "labels"):
        arrays[f"test_{what}"], arrays[f"train_{what}"] = arrays[f"train_{what}"], arrays[f"test_{what}"]
    write_npz(**arrays)
    with pytest.raises(UserError, match="which are the queries of this run"):
        run(config(*RUN, "adapt=saved", f"adapt.file={file}"))


def test_a_file_that_names_foreign_code_is_refused(hard, config, tmp_path):
    file = tmp_path / "bad.safetensors"
    about = {"adapt": {"_target_": "os.system", "name": "x"}, "encoder": "", "choice": {}}
    fitting.write_tensors(file, {"mean": np.zeros(2, np.float32)}, about)
    with pytest.raises(UserError, match="names no adaptation of medretrieval"):
        run(config(*RUN, "adapt=saved", f"adapt.file={file}"))
    file.write_bytes(b"no safetensors")
    with pytest.raises(UserError, match="not a file of a fitted adaptation"):
        run(config(*RUN, "adapt=saved", f"adapt.file={file}"))


def test_a_class_absent_from_train_and_several_findings_are_refused(hard, config, write_npz):
    with np.load(hard) as npz:
        arrays = dict(npz)
    arrays["train_labels"] = np.zeros_like(arrays["train_labels"])
    write_npz(**arrays)
    with pytest.raises(UserError, match="has no image in split train"):
        run(config(*ADAPT))


def test_the_manifest_says_what_was_fitted_on(hard, config):
    folder = run(config(*ADAPT)).folder
    data = json.loads((folder / "manifest.json").read_text())["data"]
    assert set(data) == {"query", "gallery", "train", "val"}
    about = read_tensors(folder / "adaptation.safetensors")[1]
    assert about["fitted_on"] == data["train"]["content_sha256"]
    assert about["chosen_on"] == data["val"]["content_sha256"]
