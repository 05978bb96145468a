"""A run's folder holds one run: the last that was written there, whole, or none."""

import shutil
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.saved_runs import composed

from medretrieval import run
from medretrieval.errors import UserError
from medretrieval.runs import folder as run_folder
from medretrieval.runs.folder import RESULTS, SCORES, claimed, clear, put_results
from medretrieval.runs.format_page import OTHERS
from medretrieval.runs.report import read_report

PIXELS = "encoder=pixels"
# Runs that leave unlike files.
KINDS = {
    "pictures": (PIXELS, "figures.enabled=true", "audit.enabled=true", "tracking=jsonl"),
    "plain": (PIXELS,),
    "halves": (PIXELS, "protocol=leave_one_out", "index=ivf"),
    "adapted": (PIXELS, "adapt=whiten", "adapt.shrinkage=0.1", "adapt.refits=0", "dataset.n_val=12"),
    "joined": ("encoder=fusion", "encoder.parts=[pixels,random]"),
}


def files_of(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """Each kind in a folder of its own."""
    place = tmp_path_factory.mktemp("fresh")
    return {kind: run(composed(place, *words)).folder for kind, words in KINDS.items()}


def test_every_file_that_a_run_leaves_is_known(fresh):
    left = {Path(name).parts[0] for folder in fresh.values() for name in files_of(folder)}
    assert left - set(RESULTS) == set()
    assert {"figures", "adaptation.safetensors", "joined.safetensors", "tracking.json"} <= left
    assert {name.rstrip("/").partition("/")[0] for name in OTHERS} - set(RESULTS) == set()


def test_a_second_run_replaces_the_first_whole_whatever_each_is(fresh, tmp_path):
    folder = tmp_path / "same"
    folder.mkdir()
    (folder / "notes.txt").write_text("the user's own")
    for kind in ("pictures", "plain", "halves", "adapted", "joined", "pictures", "halves"):
        report = run(composed(tmp_path, *KINDS[kind], "force=true"), folder).report
        assert files_of(folder) == files_of(fresh[kind]) | {"notes.txt"}
        assert read_report(folder) == report


def test_one_that_is_skipped_leaves_only_that(fresh, tmp_path):
    first = run(composed(tmp_path, PIXELS, "metric=l2")).folder
    folder = run(composed(tmp_path, *KINDS["plain"]), tmp_path / "same").folder
    assert run(composed(tmp_path, PIXELS, "metric=l2"), folder).skipped
    assert files_of(folder) == {"skipped.json"}
    assert run_folder.skipped_for(folder) == first


def test_a_folder_of_something_else_keeps_what_is_in_it(tmp_path):
    for name in RESULTS:
        if name not in (SCORES, "manifest.json", "skipped.json", "failed.txt"):
            (tmp_path / name).write_text("mine")
    before = files_of(tmp_path)
    clear(tmp_path)
    assert files_of(tmp_path) == before


NAMES = st.sets(st.sampled_from([n for n in RESULTS if n not in ("failed.txt", "skipped.json")]))


def fill(folder, names, whose):
    folder.mkdir()
    for name in {*names, SCORES, "manifest.json"}:
        path = folder / name
        if name == run_folder.FIGURES:
            path.mkdir()
            path = path / f"of_{whose}.png"
        path.write_text(whose)


@given(NAMES, NAMES, st.integers(0, 60))
def test_at_any_moment_a_folder_with_scores_is_of_one_run(tmp_path_factory, old, new, steps):
    """The program is stopped before any step on the disk; after it the next run has its turn."""
    top = tmp_path_factory.mktemp("stopped")
    folder, aside = top / "run", top / "aside"
    fill(folder, old, "old")
    fill(aside, new, "new")
    left = iter(range(steps))

    def counted(function):
        def call(*arguments, **named):
            if next(left, None) is None:
                raise KeyboardInterrupt
            return function(*arguments, **named)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in ((Path, "unlink"), (Path, "replace"), (shutil, "rmtree")):
            patch.setattr(owner, name, counted(getattr(owner, name)))
        with suppress(KeyboardInterrupt):
            put_results(aside, folder)
    if (folder / SCORES).exists():
        whose = (folder / SCORES).read_text()
        assert {path.read_text() for path in folder.rglob("*") if path.is_file()} == {whose}
        wanted = {*(old if whose == "old" else new), SCORES, "manifest.json"}
        assert {path.name for path in folder.iterdir()} == wanted
    shutil.rmtree(aside)
    fill(aside, {run_folder.RANKING}, "third")
    put_results(aside, folder)
    assert files_of(folder) == {SCORES, "manifest.json", run_folder.RANKING}
    assert {path.read_text() for path in folder.iterdir()} == {"third"}


def test_a_folder_in_which_a_run_works_is_refused_in_one_line_and_free_afterwards(tmp_path):
    folder = tmp_path / "same"
    with claimed(folder):
        with pytest.raises(UserError, match=r"same: another run is working in this folder; wait until"):
            run(composed(tmp_path, PIXELS), folder)
        assert files_of(folder) == {".run.lock"}
    assert not folder.exists()
    assert SCORES in files_of(run(composed(tmp_path, PIXELS), folder).folder)


def test_of_runs_at_once_each_is_whole_or_refused(tmp_path):
    folder, ended = tmp_path / "same", []

    def work(cfg):
        try:
            ended.append(run(cfg, folder).report)
        except UserError as error:
            ended.append(str(error))

    configs = [composed(tmp_path, PIXELS, f"metric={metric}") for metric in ("l2", "cosine", "ip")]
    threads = [threading.Thread(target=work, args=(cfg,)) for cfg in configs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    reports = [one for one in ended if not isinstance(one, str)]
    assert reports
    assert all("another run is working" in one for one in ended if isinstance(one, str))
    assert read_report(folder) in reports
    assert {"per_query.parquet", "ranking.npz", SCORES} <= files_of(folder)
