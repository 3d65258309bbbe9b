"""Average linkage against SciPy's own distances, and orders that leave nothing out."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from attviz.clustering import cluster


@given(st.integers(1, 14), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_every_leaf_has_a_place_and_every_merge_is_of_two_clusters_that_exist(count, seed):
    rng = np.random.default_rng(seed)
    matrix = rng.random((count, count))
    matrix[rng.random((count, count)) < 0.2] = np.nan
    found = cluster((matrix + matrix.T) / 2)
    assert sorted(found.order.tolist()) == [*range(count)]
    assert len(found.merges) == max(0, count - 1)
    seen = set(range(count))
    for number, (one, other, _, _) in enumerate(found.merges.tolist()):
        assert {int(one), int(other)} <= seen
        seen = seen - {int(one), int(other)} | {count + number}
    assert np.all(np.diff(found.merges[:, 2]) >= -1e-12)


def test_average_linkage_by_hand():
    similarity = 1 - np.array([[0, 0.1, 0.8], [0.1, 0, 0.6], [0.8, 0.6, 0]])
    merges = cluster(similarity).merges
    np.testing.assert_allclose(np.sort(merges[:, :2], axis=1), [[0, 1], [2, 3]])
    np.testing.assert_allclose(merges[:, 2:], [[0.1, 2], [0.7, 3]])
