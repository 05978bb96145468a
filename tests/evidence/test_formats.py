"""What is kept and scores, draws or audits has a format in its key: no old number stands beside new ones."""

import numpy as np

from medretrieval import run
from medretrieval.cache.store import Cache
from medretrieval.config import FaissMetric, MetricConfig
from medretrieval.encoders.baselines import RandomEncoder
from medretrieval.query import novelty

# Kind of entry -> the constant as the module that makes the key knows it.
FORMATS = {
    "baselines": "medretrieval.evidence.stages.exact_line.SCORING_FORMAT",
    "audits": "medretrieval.evidence.duplicate_audit.AUDIT_FORMAT",
    "maps": "medretrieval.figures.embedding_map.MAP_FORMAT",
    "fidelities": "medretrieval.embed.images.FIDELITY_FORMAT",
}
# Vectors and what is built of them: their keys hold the encoder's identity and FAISS's version.
VECTORS = {"embeddings", "identities", "indexes"}
WORDS = ("dataset=breastmnist", "encoder=random", "evaluation.ks=[1]", "evaluation.resamples=100",
         "figures.enabled=true", "force=true")  # fmt: skip


def entries(cache):
    return {kind.name: {path.parent.name for path in kind.rglob("entry.json")} for kind in cache.iterdir()}


def test_another_format_is_another_key(config, write_npz, tmp_path, monkeypatch):
    write_npz()
    run(config(*WORDS))
    before = entries(tmp_path / "cache")
    assert before.keys() == FORMATS.keys() | VECTORS, "say which format the new kind of entry has"
    run(config(*WORDS))
    assert entries(tmp_path / "cache") == before
    for constant in FORMATS.values():
        monkeypatch.setattr(constant, -1)
    run(config(*WORDS))
    after = entries(tmp_path / "cache")
    assert {kind for kind in after if after[kind] != before[kind]} == FORMATS.keys()
    assert all(after[kind] > before[kind] for kind in FORMATS)


def test_the_formats_stand_beside_that_of_the_cache_itself(config, write_npz, tmp_path, monkeypatch):
    write_npz()
    run(config(*WORDS))
    before = entries(tmp_path / "cache")
    monkeypatch.setattr("medretrieval.cache.entry.FORMAT_VERSION", -1)
    run(config(*WORDS))
    after = entries(tmp_path / "cache")
    assert {kind for kind in after if after[kind] != before[kind]} == before.keys()


def test_another_format_of_novelty_is_another_key(tmp_path, monkeypatch):
    gallery = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)
    metric = MetricConfig("l2", FaissMetric.l2, False)
    for wanted in (1, 1, 2):
        if wanted == 2:
            monkeypatch.setattr(novelty, "NOVELTY_FORMAT", -1)
        novelty.novelty(gallery[:1], gallery, "hash", metric, Cache(tmp_path))
        assert len(entries(tmp_path)["novelty"]) == wanted


def test_what_is_said_of_kept_vectors_is_said_anew_in_another_format(config, write_npz, monkeypatch):
    """The names in it changed once, while the vectors stayed: a later run read the old ones."""
    write_npz()

    def said(least):
        facts = {
            "against": "any",
            "images": 2,
            "cosine_min": least,
            "cosine_mean": least,
            "neighbors": 1,
            "neighbors_in_common": 1.0,
        }
        monkeypatch.setattr(RandomEncoder, "fidelity", lambda self, images: facts)
        return run(config(*WORDS)).report.encoder

    assert said(0.5).fidelity.cosine_min == 0.5
    assert said(0.6).fidelity.cosine_min == 0.5
    monkeypatch.setattr(FORMATS["fidelities"], -1)
    encoder = said(0.6)
    assert encoder.fidelity.cosine_min == 0.6
    assert encoder.cached
