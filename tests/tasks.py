"""Tasks for tests: two splits and what a protocol leaves out."""

from medretrieval.config import ProtocolConfig
from medretrieval.protocol.exclusions import Exclusions
from medretrieval.protocol.task import RetrievalTask


def protocol(exclude_self=True, exclude_same_group=False, drop_duplicates=False):
    return ProtocolConfig("any", "test", "test", exclude_self, exclude_same_group, drop_duplicates)


def task_of(queries, gallery, relevance=None, **options):
    return RetrievalTask.from_sides(
        queries, gallery, Exclusions.from_protocol(queries, gallery, protocol(**options)), relevance
    )
