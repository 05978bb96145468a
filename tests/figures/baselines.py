"""Pictures drawn from fixed phantoms, and small copies of how they should look.

`python -m tests.figures.baselines` draws them anew into tests/figures/baselines/; look at the whole pictures
first, which it writes into the folder that it is given (`python -m tests.figures.baselines <folder>`).
"""

import dataclasses
import functools
import itertools
import shutil
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from tests.report_runs import BASE
from tests.report_runs import finished as finished_sweep
from tests.tasks import task_of

from medretrieval import compose, run
from medretrieval.checks import check
from medretrieval.datasets.phantom import ChestPhantom
from medretrieval.evaluate.evaluate import evaluate
from medretrieval.evidence.breakdown import breakdown
from medretrieval.evidence.duplicate_audit import IDENTICAL, NEAR_EMBEDDING, NEAR_HASH, Audit, Pair
from medretrieval.evidence.evidence import Evidence
from medretrieval.evidence.pixel_baseline import BaselineScores
from medretrieval.explain.faithfulness import Deletion
from medretrieval.explain.pairs import Explained, Explanations, Picture
from medretrieval.explain.saliency import Map
from medretrieval.figures import curves, galleries, pareto, per_class, query_results, saliency
from medretrieval.figures.examples import examples
from medretrieval.protocol.inputs import Inputs
from medretrieval.query.novelty import Novelty
from medretrieval.query.search import Answer, Neighbor, Query
from medretrieval.runs.report import read_report
from medretrieval.sweep.results import draw_pareto

STORED = Path(__file__).with_name("baselines")
SIDE = 64  # pixels of the longer side of a stored picture
# The largest difference of a neighborhood of 3 x 3 stored pixels, in levels of 255. Measured against what
# matplotlib 3.11.2 and Pillow 13.0.0 drew: at most 8.4 with 3.9.0 and 10.4.0, or 3.10.0 and 11.0.0, and at
# least 14 where a picture lacks its legend, its numbers or a line across it (test_pictures.py). A short thin
# line is not noticed.
TOLERANCE = 10.0
MOVED = 4  # pixels that parts and sides of a whole picture may move by: they hang on the widths of letters
RUN = "chest_phantom 32 px, pixels, flat, l2, query_gallery"
VOTE = "vote_accuracy"
TRUST = Evidence({VOTE: (0.41, 0.66)}, "pixels", {VOTE: 0.72}, None, {VOTE: 0.25}, {}, "queries")
VOTING = check(compose("evaluation.vote_k=5")).evaluation


def inputs():
    """A task of phantoms that pixels find in about half of the cases."""
    dataset = ChestPhantom(
        name="chest_phantom", size=32, n_train=60, n_val=0, n_test=40, difficulty=0.3, seed=0
    )
    return Inputs(dataset, None, {}, task_of(dataset.load("test"), dataset.load("train")), None)


def evaluated(settings, given, step):
    """The ranking by Euclidean distance of every `step`-th pixel, and its scores."""
    sides = [
        side.images[:, ::step, ::step].reshape(len(side), -1) / 255
        for side in (given.task.queries, given.task.gallery)
    ]
    apart = np.linalg.norm(sides[0][:, None] - sides[1][None], axis=2)
    order = np.argsort(apart, axis=1, kind="stable")
    distances = np.take_along_axis(apart, order, axis=1).astype(np.float32)
    depth = len(given.task.gallery)
    return evaluate(
        lambda rows, k: (order[rows, :k], distances[rows, :k]), given.task, depth, settings.evaluation
    )


@functools.cache
def finished():
    """A run's scores, what is taken apart of them, and what is shown."""
    settings = check(compose("evaluation.ks=[1,5]", "evaluation.resamples=500", "figures.queries=4"))
    given = inputs()
    ours, theirs = (evaluated(settings, given, step) for step in (4, 1))
    line = BaselineScores("pixels", theirs.scores, theirs.per_query)
    trust = Evidence({}, "pixels", {}, None, {}, {}, "queries", pixel_line=line)
    parts = breakdown(settings, given, ours, trust)
    return ours, parts, examples(given, ours, parts, results=5)


def of_a_run(name, path):
    """A picture of a run's figures folder."""
    evaluation, parts, shown = finished()
    draw = {
        "gallery": lambda: galleries.galleries(shown, RUN)["gallery.png"],
        "failures_hubs": lambda: galleries.galleries(shown, RUN)["failures_hubs.png"],
        "confusion": lambda: per_class.confusion_picture(shown.document["confusion"], RUN),
        "per_class": lambda: per_class.per_class_picture(parts.by_class, "pixels", 0.95, RUN),
        "precision_recall_by_k": lambda: curves.depth_picture(parts.by_depth, "pixels", 0.95, RUN),
        "vote": lambda: curves.vote_picture(parts.reliability, evaluation, TRUST, VOTING, RUN),
    }
    path.write_bytes(draw[name]())


