"""Both sides of a task as embeddings: images or sentences that ask, and the images they search."""

from dataclasses import dataclass

from medretrieval.cache.store import Cache
from medretrieval.datasets.base import Split
from medretrieval.embed.images import Embeddings, embed
from medretrieval.embed.text import embed_prompts
from medretrieval.protocol.inputs import Inputs


@dataclass(frozen=True)
class Sides:
    """The embeddings of a run.

    Attributes:
        query: of the queries, float32 [q, d].
        gallery: of the gallery, float32 [n, d]; the same object where both are the same pictures.
    """

    query: Embeddings
    gallery: Embeddings


def embed_sides(inputs: Inputs, cache: Cache) -> Sides:
    """Embed what a run's task names, from the cache or now.

    Args:
        inputs: encoder, dataset and task.
        cache: where vectors are kept.

    Raises:
        UserError: as `embed` and `embed_prompts`.
    """

    def vectors(split: Split) -> Embeddings:
        return embed(inputs.encoder, inputs.identity, split, inputs.dataset.size, cache)

    task = inputs.task
    if task.queries.prompts is not None:
        return Sides(*embed_prompts(inputs, task.queries.prompts, cache))
    gallery = vectors(task.gallery)
    if task.is_one_set or task.queries.split is None:
        return Sides(gallery, gallery)
    return Sides(vectors(task.queries.split), gallery)
