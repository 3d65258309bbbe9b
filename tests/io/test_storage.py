"""Archives of one and two bytes a value: the error is the one that is stated, and what was stored once does not drift."""

import json

import numpy as np
import pytest

from attviz import io
from attviz.cli import main
from attviz.codes import u8_codes, u8_values, u16_codes, u16_values
from attviz.errors import ArgumentError
from attviz.records import Analysis, Document


def analysis(values):
    return Analysis(("a",), [Document("t", ("t",) * len(values), np.array(values, np.float32).reshape(1, 1, -1))], model_name="m")


def test_what_was_stored_is_stored_again_as_the_same_codes():
    for codes, values, dtype, count in ((u16_codes, u16_values, np.uint16, 65536), (u8_codes, u8_values, np.uint8, 256)):
        every = np.arange(count).astype(dtype)
        again = codes(values(every).astype(np.float32).astype(np.float64))
        np.testing.assert_array_equal(again.astype(dtype), every)


@pytest.mark.parametrize(("precision", "size"), [("float32", 4), ("float16", 2), ("u16", 2), ("u8", 1)])
def test_the_error_is_the_one_that_is_stated(tmp_path, precision, size, capsys):
    values = np.concatenate([np.logspace(-9, 0, 4000), np.linspace(0, 1, 4001), [np.nan]]).astype(np.float32)
    path = io.save(analysis(values), tmp_path / "run.attviz", precision=precision)
    found = io.load(path).documents[0].diagonal[0, 0].astype(np.float64)
    exact = values.astype(np.float64)
    error, real = np.abs(found - exact), ~np.isnan(exact)
    np.testing.assert_array_equal(np.isnan(found), ~real)
    np.testing.assert_array_equal(found[exact == 0], 0)
    np.testing.assert_array_equal(found[exact == 1], 1)
    if precision == "u16":
        small = real & (exact >= 1e-8) & (exact < 0.0658)
        assert (error[small] <= 2.3e-4 * exact[small]).all()
        assert (error[real & (exact >= 0.0658)] <= 1.6e-5).all()
    elif precision == "u8":
        large = real & (exact >= 1e-6)
        assert (error[large] <= 0.028 * exact[large]).all()
    elif precision == "float16":
        assert (error[real] <= np.maximum(4.9e-4 * exact[real], 3.0e-8)).all()
    else:
        assert (error[real] == 0).all()
    assert io.load(path).documents.file.tensors["diagonal"].dtype.itemsize == size
    report = io.verify(path)
    assert report
    assert report.precision == precision
    assert main(["check", str(path)]) == 0
    assert f"stored as {precision}: error " in capsys.readouterr().out
    assert main(["check", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["precision"] == precision
    again = io.save(io.load(path), tmp_path / "again.attviz", precision=precision)
    assert again.read_bytes() == path.read_bytes()


def test_a_precision_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(ArgumentError, match="precision must be one of 'float32', 'float16', 'u16', 'u8'; got 'u4'"):
        io.save(analysis([0.5]), tmp_path / "run.attviz", precision="u4")
