import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attviz.codes import KNEE
from attviz.errors import ArgumentError
from attviz.viewer.codec import check_precision, decode, encode

probabilities = st.lists(st.floats(0.0, 1.0), min_size=1, max_size=200).map(np.array)
EDGES = np.array([0.0, 1e-300, 1e-9, 1e-8, 1.0000001e-8, 1e-4, KNEE, np.nextafter(KNEE, 0), np.nextafter(KNEE, 1), 0.5, 1 - 1e-9, 1.0])


@given(probabilities)
@settings(max_examples=60, deadline=None)
def test_u16_keeps_its_promised_error(values):
    back = decode(encode(values, "u16"), "u16")
    assert np.abs(back - values).max() <= 1 / 65535
    small = (values >= 1e-8) & (values < KNEE)
    assert np.all(np.abs(back[small] - values[small]) <= 2.3e-4 * values[small])


@given(probabilities)
@settings(max_examples=60, deadline=None)
def test_u8_keeps_its_promised_error(values):
    back = decode(encode(values, "u8"), "u8")
    kept = values >= 1e-6
    assert np.all(np.abs(back[kept] - values[kept]) <= 0.028 * values[kept])


@pytest.mark.parametrize("precision", ["u16", "u8"])
def test_codes_are_monotone_and_keep_zero_one_and_missing(precision):
    values = np.sort(np.concatenate([EDGES, np.geomspace(1e-9, 1, 5000)]))
    back = decode(encode(values, precision), precision)
    assert np.all(np.diff(back) >= 0)
    assert decode(encode(np.array([0.0, 1.0]), precision), precision).tolist() == [0.0, 1.0]
    assert np.isnan(decode(encode(np.array([np.nan, 0.5]), precision), precision)).tolist() == [True, False]


@given(st.lists(st.floats(width=32), min_size=1, max_size=50).map(lambda values: np.array(values, np.float32)))
@settings(max_examples=40, deadline=None)
def test_f32_is_exact_to_the_bit(values):
    assert decode(encode(values, "f32"), "f32").tobytes() == values.tobytes()


def test_unknown_precision_names_the_choices():
    with pytest.raises(ArgumentError, match=r"precision must be one of u16, u8, f32, got 'f16'"):
        check_precision("f16")


@pytest.mark.browser
@pytest.mark.parametrize("precision", ["u16", "u8", "f32"])
def test_the_page_decodes_the_same_numbers(show, analysis, precision):
    from attviz.viewer import view

    values = np.array(analysis.documents[0].diagonal)
    values[0, 0, :4] = [0.0, 1.0, np.nan, KNEE]
    from dataclasses import replace

    sheet = show(view(replace(analysis.documents[0], diagonal=values), precision=precision))
    lines = sheet.download("CSV", inside="Values of this document").decode().splitlines()[1:]
    cells = np.array([[np.nan if cell == "" else float(cell) for cell in line.split(",")[10:-1]] for line in lines])
    flat = values.reshape(12, -1)
    expected = decode(encode(flat, precision), precision).reshape(flat.shape)
    np.testing.assert_allclose(cells.T.astype(np.float32), expected.astype(np.float32), rtol=2e-7, atol=0)