def of_a_sweep(path):
    # Few runs, so that a letter's width does not decide which place a label takes.
    rows = [
        {
            "label": f"{encoder} {index}",
            "encoder": encoder,
            "score": score,
            "latency_ms": latency,
            "bytes_per_vector": size,
        }
        for encoder, index, score, latency, size in (
            ("pixels", "flat", 0.52, 0.08, 4096),
            ("efficientnet_lite0", "flat", 0.78, 0.4, 5120),
            ("efficientnet_lite0", "ivfpq", 0.60, 4.0, 128),
            ("biomedclip", "flat", 0.71, 12.0, 2048),
        )
    ]
    pareto.figure(path, rows, "precision_at_5 (chest_phantom, query_gallery)")


def of_an_audit(path):
    pairs = [
        Pair(IDENTICAL, 0, 3, 1.0, 0, True), Pair(IDENTICAL, 1, 8, 1.0, 0, False),
        Pair(NEAR_HASH, 2, 9, 0.9871, 3, True), Pair(NEAR_EMBEDDING, 4, 11, 0.9992, 14, False),
    ]  # fmt: skip
    galleries.audit_picture(
        path, Audit({IDENTICAL: 2, NEAR_HASH: 1, NEAR_EMBEDDING: 1}, pairs), inputs(), RUN
    )


def explained():
    """Maps that mark the finding of a phantom, one of them through a crop."""
    split, pairs = inputs().task.queries, []
    found = [i for i in range(len(split)) if split.masks[i].any()][:4]
    y, x = np.mgrid[:32, :32]
    for query, result in zip(found[::2], found[1::2], strict=True):
        sides = []
        for position in (query, result):
            rows, columns = np.nonzero(split.masks[position])
            apart = (y - rows.mean()) ** 2 + (x - columns.mean()) ** 2
            visible = np.ones((32, 32), bool)
            visible[:, : 4 * (position == query)] = False
            values = np.where(visible, np.exp(-apart / 40), 0).astype(np.float32)
            sides.append((Picture.from_split(split, position, split_classes()), Map(values, 0.8, visible)))
        curve = Deletion(np.array([0.8, 0.5, 0.35, 0.3, 0.3]), np.array([0.8, 0.72, 0.6, 0.45, 0.3]))
        pairs.append(Explained(*sides, 0.8, curve, None))
    numbers = {"deletion": {"area_marked": 0.425, "area_random": 0.58}}
    return Explanations(pairs, "layer4", numbers)


def split_classes():
    return inputs().dataset.classes


def of_a_query(path):
    task, classes = inputs().task, inputs().dataset.classes
    gallery, answers = task.gallery, []
    for position, limit in ((0, 9.0), (1, 1.0)):
        image = task.queries.images[position]
        apart = np.linalg.norm((gallery.images.astype(float) - image).reshape(len(gallery), -1) / 255, axis=1)
        near = np.argsort(apart, kind="stable")[:4]
        neighbors = tuple(
            Neighbor(
                int(i), f"train/{i}", name := classes[gallery.labels[i]], "train", float(apart[i]), (name,)
            )
            for i in near
        )
        novelty = Novelty(float(apart[near[0]]), "l2", 0.5, limit)
        answers.append(Answer(Query(f"patient_{position}.png", image, image), neighbors, novelty))
    words = Query("a chest X-ray with a small nodule in the left upper zone")
    answers.append(Answer(words, answers[0].neighbors, None))
    query_results.draw(path, answers, gallery, RUN)


WRITERS = {
    name: functools.partial(of_a_run, name)
    for name in ("gallery", "failures_hubs", "confusion", "per_class", "precision_recall_by_k", "vote")
} | {
    "pareto": of_a_sweep,
    "audit": of_an_audit,
    "saliency": lambda path: saliency.explanations(path, explained().pairs, RUN),
    "deletion": lambda path: saliency.deletion_curves(path, explained(), RUN),
    "query": of_a_query,
}

