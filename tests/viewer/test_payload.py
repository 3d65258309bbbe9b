import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attviz.errors import ArgumentError
from attviz.viewer.payload import Entry, HeadMoments, Payload


def entry(size: int) -> Entry:
    return Entry({"name": "", "text": "t", "tokens": 1, "mean": None}, {"data": "x" * size})


def test_a_page_over_its_cap_is_refused_with_the_cures():
    payload = Payload("title", max_bytes=1000)
    payload.add(entry(500))
    with pytest.raises(
        ArgumentError, match=r"more than max_bytes=1000 .*documents=slice\(0, 1\), layers=\[\.\.\.\], heads=\[\.\.\.\], or precision=\"u8\""
    ):
        payload.add(entry(500))


def test_a_large_page_is_warned_of():
    payload = Payload("title")
    payload.size = 26 * 2**20
    with pytest.warns(UserWarning, match="the page holds 26 MB"):
        payload.warn_if_large()


def test_head_lists_the_documents():
    payload = Payload("a <b>")
    payload.add(entry(3))
    head = json.loads(payload.head())
    assert (head["format"], head["title"], len(head["documents"])) == (1, "a <b>", 1)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=5), st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_head_moments_do_not_depend_on_how_the_tokens_are_cut(sizes, seed):
    rng = np.random.default_rng(seed)
    parts = [rng.random((3, size)) for size in sizes]
    for part in parts:
        part[rng.random(part.shape) < 0.2] = np.nan
    moments = HeadMoments(3)
    for part in parts:
        moments.update(part)
    found = moments.as_json()
    for row, values in enumerate(np.concatenate(parts, axis=1)):
        real = values[~np.isnan(values)]
        expected = {
            "mean": real.mean() if real.size else None,
            "std": real.std(ddof=1) if real.size > 1 else None,
            "max": real.max() if real.size else None,
            "min": real.min() if real.size else None,
            "range": np.ptp(real) if real.size else None,
        }
        for name, value in expected.items():
            if value is None:
                assert found[name][row] is None
            else:
                assert found[name][row] == pytest.approx(value, rel=5.1e-6)
