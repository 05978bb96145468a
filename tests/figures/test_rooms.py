"""Drawing only draws, and what is computed is not drawn: which room may use what."""

import ast
from pathlib import Path

import pytest

import medretrieval

PACKAGE = Path(medretrieval.__file__).parent
# What a picture would need to compute a number again.
COMPUTING = (
    "medretrieval.uncertainty.bootstrap", "medretrieval.evaluate.scores", "medretrieval.evaluate.chance",
    "medretrieval.evaluate.knn_vote.vote", "medretrieval.evaluate.knn_vote.vote_scores", "numpy.random",
)  # fmt: skip
# Pillow itself may shrink an image to hash it.
DRAWING = ("matplotlib", "plotly", "PIL.ImageDraw", "PIL.ImageFont")


def names_used(source):
    """Dotted names of everything that a module imports, and of what it reaches through those names."""
    tree, bound, used = ast.parse(source), {}, set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                used.add(alias.name)
                bound[alias.asname or alias.name.split(".")[0]] = (
                    alias.name if alias.asname else (alias.name.split(".")[0])
                )
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                used.add(f"{node.module}.{alias.name}")
                bound[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    for node in ast.walk(tree):
        parts = []
        while isinstance(node, ast.Attribute):
            parts.insert(0, node.attr)
            node = node.value
        if parts and isinstance(node, ast.Name) and node.id in bound:
            used.add(".".join([bound[node.id], *parts]))
    return used


def forbidden(source, names):
    return sorted(
        used for used in names_used(source) if any(used == n or used.startswith(f"{n}.") for n in names)
    )


@pytest.mark.parametrize(("room", "names"), [("figures", COMPUTING), ("evidence", DRAWING)])
def test_a_room_does_its_own_work_only(room, names):
    modules = sorted((PACKAGE / room).glob("*.py"))
    assert len(modules) > 5
    found = {path.name: bad for path in modules if (bad := forbidden(path.read_text(), names))}
    assert found == {}


@pytest.mark.parametrize(
    "source",
    [
        "from medretrieval.uncertainty.bootstrap import bca",
        "from medretrieval.uncertainty import bootstrap as b\nb.bca()",
        "from medretrieval.evaluate.knn_vote import BINS, vote",
        "from medretrieval.evaluate import knn_vote\nknn_vote.vote(a)",
        "import numpy as np\ndef f():\n    return np.random.default_rng(0)",
        "import numpy\nnumpy.random.rand()",
        "from numpy import random",
    ],
)
def test_whatever_way_it_is_imported_it_is_noticed(source):
    assert forbidden(source, COMPUTING)
    assert not forbidden("import numpy as np\nnp.arange(3)", COMPUTING)
