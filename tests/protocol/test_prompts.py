"""Words for classes: the files that are there, and how they become queries."""

import numpy as np
import pytest

from medretrieval import compose
from medretrieval.checks import check
from medretrieval.config import root
from medretrieval.datasets.base import Dataset
from medretrieval.errors import UserError
from medretrieval.instantiate import instantiate
from medretrieval.protocol.prompts import prompts_of

OWN = ("csv", "dicom", "folder")  # whose classes nobody knows
DATASETS = sorted(path.stem for path in (root() / "conf" / "dataset").glob("*.yaml") if path.stem not in OWN)
TEXT = "protocol=text_to_image"
MALIGNANT = "prompts.classes.malignant=[a mass,a tumour]"


def prompts(*overrides):
    settings = check(compose(TEXT, *overrides))
    return prompts_of(settings, instantiate(settings.dataset, Dataset, "dataset"))


@pytest.mark.parametrize("name", DATASETS)
def test_every_dataset_has_words_that_fit_its_classes_and_the_context_of_clip(name):
    from open_clip.tokenizer import SimpleTokenizer

    found = prompts(f"dataset={name}", "protocol.prompts=each")
    counts = np.bincount(found.members)
    assert len(counts) == len(found.classes)
    assert counts.min() >= 4
    assert len(set(found.texts)) == len(found.texts)  # no sentence for two classes
    assert not any("{" in text or "  " in text for text in found.texts)
    tokens = SimpleTokenizer(context_length=200)(list(found.texts))
    assert int((tokens != 0).sum(dim=1).max()) <= 77


def test_no_words_are_for_a_dataset_that_is_not_there():
    assert sorted(path.stem for path in (root() / "conf" / "prompts").glob("*.yaml")) == sorted(
        [*DATASETS, "captions"]
    )


def test_each_template_with_each_phrasing_is_a_query_of_its_class():
    templates = "prompts.templates=['{}.','Breast ultrasound of {}.']"
    found = prompts("dataset=breastmnist", templates, MALIGNANT, "protocol.prompts=each")
    assert found.texts[:4] == (
        "a mass.",
        "Breast ultrasound of a mass.",
        "a tumour.",
        "Breast ultrasound of a tumour.",
    )
    assert list(found.ids[3:5]) == ["prompt/malignant/3", "prompt/normal, benign/0"]
    assert list(found.labels[:5]) == [0, 0, 0, 0, 1]
    assert found.document()[1] == {
        "id": "prompt/malignant/1",
        "class": "malignant",
        "texts": ["Breast ultrasound of a mass."],
    }


def test_an_ensemble_is_the_normalized_mean_of_normalized_vectors():
    found = prompts("dataset=breastmnist", MALIGNANT, "prompts.templates=['{}']")
    assert list(found.ids) == ["prompt/malignant", "prompt/normal, benign"]
    assert found.document()[0]["texts"] == ["a mass", "a tumour"]
    vectors = np.random.default_rng(0).normal(size=(len(found.texts), 3)).astype(np.float32) * 7
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    means = np.stack([unit[:2].mean(axis=0), unit[2:].mean(axis=0)])
    wanted = means / np.linalg.norm(means, axis=1, keepdims=True)
    np.testing.assert_allclose(found.queries(vectors), wanted, atol=1e-6)
    np.testing.assert_allclose(found.class_vectors(found.queries(vectors)), wanted, atol=1e-6)
    each = prompts("dataset=breastmnist", MALIGNANT, "prompts.templates=['{}']", "protocol.prompts=each")
    np.testing.assert_array_equal(each.queries(vectors), vectors)
    np.testing.assert_allclose(each.class_vectors(vectors), wanted, atol=1e-6)
    assert each.content_sha256 != found.content_sha256


