import dataclasses
import json

import pytest
from tests.refusals import refusal
from tests.toy_encoders import Brightness

from medretrieval.checks import check
from medretrieval.config import compose, leaves, root
from medretrieval.embed.images import identify
from medretrieval.encoders.base import Encoder
from medretrieval.encoders.card import Card, read_card, without_cards
from medretrieval.instantiate import instantiate
from medretrieval.load import load
from medretrieval.runs.identity import fingerprint_of
from medretrieval.track.run_description import describe_run

CARD = {
    "license": "MIT", "dimension": 2, "trained_on": "Images.", "overlap": None, "access": None, "source": "x",
}  # fmt: skip
TOY = {"_target_": "tests.toy_encoders.Brightness", "name": "b"}
FILES = sorted((root() / "conf" / "encoder").glob("*.yaml"))


def made(**node):
    return instantiate(TOY | node, Encoder, "encoder")


def test_a_card_is_set_on_the_encoder_and_is_no_argument():
    assert made(card=CARD).card == Card(**CARD)


def test_a_user_s_own_encoder_needs_no_card():
    assert made().card is None
    assert made(card=None).card is None
    assert Brightness().card is None


@pytest.mark.parametrize(
    ("node", "line"),
    [
        (CARD | {"licence": "MIT"}, "encoder.card.licence: a card has no such key; choose from: access"),
        ({k: v for k, v in CARD.items() if k != "access"}, "encoder.card.access: is missing; give"),
        (CARD | {"dimension": "512"}, "encoder.card.dimension=512: give a whole number or null"),
        (CARD | {"dimension": True}, "encoder.card.dimension=True: give a whole number or null"),
        (CARD | {"license": 2}, "encoder.card.license=2: give words or null"),
        ("MIT", "encoder.card=MIT: give a mapping with the keys license, dimension"),
    ],
)
def test_what_is_no_card_is_refused_in_one_line(node, line):
    assert refusal(lambda: read_card(node)).startswith(line)
    assert refusal(lambda: made(card=node)).startswith(line)


@pytest.mark.parametrize("file", FILES, ids=lambda p: p.stem)
def test_every_file_has_a_card_and_says_where_it_is_from(file):
    import yaml

    card = read_card(yaml.safe_load(file.read_text())["card"])
    assert card.source
    assert {card.license, card.trained_on} == {None} or (card.license and card.trained_on)
    for sentence in (card.trained_on, card.overlap, card.access):
        assert sentence is None or (not sentence[0].islower() and sentence.endswith("."))


def test_a_card_changes_neither_fingerprint_nor_parameters(cache):
    fingerprints, params = set(), []
    for card in (CARD, CARD | {"license": "other"}, None):
        settings = check(compose("dataset.n_test=8", "dataset.n_train=12", "encoder=pixels"))
        settings.encoder["card"] = card
        inputs = load(settings, cache, identify)
        assert inputs.encoder.card == read_card(card)
        fingerprints.add(fingerprint_of(settings, inputs))
        params.append(describe_run(settings, None).params)
    del settings.encoder["card"]  # as in a manifest of an earlier version
    fingerprints.add(fingerprint_of(settings, load(settings, cache, identify)))
    assert len(fingerprints) == 1
    assert params[0] == params[1] == params[2]
    assert not any("card" in key for key in params[0])


def test_cards_of_encoders_within_an_encoder_are_left_out_too():
    node = TOY | {"card": CARD, "of": [TOY | {"card": CARD}], "other": {"card": CARD, "side": 3}}
    left = without_cards(node)
    assert not any("card" in key for key in leaves(left))
    assert "card" not in json.dumps(left)
    assert left["other"] == {"side": 3}


def test_a_card_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        read_card(CARD).license = "other"


@pytest.mark.parametrize(
    ("overlap", "dataset", "of_medmnist", "seen"),
    [
        (None, "chestmnist", True, False),
        ("Sources of MedMNIST may be among them.", "chestmnist", True, True),
        ("Sources of MedMNIST may be among them.", "covid_cxr", False, False),
        ("It has seen the source of ChestMNIST.", "chestmnist", True, True),
        ("It has seen the source of ChestMNIST.", "pneumoniamnist", True, False),
        ("It has seen covid_cxr.", "covid_cxr", False, True),
        ("Figures of articles.", "bloodmnist", True, True),
    ],
)
def test_an_overlap_is_about_the_datasets_it_names_or_all_of_medmnist(overlap, dataset, of_medmnist, seen):
    assert read_card(CARD | {"overlap": overlap}).overlaps(dataset, of_medmnist) is seen
