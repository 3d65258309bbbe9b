"""Pairs of tokens in the page: query and key of each layer in 16 bits, from which the browser forms the rows it shows.

Weights would be ``num_heads * q_len * kv_len`` numbers, query and key are ``2 * num_heads * q_len * head_dim``. A softmax does not change
when a number is added to every score of a row, so the mean key is subtracted before rounding: that alone makes keys with a large constant
part, which many models have, fit 16 bits.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from attviz.errors import ShapeError
from attviz.viewer.codec import encode
from attviz.viewer.pairs_bias import PairBias, take_apart

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

WORST_ERROR = 0.004
"""Of a weight after rounding to 16 bits; a layer above it is kept in 32."""
_CHECKED_ROWS = 16


@dataclass(frozen=True, slots=True, eq=False)
class PairLayer:
    """One attention of one text: query and key or, if the model has only those, weights.

    Attributes:
        name: Qualified name of the module.
        query: After positional encoding.
        key: After positional encoding; ``num_kv_heads`` divides ``num_heads``.
        weights: Softmax output; set if query and key are None.
        scale: Factor on ``query @ key.mT``.
        bias: Additive mask or bias, or None; each axis may be 1.
        is_causal: The operator itself hid key ``j > i``.
        cross: Keys come from another sequence.
        keys: Key tokens, if they are not the document's own, as in cross-attention.
        queries: Query tokens, if they are not the document's own, as in the decoder.
        rounded: Whether query and key have less than 32 bits, so that the accuracy of the page is unknown.
    """

    name: str
    query: Float[np.ndarray, "num_heads q_len head_dim"] | None = None
    key: Float[np.ndarray, "num_kv_heads kv_len head_dim"] | None = None
    weights: Float[np.ndarray, "num_heads q_len kv_len"] | None = None
    scale: float = 1.0
    bias: Float[np.ndarray, "#num_heads #q_len #kv_len"] | None = None
    is_causal: bool = False
    cross: bool = False
    keys: tuple[str, ...] | None = None
    queries: tuple[str, ...] | None = None
    rounded: bool = False

    @property
    def shape(self) -> tuple[int, int, int]:
        """``num_heads, q_len, kv_len``."""
        if self.query is None or self.key is None:
            assert self.weights is not None
            return self.weights.shape
        return self.query.shape[0], self.query.shape[1], self.key.shape[1]


def pair_parts(
    layers: Sequence[PairLayer], tokens: tuple[str, ...], special: Sequence[int], heads: Sequence[int] | None, where: str
) -> tuple[dict[str, Any], list[str]]:
    """What the page reads of a document's pairs: one head, and the data of each layer.

    Args:
        layers: In order of execution.
        tokens: The document's own tokens.
        special: Positions of its special tokens.
        heads: Heads to keep; None keeps all.
        where: Names the document in errors.

    Raises:
        ShapeError: If a layer does not fit its tokens.
    """
    sides: list[tuple[str, ...]] = [tokens]
    described, data = [], []
    for layer in layers:
        queries, keys = layer.queries or tokens, layer.keys or layer.queries or tokens
        _check(layer, len(queries), len(keys), where)
        for side in (queries, keys):
            if side not in sides:
                sides.append(side)
        meta, coded = _coded(layer, heads)
        described.append({"name": layer.name, "cross": layer.cross, "q": sides.index(queries), "k": sides.index(keys)} | meta)
        data.append(coded)
    own = {"tokens": list(tokens), "special": list(special)}
    return {"sides": [own, *({"tokens": list(side)} for side in sides[1:])], "layers": described}, data


def _check(layer: PairLayer, q_len: int, kv_len: int, where: str) -> None:
    if (layer.query is None or layer.key is None) and layer.weights is None:
        raise ShapeError(f"view: {where}: pairs of {layer.name!r} have neither query and key nor weights.")
    if layer.shape[1:] != (q_len, kv_len):
        raise ShapeError(
            f"view: {where}: pairs of {layer.name!r} are {layer.shape[1]} queries x {layer.shape[2]} keys, "
            f"but there are {q_len} query tokens and {kv_len} key tokens."
        )


def _coded(layer: PairLayer, heads: Sequence[int] | None) -> tuple[dict[str, Any], str]:
    kept = list(range(layer.shape[0])) if heads is None else [head for head in heads if head < layer.shape[0]]
    meta: dict[str, Any] = {"heads": kept, "size": list(layer.shape[1:])}
    if layer.query is None or layer.key is None:
        assert layer.weights is not None
        return meta | {"form": "weights"}, encode(np.clip(layer.weights[kept].astype(np.float32), 0, 1), "u16")
    group = layer.query.shape[0] // layer.key.shape[0]
    kv_heads = sorted({head // group for head in kept})
    bias = None if layer.bias is None or layer.bias.shape[0] == 1 else layer.bias[kept]
    parts = take_apart(layer.bias if bias is None else bias, *layer.shape[1:], causal_offset=0 if layer.is_causal else None)
    rounded = _Rounded.of(layer.query[kept], layer.key[kv_heads])
    of = [kv_heads.index(head // group) for head in kept]
    error = rounded.error(layer, kept, of, parts)
    if error > WORST_ERROR:
        rounded, error = _Rounded.of(layer.query[kept], layer.key[kv_heads], "<f4"), 0.0
    meta |= {
        "form": "f32" if rounded.dtype == "<f4" else "f16",
        "kv": of,
        "dim": layer.query.shape[2],
        "scale": layer.scale,
        "band": list(parts.band),
    }
    if not layer.rounded:
        meta["error"] = float(f"{error:.2g}")
    blocks = [rounded.mean.astype("<f4").tobytes()]
    if parts.values is not None:
        meta["bias"] = [parts.form, len(parts.values)]
        if parts.form == "line":
            blocks.append(parts.values.astype("<f4").tobytes())
    blocks += [rounded.query.tobytes(), rounded.key.tobytes()]
    if parts.form == "full" and parts.values is not None:
        blocks.append(parts.values.astype("<f2").tobytes())
    if parts.hidden is not None:
        meta["hidden"] = len(parts.hidden)
        blocks.append(np.packbits(parts.hidden, axis=-1, bitorder="little").tobytes())
    return meta, base64.b64encode(b"".join(blocks)).decode("ascii")


@dataclass(frozen=True, slots=True, eq=False)
class _Rounded:
    """Query and key as the page stores them, with the mean key subtracted."""

    query: np.ndarray
    key: np.ndarray
    mean: Float[np.ndarray, "num_kv_heads 1 head_dim"]
    dtype: str

    @classmethod
    def of(cls, query: np.ndarray, key: np.ndarray, dtype: str = "<f2") -> _Rounded:
        mean = key.astype(np.float64).mean(1, keepdims=True).astype(np.float32)
        with np.errstate(over="ignore"):  # what overflows shows in the error, and is kept in 32 bits
            return cls(query.astype(dtype), (key - mean).astype(dtype), mean, dtype)

    def error(self, layer: PairLayer, kept: Sequence[int], of: Sequence[int], parts: PairBias) -> float:
        """Largest difference of a weight from the exact one, over a few rows of every head."""
        assert layer.query is not None
        assert layer.key is not None
        q_len = layer.query.shape[1]
        rows = np.unique(np.linspace(0, q_len - 1, min(q_len, _CHECKED_ROWS)).round().astype(int))
        added = _added(layer, rows, kept)
        group = layer.query.shape[0] // layer.key.shape[0]
        exact = _weights(layer.query[kept][:, rows], layer.key[[head // group for head in kept]], layer.scale, added)
        ours = _weights(self.query[:, rows], self.key[list(of)], layer.scale, added)
        worst = np.abs(exact - ours).max(initial=0.0)
        return float(worst) if np.isfinite(worst) else float("inf")


def _added(layer: PairLayer, rows: np.ndarray, kept: Sequence[int]) -> Float[np.ndarray, "heads rows kv_len"]:
    _, q_len, kv_len = layer.shape
    added = np.zeros((1, len(rows), kv_len))
    if layer.bias is not None:
        bias = layer.bias if layer.bias.shape[0] == 1 else layer.bias[kept]
        added = np.broadcast_to(bias, (bias.shape[0], q_len, kv_len))[:, rows].astype(np.float64)
    if layer.is_causal:
        added = np.where(np.arange(kv_len) > rows[:, None], -np.inf, added)
    return added


def _weights(query: np.ndarray, key: np.ndarray, scale: float, added: np.ndarray) -> Bool[np.ndarray, "heads rows kv_len"]:
    with np.errstate(invalid="ignore", over="ignore"):
        scores = scale * (query.astype(np.float32) @ key.astype(np.float32).swapaxes(1, 2)).astype(np.float64) + added
        scores -= scores.max(-1, keepdims=True)
        weights = np.exp(scores)
        weights /= weights.sum(-1, keepdims=True)
    return np.where(np.isneginf(added).all(-1, keepdims=True), 0.0, weights)
