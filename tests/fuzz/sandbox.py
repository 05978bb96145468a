"""One command at a time, in a folder of its own, judged by how it ends.

A worker process takes command lines and answers each with an outcome. Whatever it opens for writing outside
of its folder is seen by an audit hook and is an outcome too. A worker that dies is replaced by another.
"""

import contextlib
import io
import json
import os
import select
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

SECONDS = 90  # that one command may take
# What may be written outside of the folder: terminals and what processes say of themselves.
FREE = ("/dev/", "/proc/")


class Outcome(StrEnum):
    """How a command ended.

    done: exit code 0. refused: another exit code and one line that says why. silent: another exit code
    without a word. traceback: an exception that no line explains. crash: the process died. timeout: it took
    longer than SECONDS. outside: it wrote outside of its folder.
    """

    DONE = "done"
    REFUSED = "refused"
    SILENT = "silent"
    TRACEBACK = "traceback"
    CRASH = "crash"
    TIMEOUT = "timeout"
    OUTSIDE = "outside"


GOOD = (Outcome.DONE, Outcome.REFUSED)


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it said last."""

    outcome: Outcome
    said: str


class Sandbox:
    """A folder, and a worker that runs commands in it.

    Args:
        folder: an empty folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._worker: subprocess.Popen[str] | None = None

    def run(self, words: list[str]) -> Ended:
        """Run a command line of medretrieval."""
        worker = self._started()
        assert worker.stdin is not None
        assert worker.stdout is not None
        worker.stdin.write(json.dumps(words) + "\n")
        worker.stdin.flush()
        if not select.select([worker.stdout], [], [], SECONDS + 30)[0]:
            self.close()
            return Ended(Outcome.TIMEOUT, "did not heed the alarm")
        line = worker.stdout.readline()
        if not line:
            code = worker.wait()
            self._worker = None
            return Ended(Outcome.CRASH, f"exit code {code}")
        outcome, said = json.loads(line)
        return Ended(Outcome(outcome), said)

    def close(self) -> None:
        """End the worker."""
        if self._worker is not None:
            self._worker.kill()
            self._worker.wait()
            self._worker = None

    def _started(self) -> "subprocess.Popen[str]":
        if self._worker is None:
            for name in ("home", "tmp", "here"):
                (self.folder / name).mkdir(exist_ok=True)
            environment = os.environ | {
                "HOME": str(self.folder / "home"),
                "TMPDIR": str(self.folder / "tmp"),
                "MEDRETRIEVAL_DATA": str(self.folder / "data"),
                "MEDRETRIEVAL_CACHE": str(self.folder / "cache"),
                "PYTHONPATH": os.pathsep.join([str(Path(__file__).resolve().parents[2]), *sys.path]),
                "HF_HUB_OFFLINE": "1",
                "PYTHONDONTWRITEBYTECODE": "1",
            }
            self._worker = subprocess.Popen(
                [sys.executable, "-m", "tests.fuzz.sandbox", str(self.folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                cwd=self.folder / "here",
                env=environment,
            )
        return self._worker


class _Watch:
    """Sees what is written outside of a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.seen = str(folder.resolve()), ""

    def __call__(self, event: str, arguments: tuple[object, ...]) -> None:
        if event == "open" and not _writes(arguments):
            return
        if event in ("open", "os.mkdir", "os.remove", "os.rmdir", "os.rename", "os.symlink", "shutil.rmtree"):
            paths = arguments[:2] if event in ("os.rename", "os.symlink") else arguments[:1]
            paths = paths[1:] if event == "os.symlink" else paths
            for path in paths:
                if isinstance(path, str | bytes | os.PathLike):
                    self._note(event, os.path.abspath(os.fsdecode(path)))

    def _note(self, event: str, path: str) -> None:
        try:
            where = os.path.realpath(os.path.dirname(path)) + os.sep + os.path.basename(path)
        except RecursionError:  # a path of thousands of folders
            where = path
        if not where.startswith((self.folder + os.sep, *FREE)) and where != self.folder:
            self.seen = self.seen or f"{event} {path}"


def _writes(arguments: tuple[object, ...]) -> bool:
    _, mode, flags = arguments
    if isinstance(mode, str):
        return any(letter in mode for letter in "wax+")
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


def _alarm(*_: object) -> None:
    raise TimeoutError("the command took too long")


def _once(words: list[str], watch: _Watch, main: Callable[[], int]) -> Ended:
    """One command in this process."""
    out, err = io.StringIO(), io.StringIO()
    sys.argv = ["medretrieval", *words]
    watch.seen, code, crashed = "", 0, ""
    signal.alarm(SECONDS)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main()
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else int(error.code is not None)
        except TimeoutError as error:
            if "too long" in str(error):
                return Ended(Outcome.TIMEOUT, "")
            crashed = traceback.format_exc()
        except BaseException:
            crashed = traceback.format_exc()
        finally:
            signal.alarm(0)
    said = err.getvalue().strip()
    if watch.seen:
        return Ended(Outcome.OUTSIDE, watch.seen)
    if crashed or "Traceback (most recent call last)" in said:
        return Ended(Outcome.TRACEBACK, (crashed or said)[-1500:])
    last = said.splitlines()[-1] if said else ""
    if code:
        said_why = last or out.getvalue().strip()
        return Ended(Outcome.REFUSED if said_why else Outcome.SILENT, last)
    return Ended(Outcome.DONE, last)


def _serve(folder: Path) -> None:
    import logging

    # Whatever prints to the real stdout must not stand between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    from hydra.core.global_hydra import GlobalHydra

    from medretrieval.cli import main

    watch = _Watch(folder)
    sys.addaudithook(watch)
    signal.signal(signal.SIGALRM, _alarm)
    path, here = list(sys.path), os.getcwd()
    for line in sys.stdin:
        handlers = list(logging.root.handlers)
        ended = _once(json.loads(line), watch, main)
        logging.root.handlers[:] = handlers
        GlobalHydra.instance().clear()
        sys.path[:] = path
        os.chdir(here)
        answers.write(json.dumps([ended.outcome, ended.said[-1500:]]) + "\n")
        answers.flush()


if __name__ == "__main__":
    _serve(Path(sys.argv[1]))