# Pictures of a real run, as they lie in its folder: that of raw pixels, and that of random vectors, which has
# the pixels as its baseline.
REAL = {
    "run_gallery": "sweeps/s1/0/figures/gallery.png",
    "run_failures_worst": "sweeps/s1/0/figures/failures_worst.png",
    "run_confusion": "sweeps/s1/0/figures/confusion.png",
    "run_per_class": "coarse/figures/per_class.png",
    "run_precision_recall_by_k": "coarse/figures/precision_recall_by_k.png",
    "run_vote": "coarse/figures/vote.png",
}
# A run beside the sweep: few pixels, whose scores are the same on any CPU. Random vectors are drawn from an
# image's bytes, of which another CPU may draw one otherwise.
COARSE = ("encoder=pixels", "encoder.name=coarse", "encoder.side=4")
LATENCIES_MS = (0.08, 0.4, 4.0, 12.0)  # in place of what the clock said


def of_a_real_sweep(outputs, path):
    """The picture that ends a sweep, from the files of its runs, but for the latencies."""
    reports = []
    for number, p50 in enumerate(LATENCIES_MS):
        report = read_report(outputs / "sweeps" / "s1" / str(number))
        latency = dataclasses.replace(report.speed.latency_ms, p50=p50)
        reports.append(
            dataclasses.replace(report, speed=dataclasses.replace(report.speed, latency_ms=latency))
        )
    draw_pareto(path.parent, reports)[0].rename(path)


def of_real(name, outputs, folder):
    """A picture of the real sweep of `tests.report_runs` (RGB).

    Args:
        name: of REAL, or "sweep_pareto".
        outputs: of the sweep.
        folder: to work in.
    """
    if name == "sweep_pareto":
        of_a_real_sweep(outputs, folder / f"{name}.png")
    else:
        if REAL[name].startswith("coarse/") and not (outputs / "coarse").exists():
            places = (f"paths.outputs={outputs}", f"paths.cache={outputs.parent / 'coarse-cache'}")
            run(compose(*BASE, *places, *COARSE), outputs / "coarse")
        shutil.copyfile(outputs / REAL[name], folder / f"{name}.png")
    with Image.open(folder / f"{name}.png") as picture:
        return picture.convert("RGB")


def drawn(name, folder):
    """Draw a picture (RGB), in a folder to work in."""
    WRITERS[name](folder / f"{name}.png")
    with Image.open(folder / f"{name}.png") as picture:
        return picture.convert("RGB")


def small(picture):
    """A picture as it is stored."""
    scale = SIDE / max(picture.size)
    return picture.resize([max(1, round(side * scale)) for side in picture.size], Image.Resampling.BOX)


def stored(name):
    """The stored picture and the size of the whole one it was made from."""
    with Image.open(STORED / f"{name}.png") as picture:
        return picture.convert("RGB"), tuple(map(int, picture.info["whole"].split("x")))


def difference(picture, name):
    """The largest difference of any neighborhood from the stored picture, in levels; inf for another size.

    Each neighborhood may have moved by up to MOVED pixels, as it does where letters are a little wider.
    """
    wanted, size = stored(name)
    if max(abs(a - b) for a, b in zip(picture.size, size, strict=True)) > MOVED:
        return np.inf
    wanted = np.asarray(wanted, float)
    around = np.pad(np.asarray(picture), ((MOVED, MOVED), (MOVED, MOVED), (0, 0)), mode="edge")
    least = np.full(wanted.shape, np.inf)
    for dx, dy in itertools.product(range(-MOVED, MOVED + 1, 2), repeat=2):
        box = (MOVED + dx, MOVED + dy, MOVED + dx + size[0], MOVED + dy + size[1])
        moved = small(Image.fromarray(around).crop(box))
        least = np.minimum(least, np.abs(neighborhoods(np.asarray(moved, float) - wanted)))
    return float(least.max())


def neighborhoods(pixels):
    """Means of 3 x 3 pixels: what moves by less than a pixel cancels."""
    around = np.pad(pixels, ((1, 1), (1, 1), (0, 0)), mode="edge")
    return np.lib.stride_tricks.sliding_window_view(around, (3, 3), axis=(0, 1)).mean(axis=(-1, -2))


def main(folder):
    """Store all pictures anew.

    Args:
        folder: where the whole ones are put, to be looked at.
    """
    from PIL.PngImagePlugin import PngInfo

    folder.mkdir(parents=True, exist_ok=True)
    STORED.mkdir(exist_ok=True)
    outputs = finished_sweep(folder / "outputs")
    pictures = {name: drawn(name, folder) for name in WRITERS}
    pictures |= {name: of_real(name, outputs, folder) for name in (*REAL, "sweep_pareto")}
    for name, picture in pictures.items():
        about = PngInfo()
        about.add_text("whole", "{}x{}".format(*picture.size))
        small(picture).save(STORED / f"{name}.png", pnginfo=about, optimize=True)
        print(name, picture.size, (STORED / f"{name}.png").stat().st_size, "bytes")


if __name__ == "__main__":
    import tempfile

    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp()))
