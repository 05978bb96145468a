import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.mark.slow
def test_the_wheel_runs_from_any_folder_with_its_own_configuration(tmp_path, command):
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(tmp_path), str(REPOSITORY)],
        check=True, timeout=300,
    )  # fmt: skip
    (wheel,) = tmp_path.glob("medretrieval-*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    assert (site / "medretrieval" / "py.typed").is_file()
    report = {path.name for path in (site / "medretrieval" / "report").iterdir()}
    assert {"report.html.j2", "report.css", "report.js"} <= report
    code = "import medretrieval.config as c; print(c.__file__, c.root())"
    place = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
    )
    assert place.stdout.split() == [str(site / "medretrieval" / "config.py"), str(site / "medretrieval")]
    done = command("encoder=pixels", "tracking=none", PYTHONPATH=str(site))
    assert done.returncode == 0, done.stderr
    assert "chest_phantom · pixels" in done.stdout
    assert "clip_pneumonia" in command("--help", PYTHONPATH=str(site)).stdout
