"""`make bench`: ratios of speed, each measured side by side in one run; printed and saved as Markdown.

Nothing here is asserted but that both ways come to the same result.
"""

import argparse
import logging
import tempfile
from datetime import date
from pathlib import Path

from tests.bench import embedding, files, growth, memory, reranking, runs, scoring, search
from tests.bench.measure import HEADER, Row

from medretrieval.runs.manifest import processor, threads
from medretrieval.runs.tables import table


def rows_of(folder: Path, quick: bool) -> list[list[str]]:
    turns, n = (2, 2000) if quick else (5, 5000)
    found: list[Row] = embedding.clip_rows(2 if quick else 3, 16 if quick else 64)
    found += embedding.lite0_rows(turns, 64)
    found.append(scoring.against_metric_learning(folder, n, turns))
    found.append(scoring.against_torchmetrics(folder, n, min(turns, 2)))
    found.append(scoring.share_of_search(folder, n, 2 * turns))
    found.append(search.whole_rankings(folder, n, turns))
    found += search.overhead(folder, 4 * n, 2 * turns)
    found += search.approximate(folder, 4 * n, turns)
    found += [runs.warm(folder, 2)] + ([] if quick else [runs.sweep(folder)])
    found.append(files.cold_and_warm(folder / "own", n, 2))
    cells = [row.cells for row in found]
    what, used, spent, note = scoring.memory(10_000 if quick else 100_000)
    cells.append([what, used, spent, "", "", note])
    queries, gallery, nlist = (10_000, 50_000, 256) if quick else (100_000, 1_000_000, 1024)
    ivf = ("index=ivf", f"index.nlist={nlist}", "index.nprobe=8")
    cells.append(memory.cells(queries, gallery, 512, *ivf))
    size = 10_000 if quick else 100_000
    probed = ("index=ivf", "index.nlist=256" if quick else "index.nlist=1024", "index.nprobe=8")
    cells += [reranking.cells(method, size, 512, *probed) for method in reranking.METHODS]
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller sizes, fewer turns: within 3 minutes")
    parser.add_argument("--save", type=Path, default=Path("outputs/bench.md"), help="where the table goes")
    options = parser.parse_args()
    logging.disable(logging.WARNING)  # of random weights
    with tempfile.TemporaryDirectory() as folder:
        rows = rows_of(Path(folder), options.quick)
    lines = growth.measured(10_000 if options.quick else 1_000_000)
    options.save.parent.mkdir(parents=True, exist_ok=True)
    growth.picture(options.save.with_name(f"{options.save.stem}_growth.png"), lines)
    print("\n".join(table(HEADER, rows)))
    markdown = ["| " + " | ".join(cells) + " |" for cells in [HEADER, ["---"] * len(HEADER), *rows]]
    used = threads().faiss
    head = f"{date.today()}, {processor()}, {used} threads; seconds are medians, ratios medians of the turns."
    options.save.write_text("\n".join([head, "", *markdown]) + "\n")
    print(f"saved: {options.save}")


if __name__ == "__main__":
    main()
