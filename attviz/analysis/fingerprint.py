"""What a run depends on, as text that can be compared, so that both halves of an archive come from the same run."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from attviz.analysis.placement import all_weights, input_device
from attviz.errors import ArgumentError

_PIECE = 1 << 24  # values of a weight that are on the CPU at once
_VOLATILE = {"_name_or_path", "transformers_version", "_attn_implementation_autoset"}  # of a configuration: they change no number


def run_settings(model: nn.Module, tokenizer: Any) -> dict[str, str]:
    """The model, its tokenizer and the software, each as a line of text.

    Returns:
        ``weights``, ``structure``, ``config``, ``attention``, ``tokenizer``, ``device`` and ``versions``.

    Raises:
        ArgumentError: If a weight cannot be read (it is on the ``meta`` device).
    """
    config = getattr(model, "config", None)
    return {
        "weights": weights_digest(model),
        "structure": _digest(repr(model).encode("utf-8", "surrogatepass")),
        "config": _config_json(config),
        "attention": str(getattr(config, "_attn_implementation", None)),
        "tokenizer": _tokenizer_digest(tokenizer),
        "device": input_device(model).type,
        "versions": json.dumps(_versions()),
    }


def data_settings(**given: Any) -> dict[str, str]:
    """Texts, labels and names that can be read twice, each as a count and a hash; generators are compared as they are consumed."""
    return {
        name: f"{len(values)}, sha256 {_sequence_digest(values)}"
        for name, values in given.items()
        if isinstance(values, (list, tuple)) and all(value is None or isinstance(value, (str, int)) for value in values)
    }


def weights_digest(model: nn.Module) -> str:
    """SHA-256 over name, type, shape and every byte of all parameters and buffers, a piece at a time."""
    seen = hashlib.sha256()
    for name, tensor in all_weights(model):
        for inner, plain in _plain_tensors(name, tensor):
            seen.update(f"{inner} {plain.dtype} {list(plain.shape)}\n".encode())
            _take(seen, inner, plain)
    return seen.hexdigest()[:32]


def signal_hash(signal: Any) -> str:
    """A short name for an image or a sound, by its values."""
    import numpy as np

    values = np.asarray(signal)
    seen = hashlib.sha256(f"{values.dtype} {values.shape}".encode())
    seen.update(np.ascontiguousarray(values).data if values.dtype != object else repr(values).encode())
    return seen.hexdigest()[:16]


def _plain_tensors(name: str, tensor: Tensor) -> Iterable[tuple[str, Tensor]]:
    """The tensor itself, or the tensors inside a subclass (quantised, sharded)."""
    local = getattr(tensor, "to_local", None)
    if local is not None:
        tensor = local()
    flatten = getattr(tensor, "__tensor_flatten__", None)
    if flatten is None:
        return [(name, tensor)]
    names, _ = flatten()
    return [pair for inner in names for pair in _plain_tensors(f"{name}.{inner}", getattr(tensor, inner))]


def _take(seen: Any, name: str, tensor: Tensor) -> None:
    if tensor.is_meta:
        raise ArgumentError(
            f"weight {name} is on the meta device, so a resumed run could not tell whether it changed. "
            "Load the model onto a device, or leave archive= out and keep the result with attviz.io.save."
        )
    flat = tensor.contiguous().flatten()
    if flat.dtype in {torch.complex64, torch.complex128}:
        flat = torch.view_as_real(flat).flatten()
    for start in range(0, flat.numel(), _PIECE):
        seen.update(flat[start : start + _PIECE].cpu().contiguous().view(torch.uint8).numpy().data)


def _config_json(config: Any) -> str:
    to_dict = getattr(config, "to_dict", None)
    values = {} if to_dict is None else {name: value for name, value in to_dict().items() if name not in _VOLATILE}
    return json.dumps(values, sort_keys=True, default=str)


def _tokenizer_digest(tokenizer: Any) -> str:
    """A hash of the files the tokenizer would save; state left by earlier calls (truncation, padding) does not count."""
    seen = hashlib.sha256(type(tokenizer).__name__.encode())
    save = getattr(tokenizer, "save_pretrained", None)
    if save is None:
        return f"{type(tokenizer).__name__}"
    with tempfile.TemporaryDirectory(prefix="attviz-") as folder:
        save(folder)
        for path in sorted(Path(folder).rglob("*")):
            if path.is_file():
                seen.update(f"\n{path.relative_to(folder)}\n".encode())
                seen.update(_without_state(path))
    return seen.hexdigest()[:32]


def _without_state(path: Path) -> bytes:
    content = path.read_bytes()
    if path.suffix != ".json":
        return content
    values = json.loads(content)
    if isinstance(values, dict):
        for name in ("truncation", "padding", "name_or_path", "tokenizer_file", "vocab_file", "transformers_version", "local_files_only"):
            values.pop(name, None)
    return json.dumps(values, sort_keys=True).encode()


def _versions() -> dict[str, str]:
    import transformers

    import attviz

    return {"torch": torch.__version__, "transformers": transformers.__version__, "attviz": attviz.__version__}


def _sequence_digest(values: Sequence[Any]) -> str:
    seen = hashlib.sha256()
    for value in values:
        content = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else repr(value).encode()
        seen.update(f"{type(value).__name__} {len(content)}\n".encode() + content)
    return seen.hexdigest()[:32]


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]
