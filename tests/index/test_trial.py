"""Factory strings, templates and parameters of every kind end in an index or in one line."""

import contextlib
import re

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.index.conftest import index_config, normal

from medretrieval.config import IndexConfig
from medretrieval.errors import UserError
from medretrieval.index.parameters import fit
from medretrieval.index.trial import is_known, require_harmless

quick = settings(max_examples=100, deadline=None)


# Each is a process of its own, so most of them are tried with the slow tests.
ENDING = ("PQ16x0", "RR0,Flat", "HNSW1", "IVF16_HNSW0,Flat", "Flat,Refine(PQ16x0)", "RQ0x0")
REFUSED = (
    "PQ16", "IDMap,Flat", "HNSW100000000", "NSG32", "PCA1000,Flat", "OPQ4,IVF16,PQ4", "PQ0", "IVF0,Flat",
    "PQ4x31", "PQ3", "IVF99999999999,Flat", "Flat,Flat", "Flat\n", "",
)  # fmt: skip


def few(factories, quick_ones):
    slow = [pytest.param(factory, marks=pytest.mark.slow) for factory in factories[quick_ones:]]
    return pytest.mark.parametrize("factory", [*factories[:quick_ones], *slow])


@few(ENDING, 1)
def test_a_factory_that_ends_the_process_is_refused_and_the_process_goes_on(built, factory):
    with pytest.raises(UserError, match=rf"^index\.factory={re.escape(factory)}: FAISS ends its process"):
        built(normal(64), factory=factory)


@few(REFUSED, 3)
def test_what_faiss_cannot_build_is_one_line(built, factory):
    with pytest.raises(
        UserError, match=rf"^index\.factory={re.escape(factory)}: FAISS refuses it \([^\n]+\)$"
    ):
        built(normal(64), factory=factory)


def test_an_index_beyond_the_memory_is_refused_with_what_it_would_take():
    with pytest.raises(UserError, match=r"HNSW999: would take about \d+\.\d GB for 500,000,000 vectors"):
        require_harmless("HNSW999", "", "l2", 500_000_000, 2)


@few(["L2norm,Flat", "IVF2,PQ4x2,RFlat"], 1)
def test_what_is_tried_first_is_built_as_before(built, factory):
    assert built(normal(64), factory=factory).index.ntotal == 64


@pytest.mark.parametrize("row", [[float("nan"), 1.0], [2.0, 1.0], [1.0, float("nan")]])
def test_an_index_whose_distances_are_no_ranking_is_refused(built, monkeypatch, row):
    index = built(normal(64), factory="IVF2,Flat", metric="l2")
    found = (np.array([row], np.float32), np.array([[0, 1]]))
    monkeypatch.setattr(type(index.index), "search", lambda *_: found)
    with pytest.raises(
        UserError, match=r"index\.factory=IVF2,Flat: FAISS gives distances that are no numbers"
    ):
        index.search(normal(1), 2)


@given(st.from_regex(r"(IVF\d{1,3},)?(Flat|SQ8|PQ\d{1,2}(x\d)?(np)?)|HNSW\d{1,3}(,Flat)?", fullmatch=True))
@quick
def test_what_needs_no_trial_never_ends_the_process(factory):
    if is_known(factory):
        with contextlib.suppress(RuntimeError):
            index = faiss.index_factory(8, factory)
            vectors = normal(40, 8)
            if not index.is_trained:
                index.train(vectors)
            index.add(vectors)
            index.search(vectors[:1], 2)


@pytest.mark.parametrize("search", [f"nprobe={n}" for n in ("0", "-1", "x", "", "99999999999", "1.5", "²")])
def test_a_search_parameter_that_is_no_count_is_refused(built, search):
    with pytest.raises(UserError, match=rf"index\.search={re.escape(search)}: "):
        built(normal(64), factory="IVF2,Flat", search=search)


@pytest.mark.parametrize(
    "template", ["IVF{nlist,Flat", "IVF{}", "IVF{0}", "IVF{nlist:>9}", "IVF{nlist!r}", "IVF}{", "{nlist.x}"]
)
def test_a_template_with_other_than_names_in_braces_is_refused(template):
    with pytest.raises(UserError, match=rf"index\.factory={re.escape(template)}: .*write parameters as"):
        fit(IndexConfig(name="own", factory=template), 100, 16, 10)


@pytest.mark.parametrize("value", [0, -1, 10**12])
@pytest.mark.parametrize("key", ["nlist", "nprobe"])
def test_a_parameter_out_of_all_bounds_is_refused(key, value):
    with pytest.raises(UserError, match=rf"index\.{key}={value}: must be between 1 and"):
        fit(index_config("ivf", **{key: value}), n=100, d=16, depth=10)


def test_a_number_of_bits_beyond_all_bounds_is_refused_at_once():
    with pytest.raises(UserError, match=r"index\.pq_bits=1000000000: needs at least 2\^1000000000 vectors"):
        fit(index_config("ivfpq", pq_bits=10**9), n=100, d=16, depth=10)
