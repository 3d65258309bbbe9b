"""Pairs from a capture that read :class:`attviz.readings.QueryKey`: each layer is cut to the tokens of one text and labelled with them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from attviz.documents import captured_documents
from attviz.errors import ArgumentError
from attviz.records import Analysis, Captured, CapturedDocument, CrossRecord, DiagonalRecord
from attviz.viewer.pairs import PairLayer

if TYPE_CHECKING:
    from torch import Tensor

    from attviz.records import Document

Record = DiagonalRecord | CrossRecord
_LOST = 0.05  # of a row, on average


def read_pairs(record: Record) -> dict[str, Tensor] | None:
    """Parts of the QueryKey reading of a record, whatever it is called: query, key, scale, bias; or weights."""
    for name in record.readings:
        base, _, part = name.rpartition(".")
        found = {one.rpartition(".")[2]: tensor for one, tensor in record.readings.items() if one.rpartition(".")[0] == base}
        if part == "weights" and "index" not in found and tuple(found) == ("weights",):
            return found
        if part == "query" and {"key", "scale", "bias"} <= set(found):
            return found
    return None


@dataclass(frozen=True, slots=True, eq=False)
class _Tower:
    """Layers over the same tokens: an encoder or a decoder has one tower, an encoder-decoder two."""

    records: tuple[DiagonalRecord, ...]
    texts: tuple[CapturedDocument, ...]
    documents: tuple[Document, ...]


def has_pairs(capture: Captured) -> bool:
    """Whether a layer of the last forward was read by QueryKey."""
    records: list[Record] = [*capture.records, *capture.cross_records]
    return any(read_pairs(record) is not None for record in records)


def captured_pairs(
    capture: Captured, tokens: Sequence[Sequence[str]] | None, tokenizer: Any | None
) -> tuple[Analysis, list[list[PairLayer]]]:
    """The texts of a capture and the pairs of each; empty if query and key were not read.

    For an encoder-decoder, the diagonals come from the tower that ran first; the pairs come from both, and from cross-attention.
    """
    towers = list(_towers(capture, tokens, tokenizer))
    first = towers[0]
    names = tuple(f"call:{one.layer_index}" if one.layer is None else one.layer for one in first.records)
    pairs = []
    for place in range(len(first.texts)):
        layers = [layer for tower in towers for record in tower.records for layer in _self_layer(record, tower, place, tower is first)]
        layers += [layer for record in capture.cross_records for layer in _cross_layer(record, towers, place)]
        pairs.append(layers)
    return Analysis(names, list(first.documents), model_name=capture.model_name), pairs


def _towers(capture: Captured, tokens: Sequence[Sequence[str]] | None, tokenizer: Any | None) -> Iterator[_Tower]:
    groups: list[list[DiagonalRecord]] = []
    for record in capture.records:
        group = next((one for one in groups if _same_tokens(one[0], record)), None)
        if group is None:
            groups.append([record])
        else:
            group.append(record)
    for place, group in enumerate(groups):
        texts = capture.documents if len(groups) == 1 else tuple(_texts(group))
        named = captured_documents(texts, "view", tokens if place == 0 else None, tokenizer)
        yield _Tower(tuple(group), texts, tuple(named))


def _same_tokens(one: DiagonalRecord, other: DiagonalRecord) -> bool:
    if one.diagonal.shape != other.diagonal.shape or (one.token_ids is None) != (other.token_ids is None):
        return False
    if one.token_ids is None or other.token_ids is None or one.token_ids is other.token_ids:
        return True
    return one.token_ids.shape == other.token_ids.shape and bool((one.token_ids == other.token_ids).all())


def _texts(records: Sequence[DiagonalRecord]) -> Iterator[CapturedDocument]:
    """One text per row, without its padding."""
    import torch

    first = records[0]
    stacked = torch.stack([record.diagonal for record in records])
    for row in range(stacked.shape[1]):
        mask = torch.ones(stacked.shape[3], dtype=torch.bool) if first.query_mask is None else first.query_mask[row].bool().cpu()
        places = mask.nonzero().squeeze(1)
        ids = None if first.token_ids is None else first.token_ids[row].cpu()[places]
        yield CapturedDocument(stacked[:, row][..., places.to(stacked.device)], ids, row, places)


def _self_layer(record: DiagonalRecord, tower: _Tower, place: int, own: bool) -> Iterator[PairLayer]:
    parts = read_pairs(record)
    if parts is None or place >= len(tower.texts):
        return
    text, named = tower.texts[place], tower.documents[place].tokens
    kv_len = (parts["key"] if "key" in parts else parts["weights"]).shape[-2 if "key" in parts else -1]
    queries = text.places.cpu()
    alike = kv_len == record.diagonal.shape[-1]
    keys, key_names = (queries, named) if alike else _seen_keys(parts, text.row, kv_len)
    name = f"call:{record.layer_index}" if record.layer is None else record.layer
    yield _cut(name, parts, text.row, queries, keys, None if own else named, None if alike and own else key_names, cross=False)


def _cross_layer(record: CrossRecord, towers: Sequence[_Tower], place: int) -> Iterator[PairLayer]:
    """Queries are the tokens of the last tower, keys those of the first, if their numbers agree."""
    parts = read_pairs(record)
    if parts is None:
        return
    q_len, kv_len = (parts["query"].shape[2], parts["key"].shape[2]) if "query" in parts else parts["weights"].shape[2:]
    writer = next((one for one in reversed(towers) if one.records[0].diagonal.shape[-1] == q_len and place < len(one.texts)), None)
    reader = next((one for one in towers if one.records[0].diagonal.shape[-1] == kv_len and place < len(one.texts)), None)
    if writer is None:
        return
    text = writer.texts[place]
    if reader is None:
        keys, names = _seen_keys(parts, text.row, kv_len)
    else:
        keys, names = reader.texts[place].places.cpu(), reader.documents[place].tokens
    yield _cut(
        record.layer or f"cross:{record.layer_index}",
        parts,
        text.row,
        text.places.cpu(),
        keys,
        writer.documents[place].tokens,
        names,
        cross=True,
    )


def _seen_keys(parts: dict[str, Tensor], row: int, kv_len: int) -> tuple[Tensor, tuple[str, ...]]:
    """Keys that some query sees, named by position: those in a cache, or those that are not text."""
    import torch

    seen = torch.ones(kv_len, dtype=torch.bool)
    if "bias" in parts:
        bias = parts["bias"][row if parts["bias"].shape[0] > 1 else 0].cpu()
        seen = (bias > -5000).flatten(0, 1).any(0).expand(kv_len)
    keys = seen.nonzero().squeeze(1)
    return keys, tuple(f"#{key}" for key in keys.tolist())


def _cut(
    name: str,
    parts: dict[str, Tensor],
    row: int,
    queries: Tensor,
    keys: Tensor,
    query_names: tuple[str, ...] | None,
    key_names: tuple[str, ...] | None,
    *,
    cross: bool,
) -> PairLayer:
    """One text of one layer."""
    if "weights" in parts:
        weights = _numbers(parts["weights"][row].cpu()[:, queries][:, :, keys])
        return PairLayer(name, weights=weights, queries=query_names, keys=key_names, cross=cross)
    bias = parts["bias"][row if parts["bias"].shape[0] > 1 else 0].float().cpu()
    bias = bias.expand(bias.shape[0], parts["query"].shape[2], parts["key"].shape[2])[:, queries][:, :, keys]
    query, key = parts["query"][row].float().cpu()[:, queries], parts["key"][row].float().cpu()[:, keys]
    if not bool(query.isfinite().all() and key.isfinite().all()):
        raise ArgumentError(
            f"view: query and key of {name!r} do not fit {parts['query'].dtype}. Read them as they are: QueryKey(dtype=torch.float32)."
        )
    lost = _lost(query, key, float(parts["scale"]), bias, parts["logsumexp"][row].cpu()[:, queries])
    if lost is not None:
        return PairLayer(name, weights=_numbers(lost), queries=query_names, keys=key_names, cross=cross)
    return PairLayer(
        name,
        _numbers(query),
        _numbers(key),
        scale=float(parts["scale"]),
        bias=_numbers(bias) if bool(bias.any()) else None,
        queries=query_names,
        keys=key_names,
        cross=cross,
        rounded=parts["query"].element_size() < 4,
    )


def _lost(query: Tensor, key: Tensor, scale: float, bias: Tensor, logsumexp: Tensor) -> Tensor | None:
    """The weights, if rows do not add up to 1, as with learned sinks: no softmax over the keys reproduces those."""
    import torch

    some = torch.linspace(0, query.shape[1] - 1, min(query.shape[1], 16)).round().long()
    grouped = key.repeat_interleave(query.shape[0] // key.shape[0], 0)
    bias = bias.expand(query.shape[0], -1, -1)
    mass = torch.exp(scale * query[:, some] @ grouped.mT + bias[:, some] - logsumexp[:, some, None]).sum(-1)
    if not bool(((1 - mass).mean(1) > _LOST).any()):  # rounding to 16 bits moves single rows, either way
        return None
    return torch.exp(scale * query @ grouped.mT + bias - logsumexp[..., None])


def _numbers(tensor: Tensor) -> np.ndarray:
    found: np.ndarray = tensor.float().numpy()
    return found
