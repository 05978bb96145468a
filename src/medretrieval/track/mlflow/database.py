"""The SQLite file of an MLflow store: made whole beside its place; a half-made one is made again."""

import itertools
import logging
import os
import sqlite3
import time
from contextlib import closing, suppress
from pathlib import Path

from filelock import FileLock

from medretrieval.private import same
from medretrieval.track.exchange import SQLITE, set_up

log = logging.getLogger(__name__)

SETTLE_SECONDS = 1.0  # a file that another process is making changes within this time
SIDE_FILES = ("-journal", "-wal", "-shm")  # SQLite's, beside a database


def sqlite_file(uri: str) -> Path | None:
    """The file of a SQLite tracking store, None for any other store."""
    return Path(uri.removeprefix(SQLITE)).expanduser() if uri.startswith(SQLITE) else None


def same_store(one: str, other: str) -> bool:
    """Whether two addresses are of the same store: of one file, or but for what is secret in them equal."""
    files = sqlite_file(one), sqlite_file(other)
    if files[0] is not None and files[1] is not None:
        return files[0].resolve() == files[1].resolve()
    return same(one, other)


def lock_of(database: Path) -> FileLock:
    """Held while the database or an experiment in it is made; MLflow's own way breaks with two at a time."""
    return FileLock(database.with_name(f".{database.name}.lock"))


def prepare_database(database: Path) -> bool:
    """Make the file where it is new, or where a process was stopped while it made it.

    Args:
        database: the file; its folder is made where it is new.

    Returns:
        Whether a half-made file was set aside.

    Raises:
        OSError, MlflowException, ...: whatever a disk or MLflow raises.
    """
    database.parent.mkdir(parents=True, exist_ok=True)
    with lock_of(database):
        if not database.exists():
            _set_aside(database, sides_alone=True)
            make_database(database)
            return False
        if not _is_half_made(database) or _is_changing(database) or not _is_half_made(database):
            return False
        aside = _set_aside(database)
        log.warning(
            "%s: was left half-made by a process that was stopped; set aside as %s and made again",
            database, aside.name,
        )  # fmt: skip
        make_database(database)
        return True


def make_database(database: Path) -> None:
    """Make MLflow's tables in a file beside its place and rename it: one that is stopped leaves nothing."""
    set_up()
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    aside = database.with_name(f".{database.name}.new")
    _remove(aside)  # of one that was killed
    try:
        store = SqlAlchemyStore(f"{SQLITE}{aside}", (database.parent / "mlartifacts").absolute().as_uri())
        store.engine.dispose()
        os.replace(aside, database)
    finally:
        _remove(aside)


def _is_half_made(database: Path) -> bool:
    """Whether it holds tables of MLflow, or nothing, and no experiment: making one ends with the first."""
    uri = f"{database.absolute().as_uri()}?mode=ro"
    try:
        with closing(sqlite3.connect(uri, uri=True, timeout=5)) as connection:
            named = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            tables = {name for (name,) in named}
            if tables and "alembic_version" not in tables and "experiments" not in tables:
                return False  # somebody else's
            if "experiments" not in tables:
                return True
            return connection.execute("SELECT 1 FROM experiments LIMIT 1").fetchone() is None
    except sqlite3.Error:  # no database, or one in use: MLflow says what is wrong with it
        return False


def _is_changing(database: Path) -> bool:
    """Wait for another process that makes it; whether it did something meanwhile, and so is alive."""
    changed = False
    while True:
        before = _state(database)
        time.sleep(SETTLE_SECONDS)
        if _state(database) == before:
            return changed
        changed = True


def _state(database: Path) -> list[tuple[int, int]]:
    found = []
    for path in (database, *(database.with_name(database.name + end) for end in SIDE_FILES)):
        with suppress(FileNotFoundError):
            facts = path.stat()
            found.append((facts.st_mtime_ns, facts.st_size))
    return found


def _set_aside(database: Path, sides_alone: bool = False) -> Path:
    """Rename it with what SQLite keeps beside it: a journal would be played into a new file."""
    names = (f"{database.name}.half-made-{number}" for number in itertools.count(1))
    aside = next(path for path in map(database.with_name, names) if not path.exists())
    for end in SIDE_FILES if sides_alone else ("", *SIDE_FILES):
        with suppress(FileNotFoundError):
            os.replace(database.with_name(database.name + end), aside.with_name(aside.name + end))
    return aside


def _remove(database: Path) -> None:
    for end in ("", *SIDE_FILES):
        database.with_name(database.name + end).unlink(missing_ok=True)
