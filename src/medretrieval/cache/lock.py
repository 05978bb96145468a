"""Who makes an entry: one process at a time, and the others know which.

The lock is `<entry>.lock` (flock through filelock, so it goes with its process); `<entry>.owner` names the
process that holds it. Nothing but doubled work depends on it: an entry is put in place by one rename.
"""

import contextlib
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger(__name__)

LOCK_SUFFIX = ".lock"
OWNER_SUFFIX = ".owner"
OWNER_NAME_TIMEOUT_S = 1.0  # how long the owner of a lock may take to write its name


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of an entry; where another process holds it, say which and wait until it ends."""
    # Imported here: a run that finds everything in the cache, as on a read-only share, takes no lock.
    from filelock import FileLock, Timeout

    lock, owner = FileLock(_beside(folder, LOCK_SUFFIX)), _beside(folder, OWNER_SUFFIX)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        other = _named(owner)
        log.info("waiting for %s, which makes %s", other, folder)
        lock.acquire()
        if owner.exists():  # whoever ends in order takes its name away
            log.warning("%s ended before %s was made; taking over", _named(owner), folder)
    try:
        with _signed(owner):
            yield
    finally:
        lock.release()


@contextmanager
def locked_if_free(folder: Path) -> Iterator[bool]:
    """Hold the lock of an entry where no process holds it, and remove its file at the end.

    Yields:
        Whether the lock is held.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(_beside(folder, LOCK_SUFFIX))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        # While it is held: a process that waits for the removed file sees that and locks the new one.
        for suffix in (OWNER_SUFFIX, LOCK_SUFFIX):
            _beside(folder, suffix).unlink(missing_ok=True)
        lock.release()


def _beside(folder: Path, suffix: str) -> Path:
    return folder.with_name(folder.name + suffix)


@contextmanager
def _signed(owner: Path) -> Iterator[None]:
    # A name that cannot be written, as on a full disk, is no reason to stop.
    with contextlib.suppress(OSError):
        owner.write_text(f"{os.getpid()}@{socket.gethostname()}")
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            owner.unlink()


def _named(owner: Path) -> str:
    end = time.monotonic() + OWNER_NAME_TIMEOUT_S
    while time.monotonic() < end:
        with contextlib.suppress(OSError, UnicodeDecodeError):
            if name := owner.read_text():
                return name
        time.sleep(0.02)
    return "another process"
