"""A small finished sweep to report on: phantoms, two encoders, two indexes, with their pictures."""

from medretrieval import compose, run

FAST = {"resamples": 500, "permutations": 500}
BASE = (
    "tracking=none", "dataset.size=32", "dataset.n_train=60", "dataset.n_val=5", "dataset.n_test=40",
    "evaluation.ks=[1,3]", "evaluation.resamples=500", "figures.queries=3",
)  # fmt: skip


def finished(outputs):
    """Runs in <outputs>/sweeps/s1/0 to 3, and in <outputs>/other one of another protocol without pictures.

    Returns outputs.
    """
    sweep = outputs / "sweeps" / "s1"
    common = (*BASE, f"paths.outputs={outputs}", f"paths.cache={outputs.parent / f'{outputs.name}-cache'}")
    choices = [(encoder, index) for encoder in ("pixels", "random") for index in ("flat", "ivf")]
    for number, (encoder, index) in enumerate(choices):
        run(compose(*common, f"encoder={encoder}", f"index={index}"), sweep / str(number), "s1")
    (sweep / "multirun.yaml").write_text("")
    alone = ("encoder=pixels", "protocol=leave_one_out", "figures.enabled=false")
    run(compose(*common, *alone), outputs / "other")
    return outputs
