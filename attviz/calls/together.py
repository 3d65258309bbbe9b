"""Small calls of one shape from several layers, finished together: layer by layer, the overhead would exceed the arithmetic.

On the CPU the scores of the own keys are computed immediately, and the first read finishes all layers together. On a GPU, where a launch
costs more than the work it does here, a call keeps references to its query, its keys and the log-sum-exp of its rows, and when the forward
ends one launch serves all layers. That is valid only while nobody overwrites them, so the first forward is computed both ways and compared
(:mod:`attviz.hooks.session.short`), and in later ones PyTorch's version counters show any write.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from attviz.kernels import diagonal_of_bias, weights_from_scores
from attviz.kernels.key_slots import bias_at
from attviz.kernels.self_score import self_scores
from attviz.kernels.small_calls import weights_of_calls
from attviz.modes import outside_inference

if TYPE_CHECKING:
    from jaxtyping import Float

SMALL = 4096  # elements of a query; with more, a layer's product takes longer than asking for it
HELD = 16 << 20  # bytes of keys that may be kept alive: a forward with more is finished in parts


class Together:
    """Calls of one shape in order of execution: kept for the end, computed at once, or both, to see whether the two agree.

    Attributes:
        kept: Query and key are kept until the end.
        past: Key of query 0, if only the device knows it.
        full: Whether it holds as much as it may, so that it must be closed and another begun.
    """

    def __init__(
        self,
        rows: tuple[int, int, int],
        scale: float,
        kv_len: int,
        *,
        kept: bool,
        at_once: bool,
        packed: bool = False,
        past: Tensor | None = None,
    ) -> None:
        """Begin.

        Args:
            rows: ``(batch, num_heads, q_len)`` of each call.
            scale: Factor on the scores.
            kv_len: Keys of each call.
            kept: Keep query and key until the end.
            at_once: Compute the scores while the operator runs.
            packed: The heads of a group take the place of queries; all of them are at the position of the one query.
            past: Key of query 0 of every call, if only the device knows it.
        """
        self._rows, self._scale, self._kv_len, self._packed, self.past = rows, scale, kv_len, packed, past
        self.kept, self._at_once = kept, at_once
        self._queries: list[Tensor] = []
        self._keys: list[Tensor] = []
        self._versions: list[int] = []
        self._scores: list[Tensor] = []
        self._logsumexps: list[Tensor] = []
        self._offsets: list[int] = []
        self._biases: list[Tensor] = []
        self._own: list[Tensor] = []  # copies of the biases at the own keys, and at those of the last query
        self._last: list[Tensor] = []
        self._with_last = False
        self._weights: tuple[Tensor, ...] | None = None
        self._bytes = 0
        self.full = False

    def add(self, query: Tensor, key: Tensor, logsumexp: Tensor, offset: int, bias: Tensor | None, with_last: bool) -> int:
        """Add a call from inside its operator; returns its number.

        Args:
            query: ``[batch, num_heads, q_len, head_dim]``.
            key: ``[batch, num_kv_heads, kv_len, head_dim]``.
            logsumexp: Log-sum-exp of the rows, ``[batch, num_heads, q_len]``.
            offset: Key of query 0.
            bias: What the operator added to the scores.
            with_last: Whether the last row of the bias will be asked for.
        """
        self._logsumexps.append(logsumexp)
        if self._at_once:
            # most calls: nothing to select or to cast, so one dispatch, which is what self_scores does with a small query
            plain = key.shape == query.shape and query.dtype is torch.float32 and key.dtype is torch.float32 and self.past is None
            self._scores.append(torch.linalg.vecdot(query, key) if plain and not self._packed else self._products(query, key, offset))
            if bias is not None:
                self._own.append(_own(bias, self._rows[2], self._first(offset)).clone())
                if with_last:
                    self._last.append(_last(bias, self._rows[2], offset).clone())
        if self.kept:
            self._queries.append(query)
            self._keys.append(key)
            self._offsets.append(offset)
            self._versions.append(query._version + key._version + (0 if bias is None else bias._version))
            if bias is not None:
                self._biases.append(bias)
                self._with_last = with_last
            self._bytes += key.numel() * key.element_size()
            self.full = self._bytes > HELD
        return len(self._logsumexps) - 1

    def close(self) -> set[int]:
        """End the forward and release what is kept. Returns the calls whose query or keys were overwritten meanwhile."""
        if not self.kept or not self._queries:
            return set()
        changed = self._changed()
        rules = {"scale": self._scale, "offsets": self._offsets, "past": self.past, "packed": self._packed}
        found = weights_of_calls(self._queries, self._keys, self._logsumexps, self._biases, **rules)  # type: ignore[arg-type]
        found = found.view(len(self._queries), *self._rows)
        if self._at_once:
            changed |= _different(self._finished(), found)
        elif self.past is None:
            self._copy_biases()
        if not self._at_once:
            self._weights, self._logsumexps = found.unbind(), []
        self._queries, self._keys, self._biases = [], [], []
        return changed

    def bias(self, index: int) -> tuple[Tensor, Tensor | None] | None:
        """What was added to the scores of a call's own keys, and to those of the last query; None if nothing was, or if unknown."""
        if not self._own or self.past is not None:
            return None
        return self._own[index], self._last[index] if self._last else None

    def weights(self, index: int) -> Float[Tensor, "batch num_heads q_len"]:
        """The diagonal of a call; computed once for all of them."""
        if self._weights is None:
            with outside_inference(), torch.no_grad():
                self._weights = self._finished().unbind()
            self._scores, self._logsumexps = [], []
        return self._weights[index]

    def _finished(self) -> Float[Tensor, "calls batch num_heads q_len"]:
        count, (batch, num_heads, q_len) = len(self._logsumexps), self._rows
        made = torch.stack(self._scores).reshape(count * batch, num_heads, q_len)
        logsumexp = torch.stack(self._logsumexps).reshape(made.shape)
        bias = None
        if self._own:
            bias = torch.stack([own[(None,) * (3 - own.ndim)] for own in self._own]).expand(-1, batch, -1, -1).flatten(0, 1)
        found = weights_from_scores(made, logsumexp, self._scale, bias, kv_len=self._kv_len)
        return found.view(count, batch, num_heads, q_len)

    def _first(self, offset: int) -> int | Tensor:
        """Key of query 0, clamped so that all queries have keys."""
        return offset if self.past is None else self.past.clamp(max=self._kv_len - self._rows[2])

    def _products(self, query: Tensor, key: Tensor, offset: int) -> Tensor:
        """Scores of the own keys; packed heads share one."""
        rows = self._rows[2]
        if self.past is not None:
            key = key.index_select(2, torch.arange(rows, device=key.device) + self._first(offset))
        elif key.shape[2] != rows:
            key = key.narrow(2, offset, rows)
        return self_scores(query, key.expand(-1, -1, query.shape[2], -1) if self._packed else key)

    def _changed(self) -> set[int]:
        """Calls that were overwritten, as far as can be seen: PyTorch counted a write, or the next layer used the same buffer."""
        now = [query._version + key._version for query, key in zip(self._queries, self._keys, strict=True)]
        if self._biases:
            now = [version + bias._version for version, bias in zip(now, self._biases, strict=True)]
        places = [query.data_ptr() for query in self._queries]
        if now == self._versions and len(set(places)) == len(places):
            return set()
        pairs = enumerate(zip(now, self._versions, places, strict=True))
        return {number for number, (version, before, place) in pairs if version != before or places.count(place) > 1}

    def _copy_biases(self) -> None:
        """Keep the biases at the own keys: one copy for all layers, because on a device every copy is a launch."""
        if not self._biases:
            return
        pairs = list(zip(self._biases, self._offsets, strict=True))
        self._own = list(torch.stack([_own(bias, self._rows[2], offset) for bias, offset in pairs]).unbind())
        if self._with_last:
            self._last = list(torch.stack([_last(bias, self._rows[2], offset) for bias, offset in pairs]).unbind())


