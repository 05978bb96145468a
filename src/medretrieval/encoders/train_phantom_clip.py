"""Train a small CLIP on captioned chest phantoms, so that text-to-image retrieval can be tried without a hub.

    python -m medretrieval.encoders.train_phantom_clip   # into outputs/phantom_clip
    medretrieval protocol=text_to_image encoder=phantom_clip

The architecture is open_clip's own (ModifiedResNet and a text transformer, 4.1 million parameters, most of
them the vocabulary). It sees phantoms of another seed than those that runs evaluate, so every split of
`dataset=chest_phantom` is held out. Loss: open_clip's ClipLoss (Radford et al. 2021, arXiv:2103.00020).
"""

import argparse
import json
import math
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from open_clip.loss import ClipLoss
from open_clip.model import CLIP
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import save_file
from tqdm import tqdm

from medretrieval.datasets.phantom import ChestPhantom
from medretrieval.files import put_in_place

CONTEXT = 32
MODEL = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 12, "patch_size": None},
    "text_cfg": {"context_length": CONTEXT, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 4},
}
GRAY = 0.5, 0.25  # mean and standard deviation that pixels are normalized with
PREPROCESS = {
    "mean": [GRAY[0]] * 3,
    "std": [GRAY[1]] * 3,
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}
WEIGHTS, SETTINGS = "open_clip_model.safetensors", "open_clip_config.json"
# What a caption says beyond the finding; left out by chance, so that a plain prompt is no stranger.
DETAILS = re.compile(
    r"\b(small|moderate|large|mild|moderate|marked|left|right|upper|mid|lower|reticular|ground-glass)\b ?",
    re.IGNORECASE,
)
SHIFT = 3  # pixels an image is moved at most; never mirrored, for captions name sides


def main(arguments: Sequence[str] | None = None) -> Path:
    """Draw, train, write; returns the folder with weights and settings."""
    parser = argparse.ArgumentParser(
        prog="python -m medretrieval.encoders.train_phantom_clip", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument(
        "--folder", type=Path, default=Path("outputs/phantom_clip"), help="where the model goes"
    )
    parser.add_argument("--images", type=int, default=4000, help="phantoms to train on")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--rate", type=float, default=1e-3, help="peak learning rate of AdamW")
    parser.add_argument("--difficulty", type=float, default=0.5)
    parser.add_argument("--data-seed", type=int, default=1, help="of the phantoms; runs evaluate seed 0")
    parser.add_argument("--seed", type=int, default=0, help="of weights, order and augmentation")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    options = parser.parse_args(arguments)
    if options.images < options.batch:
        parser.error(f"--images {options.images}: fewer than one batch (--batch {options.batch})")
    start = time.perf_counter()
    phantom = ChestPhantom(
        name="chest_phantom", size=64, n_train=options.images, n_val=0, n_test=0,
        difficulty=options.difficulty, seed=options.data_seed,
    )  # fmt: skip
    split = phantom.load("train")
    print(f"{len(split)} phantoms drawn in {time.perf_counter() - start:.0f} s", file=sys.stderr)
    torch.manual_seed(options.seed)
    model = CLIP(**MODEL)
    model.visual.to(memory_format=torch.channels_last)  # a third faster on a CPU
    loss = train(model, split.images, split.captions or (), options)
    write(model, options.folder)
    parameters = sum(p.numel() for p in model.parameters())
    seconds = time.perf_counter() - start
    print(f"{options.folder}: {parameters} parameters, loss {loss:.3f}, {seconds:.0f} s", file=sys.stderr)
    return Path(options.folder)


def train(
    model: CLIP, images: NDArray[np.uint8], captions: Sequence[str], options: argparse.Namespace
) -> float:
    """Contrast images with their captions; returns the mean loss of the last epoch.

    Args:
        model: trained in place.
        images: uint8 [n, 64, 64].
        captions: one an image.
        options: epochs, batch, rate, seed, quiet.
    """
    rng = np.random.default_rng(options.seed)
    tokenize = SimpleTokenizer(context_length=CONTEXT)
    decay = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": decay, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=options.rate, betas=(0.9, 0.98), eps=1e-6)
    loss_of, steps = ClipLoss(), options.epochs * (len(images) // options.batch)
    model.train()
    losses: list[float] = []
    with tqdm(total=steps, unit="step", desc="train", disable=options.quiet) as bar:
        step = 0  # not that of the bar, which stands still where it is not shown
        for epoch in range(options.epochs):
            losses.clear()
            order = rng.permutation(len(images))[: len(images) // options.batch * options.batch]
            for rows in order.reshape(-1, options.batch):
                for group in optimizer.param_groups:
                    group["lr"] = options.rate * schedule(step, steps)
                texts = tokenize([shortened(captions[i], rng) for i in rows])
                image, text, scale = model(augmented(images[rows], rng), texts)
                loss = loss_of(image, text, scale)
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                with torch.no_grad():  # as CLIP does: the temperature is at least 1/100
                    model.logit_scale.clamp_(0, math.log(100))
                losses.append(loss.item())
                step += 1
                bar.update()
            bar.set_postfix(epoch=epoch + 1, loss=f"{np.mean(losses):.3f}")
    return float(np.mean(losses))


def schedule(step: int, steps: int) -> float:
    """Share of the peak learning rate: a linear warm-up over a tenth of the steps, then a cosine to 0."""
    warm = max(1, steps // 10)
    return min((step + 1) / warm, 0.5 * (1 + math.cos(math.pi * step / steps)))


def shortened(caption: str, rng: np.random.Generator) -> str:
    """The caption, or by chance (one in two) the caption without side, zone, extent and texture."""
    return DETAILS.sub("", caption) if rng.random() < 0.5 else caption


def augmented(images: NDArray[np.uint8], rng: np.random.Generator) -> torch.Tensor:
    """Images moved, brightened and contrasted by chance, as the model wants them (float32 [n, 3, 64, 64])."""
    n, side = len(images), images.shape[1]
    padded = np.pad(images, ((0, 0), (SHIFT, SHIFT), (SHIFT, SHIFT)), mode="edge")
    places = rng.integers(0, 2 * SHIFT + 1, (n, 2))
    moved = [image[y : y + side, x : x + side] for image, (y, x) in zip(padded, places, strict=True)]
    pixels = torch.from_numpy(np.stack(moved)).float() / 255
    gain, shift = torch.from_numpy(rng.normal((1, 0), (0.1, 0.05), (n, 2))).float().T[..., None, None]
    pixels = ((pixels - GRAY[0]) * gain + GRAY[0] + shift).clamp(0, 1)
    pixels = ((pixels - GRAY[0]) / GRAY[1])[:, None].expand(-1, 3, -1, -1)
    return pixels.contiguous(memory_format=torch.channels_last)


def write(model: CLIP, folder: Path) -> None:
    """Write the weights and open_clip's settings, each put in place whole."""
    folder.mkdir(parents=True, exist_ok=True)
    with put_in_place(folder / WEIGHTS) as aside:
        save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, aside)
    settings: dict[str, Any] = {"model_cfg": MODEL, "preprocess_cfg": PREPROCESS}
    with put_in_place(folder / SETTINGS) as aside:
        aside.write_text(json.dumps(settings, indent=2) + "\n")


if __name__ == "__main__":
    main()
