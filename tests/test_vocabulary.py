"""Statistics of tokens over documents, against loops over every occurrence."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from attviz.records import Analysis, Document
from attviz.vocabulary import vocabulary


def analysis(seed, lengths):
    generator = np.random.default_rng(seed)
    documents = []
    for length in lengths:
        tokens = tuple(generator.choice(list("abcde"), length)) if length else ()
        special = np.zeros(length, dtype=bool)
        special[:1] = True
        documents.append(Document("", tokens, generator.random((2, 3, length)).astype(np.float16), special=special))
    return Analysis(("l0", "l1"), documents)


def occurrences(one, *, special=False, first=True):
    found = {}
    for document in one.documents:
        for place, token in enumerate(document.tokens):
            if (special or not document.special[place]) and (first or place):
                found.setdefault(token, []).append(document.diagonal[:, :, place].astype(np.float64))
    return {token: np.stack(values) for token, values in found.items()}


@given(st.integers(0, 9999), st.lists(st.integers(0, 9), min_size=1, max_size=5), st.booleans())
@settings(max_examples=40, deadline=None)
def test_every_statistic_agrees_with_a_loop(seed, lengths, special):
    one = analysis(seed, lengths)
    expected, table = occurrences(one, special=special), vocabulary(one, special=special)
    assert set(table.tokens) == set(expected)
    every = np.concatenate([np.zeros((0, 2, 3)), *expected.values()])
    third = -(-len(every) // 3)
    threshold = np.sort(every, axis=0)[::-1][third - 1] if len(every) else None
    for place, token in enumerate(table.tokens):
        values = expected[token]
        assert table.count[place] == len(values)
        np.testing.assert_allclose(table.mean[place], values.mean(axis=0), rtol=1e-12)
        np.testing.assert_array_equal(table.max[place], values.max(axis=0))
        np.testing.assert_array_equal(table.min[place], values.min(axis=0))
        np.testing.assert_array_equal(table.top[place], (values >= threshold).sum(axis=0))
        if len(values) > 1:
            np.testing.assert_allclose(table.std[place], values.std(axis=0, ddof=1), rtol=1e-9, atol=1e-12)
        else:
            assert np.isnan(table.std[place]).all()


def test_pooled_over_heads_is_pooled_over_every_value():
    one = analysis(0, [8] * 9)
    table = vocabulary(one)
    mean, std, maximum = table.pooled()
    for place, token in enumerate(table.tokens):
        values = occurrences(one)[token].ravel()
        np.testing.assert_allclose([mean[place], std[place], maximum[place]], [values.mean(), values.std(ddof=1), values.max()], rtol=1e-9)


def test_documents_beyond_one_batch_are_merged():
    one = analysis(3, [6] * 150)
    table, expected = vocabulary(one), occurrences(one)
    for place, token in enumerate(table.tokens):
        np.testing.assert_allclose(table.std[place], expected[token].std(axis=0, ddof=1), rtol=1e-9)


def test_position_0_can_be_left_out():
    one = analysis(1, [5, 5])
    assert vocabulary(one, special=True, first=False).count.sum() == 8
    assert vocabulary(one, special=True).count.sum() == 10


def test_an_empty_analysis_has_no_tokens():
    assert vocabulary(Analysis(("l0",), [])).tokens == ()
