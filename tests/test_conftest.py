import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
SCRIPT = "import os; import tests.conftest as c; os.environ.clear(); print(*c.DATA_FOLDERS, sep='\\n')"


def folders(**environment):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=REPOSITORY, env=os.environ | environment, capture_output=True,
        text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_real_data_is_looked_for_where_the_user_says_before_beside_the_repository(tmp_path):
    beside = str(REPOSITORY.parent / "shared" / "data")
    assert folders(MEDRETRIEVAL_DATA=str(tmp_path)) == [str(tmp_path), beside]
    assert folders(MEDRETRIEVAL_DATA="") == [beside]


def test_where_the_file_is_real_root_is_not_the_folder_of_the_test(real_root, tmp_path):
    assert os.environ["MEDRETRIEVAL_DATA"] == str(tmp_path / "data") != str(real_root)
    assert (real_root / "pneumoniamnist.npz").exists()
