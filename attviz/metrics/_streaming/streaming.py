"""The base of the streaming metrics: torchmetrics' life cycle over a :class:`State`."""

from __future__ import annotations

import functools
import json
import os
import warnings
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from attviz.errors import ArgumentError, EmptyMetricError, FormatError, MetricError
from attviz.metrics._streaming.feeds import Chosen, LayerValues, Source, read_layers
from attviz.metrics._streaming.learned import Learned
from attviz.metrics._streaming.shapes import Layout
from attviz.metrics._streaming.state_files import assemble, header_of, parse_header, read_state, write_state
from attviz.metrics._streaming.states import LayerInfo, State, merge_layers
from attviz.metrics._streaming.synchronisation import all_reduce_state
from attviz.readings import Reading
from attviz.records import DiagonalRecord

_SPEC = "spec"


class StreamingMetric(Learned, Metric):  # type: ignore[misc]  # torchmetrics is not followed by mypy
    """Statistics that accumulate while a model runs: in fixed memory, on the device, exact however the data are split or merged.

    Feed it through ``attviz.capture(model, metrics=[metric])``, or pass a record, ``cap.records`` or a diagonal by hand. It is a
    ``torchmetrics.Metric``: ``compute``, ``reset``, ``forward``, ``merge_state``, ``state_dict`` and ``MetricCollection`` work, and
    ``compute`` pools over the processes of ``torch.distributed``, by all-reduce alone. ``update`` never waits for the device.

    A subclass implements ``_sample`` (what one layer of one step contributes) and ``_layout`` (the tensors that belong to its layers).
    """

    full_state_update = False
    _to_sync: bool
    _computed: Any

    def __init__(self, *, reading: str | Reading = "diagonal", exclude_ids: Collection[int] = (), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.chosen = Chosen.of(reading, type(self).__name__)
        self._reasons: dict[str, str] = {}
        if any(type(token) is not int or token < 0 for token in exclude_ids):
            raise ArgumentError(f"{type(self).__name__}: exclude_ids must be token ids >= 0, such as tokenizer.all_special_ids.")
        self.exclude_ids = tuple(sorted(set(exclude_ids)))
        self._excluded: dict[torch.device, Tensor] = {}
        self._state = State()
        self._saved_in_state_dict = True

    def update(self, source: Source, *, token_ids: Tensor | None = None, query_mask: Tensor | None = None, layer_index: int = 0) -> None:
        """Add one layer, or all layers of a step.

        Args:
            source: A ``DiagonalRecord``, several of them, ``[num_layers, batch, num_heads, q_len]`` or ``[batch, num_heads, q_len]``.
            token_ids: For a diagonal passed by hand: token ids ``[batch, q_len]``.
            query_mask: For a diagonal passed by hand: True at real tokens; without it, a token that is NaN in every head is padding.
            layer_index: For a single layer passed by hand: its index.

        Raises:
            MetricError, ShapeError, DtypeError: If the input does not fit; the state is unchanged.
        """
        try:
            by_hand: dict[str, Any] = {"token_ids": token_ids, "query_mask": query_mask, "layer_index": layer_index}
            layers = read_layers(source, self._name, self.chosen, **by_hand)
            self._check(layers)
        except Exception:
            self._update_count -= 1  # torchmetrics counted before it knew
            raise
        for layer in layers:
            self._absorb(layer)
        if not isinstance(source, Tensor) and self.chosen.name != "diagonal":
            for record in [source] if isinstance(source, DiagonalRecord) else source:
                self._note(record, self.chosen.name)

    @property
    def readings(self) -> tuple[Reading, ...]:
        """The readings it requests from the capture."""
        return () if self.chosen.reading is None else (self.chosen.reading,)

    def prepare(self, model: Any) -> None:
        """Nothing to read from the model."""

    @property
    def reasons(self) -> dict[str, str]:
        """Layers that could not provide the reading, each with the reason; they enter no statistic."""
        return dict(self._reasons)

    def compute_local(self) -> Any:
        """Compute from what this process alone has seen, without communication."""
        before = self._to_sync, self._computed
        try:
            self._to_sync, self._computed = False, None
            return self.compute()
        finally:
            self._to_sync, self._computed = before

    def save_state(self, path: str | os.PathLike[str]) -> None:
        """Write what this process has seen to a safetensors file, atomically even if the process is killed."""
        write_state(path, self._state, self._identity(), self._update_count, self._size())

    def load_state(self, path: str | os.PathLike[str]) -> None:
        """Continue from a file written by :meth:`save_state`, replacing what was seen so far.

        Raises:
            FormatError: If the file is damaged, hostile or not a saved state; the metric is unchanged.
            MetricError: If it belongs to another metric or to other options.
        """
        with self._learning():
            self._adopt(*read_state(path, self._identity(), self._layout, self._learn))

    @property
    def metric_state(self) -> dict[str, Tensor]:
        """The state as named tensors, as ``merge_state`` accepts it."""
        spec = header_of(self._state, self._identity(), self._update_count, self._size()).encode()
        return {_SPEC: torch.tensor(list(spec), dtype=torch.uint8), **self._state.tensors()}

    # What a metric writes.

    def _sample(self, layer: LayerValues) -> State:
        """What one layer of one step contributes."""
        raise MetricError(f"{self._name}: cannot be fed bare diagonals.")

    def _layout(self, layers: dict[int, LayerInfo]) -> Layout:
        """The tensors that belong to these layers."""
        return Layout({}, {})

    def _options(self) -> dict[str, Any]:
        """Arguments that two metrics must have in common to be merged."""
        return {"exclude_ids": list(self.exclude_ids), "reading": self.chosen.name}

    def _check(self, layers: list[LayerValues]) -> None:
        """Refuse what does not fit, before anything changes."""
        known = self._state.layers
        for layer in layers:
            try:
                known = merge_layers(known, {layer.index: LayerInfo(layer.num_heads, layer.name)})
            except MetricError as error:
                raise MetricError(f"{self._name}: {error}") from None
            if self.exclude_ids and layer.token_ids is None:
                raise MetricError(f"{self._name}: exclude_ids needs token_ids, but layer {layer.index} came without. Pass token_ids=.")

    def _absorb(self, layer: LayerValues) -> None:
        self._state = self._state + self._sample(layer)

    # What the life cycle of torchmetrics needs.

    @property
    def _name(self) -> str:
        return type(self).__name__

    def _identity(self) -> str:
        return f"{self._name}({json.dumps(self._options(), sort_keys=True)})"

    def _excluded_on(self, device: torch.device) -> Tensor | None:
        if not self.exclude_ids:
            return None
        if device not in self._excluded:  # one copy to the device, not one a step
            self._excluded[device] = torch.tensor(self.exclude_ids, device=device)
        return self._excluded[device]

    def _note(self, record: DiagonalRecord, name: str) -> None:
        if name in record.reasons:
            self._reasons.setdefault(record.layer or f"layer {record.layer_index}", record.reasons[name])

    def _require_data(self) -> None:
        if not self._state.layers and self._reasons:
            layer, why = next(iter(self._reasons.items()))
            raise EmptyMetricError(f"{self._name}.compute: no layer could provide {self.chosen.name!r}. {layer}: {why}.")
        if not self._state.layers and self.chosen.name != "diagonal" and self.chosen.reading is None:
            raise EmptyMetricError(
                f"{self._name}.compute: no record had the reading {self.chosen.name!r}. Pass the reading itself, "
                "reading=attviz.readings.Offset(-1), or request it: attviz.capture(model, read=[...], metrics=[metric])."
            )
        if not self._state.layers:
            raise EmptyMetricError(
                f"{self._name}.compute: nothing was seen yet. Feed it: attviz.capture(model, metrics=[metric]), or metric.update(record)."
            )

    def _adopt(self, state: State, updates: int) -> None:
        self._state, self._update_count = state, updates
        self._computed = self._forward_cache = self._cache = None
        self._is_synced = False

    def reset(self) -> None:
        """Forget everything seen and free the memory."""
        super().reset()
        self._state = State()
        self._reasons = {}

    def _copy_state_dict(self) -> dict[str, Any]:
        return {"_state": self._state}  # the holder puts it back, or adds it to a fresh one: no copy of large tables is needed

    def _reduce_states(self, incoming_state: Mapping[str, Any]) -> None:
        state = incoming_state.get("_state")
        if not isinstance(state, State):
            state, _ = self._decode(incoming_state, "merge_state")
        try:
            self._state = state + self._state
        except MetricError as error:
            raise MetricError(f"{self._name}.merge_state: {error}") from None
        self._computed = None

    def merge_state(self, incoming_state: Any) -> None:
        """Pool in another metric of this class and options, or its ``metric_state``.

        Raises:
            MetricError: If class, options or layers differ; the state is unchanged.
        """
        if isinstance(incoming_state, Metric):
            other = incoming_state._identity() if isinstance(incoming_state, StreamingMetric) else type(incoming_state).__name__
            if other != self._identity():
                raise MetricError(f"{self._name}.merge_state: cannot merge {other} into {self._identity()}.")
            self._learn(incoming_state._size())
            # A clone: where only the other one has a layer its tensors would be shared, and a later update may write to them.
            updates, incoming_state = incoming_state._update_count, {"_state": incoming_state._state.map(torch.clone)}
        elif isinstance(incoming_state, Mapping):
            state, updates = self._decode(incoming_state, "merge_state")
            incoming_state = {"_state": state}
        else:
            raise MetricError(f"{self._name}.merge_state: needs a metric or its metric_state, got {type(incoming_state).__name__}.")
        self._reduce_states(incoming_state)
        self._update_count += updates

    def _sync_dist(self, dist_sync_fn: Callable[..., Any] | None = None, process_group: Any = None) -> None:
        group = process_group or self.process_group
        self._state = all_reduce_state(
            self._state,
            name=self._name,
            identity=self._identity(),
            size=self._size(),
            learn=self._learn,
            layout=self._layout,
            group=group,
        )

    def _wrap_compute(self, compute: Callable[..., Any]) -> Callable[..., Any]:
        wrapped = super()._wrap_compute(compute)

        @functools.wraps(compute)
        def quiet(*args: Any, **kwargs: Any) -> Any:
            with warnings.catch_warnings():  # a rank without data is no fault: the others have some, or _require_data raises
                warnings.filterwarnings("ignore", message="The ``compute`` method of metric")
                return wrapped(*args, **kwargs)

        return quiet

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Any = "") -> StreamingMetric:
        super()._apply(fn, exclude_state)
        device = fn(torch.zeros(1, device=self.device)).device  # only the device: statistics stay float64 under .half() or .to(dtype)
        self._state = self._state.map(lambda tensor: tensor.to(device))
        return self

    def persistent(self, mode: bool = False) -> None:
        """Whether ``state_dict`` holds the state; it does unless told otherwise."""
        self._saved_in_state_dict = mode

    def state_dict(self, destination: Any = None, prefix: str = "", keep_vars: bool = False) -> dict[str, Any]:
        """The state as named tensors, under ``prefix``."""
        result: dict[str, Any] = super().state_dict(destination=destination, prefix=prefix, keep_vars=keep_vars)
        if self._saved_in_state_dict:
            result.update({prefix + name: tensor.detach().clone() for name, tensor in self.metric_state.items()})
        return result

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: Any, strict: bool, missing: list[str], *rest: Any
    ) -> None:
        found = {name.removeprefix(prefix): state_dict[name] for name in state_dict if name.startswith(prefix)}
        if found:
            self._adopt(*self._decode(found, f"{self._name}.load_state_dict"))
        elif strict and self._saved_in_state_dict:
            missing.append(prefix + _SPEC)

    def _decode(self, tensors: Mapping[str, Any], where: str) -> tuple[State, int]:
        spec = tensors.get(_SPEC)
        if not isinstance(spec, Tensor) or spec.dtype != torch.uint8 or not all(isinstance(value, Tensor) for value in tensors.values()):
            raise FormatError(f"{where}: not the state of an attviz metric: no {_SPEC!r}, or entries that are not tensors.")
        header = bytes(spec.cpu().flatten().tolist()).decode("utf-8", errors="replace")
        layers, updates, size = parse_header(header, self._identity(), where)
        named = {name: value.detach().clone() for name, value in tensors.items() if name != _SPEC}
        with self._learning():
            self._learn(size)
            return assemble(named, layers, self._layout, where), updates
