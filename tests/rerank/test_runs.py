"""A run with re-ranking, from its configuration to its saved folder."""

import dataclasses

import numpy as np
import pytest
from tests.conftest import SMALL_RUN

from medretrieval import compose, run
from medretrieval.checks import check
from medretrieval.config import root
from medretrieval.dry_run import plan
from medretrieval.errors import UserError
from medretrieval.protocol.ranking import Ranking
from medretrieval.query.search import Query, SearchableRun
from medretrieval.rerank.opening import reranker_of
from medretrieval.runs.identity import slug
from medretrieval.runs.reopen import saved_vectors
from medretrieval.runs.saved.listing import facts_of, saved_run
from medretrieval.runs.tables import AXES, differing
from medretrieval.track.run_description import describe_run
from medretrieval.verify import again, verify

FILES = sorted(path.stem for path in (root() / "conf" / "rerank").glob("*.yaml"))
SMALL = {
    "alpha_qe": (),
    "augmentation": (),
    "k_reciprocal": ("rerank.k1=5", "rerank.k2=3", "rerank.candidates=12"),
    "diffusion": ("rerank.neighbors=6", "rerank.seeds=3", "rerank.candidates=12"),
}


def small(method, *overrides):
    return (*SMALL_RUN, "audit.enabled=false", f"rerank={method}", *SMALL[method], *overrides)


@pytest.mark.parametrize("name", FILES)
def test_every_file_is_composed_and_built(name):
    method = reranker_of(check(compose(f"rerank={name}")))
    assert method.name == name
    assert set(method.parameters) == set(compose(f"rerank={name}").rerank) - {
        "_target_", "name", "transductive",
    }  # fmt: skip


def test_a_configuration_that_was_kept_before_has_no_reranking():
    settings = check(compose())
    assert reranker_of(dataclasses.replace(settings, rerank=None)).name == "none"


@pytest.mark.parametrize("method", SMALL)
@pytest.mark.parametrize("protocol", ["query_gallery", "leave_one_out"])
def test_a_run_says_what_it_changed_and_is_verified(config, write_npz, method, protocol):
    write_npz(n=30)
    done = run(config(*small(method), f"protocol={protocol}"))
    gain = done.report.rerank
    assert (gain.name, gain.transductive) == (method, False)
    assert set(gain.without) == {done.report.objective.name, "map_at_100"}
    plain = run(config(*SMALL_RUN, "audit.enabled=false", f"protocol={protocol}")).report
    assert plain.rerank is None
    for name, value in gain.without.items():
        assert value == pytest.approx(plain.scores[name], abs=1e-12)
        if name in gain.changes:
            assert gain.changes[name].value == pytest.approx(done.report.scores[name] - value, abs=1e-9)
    assert bool(gain.changes) == bool(done.report.intervals) == (protocol == "query_gallery")
    assert done.report.title.endswith(f"rerank {method}")
    assert verify(done.folder) == []
    assert np.isfinite(done.report.scores["map"])


@pytest.mark.parametrize("method", SMALL)
def test_a_saved_run_answers_a_new_query_as_it_ranked_its_own(config, write_npz, method):
    write_npz(n=30)
    folder = run(config(*small(method, "encoder=pixels", "metric=cosine"))).folder
    opened, ranking = SearchableRun.open(folder), Ranking.load(folder / "ranking.npz")
    vectors, gallery = saved_vectors(folder, "query"), saved_vectors(folder, "gallery")
    ids, distances = opened._search(np.asarray(vectors[3:5]), gallery, 10)
    np.testing.assert_array_equal(ids, ranking.ids[3:5, :10])
    np.testing.assert_allclose(distances, ranking.distances[3:5, :10], atol=1e-5)


def test_the_same_run_comes_out_again(config, write_npz):
    write_npz(n=30)
    done = run(config(*small("k_reciprocal")))
    assert again(done.folder).results == []


