"""The table of experiments/finetuning.md: a network's last block trained on train, beside a head."""

from collections.abc import Callable

from tests.numbers.adaptation import Finished, cells

from medretrieval.runs.tables import markdown

PRESET = "experiments=finetuning"
SAME = ("dataset=pneumoniamnist", "protocol=leave_one_out", "encoder=efficientnet_lite0")
HEADER = ("precision_at_5", "gain (95 %)", "val minus test", "refits", "shuffled labels (95 %)")


def finetuning(runs: Finished) -> str:
    """The last block, beside a linear head on the same network's vectors."""
    rows = []
    for words in ((PRESET,), ("experiments=adaptation", *SAME, "adapt=linear_head")):
        report = runs.of(*words)[0]
        found = report.adapt
        assert found is not None
        rows.append([found.name, f"{found.choice['learning_rate']:g}", *cells(report)[1:]])
    return markdown(["adapt", "learning rate chosen", *HEADER], rows)


TABLES: dict[str, Callable[[Finished], str]] = {"finetuning": finetuning}
