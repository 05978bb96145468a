"""Runs over adaptations, indexes and re-rankings share what the encoder has made."""

import itertools

from medretrieval import run
from medretrieval.encoders.baselines import PixelEncoder

RUN = ("dataset=breastmnist", "encoder=pixels", "evaluation.ks=[1,3]", "evaluation.resamples=100")
PLAIN = ("audit.enabled=false", "evaluation.baseline=none")
STAGES = (("adapt=none", "adapt=whiten"), ("index=flat", "index=hnsw"), ("rerank=none", "rerank=alpha_qe"))


def test_each_image_is_embedded_once_and_each_stage_has_its_row(config, write_npz, monkeypatch):
    write_npz(n=30)
    seen, encode = [], PixelEncoder.encode

    def counted(self, images):
        seen.extend(image.tobytes() for image in images)
        return encode(self, images)

    monkeypatch.setattr(PixelEncoder, "encode", counted)
    for stages in itertools.product(*STAGES):
        fitted = () if stages[0] == "adapt=none" else ("adapt.refits=0", "adapt.shrinkage=0.5")
        report = run(config(*RUN, *PLAIN, *stages, *fitted)).report
        wanted = {word.partition("=")[0] for word in (stages[0], stages[2]) if not word.endswith("none")}
        rows = {row.stage: row for row in report.stages}
        assert wanted <= set(rows)
        assert all(rows[name].without is not None and rows[name].change is not None for name in wanted)
    assert seen
    assert len(seen) == len(set(seen))  # train, val and test, each image once
