import numpy as np
import pytest

from medretrieval.vectors import unit_rows


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


def test_a_zero_row_stays_zero():
    assert not unit_rows(np.zeros((2, 5), np.float32)).any()
