"""Values, names and texts that nobody expects, drawn from a seeded source of chance."""

import random
import string

NUMBERS = (
    "0",
    "-1",
    "1",
    "2",
    "1.5",
    "-0.0",
    "1e308",
    "1e-308",
    "nan",
    "inf",
    "-inf",
    "1000000000000",
    "2147483648",
    "9223372036854775808",
    "1_000",
    "0x10",
    "1e3",
    "10000000000000000000000",
)
OTHERS = (
    "null",
    "true",
    "false",
    "abc",
    "",
    "[]",
    "[1]",
    "[1,[2]]",
    "{}",
    "{a:1}",
    "[null]",
    "'1'",
    "~",
    "${seed}",
    "${nothing}",
    "${oc.env:HOME}",
    "???",
    "-",
    "*",
    "a b",
    "ä",
    "\u202e",
    "😀",
    "..",
    "/",
    "\\\\",
    "%s",
    "{x}",
    "a" * 300,
    "[1,1,1]",
    "[nan]",
    "[1e9]",
    "[[[[[[1]]]]]]",
)
FACTORY_PARTS = (
    "Flat",
    "IVF",
    "PQ",
    "HNSW",
    "SQ8",
    "SQ4",
    "SQfp16",
    "OPQ",
    "PCA",
    "PCAR",
    "PCAW",
    "RR",
    "L2norm",
    "LSH",
    "NSG",
    "IDMap",
    "IDMap2",
    "RFlat",
    "Refine(",
    "ITQ",
    "IMI",
    "Pad",
    "RQ",
    "LSQ",
    "ZnLattice",
    "RaBitQ",
    "PRQ",
    "x",
    "_",
    "fs",
    "fsr",
    "np",
    ")",
    "(",
    "{nlist}",
    "{m}",
    "{",
    "}",
    "HNSW32",
    "[",
    "]",
    "+",
    "|",
)
FACTORY_NUMBERS = (
    "",
    "0",
    "1",
    "2",
    "4",
    "8",
    "16",
    "32",
    "64",
    "100",
    "255",
    "1000",
    "65536",
    "100000000",
    "99999999999",
)


def value(rng: random.Random) -> str:
    """A value of a key on the command line."""
    kind = rng.random()
    if kind < 0.45:
        return rng.choice(NUMBERS)
    if kind < 0.85:
        return rng.choice(OTHERS)
    return text(rng, 12)


def text(rng: random.Random, most: int) -> str:
    """Characters of every kind, without NUL, which no command line can hold."""
    kinds = (string.printable, "äßéñ中文字\u00a0\u200b\u202e😀́", "\n\t\r\x1b\x7f\x01")
    return "".join(rng.choice(rng.choice(kinds)) for _ in range(rng.randint(0, most)))


def factory(rng: random.Random) -> str:
    """A FAISS factory string: mostly one that FAISS can parse, with numbers that it may not like."""
    if rng.random() < 0.25:
        parts = (rng.choice(FACTORY_PARTS) + rng.choice(FACTORY_NUMBERS) for _ in range(rng.randint(1, 3)))
        return ",".join(parts)
    n, m = (rng.choice((0, 1, 2, 3, 4, 7, 8, 16, 64, 100, 1000, 10**8)) for _ in range(2))
    code = rng.choice(
        ("Flat", f"PQ{n}", f"PQ{n}x{m}", f"PQ{n}x4fs", "SQ8", "SQ4", "SQfp16", f"RQ{n}x{m}", "RaBitQ",
         f"LSQ{n}x{m}", f"PRQ{n}x{m}x4", f"ZnLattice{n}x{m}_4", f"PQ{n}x{m}np", f"LSH{n}", f"Pad{n},Flat")
    )  # fmt: skip
    before = rng.choice(
        ("", "", "", f"PCA{n},", f"PCAR{m},", f"OPQ{n},", f"OPQ{n}_{m},", "L2norm,", f"RR{n},", "ITQ,")
    )
    cells = rng.choice(
        ("", "", f"IVF{m},", f"IVF{m}_HNSW{n},", f"IMI2x{n},", "IDMap,", f"HNSW{m}_", f"HNSW{m},", f"NSG{m},")
    )
    after = rng.choice(("", "", "", ",RFlat", f",Refine(PQ{n}x{m})", ",Refine(SQ8)"))
    return before + cells + code + after


def damaged(rng: random.Random, content: bytes) -> bytes:
    """Content with bytes cut, changed, doubled or put in."""
    kind = rng.randrange(7)
    if kind == 0:
        return b""
    if kind == 1:
        return content[: rng.randrange(len(content) + 1)]
    if kind == 2:
        return rng.randbytes(rng.randint(1, 400))
    if kind == 3:
        return content + content
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 4, 40))):
        if changed:
            place = rng.randrange(len(changed))
            if kind == 4:
                changed[place] = rng.randrange(256)
            elif kind == 5:
                del changed[place]
            else:
                changed[place:place] = rng.randbytes(rng.randint(1, 8))
    return bytes(changed)
