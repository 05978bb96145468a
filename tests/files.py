"""Changing what a run has written."""

import json

from medretrieval.cache.entry import canonical_sha256
from medretrieval.files import file_sha256


def edit_json(path, change):
    """Let `change` alter the content of a JSON file."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    if (path.parent / "manifest.json").exists():
        reseal(path.parent)


def reseal(folder):
    """Let a run's manifest.json have the sums of its files as they are now, as who falsifies one would."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    if "sha256" not in manifest:
        return
    there = {name: folder / name for name in manifest["files"] if (folder / name).is_file()}
    manifest["files"] |= {name: file_sha256(file) for name, file in there.items()}
    del manifest["sha256"]
    path.write_text(json.dumps(manifest | {"sha256": canonical_sha256(manifest)}))


def raise_score(folder, name="map", by=0.01):
    """Make a run's scores.json say more than its ranking gives."""
    edit_json(folder / "scores.json", lambda c: c["scores"].update({name: c["scores"][name] + by}))
