"""Tasks for tests: two splits and what a protocol leaves out."""

from medretrieval.config import ProtocolConfig
from medretrieval.protocol.exclusions import Exclusions
from medretrieval.protocol.task import Task


def protocol(exclude_self=True, exclude_same_group=False, drop_duplicates=False):
    return ProtocolConfig("any", "test", "test", exclude_self, exclude_same_group, drop_duplicates)


def task_of(queries, gallery, relevance=None, **options):
    return Task.of(queries, gallery, Exclusions.of(queries, gallery, protocol(**options)), relevance)
