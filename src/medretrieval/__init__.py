"""medretrieval: which encoder, index and distance retrieve the right medical images?

`run(compose("dataset=pneumoniamnist", "index=hnsw"))` does what the command does.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medretrieval.config import compose
    from medretrieval.runner import RunResult, run

__all__ = ["RunResult", "compose", "run"]


def __getattr__(name: str) -> Any:
    # Lazy, so that --help and mistakes in a configuration cost no import of FAISS.
    if name == "compose":
        from medretrieval.config import compose

        return compose
    if name in ("run", "RunResult"):
        from medretrieval import runner

        return getattr(runner, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
