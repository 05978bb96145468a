"""The table of experiments/finetuning.md: a network's last block trained on train."""

from collections.abc import Callable

from tests.numbers.adaptation import PROTOCOLS, Finished, cells

from medretrieval.runs.tables import markdown

PRESET = "experiments=finetuning"
HEADER = ("precision_at_5", "gain (95 %)", "val minus test", "refits", "shuffled labels (95 %)")


def finetuning(runs: Finished) -> str:
    """Each protocol, beside a linear head on the same network's vectors."""
    rows = []
    for protocol in PROTOCOLS:
        for adapt in ("last_blocks", "linear_head"):
            words = (PRESET, f"protocol={protocol}") if adapt == "last_blocks" else (
                "experiments=adaptation", f"protocol={protocol}", "dataset=pneumoniamnist",
                "encoder=efficientnet_lite0", "adapt=linear_head",
            )  # fmt: skip
            report = runs.of(*words)[0]
            found = report.adapt
            assert found is not None
            chosen = f"{found.choice['learning_rate']:g}"
            rows.append([protocol, adapt, chosen, *cells(report)[1:]])
    return markdown(["protocol", "adapt", "learning rate chosen", *HEADER], rows)


TABLES: dict[str, Callable[[Finished], str]] = {"finetuning": finetuning}
