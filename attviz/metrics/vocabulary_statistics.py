"""How much each word of the vocabulary attends to its own position: the numbers behind token bars and word clouds."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from attviz.errors import ArgumentError, MetricError
from attviz.kernels import TokenOrder, TokenState, merge_by_token
from attviz.metrics._streaming.feeds import LayerValues
from attviz.metrics._streaming.moments import Cells, Moments
from attviz.metrics._streaming.shapes import Layout
from attviz.metrics._streaming.states import LayerInfo, merge_layers
from attviz.metrics._streaming.streaming import StreamingMetric
from attviz.metrics.vocabulary_table import VocabularyTable

By = Literal["model", "layer", "head"]


@dataclass(slots=True)
class _StepRows:
    """The token ids of one step as rows of the tables, with their order, for all layers of that step.

    Attributes:
        key: What identifies this step.
        alive: The tensors in ``key``, kept so that no other tensor can take their place in memory.
        rows: Row of each token; -1 if it has none.
        skipped: Real tokens without a row.
        beyond: Real tokens whose id is outside the vocabulary.
        last: Index of the last layer that read it.
    """

    key: tuple[int | None, int, int]
    alive: tuple[Tensor | None, Tensor | None]
    rows: Tensor
    skipped: Tensor
    beyond: Tensor
    last: int = -1
    orders: dict[int, TokenOrder] = field(default_factory=dict)

    def order(self, copies: int) -> TokenOrder:
        if copies not in self.orders:
            self.orders[copies] = TokenOrder.of(self.rows.repeat_interleave(copies, 0))
        return self.orders[copies]


class VocabularyStatistics(StreamingMetric):
    """Count, mean, standard deviation and extremes of the diagonal per vocabulary id, over everything seen since ``reset``.

    Memory is fixed: 24 bytes per id and head (``by="head"``), per id and layer (``by="layer"``) or per id (``by="model"``), plus 8 per id;
    a layer's table is made when the layer is first seen. 128256 ids x 32 heads take 95 MiB per layer. An occurrence with a NaN in any
    head is left out of all of them, and counted.

    Args:
        vocab_size: Number of ids. ``attviz.capture`` reads it from the model; otherwise give it, or ``tokens``, or ``max_tokens``.
        by: One table for the model, one per layer, or one per layer and head. Coarser tables pool the finer ones' values.
        tokens: Keep only these ids.
        max_tokens: Keep only the ids below this; vocabularies built by merging list the frequent words first.
        max_bytes: Refuse to grow beyond this.
        reading: Which number of each token: the diagonal, a reading such as ``attviz.readings.Offset(-1)``, or the name of one in the
            capture's ``read=``.
        exclude_ids: Vocabulary ids to leave out, such as ``tokenizer.all_special_ids``.
        **kwargs: Passed to ``torchmetrics.Metric``.

    Raises:
        ArgumentError: If the options contradict each other.

    Example:
        >>> metric = VocabularyStatistics(vocab_size=10, by="model")
        >>> metric.update(torch.tensor([[[0.5, 1.0, 0.25]]]), token_ids=torch.tensor([[7, 3, 7]]))
        >>> metric.compute().mean[7]
        tensor(0.3750, dtype=torch.float64)
    """

    def __init__(
        self,
        vocab_size: int | None = None,
        *,
        by: By = "layer",
        tokens: Collection[int] | None = None,
        max_tokens: int | None = None,
        max_bytes: int = 4 * 2**30,
        exclude_ids: Collection[int] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(exclude_ids=exclude_ids, **kwargs)
        if by not in get_args(By):
            raise ArgumentError(f"VocabularyStatistics: by must be one of {', '.join(map(repr, get_args(By)))}, got {by!r}.")
        if tokens is not None and max_tokens is not None:
            raise ArgumentError("VocabularyStatistics: give tokens= or max_tokens=, not both.")
        for name, value in (("vocab_size", vocab_size), ("max_tokens", max_tokens)):
            if value is not None and (type(value) is not int or value < 1):
                raise ArgumentError(f"VocabularyStatistics: {name} must be a positive int, got {value!r}.")
        if tokens is not None and (not tokens or any(type(token) is not int or not 0 <= token < 2**31 for token in tokens)):
            raise ArgumentError("VocabularyStatistics: tokens= must be a non-empty collection of token ids.")
        self.vocab_size, self.by, self.max_tokens, self.max_bytes = vocab_size, by, max_tokens, max_bytes
        self.tokens = None if tokens is None else tuple(sorted(set(tokens)))
        self._rows: dict[torch.device, Tensor] = {}
        self._step: _StepRows | None = None

    def prepare(self, model: torch.nn.Module) -> None:
        """Read the vocabulary size from ``model`` unless it is known; ``attviz.capture`` calls this."""
        if self.vocab_size is None:
            inner: Any = model if hasattr(model, "config") else getattr(model, "module", model)  # DistributedDataParallel and the like
            try:
                embeddings = inner.get_input_embeddings()
            except (AttributeError, NotImplementedError):
                embeddings = None
            found = getattr(embeddings, "num_embeddings", None) or getattr(getattr(inner, "config", None), "vocab_size", None)
            self.vocab_size = found if type(found) is int and found > 0 else None

    @property
    def num_rows(self) -> int:
        """Ids the tables hold.

        Raises:
            MetricError: If neither vocabulary nor subset is known.
        """
        if self.tokens is not None:
            return len(self.tokens)
        sizes = [size for size in (self.vocab_size, self.max_tokens) if size is not None]
        if not sizes:
            raise MetricError(
                "VocabularyStatistics: the vocabulary size is not known. Pass vocab_size=model.config.vocab_size (or "
                "len(tokenizer)), or tokens= or max_tokens=."
            )
        return min(sizes)

    @property
    def nbytes(self) -> int:
        """Bytes of device memory that the tables take now."""
        return sum(tensor.nbytes for tensor in self._state.tensors().values())

    def bytes_per_layer(self, num_heads: int, by: By | None = None) -> int:
        """Bytes that one more layer of ``num_heads`` heads takes (``by="model"``: the first one only)."""
        columns = num_heads if (by or self.by) == "head" else 1
        return self.num_rows * (24 * columns + 8)

    def compute(self) -> VocabularyTable:
        """Compute the tables so far, over all processes.

        Raises:
            MetricError: If nothing was seen yet (EmptyMetricError), or an id was outside the vocabulary.
        """
        self._require_data()
        beyond = sum(int(self._state.sums[f"beyond/{index}"]) for index in self._state.layers)
        if beyond:
            raise MetricError(
                f"VocabularyStatistics: {beyond} token ids were {self.vocab_size} or above, outside vocab_size={self.vocab_size}. "
                "The others were counted; construct the metric with the true size (model.get_input_embeddings().num_embeddings)."
            )
        return VocabularyTable.of(self._state, self.by, self._ids())

    def _check(self, layers: list[LayerValues]) -> None:
        super()._check(layers)
        growth = 0
        for layer in layers:
            if layer.token_ids is None:
                raise MetricError(
                    f"VocabularyStatistics: layer {layer.index} came without token ids. Pass token_ids= to update, or to attviz.capture "
                    "if the model's forward has no input_ids."
                )
            if f"tokens/{self._key(layer.index)}" not in self._state.moments and (self.by != "model" or layer is layers[0]):
                growth += self.bytes_per_layer(layer.num_heads)
            if self.vocab_size is not None and layer.token_ids.device.type == "cpu" and layer.token_ids.numel():
                highest = int(layer.token_ids.max())  # free here; on a device it would wait, so compute() reports it there
                if highest >= self.vocab_size:
                    raise MetricError(
                        f"VocabularyStatistics: token id {highest} is outside vocab_size={self.vocab_size}. Does the tokenizer have "
                        "added tokens? Then the size is model.get_input_embeddings().num_embeddings. The state is unchanged."
                    )
        if growth and self.nbytes + growth > self.max_bytes:
            raise MetricError(self._too_large(layers[-1], growth))

    def _too_large(self, layer: LayerValues, growth: int) -> str:
        heads, mib = layer.num_heads, 2**20
        coarser: dict[By, tuple[By, ...]] = {"head": ("layer", "model"), "layer": ("model",), "model": ()}
        options = [
            f"by={by!r} ({self.bytes_per_layer(heads, by) / mib:.1f} MiB{' a layer' if by == 'layer' else ' in all'})"
            for by in coarser[self.by]
        ]
        return (
            f"VocabularyStatistics(by={self.by!r}): layer {layer.index} would grow its tables to {(self.nbytes + growth) / mib:.1f} MiB, "
            f"more than max_bytes={self.max_bytes / mib:.1f} MiB ({self.num_rows} ids x {heads} heads are "
            f"{self.bytes_per_layer(heads) / mib:.1f} MiB). Smaller: {', '.join([*options, 'tokens=[...]', 'max_tokens=N'])}; "
            "or capture fewer layers, or raise max_bytes. The state is unchanged."
        )

    def _absorb(self, layer: LayerValues) -> None:
        key, index = f"tokens/{self._key(layer.index)}", layer.index
        self._make_tables(layer)
        step = self._rows_of(layer)
        usable = layer.valid().all(1)
        # Sorted once a step, for all its layers; a NaN at a real token must be left out of its own layer only. Whether there is one
        # can be asked for nothing on the CPU; on a device asking would wait, so each layer is sorted again there.
        clean = layer.values.device.type == "cpu" and bool((usable | (step.rows < 0)).all())
        columns = self._state.moments[key].mean.shape[1]
        copies = layer.num_heads if columns == 1 else 1
        order = step.order(copies) if clean else TokenOrder.of(step.rows.repeat_interleave(copies, 0), usable.repeat_interleave(copies, 0))
        diagonal = layer.values.reshape(-1, columns, layer.values.shape[2])
        table = self._state.moments[key]
        merge_by_token(TokenState(table.count.view(-1), table.mean, table.m2, table.max, table.min), order, diagonal)
        sums = self._state.sums
        sums[f"faults/{index}"] += layer.faults()
        sums[f"skipped/{index}"] += step.skipped
        sums[f"beyond/{index}"] += step.beyond

    def _make_tables(self, layer: LayerValues) -> None:
        info, device = LayerInfo(layer.num_heads, layer.name), layer.values.device
        layout, state = self._layout({layer.index: info}), self._state
        for name, cells in layout.moments.items():
            if name not in state.moments:
                state.moments[name] = Moments.empty(cells, device)
            elif state.moments[name].mean.device != device:  # after load_state, or one table for layers on several devices
                state.moments[name] = state.moments[name].map(lambda tensor: tensor.to(device))
        for name, (dtype, shape) in layout.sums.items():
            state.sums[name] = state.sums[name].to(device) if name in state.sums else torch.zeros(shape, dtype=dtype, device=device)
        state.layers[layer.index] = merge_layers(state.layers, {layer.index: info})[layer.index]

    def _rows_of(self, layer: LayerValues) -> _StepRows:
        assert layer.token_ids is not None
        held = self._step
        if held is None or layer.step is None or held.key != (layer.step, id(layer.token_ids), id(layer.real)) or held.last >= layer.index:
            self._step = held = self._read_rows(layer, layer.token_ids)
        held.last = layer.index
        return held

    def _read_rows(self, layer: LayerValues, token_ids: Tensor) -> _StepRows:
        ids, device = token_ids.long(), layer.values.device
        ids = ids.to(device)
        real = torch.ones_like(ids, dtype=torch.bool) if layer.real is None else layer.real
        beyond = torch.zeros_like(real) if self.vocab_size is None else ids >= self.vocab_size
        table = self._table_on(device)
        known = (ids >= 0) & (ids < len(table))
        rows = torch.where(known & real & ~beyond, table[ids.clamp(0, len(table) - 1)], -1)
        key = (layer.step, id(layer.token_ids), id(layer.real))
        return _StepRows(key, (layer.token_ids, layer.real), rows, ((rows < 0) & real).sum(), (beyond & real).sum())

    def _table_on(self, device: torch.device) -> Tensor:
        """Row of each token id, -1 if it has none; copied to a device once."""
        if device not in self._rows:
            ids = torch.arange(self.num_rows) if self.tokens is None else torch.tensor(self.tokens)
            table = torch.full((int(ids[-1]) + 1,), -1)
            table[ids] = torch.arange(len(ids))
            for token in self.exclude_ids:
                if token < len(table):
                    table[token] = -1
            self._rows[device] = table.to(device)
        return self._rows[device]

    def _ids(self) -> Tensor:
        return torch.arange(self.num_rows) if self.tokens is None else torch.tensor(self.tokens)

    def _key(self, index: int) -> str:
        return "model" if self.by == "model" else str(index)

    def _layout(self, layers: dict[int, LayerInfo]) -> Layout:
        moments: dict[str, Cells] = {}
        sums: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {}
        for index, info in layers.items():
            columns = info.num_heads if self.by == "head" else 1
            moments[f"tokens/{self._key(index)}"] = Cells((self.num_rows, columns), (self.num_rows, 1), torch.float32)
            sums[f"faults/{index}"] = (torch.int64, (info.num_heads,))
            sums[f"skipped/{index}"] = (torch.int64, ())
            sums[f"beyond/{index}"] = (torch.int64, ())
        return Layout(moments, sums)

    def _options(self) -> dict[str, Any]:
        subset = None if self.tokens is None else list(self.tokens)
        return {**super()._options(), "by": self.by, "tokens": subset, "max_tokens": self.max_tokens}

    def _size(self) -> int | None:
        return self.vocab_size

    def _set_size(self, size: int | None) -> None:
        self.vocab_size = size
        self._rows.clear()

    def reset(self) -> None:
        """Forget everything seen and free the memory."""
        super().reset()
        self._step = None

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_step": None}  # it knows tensors by their place in memory, which a copy does not share