def test_a_finding_is_one_of_many():
    found = prompts("dataset=chestmnist")
    assert found.labels.dtype == np.bool_
    np.testing.assert_array_equal(found.labels, np.eye(14, dtype=bool))
    each = prompts("dataset=chestmnist", "protocol.prompts=each")
    np.testing.assert_array_equal(each.labels.argmax(axis=1), each.members)
    assert (each.labels.sum(axis=1) == 1).all()


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["prompts.templates=[]"], "prompts of dataset=breastmnist: templates is empty"),
        (["prompts.templates=['{}','an ultrasound']"], r"template 'an ultrasound' needs \{\} once"),
        (["prompts.templates=['{} and {}']"], r"template '\{\} and \{\}' needs \{\} once"),
        (["~prompts.classes.malignant"], "class 'malignant' has no words"),
        (["prompts.classes.malignant=[]"], "class 'malignant' has no words"),
        (["prompts.classes.malignant=['']"], "class 'malignant' has no words, or empty ones"),
        (["prompts.classes.malignant=[a mass,a mass]"], "class 'malignant' says twice 'a mass.'"),
        (["+prompts.classes.cyst=[a cyst]"], "no class 'cyst'; choose from: malignant, normal, benign"),
        (["prompts=octmnist"], "no class 'choroidal neovascularization'; choose from: malignant,"),
        (
            ["prompts.classes.malignant=['normal breast tissue without a mass']"],
            "is said for",
        ),
        (["prompts.templates=[{}]"], "is not read as text by YAML; put it in quotes"),
        (["~prompts"], r"has no prompts .* write prompts/breastmnist.yaml \(templates and classes\)"),
    ],
)
def test_words_that_do_not_fit_are_refused_by_name(overrides, line):
    with pytest.raises(UserError, match=line):
        prompts("dataset=breastmnist", *overrides)


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        ([TEXT, "protocol.query=test"], "images or sentences, not both"),
        (
            [TEXT, "protocol.exclude_self=false"],
            "exclude_self=false: has no effect where the queries",
        ),
        (
            [TEXT, "protocol.exclude_same_group=true"],
            "exclude_same_group=true: has no effect where the queries",
        ),
        ([TEXT, "index=ivf", "index.autotune=0.9"], "index.autotune=0.9: tunes on images"),
        (
            [TEXT, "protocol.center=train", "protocol.gallery=train"],
            "the mean would be that of the searched",
        ),
        (["protocol.center=train"], "protocol=query_gallery has no sentences"),
        (["protocol.query=null"], "the queries of protocol=query_gallery are images"),
        ([TEXT, "protocol.prompts=null"], "the queries of protocol=text_to_image are images"),
    ],
)
def test_options_that_would_change_nothing_are_refused(overrides, line):
    with pytest.raises(UserError, match=line):
        check(compose(*(o if o.startswith("protocol=") or "." not in o else f"++{o}" for o in overrides)))


def test_a_run_of_images_is_the_same_whatever_the_words_are():
    assert check(compose("dataset=breastmnist", MALIGNANT)).prompts is None


def test_a_dataset_of_ones_own_brings_its_own_words(command, write_npz, tmp_path):
    write_npz()
    for group in ("dataset", "prompts"):
        (tmp_path / "mine" / group).mkdir(parents=True)
    yaml = (root() / "conf" / "dataset" / "breastmnist.yaml").read_text()
    (tmp_path / "mine" / "dataset" / "ours.yaml").write_text(yaml)
    asked = ("--config-dir", "mine", "dataset=ours", TEXT, "encoder=pixels", "tracking=none")
    none = command(*asked)
    assert none.returncode == 1
    assert "has no prompts for protocol=text_to_image; write prompts/breastmnist.yaml" in none.stderr
    words = "templates: ['{}']\nclasses: {malignant: [mass], 'normal, benign': [cyst]}\n"
    (tmp_path / "mine" / "prompts" / "ours.yaml").write_text(words)
    tower = command(*asked)
    assert tower.returncode == 1
    assert "encoder=pixels: has no text tower" in tower.stderr
