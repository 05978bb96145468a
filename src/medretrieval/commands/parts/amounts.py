"""Counts and sizes in words."""


def count_text(n: int, one: str, many: str | None = None) -> str:
    """A number with its noun.

    >>> count_text(1, "run"), count_text(2, "run"), count_text(2, "entry", "entries")
    ('1 run', '2 runs', '2 entries')
    """
    return f"{n} {one if n == 1 else many or f'{one}s'}"


def bytes_text(size: float) -> str:
    """Bytes in the unit that makes them readable (1 kB is 1,000 bytes).

    >>> bytes_text(999), bytes_text(1200), bytes_text(3.4e9)
    ('999 B', '1.2 kB', '3.4 GB')
    """
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