@pytest.mark.parametrize("protocol", ["query_gallery", "leave_one_out"])
def test_a_transductive_run_says_so_everywhere(config, write_npz, protocol):
    write_npz(n=30)
    words = small("k_reciprocal", "rerank.transductive=true", f"protocol={protocol}")
    done = run(config(*words))
    report, about = done.report, describe_run(check(config(*words)), None)
    assert report.rerank.transductive
    assert report.rerank.changes == report.intervals == {}
    assert "rerank k_reciprocal (transductive)" in report.title
    assert any("depend on the other queries" in note for note in report.notes)
    assert AXES["rerank"](report) == "k_reciprocal (transductive)"
    assert about.params["rerank.transductive"] == "True"
    assert "(transductive)" in about.name
    assert verify(done.folder) == []
    with pytest.raises(UserError, match=r"one graph with each other .*transductive=true.*which a new query"):
        SearchableRun.open(done.folder).reranking  # noqa: B018


def test_names_say_rerank_only_where_it_is_on(config, write_npz):
    write_npz(n=30)
    plain, ours = run(config(*SMALL_RUN)), run(config(*small("alpha_qe")))
    assert slug(check(config(*small("alpha_qe")))).endswith("query_gallery_alpha_qe")
    assert "rerank" not in plain.report.title
    assert slug(check(config(*SMALL_RUN))).endswith("query_gallery")
    assert "rerank" in differing([plain.report, ours.report])
    assert facts_of(saved_run(ours.folder)).axes["rerank"] == "alpha_qe"
    assert facts_of(saved_run(plain.folder)).axes["rerank"] == ""
    assert "rerank" not in describe_run(check(config(*SMALL_RUN)), None).params


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("rerank=k_reciprocal", "rerank.k1=25", "rerank.k2=2"), r"rerank.k1=25: more neighbors"),
        (("rerank=alpha_qe", "rerank.neighbors=21"), r"rerank.neighbors=21: more neighbors than the 20 "),
        (("rerank=augmentation", "rerank.neighbors=20"), r"wants 20 neighbors of each image"),
        (("rerank=alpha_qe", "rerank.alpha=-1"), r"rerank.alpha=-1.*: must be 0 or more"),
        (("rerank=diffusion", "rerank.alpha=1.0"), r"rerank.alpha=1.0: must be 0 or more and below 1"),
        (("rerank=diffusion", "rerank.seeds=300"), r"rerank.seeds=300: more than rerank.candidates=200"),
        (("rerank=k_reciprocal", "rerank.weight=1.5"), r"rerank.weight=1.5: must lie between 0 and 1"),
        (("rerank=k_reciprocal", "rerank.k1=4", "rerank.k2=5"), r"rerank.k2=5: more than rerank.k1=4"),
        (("rerank=alpha_qe", "+rerank.transductive=true"), r"rerank.transductive: .*no such argument"),
        (
            ("rerank=k_reciprocal", "rerank.k1=5", "rerank.k2=2", "rerank.transductive=true",
             "protocol=leave_one_out", "dataset.corrupt=noise@1"),
            r"rerank.transductive=true: puts the queries into one graph",
        ),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_before_anything_is_embedded(config, write_npz, words, line):
    write_npz(n=20)
    with pytest.raises(UserError, match=line):
        plan(config(*SMALL_RUN, *words))


def test_an_index_that_gives_too_little_is_refused(config, write_npz):
    write_npz(n=60)
    words = ("index=ivf", "index.nlist=20", "index.nprobe=1", "encoder=pixels", "metric=cosine")
    line = r"rerank.neighbors=30: the index \(nprobe=1\) gives \d+ queries fewer results.*use index=flat"
    with pytest.raises(UserError, match=line):
        run(config(*small("alpha_qe", *words), "rerank.neighbors=30"))


def test_sentences_are_refused_by_the_method_that_cannot_serve_them(config):
    toy = ("dataset=chest_phantom", "encoder=phantom_clip", "protocol=text_to_image")
    with pytest.raises(UserError, match=r"rerank=k_reciprocal: wants queries"):
        plan(config(*toy, "rerank=k_reciprocal"))


def test_a_sentence_is_refused_by_a_saved_run_too(config, write_npz):
    write_npz(n=30)
    folder = run(config(*small("k_reciprocal", "encoder=pixels"))).folder
    opened = SearchableRun.open(folder)
    with pytest.raises(UserError, match=r"rerank=k_reciprocal: wants queries"):
        opened.answer([Query("a lung")], opened.encoder()[0], 3)