class Share:
    """One call's part of what is finished together; used in place of :class:`attviz.calls.deferred.Deferred`."""

    __slots__ = ("_index", "_together")

    def __init__(self, together: Together, index: int) -> None:
        self._together, self._index = together, index

    @property
    def added(self) -> tuple[Tensor, Tensor | None] | None:
        """What was added to the scores of the own keys, and to those of the last query."""
        return self._together.bias(self._index)

    def finish(self) -> Float[Tensor, "batch num_heads q_len"]:
        """Probabilities in [0, 1], float32."""
        return self._together.weights(self._index)


def _own(bias: Tensor, q_len: int, offset: int | Tensor) -> Tensor:
    if isinstance(offset, Tensor):
        return bias_at(bias.detach(), (torch.arange(q_len, device=bias.device) + offset).expand(1, 1, -1))
    return diagonal_of_bias(bias.detach(), q_len, offset)


def _last(bias: Tensor, q_len: int, offset: int) -> Tensor:
    row = bias.detach() if bias.ndim == 1 else bias.detach()[..., -1, :]
    return row if row.shape[-1] == 1 else row[..., offset : offset + q_len]


def _different(one: Tensor, other: Tensor) -> set[int]:
    """Calls whose diagonals, computed at once and at the end, differ by more than the order of summation. Waits for the device."""
    alike = torch.isclose(one, other, rtol=1e-3, atol=1e-8, equal_nan=True).flatten(1).all(1).tolist()
    return {number for number, same in enumerate(alike) if not same}
