"""A CSV table as columns of text, or a refusal that names the line."""

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from medretrieval.errors import UserError, choices, suggestion

MAX_FIELD_CHARACTERS = 10_000_000  # a report of a radiologist is far below


@dataclass(frozen=True)
class CsvTable:
    """The rows of a CSV file.

    Attributes:
        where: the key and the file, as messages begin: "dataset.table=images.csv".
        lines: the line each row ends on in the file, from 1.
        columns: name -> the row's text, spaces around it removed; "" where it is empty.
    """

    where: str
    lines: tuple[int, ...]
    columns: dict[str, tuple[str, ...]]

    def column(self, name: str, key: str) -> tuple[str, ...]:
        """A column.

        Args:
            name: of the column.
            key: the key of the configuration that names it.

        Raises:
            UserError: there is none of this name.
        """
        if name not in self.columns:
            raise UserError(
                f"{key}={name}: {self.where} has no such column; {suggestion(name, list(self.columns))}"
                f"{choices(list(self.columns))}"
            )
        return self.columns[name]

    def at(self, row: int) -> str:
        """Where a row stands, as messages begin."""
        return f"{self.where}: line {self.lines[row]}"


def read_csv(path: Path, key: str) -> CsvTable:
    """Read a CSV file whose first line names its columns.

    Args:
        path: the file, UTF-8 with or without a byte order mark.
        key: the key of the configuration that names it, for messages.

    Raises:
        UserError: missing, not UTF-8, no CSV, no rows, columns without a name or with the same one, or a row
            with another number of fields than the first line.
    """
    where = f"{key}={path}"
    csv.field_size_limit(MAX_FIELD_CHARACTERS)
    try:
        # Excel writes a byte order mark.
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = [name.strip() for name in next(reader, [])]
            _require_header(header, where)
            rows, lines = [], []
            for row in reader:
                if not row:
                    continue
                if len(row) != len(header):
                    raise UserError(
                        f"{where}: line {reader.line_num} has {len(row)} fields, the first line "
                        f"{len(header)}; put text with commas in double quotes"
                    )
                rows.append([text.strip() for text in row])
                lines.append(reader.line_num)
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not UTF-8 (byte {error.start}); save it as CSV UTF-8") from error
    except csv.Error as error:
        raise UserError(f"{where}: not a CSV file ({error}); save it as CSV UTF-8") from error
    except OSError as error:
        raise UserError(
            f"{where}: cannot be read ({error.strerror or error}); give the path of a CSV file"
        ) from error
    if not rows:
        raise UserError(f"{where}: has no rows below its first line")
    columns = dict(zip(header, map(tuple, zip(*rows, strict=True)), strict=True))
    return CsvTable(where, tuple(lines), columns)


def _require_header(header: list[str], where: str) -> None:
    if not header or not any(header):
        raise UserError(f"{where}: is empty; its first line must name the columns")
    for name in header:
        if not name:
            raise UserError(f"{where}: a column of the first line has no name; give it one")
        if header.count(name) > 1:
            raise UserError(f"{where}: the first line names the column {name!r} twice; rename one")


def require_unique(values: Iterable[str], table: CsvTable, what: str) -> None:
    """Refuse a second row for the same thing.

    Raises:
        UserError: with both lines.
    """
    first: dict[str, int] = {}
    for row, value in enumerate(values):
        if value in first:
            raise UserError(
                f"{table.at(row)}: a second row for {what} {value!r}; the first is line "
                f"{table.lines[first[value]]}; keep one"
            )
        first[value] = row
