"""The small CLIP of drawn phantoms: what training writes is a model that can be loaded and asked."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file
from tests.files import edit_json

from medretrieval import compose, run
from medretrieval.encoders import train_phantom_clip
from medretrieval.encoders.base import Encoder
from medretrieval.errors import UserError
from medretrieval.instantiate import instantiate

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 64, 64)).astype(np.uint8)


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    import torch

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("outputs") / "phantom_clip"
    train_phantom_clip.write(train_phantom_clip.CLIP(**train_phantom_clip.MODEL), folder)
    return folder


def encoder_of(folder, *overrides):
    places = [f"encoder.model=local-dir:{folder}", f"encoder.checkpoint={folder}/open_clip_model.safetensors"]
    node = compose("encoder=phantom_clip", "encoder.runtime=torch", *places, *overrides).encoder
    return instantiate(node, Encoder, "encoder")


def test_what_training_writes_is_loaded_with_its_own_weights_and_preprocessing(untrained):
    import torch

    encoder = encoder_of(untrained)
    torch.manual_seed(0)
    model = train_phantom_clip.CLIP(**train_phantom_clip.MODEL).eval()
    pixels = (torch.from_numpy(IMAGES).float()[:, None].expand(-1, 3, -1, -1) / 255 - 0.5) / 0.25
    texts = ["A small effusion.", "Clear lungs."]
    tokens = train_phantom_clip.SimpleTokenizer(context_length=train_phantom_clip.CONTEXT)(texts)
    with torch.no_grad():
        image, text = model.encode_image(pixels, normalize=True), model.encode_text(tokens, normalize=True)
    np.testing.assert_allclose(encoder.encode(IMAGES), image.numpy(), atol=1e-5)
    np.testing.assert_allclose(encoder.encode_text(texts), text.numpy(), atol=1e-5)
    assert not encoder.random_weights


def test_a_model_is_known_by_its_files_not_by_its_folder(untrained, tmp_path):
    moved = tmp_path / "elsewhere"
    shutil.copytree(untrained, moved)
    first = encoder_of(untrained)
    assert first.signature() == encoder_of(moved).signature()
    assert first.identity() == encoder_of(moved).identity()
    # changes vectors, and neither weights nor preprocessing
    edit_json(moved / "open_clip_config.json", lambda c: c["model_cfg"].update(quick_gelu=True))
    assert first.signature() != encoder_of(moved).signature()
    assert first.identity() != encoder_of(moved).identity()


def test_without_a_checkpoint_the_weights_are_random_and_it_says_so(untrained):
    assert encoder_of(untrained, "encoder.checkpoint=null").random_weights


def test_a_folder_that_holds_no_model_is_refused(untrained, tmp_path):
    copied = tmp_path / "copied"
    shutil.copytree(untrained, copied)
    with pytest.raises(UserError, match=r"encoder.pretrained=hub: a model named local-dir"):
        encoder_of(copied, "encoder.pretrained=hub")
    with pytest.raises(UserError, match=r"only a model named hf-hub"):
        encoder_of(copied, "encoder.revision=abc")
    (copied / "open_clip_config.json").write_text("{}")
    with pytest.raises(UserError, match=r"open_clip_config.json: not the settings of an open_clip model"):
        encoder_of(copied).identity()
    (copied / "open_clip_config.json").unlink()
    with pytest.raises(UserError, match=r"there is no open_clip_config.json in that folder"):
        encoder_of(copied).signature()
    with pytest.raises(UserError, match=r"open_clip_model.safetensors: there is no such file"):
        encoder_of(untrained, "encoder.checkpoint=open_clip_model.safetensors").signature()


def test_captions_lose_details_but_never_the_finding():
    rng = np.random.default_rng(0)
    captions = {
        train_phantom_clip.shortened("Chest X-ray with a small left pleural effusion.", rng)
        for _ in range(20)
    }
    assert captions == {
        "Chest X-ray with a small left pleural effusion.",
        "Chest X-ray with a pleural effusion.",
    }
    pixels = train_phantom_clip.augmented(IMAGES, rng)
    assert tuple(pixels.shape) == (3, 3, 64, 64)
    assert float(pixels.min()) >= -2
    assert float(pixels.max()) <= 2


def test_it_is_a_module_of_the_package_and_refuses_fewer_images_than_a_batch(tmp_path):
    words = ["--images", "10", "--batch", "50", "--folder", "made"]
    done = subprocess.run(
        [sys.executable, "-m", "medretrieval.encoders.train_phantom_clip", *words],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert "--images 10: fewer than one batch (--batch 50)" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_training_without_a_bar_is_the_same_training(tmp_path):
    """The learning rate follows the steps, not the bar, which stands still where it is not shown."""
    small = ["--images", "40", "--epochs", "2", "--batch", "20"]
    folders = [
        train_phantom_clip.main(["--folder", str(tmp_path / name), *small, *words])
        for name, words in (("shown", ()), ("quiet", ("--quiet",)))
    ]
    one, two = (load_file(folder / train_phantom_clip.WEIGHTS) for folder in folders)
    assert all(np.allclose(one[name], two[name], atol=1e-5) for name in one)


@pytest.mark.slow
def test_a_short_training_retrieves_held_out_phantoms_by_sentences(config, tmp_path):
    folder = tmp_path / "outputs" / "phantom_clip"
    train_phantom_clip.main(
        ["--folder", str(folder), "--images", "1000", "--epochs", "10", "--batch", "50", "--quiet"]
    )
    asked = ("protocol=text_to_image", "encoder=phantom_clip", "dataset.difficulty=0.25")
    trained = run(config(*asked)).report
    random = run(config(*asked, "encoder.checkpoint=null")).report
    assert trained.scores["precision_at_10"] > 0.5 > random.scores["precision_at_10"]
    assert trained.zero_shot.accuracy > 0.4
