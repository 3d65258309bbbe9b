"""What a bias contains beyond causality and padding, in the smallest exact form.

A mask that depends only on ``key - query`` is a band (causal, sliding and local windows), such a bias is one line per head (T5, ALiBi), and
anything else is stored as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

HIDDEN_BELOW = -5000.0
"""A bias this low is a mask: ``exp`` of it is 0 in float32, whatever the model wrote (-1e4, -1e9, ``finfo.min``, ``-inf``)."""


@dataclass(frozen=True, slots=True, eq=False)
class PairBias:
    """A decomposed bias; see :func:`take_apart`.

    Attributes:
        band: Query ``i`` sees key ``j`` where ``low <= j - i <= high``; None is no limit.
        hidden: True where a query does not see a key within the band; None if it sees them all. One head if all are equal.
        form: ``"none"``, ``"line"`` or ``"full"``.
        values: Of a line ``[heads, q_len + kv_len - 1]``, the entry of ``j - i`` at ``j - i + q_len - 1``; of a full bias
            ``[heads, q_len, kv_len]``, 0 where hidden. One head if all are equal.
    """

    band: tuple[int | None, int | None]
    hidden: Bool[np.ndarray, "heads q_len kv_len"] | None
    form: Literal["none", "line", "full"]
    values: Float[np.ndarray, "..."] | None


def take_apart(
    bias: Float[np.ndarray, "#heads #q_len #kv_len"] | None, q_len: int, kv_len: int, *, causal_offset: int | None = None
) -> PairBias:
    """Split a bias into a band, a mask and finite values.

    Args:
        bias: Additive bias, any axis may be 1; or None.
        q_len: Number of queries.
        kv_len: Number of keys.
        causal_offset: Set if the operator itself hides keys after ``query + causal_offset``.

    Example:
        >>> causal = np.triu(np.full((1, 3, 3), -np.inf), 1)
        >>> take_apart(causal, 3, 3)
        PairBias(band=(None, 0), hidden=None, form='none', values=None)
    """
    ahead = np.arange(kv_len)[None, :] - np.arange(q_len)[:, None]  # [q_len, kv_len]
    full = np.zeros((1, q_len, kv_len)) if bias is None else np.broadcast_to(bias, (bias.shape[0], q_len, kv_len)).astype(np.float64)
    hidden = ~(full > HIDDEN_BELOW)  # NaN hides too
    if causal_offset is not None:
        hidden = hidden | (ahead > causal_offset)
    hidden = _alike(hidden)
    band, rest = _band(hidden, ahead)
    visible = ~np.broadcast_to(hidden, full.shape)
    form, values = _finite(np.where(visible, full, 0.0), visible, ahead)
    return PairBias(band, rest, form, values)


def _alike(array: np.ndarray) -> np.ndarray:
    """Only the first head, if all heads are equal."""
    return array[:1] if len(array) == 1 or bool((array == array[:1]).all()) else array


def _band(hidden: np.ndarray, ahead: Int[np.ndarray, "q_len kv_len"]) -> tuple[tuple[int | None, int | None], np.ndarray | None]:
    seen = ahead[~hidden.all(0)]
    if not seen.size:
        return (None, None), hidden
    low = None if seen.min() == ahead.min() else int(seen.min())
    high = None if seen.max() == ahead.max() else int(seen.max())
    outside = np.zeros_like(ahead, dtype=bool)
    if low is not None:
        outside |= ahead < low
    if high is not None:
        outside |= ahead > high
    return (low, high), None if bool((hidden == outside).all()) else hidden


def _finite(values: np.ndarray, visible: np.ndarray, ahead: np.ndarray) -> tuple[Literal["none", "line", "full"], np.ndarray | None]:
    if not values.any():
        return "none", None
    heads, q_len, kv_len = values.shape
    place = np.broadcast_to(ahead + q_len - 1, values.shape)
    line = np.zeros((heads, q_len + kv_len - 1))
    for head in range(heads):
        line[head][place[head][visible[head]]] = values[head][visible[head]]
    if all(bool((values[head] == line[head][place[head]])[visible[head]].all()) for head in range(heads)):
        return "line", _alike(line)
    return "full", _alike(values)
