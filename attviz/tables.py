"""A capture as tables: one row per value, labelled axes, a layer-by-layer summary, and a one-line repr."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from attviz.errors import MissingExtraError, RaggedLayersError
from attviz.records import Captured, DiagonalRecord

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr
    from torch import Tensor

Step = Sequence[DiagonalRecord]


class Tables(Captured):
    """How a capture presents itself to people and other tools."""

    _observer: Any  # what it skipped and missed

    @property
    @abstractmethod
    def records(self) -> tuple[DiagonalRecord, ...]:
        """Records of the last forward, in order of execution."""

    @property
    @abstractmethod
    def steps(self) -> tuple[tuple[DiagonalRecord, ...], ...]:
        """Records of every kept forward."""

    @property
    def skipped(self) -> dict[str, str]:
        """Modules with attention but no diagonal, each with the reason."""
        return dict(self._observer.skipped)

    @property
    def missed(self) -> dict[str, str]:
        """Modules whose attention was not seen or could not be identified, each with the reason if it is known."""
        return {**self._observer.missed, **self._observer.untold}

    @abstractmethod
    def _title(self) -> str:
        """Model and state, such as ``"BertModel, closed"``."""

    def to_pandas(self) -> pd.DataFrame:
        """One row per layer, head and real token of every kept forward: :func:`attviz.tables.long_table`."""
        return long_table(self.steps) if self.records else long_table(())

    def to_xarray(self) -> xr.Dataset:
        """The last forward with named axes (``layer, batch, head, position``); see :func:`attviz.tables.labelled`. Needs xarray."""
        return labelled(self.records)

    def summary(self) -> str:
        """What was seen, layer by layer: shape, mean diagonal, operator, evidence; then what was skipped or missed, and why."""
        return summarize(repr(self), self.steps, self.skipped, self.missed)

    def __repr__(self) -> str:
        steps = self.steps
        return (
            one_line(self._title(), steps, len(self.skipped)) if steps and steps[-1] else f"<Capture of {self._title()}: nothing recorded>"
        )


def long_table(steps: Sequence[Step]) -> pd.DataFrame:
    """One row per layer, head and real token of every step, with named columns; copies to the CPU.

    Args:
        steps: Kept forwards, each with its records.

    Returns:
        Columns ``step, layer, layer_index, head, batch, document, position, token_id, diagonal``, plus one per reading that has one
        number per token. ``token_id`` is missing if the model has none; ``document`` numbers the texts packed into one row.

    Raises:
        MissingExtraError: If pandas is not installed.
    """
    try:
        import pandas as pd
    except ImportError as error:
        raise MissingExtraError("to_pandas needs pandas: pip install 'attviz[tables]'") from error
    frames = [pd.DataFrame(_rows(record)) for step in steps for record in step]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def _rows(record: DiagonalRecord) -> dict[str, Any]:
    batch, num_heads, q_len = record.diagonal.shape
    shape = (num_heads, batch, q_len)
    kept = np.ones((batch, q_len), bool) if record.query_mask is None else _array(record.query_mask)
    kept = np.broadcast_to(kept, shape).ravel()
    row, position = np.divmod(np.arange(batch * q_len), max(q_len, 1))

    def tokens(values: Tensor | None) -> np.ndarray:
        flat = np.full(batch * q_len, -1) if values is None else _array(values).ravel()
        tiled: np.ndarray = np.tile(flat, num_heads)[kept]
        return tiled

    def heads(values: Tensor) -> np.ndarray:
        flat: np.ndarray = _array(values).swapaxes(0, 1).ravel()[kept]
        return flat

    columns: dict[str, Any] = {
        "step": record.step,
        "layer": record.layer,
        "layer_index": record.layer_index,
        "head": np.repeat(np.arange(num_heads), batch * q_len)[kept],
        "batch": np.tile(row, num_heads)[kept],
        "document": 0 if record.document_ids is None else tokens(record.document_ids),
        "position": np.tile(position, num_heads)[kept],
        "token_id": None if record.token_ids is None else tokens(record.token_ids),
        "diagonal": heads(record.diagonal),
    }
    return columns | {name: heads(values) for name, values in _per_token(record).items()}


def _per_token(record: DiagonalRecord) -> dict[str, Tensor]:
    """Readings that have one number per head and token."""
    return {name: values for name, values in record.readings.items() if values.shape == record.diagonal.shape}


def labelled(records: Step) -> xr.Dataset:
    """The layers of one forward with named axes ``layer, batch, head, position``; copies to the CPU.

    Raises:
        MissingExtraError: If xarray is not installed.
        RaggedLayersError: If the layers differ in shape.
    """
    try:
        import xarray as xr
    except ImportError as error:
        raise MissingExtraError("to_xarray needs xarray: pip install 'attviz[xarray]'") from error
    if len({record.diagonal.shape for record in records}) > 1:
        raise RaggedLayersError("cap.to_xarray: layers have different shapes and cannot be stacked. Capture one tower with layers=.")
    axes, first = ("layer", "batch", "head", "position"), records[0]
    stacks = {"diagonal": np.stack([_array(record.diagonal) for record in records])}
    for name in _per_token(first):
        stacks[name] = np.stack([_array(_per_token(record)[name]) for record in records])
    coordinates: dict[str, Any] = {
        "layer": [record.layer or f"call:{record.layer_index}" for record in records],
        **{name: np.arange(size) for name, size in zip(axes[1:], first.diagonal.shape, strict=True)},
    }
    for name, values in (("token_id", first.token_ids), ("query_mask", first.query_mask), ("document", first.document_ids)):
        if values is not None:
            coordinates[name] = (("batch", "position"), _array(values))
    return xr.Dataset({name: (axes, values) for name, values in stacks.items()}, coordinates, {"step": first.step})


def summarize(title: str, steps: Sequence[Step], skipped: Mapping[str, str], missed: Mapping[str, str]) -> str:
    """A summary for people: one line per layer, then what was skipped and missed, with the reasons."""
    lines = [title]
    table = [_line(record) for record in (steps[-1] if steps else ())]
    if table:
        table.insert(0, ("", "layer", "batch x heads x tokens", "mean diagonal", "operator", "evidence"))
        widths = [max(len(row[column]) for row in table) for column in range(5)]
        lines += ["  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[5]]).rstrip() for row in table]
        readings = sorted({name for record in steps[-1] for name in record.readings})
        lines += [f"readings: {', '.join(readings)}"] if readings else []
    for what, found in (("skipped (no diagonal)", skipped), ("missed", missed)):
        lines += [f"{what}:", *(f"  {name}: {why or 'no attention operator was seen'}" for name, why in found.items())] if found else []
    return "\n".join(lines)


def _line(record: DiagonalRecord) -> tuple[str, ...]:
    shape = " x ".join(map(str, record.diagonal.shape))
    mean = f"{float(record.diagonal.nanmean()):.4f}" if record.diagonal.numel() else ""
    return str(record.layer_index), record.layer or "(no name)", shape, mean, record.operator, record.evidence


def one_line(title: str, steps: Sequence[Step], skipped: int) -> str:
    """What ``repr`` shows of a capture."""
    shapes = list(dict.fromkeys(tuple(record.diagonal.shape) for record in steps[-1]))
    batch, heads, tokens = shapes[0]
    shape = f"{heads} heads, batch {batch} x {tokens} tokens" if len(shapes) == 1 else f"{len(shapes)} different shapes"
    more = f", {len(steps)} forwards kept" if len(steps) > 1 else ""
    aside = f", {skipped} modules without a diagonal" if skipped else ""
    return f"<Capture of {title}: {len(steps[-1])} layers x {shape}{more}{aside}>"


def _array(tensor: Tensor) -> np.ndarray:
    found: np.ndarray = tensor.detach().cpu().numpy()
    return found
