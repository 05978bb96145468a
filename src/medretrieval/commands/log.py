"""The verb `log`: log finished runs that MLflow does not have yet."""

import logging
from pathlib import Path

from medretrieval.errors import UserError


def _log(arguments: list[str]) -> int:
    from medretrieval.track.mlflow_later import log_later

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    uris = [a.removeprefix("uri=") for a in arguments if a.startswith("uri=")]
    folders = [Path(a) for a in arguments if not a.startswith("uri=")]
    if not folders or len(uris) > 1:
        raise UserError("medretrieval log wants folders of runs: medretrieval log outputs/runs [uri=<uri>]")
    if absent := [f for f in folders if not f.is_dir()]:
        raise UserError(f"{absent[0]}: there is no such folder")
    count = log_later(folders, uris[0] if uris else None)
    print(f"{count} runs logged")
    return 0
