"""Sentences through the text tower of an open_clip model, and the refusal where there is none."""

import numpy as np
import pytest
from tests.tiny_models import TINY_READER, add_clip

from medretrieval import compose
from medretrieval.encoders.base import Encoder
from medretrieval.errors import UserError
from medretrieval.instantiate import instantiate


@pytest.fixture
def clip(monkeypatch):
    add_clip(monkeypatch, config=TINY_READER)
    return instantiate(compose("encoder=open_clip", "encoder.model=tiny").encoder, Encoder, "encoder")


def test_sentences_go_through_the_models_own_text_tower(clip):
    import open_clip
    import torch

    texts = ["a chest X-ray", "lungs", "a large heart"]
    found = clip.encode_text(texts)
    with torch.no_grad():
        wanted = clip.loaded.module.encode_text(open_clip.get_tokenizer("tiny")(texts), normalize=True)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted.numpy(), atol=1e-6)
    np.testing.assert_allclose(clip.encode_text(texts * 100), np.tile(found, (100, 1)), atol=1e-6)


def test_a_sentence_of_just_the_context_is_read_and_a_longer_one_refused(clip):
    assert clip.encode_text(["lung " * 10]).shape == (1, 16)  # and its begin and end
    with pytest.raises(UserError, match="longer than the 12 tokens that encoder=tiny reads"):
        clip.encode_text(["lung", "lung " * 11])


@pytest.mark.parametrize("name", ["pixels", "efficientnet_lite0"])
def test_an_encoder_without_a_text_tower_names_those_that_have_one(name):
    encoder = instantiate(compose(f"encoder={name}").encoder, Encoder, "encoder")
    with pytest.raises(
        UserError, match=f"encoder={name}: has no text tower.* have one: biomedclip, biovil_t, clip_"
    ):
        encoder.encode_text(["a chest X-ray"])


def test_the_library_does_not_tell_of_its_steps(clip, caplog):
    with caplog.at_level("INFO"):
        clip.encode_text(["lung"])
    assert [r.getMessage() for r in caplog.records] == [
        "encoder=tiny has RANDOM WEIGHTS: its scores say nothing about the model"
    ]


def test_a_cut_sentence_is_refused_where_padding_is_the_end_token_too(clip):
    import torch

    class Cutting:
        """As SigLIP's: pads with what it ends with, and a sentence that is cut has no end."""

        tokenizer = type("Inner", (), {"pad_token_id": 1, "eos_token_id": 1, "sep_token_id": None})
        context_length = 12

        def __call__(self, texts, context_length):
            rows = [[*[5] * min(len(text.split()), context_length - 1), 1] for text in texts]
            return torch.tensor([row + [1] * (context_length - len(row)) for row in rows])

    clip.__dict__["_tokenizer"] = Cutting()
    assert clip._tokens(["lung " * 11], 12).shape == (1, 12)
    with pytest.raises(UserError, match="longer than the 12 tokens"):
        clip._tokens(["lung " * 12], 12)
