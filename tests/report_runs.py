"""A small finished sweep to report on: phantoms, two encoders, two indexes."""

import numpy as np

from medretrieval import compose, run

SIDE = 32
FAST = {"resamples": 500, "permutations": 500}
BASE = (
    "tracking=none", f"dataset.size={SIDE}", "dataset.n_train=60", "dataset.n_val=5", "dataset.n_test=40",
    "evaluation.ks=[1,3]", "evaluation.resamples=500", "figures.enabled=false",
)  # fmt: skip


def finished(outputs):
    """Runs in <outputs>/sweeps/s1/0 to 3, and one of another protocol in <outputs>/other; returns outputs."""
    place = sweep = outputs / "sweeps" / "s1"
    common = (*BASE, f"paths.outputs={outputs}", f"paths.cache={outputs.parent / f'{outputs.name}-cache'}")
    choices = [(encoder, index) for encoder in ("pixels", "random") for index in ("flat", "ivf")]
    for number, (encoder, index) in enumerate(choices):
        place = sweep / str(number)
        run(compose(*common, f"encoder={encoder}", f"index={index}"), place, "s1")
    (sweep / "multirun.yaml").write_text("")
    run(compose(*common, "encoder=pixels", "protocol=leave_one_out"), outputs / "other")
    return outputs


def numbered_images(side=SIDE, test=60, train=120):
    """Any pictures under the ids of the splits, each another."""
    names = [f"{split}/{i}" for split, n in (("test", test), ("train", train)) for i in range(n)]
    images = np.random.default_rng(0).integers(0, 256, (len(names), 4, 4)).astype(np.uint8)
    scale = -(-side // 4)
    return {
        name: np.kron(image, np.ones((scale, scale), np.uint8))[:side, :side]
        for name, image in zip(names, images, strict=True)
    }
