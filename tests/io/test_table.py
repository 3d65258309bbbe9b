"""Rows of tokens as data frame, CSV and Parquet."""

import csv
import sys

import numpy as np
import pandas as pd
import pytest

from attviz.errors import MissingExtraError
from attviz.io import to_csv, to_pandas, to_parquet
from attviz.records import Analysis, Document

VALUES = np.array([[[0.5, 0.25], [0.125, 1.0]]], dtype=np.float16)
DOCUMENT = Document("=1 b", ("=1", "b"), VALUES, token_ids=np.array([7, 8]), special=np.array([True, False]), name="@cmd", label=1)
ANALYSIS = Analysis(("l0",), [DOCUMENT, Document("", (), np.zeros((1, 2, 0), dtype=np.float16))])


def test_one_row_per_token_and_one_column_per_head():
    frame = to_pandas(ANALYSIS)
    assert frame["token"].tolist() == ["=1", "b"]
    assert frame["L0H1"].tolist() == [0.125, 1.0]
    assert frame["special"].tolist() == [True, False]
    assert len(to_pandas(Analysis(("l0",), []))) == 0


def test_csv_guards_formulas_and_keeps_values(tmp_path):
    with to_csv(ANALYSIS, tmp_path / "a.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["token"] for row in rows] == ["'=1", "b"]
    assert rows[0]["name"] == "'@cmd"
    assert [float(row["L0H0"]) for row in rows] == [0.5, 0.25]


def test_parquet_gives_the_same_frame(tmp_path):
    pd.testing.assert_frame_equal(pd.read_parquet(to_parquet(ANALYSIS, tmp_path / "a.parquet")), to_pandas(ANALYSIS), check_dtype=False)


@pytest.mark.parametrize(("call", "package"), [(to_pandas, "pandas"), (lambda one: to_parquet(one, "never"), "pyarrow")])
def test_a_missing_package_is_named_with_its_cure(monkeypatch, call, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"needs {package}: pip install .attviz\[tables\]"):
        call(ANALYSIS)
