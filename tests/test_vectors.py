import numpy as np
import pytest

from medretrieval.errors import UserError
from medretrieval.vectors import require_vectors, unit_rows, zero_rows


@pytest.mark.parametrize("d", [1, 3, 64, 784, 1279, 2352])
def test_a_row_of_length_1_has_the_same_bits_whatever_stands_beside_it(d):
    """What makes the distance of equal vectors 0."""
    rng = np.random.default_rng(d)
    for n in (1, 2, 7, 100):
        vectors = rng.standard_normal((n, d)).astype(np.float32)
        unit = unit_rows(vectors)
        assert np.allclose(np.linalg.norm(unit, axis=1), 1, rtol=1e-14)
        for row in range(n):
            assert np.array_equal(unit_rows(vectors[row : row + 1])[0], unit[row])
            assert np.array_equal(unit_rows(vectors[row:])[0], unit[row])


@pytest.mark.parametrize("d", [2, 127, 129, 784, 8191, 8193, 9000, 12_288, 20_001])
@pytest.mark.parametrize("order", ["C", "F"])
def test_twins_have_the_same_bits_wherever_they_stand(d, order):
    rng = np.random.default_rng(d)
    twin = rng.standard_normal(d).astype(np.float32)
    alone = unit_rows(twin[None])[0]
    for n in (2, 5, 33):
        vectors = rng.standard_normal((n, d)).astype(np.float32)
        for place in {0, 1, n // 2, n - 1}:
            mixed = vectors.copy()
            mixed[place] = twin
            assert np.array_equal(unit_rows(np.asarray(mixed, order=order))[place], alone)


def test_a_zero_row_stays_zero():
    assert not unit_rows(np.zeros((2, 5), np.float32)).any()


@pytest.mark.parametrize(
    ("vectors", "d", "said"),
    [
        (np.zeros((3, 2)), None, r"gave \[3, 2\] for 4 sentences, not \[4, d\]"),
        (np.zeros((4, 0)), None, r"gave \[4, 0\] for 4 sentences, not \[4, d\]"),
        (np.zeros(4), None, r"gave \[4\] for 4 sentences, not \[4, d\]"),
        (np.zeros((4, 3)), 2, r"gave \[4, 3\] for 4 sentences, not \[4, 2\]"),
        (np.array([[0.0], [1], [np.nan], [np.inf]]), None, "embedding of sentence no. 2 is not finite"),
        (np.array([[0.0], [1e300], [0], [0]]), 1, "embedding of sentence no. 1 is not finite"),
    ],
)
def test_vectors_that_cannot_be_right_are_refused(vectors, d, said):
    with pytest.raises(UserError, match=f"encoder=toy: .*{said}|encoder=toy: the {said}"):
        require_vectors(vectors, (4, d), "toy", "sentence", lambda row: f"no. {row}")


def test_vectors_that_are_right_come_back_in_float32():
    vectors = np.random.default_rng(0).standard_normal((4, 3))
    for d in (None, 3):
        assert require_vectors(vectors, (4, d), "toy", "image", str).dtype == np.float32
    assert np.array_equal(require_vectors(vectors, (4, 3), "toy", "image", str), vectors.astype(np.float32))


def test_zero_rows_are_found():
    vectors = np.eye(5, dtype=np.float32)[[0, 1, 2, 3, 4, 0]]
    vectors[[2, 5]] = 0
    assert zero_rows(vectors).tolist() == [2, 5]
