"""``with attviz.capture(model) as cap:``: its arguments, and access to what was recorded."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from attviz.documents import model_name
from attviz.errors import ArgumentError, CaptureError, RaggedLayersError
from attviz.hooks.scope.model_map import Layout, read_layout
from attviz.hooks.scope.tokens import TokenSource, takes_ids
from attviz.hooks.session.asked import asked_readings, stacked_reading
from attviz.hooks.session.heads import HeadShares
from attviz.hooks.session.recorder import Recorder, as_metrics, shapes_by_layer
from attviz.hooks.session.sequences import join_steps, split_documents
from attviz.hooks.session.session import Session
from attviz.hooks.session.thread import ThreadState
from attviz.protocols import Listener, Metric
from attviz.readings import Reading
from attviz.readings.keys import special_ids
from attviz.records import CapturedDocument, CrossRecord, DiagonalRecord
from attviz.selecting import Layers
from attviz.tables import Tables

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

Keep = Literal["last", "all", "none"]


def capture(
    model: nn.Module,
    *,
    metrics: Listener | Iterable[Listener] | None = None,
    keep: Keep = "last",
    layers: Layers = None,
    every: int = 1,
    strict: bool = True,
    token_ids: TokenSource | None = None,
    read: Reading | Iterable[Reading] | None = None,
    cross: bool = False,
    gather: bool = False,
) -> Capture:
    """Record the self-attention diagonal of every layer and head while ``model`` runs, without building the attention matrix.

    Use it as a context manager. The model keeps its own kernels, and its outputs and gradients stay bit-identical. When the context
    ends, even through an exception, nothing is left on the model or in the process.

    Args:
        model: Any transformer: transformers, ``torch.nn``, hand-written; eager, compiled before or inside the context.
        metrics: One or more objects with ``update(record)``, fed layer by layer as the forward runs.
        keep: ``"last"`` forward (safe in a training loop), ``"all"``, or ``"none"`` (metrics only).
        layers: Which attention modules to capture: one or several names (of a module or of one around it), glob patterns, or indices
            or slices in order of registration. All by default. A module named here may have any class name.
        every: Record every N-th forward only; the others run without hooks on their layers and without the tap.
        strict: Raise :class:`CaptureError` on exit if a layer ran unseen; False warns instead.
        token_ids: For models whose forward has no ``input_ids``: the ids ``[batch, q_len]``, the name of the parameter that holds them,
            or a function of ``(args, kwargs)``.
        read: One or more :mod:`attviz.readings`: further statistics of the attention rows, read along with the diagonal into
            ``record.readings`` and :meth:`Capture.reading`.
        cross: Read cross-attention too, into ``cap.cross_records``. It has no diagonal, so ``read`` must include a reading that does not
            need one.
        gather: Under tensor parallelism, join the heads of all ranks at the end of every forward; all ranks must run it. Without it, a
            record holds the heads of its own rank (``record.heads`` says which).

    Returns:
        The :class:`Capture`, which can be entered once.

    Raises:
        CaptureError: If the model is on the meta device; on exit, if a layer ran unseen.
        UnknownLayerError: If an entry of ``layers`` matches no module.
        ArgumentError: If another argument is invalid.

    Example:
        >>> attention = torch.nn.MultiheadAttention(8, 2, batch_first=True).eval()
        >>> x = torch.zeros(1, 4, 8)
        >>> with capture(attention) as cap:
        ...     output, _ = attention(x, x, x)
        >>> cap.diagonal  # all keys alike: a quarter of the attention stays on the token
        tensor([[[[0.2500, 0.2500, 0.2500, 0.2500],
                  [0.2500, 0.2500, 0.2500, 0.2500]]]])
    """
    options = {"layers": layers, "every": every, "strict": strict, "token_ids": token_ids, "read": read, "cross": cross, "gather": gather}
    return Capture(model, metrics=metrics, keep=keep, **options)  # type: ignore[arg-type]


class Capture(Tables):
    """What :func:`capture` returns: the diagonals of the last forward, or of every forward."""

    def __init__(
        self,
        model: nn.Module,
        *,
        metrics: Listener | Iterable[Listener] | None = None,
        keep: Keep = "last",
        layers: Layers = None,
        every: int = 1,
        strict: bool = True,
        token_ids: TokenSource | None = None,
        read: Reading | Iterable[Reading] | None = None,
        cross: bool = False,
        gather: bool = False,
    ) -> None:
        layout = _checked(model, keep, every)
        fed = as_metrics(metrics)
        asked = asked_readings(read, fed, cross)
        for reading in asked:
            reading.check(model, takes_ids(model, token_ids))
        for metric in fed:
            if isinstance(metric, Metric):
                metric.prepare(model)
        if keep == "none" and not fed:
            raise ArgumentError("capture: keep='none' without metrics= records nothing. Pass metrics, or keep='last'.")
        self._recorder = Recorder(fed, keep, asked, cross, special_ids(model))
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            self._recorder.heads = HeadShares(model, gather=gather)
        elif gather:
            raise ArgumentError("capture: gather=True joins the ranks of torch.distributed, which is not initialised.")
        self._model = model
        self._session = Session(model, self._recorder, layout, layers=layers, every=every, strict=strict, token_ids=token_ids)
        self._observer = self._session.observer
        self._finalizer = weakref.finalize(self, self._session.drop)  # cleans up after an interrupt at the start of __exit__
        self._finalizer.atexit = False

    def __enter__(self) -> Capture:
        self._thread = ThreadState()
        self._session.enter()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        whole = False
        try:
            self._session.leave(complain=kind is None)
            self._finalizer.detach()
            whole = kind is None
        finally:
            if not whole:
                self._thread.restore()

    # ---- what was recorded

    @property
    def records(self) -> tuple[DiagonalRecord, ...]:
        """Records of the last forward, in order of execution."""
        return self._last()

    @property
    def steps(self) -> tuple[tuple[DiagonalRecord, ...], ...]:
        """Records of every kept forward: all of them under ``keep="all"``, else the last."""
        return tuple(step.records() for step in self._recorder.steps)

    @property
    def cross_records(self) -> tuple[CrossRecord, ...]:
        """Records of cross-attention in the last forward, in order of execution (``cross=True``)."""
        self._last()
        return self._recorder.steps[-1].cross_records()

    def reading(self, name: str, *, cross: bool = False) -> Tensor:
        """The values of one reading in the last forward that took it, all layers in one tensor.

        Args:
            name: Name of the reading, such as ``"previous"``, ``"row_entropy"`` or ``"top_keys(5).index"``.
            cross: Read the cross-attention layers instead.

        Returns:
            ``[num_layers, ...]``, NaN where the query is padding.

        Raises:
            CaptureError: If there is no such reading, or a layer could not provide it; the message says why.
            RaggedLayersError: If the layers differ in shape.
        """
        self._observer.implicit.close()
        return stacked_reading(self._recorder, name, cross, self._session.why_empty)

    @property
    def model_name(self) -> str:
        """Hub id or folder of the model, else the name of its class."""
        return model_name(self._model)

    @property
    def layers(self) -> tuple[str, ...]:
        """Attention modules in order of execution; before the first forward, the expected ones.

        A call that has no name because the whole model was compiled appears as ``"call:<index>"``.
        """
        if not self._recorder.steps:
            return tuple(name for name in self._session.layout.expected if name in self._session.selection)
        return tuple(f"call:{record.layer_index}" if record.layer is None else record.layer for record in self._last())

    @property
    def diagonal(self) -> Float[Tensor, "num_layers batch num_heads q_len"]:
        """Self-attention of the last forward: probabilities in [0, 1], float32, NaN where the query is padding.

        Raises:
            CaptureError: If no forward was recorded.
            RaggedLayersError: If the layers differ in shape; the message names them.
        """
        records = self._last()
        if not records:
            raise CaptureError(f"cap.diagonal: the last forward had no self-attention to read. Skipped: {self.skipped or 'nothing'}.")
        if len({record.diagonal.shape for record in records}) > 1:
            raise RaggedLayersError(
                f"cap.diagonal: layers have different shapes and cannot be stacked:\n{shapes_by_layer(records)}\n"
                '  Read cap.records one by one, or capture one tower: attviz.capture(model, layers="encoder.*").'
            )
        return torch.stack([record.diagonal for record in records])

    @property
    def token_ids(self) -> Int[Tensor, "batch q_len"] | None:
        """Token ids of the last forward's queries, if the model has them."""
        return self._common("token_ids", [record.token_ids for record in self._last()])

    @property
    def query_mask(self) -> Bool[Tensor, "batch q_len"]:
        """True where a query of the last forward is a real token; all True if the model was given no mask."""
        records = self._last()
        found = self._common("query_mask", [record.query_mask for record in records])
        if found is not None:
            return found
        batch, _, q_len = self.diagonal.shape[1:]
        return torch.ones(batch, q_len, dtype=torch.bool, device=records[0].diagonal.device)

    @property
    def documents(self) -> tuple[CapturedDocument, ...]:
        """The texts of the last forward, one by one and without padding; texts packed into one row are separated.

        Packed texts are separated by ``cu_seqlens``, or where ``position_ids`` restart and the attention mask keeps them apart.
        """
        numbers = self._common("documents", [record.document_ids for record in self._last()])
        return split_documents(self.diagonal, self.token_ids, self.query_mask, numbers)

    def sequence_diagonal(
        self, beam_indices: Int[Tensor, "rows new_tokens"] | None = None
    ) -> Float[Tensor, "num_layers batch num_heads tokens"]:
        """Diagonal of each token of the last generated sequence, prompt included, joined over its steps (``keep="all"``).

        The last token from ``generate`` is missing: it was sampled but never went through the model. After a beam search, pass
        ``outputs.beam_indices``; see :func:`attviz.hooks.session.sequences.join_steps`.
        """
        self._last()
        if self._recorder.keep != "all":
            raise CaptureError(f"cap.sequence_diagonal: keep={self._recorder.keep!r} keeps a single step. Capture with keep='all'.")
        return join_steps(self._recorder.steps, beam_indices)

    def _title(self) -> str:
        return f"{type(self._model).__name__}, {self._session.state}"

    def _last(self) -> tuple[DiagonalRecord, ...]:
        self._observer.implicit.close()
        if not self._recorder.steps:
            raise CaptureError(self._session.why_empty())
        return self._recorder.steps[-1].records()

    def _common(self, what: str, found: list[Tensor | None]) -> Tensor | None:
        tensors = [tensor for tensor in found if tensor is not None]
        if any(tensor is not tensors[0] and not _same(tensor, tensors[0]) for tensor in tensors[1:]):
            raise RaggedLayersError(f"cap.{what}: layers saw different tokens. Read {what} from each record in cap.records.")
        return tensors[0] if tensors else None


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool((one == other).all())


def _checked(model: nn.Module, keep: str, every: int) -> Layout:
    """The map of the model, if it can be captured so."""
    if not isinstance(model, nn.Module):
        raise ArgumentError(f"capture: model must be a torch.nn.Module, got {type(model).__name__}.")
    if keep not in ("last", "all", "none"):
        raise ArgumentError(f"capture: keep must be 'last', 'all' or 'none', got {keep!r}.")
    if not isinstance(every, int) or every < 1:
        raise ArgumentError(f"capture: every must be a whole number of at least 1, got {every!r}.")
    layout = read_layout(model)
    modules = layout.modules.values()
    on_meta = any(parameter is not None and parameter.is_meta for module in modules for parameter in module._parameters.values())
    if on_meta and not any(hasattr(module, "_hf_hook") for module in modules):  # accelerate brings the weights when they are needed
        raise CaptureError(
            f"capture: {type(model).__name__} has parameters on the meta device, so it cannot run. Load its weights first "
            "(from_pretrained, or model.to_empty(device=...) and load_state_dict)."
        )
    return layout
