from types import SimpleNamespace

import numpy as np
import pytest
import torch

from attviz.errors import ArgumentError, ShapeError
from attviz.viewer.captured import captured_documents


def capture(**more):
    values = torch.rand(2, 2, 3, 4)
    mask = torch.tensor([[True, True, True, True], [True, True, False, False]])
    values[:, 1, :, 2:] = torch.nan
    fields = {"diagonal": values, "layers": ("a", "b"), "token_ids": torch.tensor([[101, 7, 8, 102], [101, 102, 0, 0]]), "query_mask": mask}
    return SimpleNamespace(**{**fields, **more})


class Tokenizer:
    all_special_ids = (101, 102, 0)

    def convert_ids_to_tokens(self, ids):
        return [f"<{i}>" for i in ids]

    def decode(self, ids):
        return " ".join(map(str, ids))


def test_padding_queries_are_left_out():
    cap = capture()
    first, second = captured_documents(cap, None, Tokenizer())
    assert second.tokens == ("<101>", "<102>")
    assert second.special.tolist() == [True, True]
    assert first.special.tolist() == [True, False, False, True]
    assert second.diagonal.shape == (2, 3, 2)
    np.testing.assert_array_equal(first.diagonal, cap.diagonal[:, 0].numpy())


def test_tokens_may_be_given_with_or_without_padding():
    padded, bare = [["a", "b", "c", "d"], ["e", "f", "pad", "pad"]], [["a", "b", "c", "d"], ["e", "f"]]
    for tokens in (padded, bare):
        assert [one.tokens for one in captured_documents(capture(), tokens, None)] == [("a", "b", "c", "d"), ("e", "f")]


def test_without_names_a_token_is_its_id_or_its_place():
    assert next(captured_documents(capture(), None, None)).tokens == ("101", "7", "8", "102")
    assert next(captured_documents(capture(token_ids=None), None, None)).tokens == ("#0", "#1", "#2", "#3")


def test_tokens_that_do_not_fit_are_told():
    with pytest.raises(ShapeError, match="tokens has 1 sequences and the capture has batch=2"):
        list(captured_documents(capture(), [["a"]], None))
    with pytest.raises(ShapeError, match=r"tokens\[0\] has 1 strings; the sequence has q_len=4, 4 of them real"):
        list(captured_documents(capture(), [["a"], ["b"]], None))
    with pytest.raises(ArgumentError, match=r"no token_ids for the tokenizer to read; pass tokens="):
        list(captured_documents(capture(token_ids=None), None, Tokenizer()))
    with pytest.raises(ShapeError, match=r"must be \[num_layers, batch, num_heads, q_len\], got \[2, 3, 4\]"):
        list(captured_documents(capture(diagonal=torch.rand(2, 3, 4)), None, None))


def test_texts_packed_into_a_row_are_several_sequences():
    cap = capture(documents=tuple(SimpleNamespace(row=0, places=torch.tensor(places)) for places in ([0], [1, 2], [3])))
    tokens = [["a"], ["b", "c"], ["d"]]
    documents = list(captured_documents(cap, tokens, None))
    assert [one.tokens for one in documents] == [("a",), ("b", "c"), ("d",)]
    np.testing.assert_array_equal(documents[1].diagonal, cap.diagonal[:, 0, :, 1:3].numpy())
    assert [one.tokens for one in captured_documents(cap, None, Tokenizer())] == [("<101>",), ("<7>", "<8>"), ("<102>",)]
    with pytest.raises(ShapeError, match="tokens has 1 sequences and the capture has 3 of them, packed into 2 rows"):
        list(captured_documents(cap, [["a"]], None))
