"""The map of embeddings in MLflow: megabytes, so that runs of the same embeddings share one."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from medretrieval.runs.folder import FIGURES

if TYPE_CHECKING:
    from mlflow import MlflowClient

FILE = "embedding_map.html"  # in the folder of pictures
MAP_TAG = "embedding_map"  # of every run that has a map: the first letters of the page's SHA-256
HOLDER_TAG = "embedding_map_run"  # of every run that has a map: the run that has it among its artifacts
DIGEST_LETTERS = 16


def log_map(client: "MlflowClient", experiment_id: str, run_id: str, page: Path) -> str:
    """Log a map unless another run of the experiment has the same, and tag the run with who has it.

    Jobs that end in the same moment may each log it. Where the run that has it is deleted, the next one to
    be logged has it.

    Args:
        client: of the store.
        experiment_id: of the run.
        run_id: of the run.
        page: the map.

    Returns:
        The map's address in the UI, from its `#` on.
    """
    digest = hashlib.sha256(page.read_bytes()).hexdigest()[:DIGEST_LETTERS]
    same = client.search_runs(
        [experiment_id], f"tags.{MAP_TAG} = '{digest}'", order_by=["attributes.start_time ASC"]
    )
    holders = [run.data.tags.get(HOLDER_TAG) for run in same]
    there = {run.info.run_id for run in same}
    holder = next((holder for holder in holders if holder in there and holder != run_id), run_id)
    if holder == run_id:
        client.log_artifact(run_id, str(page), FIGURES)
    client.set_tag(run_id, HOLDER_TAG, holder)
    client.set_tag(run_id, MAP_TAG, digest)  # last: whoever is found by it is whole
    return f"#/experiments/{experiment_id}/runs/{holder}/artifacts/{FIGURES}/{FILE}"
