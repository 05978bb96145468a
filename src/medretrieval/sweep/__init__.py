"""What Hydra's sweeps need of us: what was planned, a line a run, and one table after them.

The sweeping itself is Hydra's; there is no second sweep engine here.
"""

from medretrieval.sweep.callback import SweepCallback
from medretrieval.sweep.results import reports_of

__all__ = ["SweepCallback", "reports_of"]
