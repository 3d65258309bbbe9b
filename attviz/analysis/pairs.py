"""``attviz.pairs``: a few texts through a model, and the page that shows which token attends to which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from attviz._capture import capture
from attviz.analysis.classes import class_names, outcomes
from attviz.analysis.encoding import length_limit
from attviz.analysis.runner import eval_mode
from attviz.analysis.signals import is_processor, prepared_signals, signal_batch
from attviz.errors import ArgumentError
from attviz.readings import QueryKey
from attviz.records import Analysis, Document
from attviz.viewer import Page, view
from attviz.viewer.pairs import PairLayer
from attviz.viewer.pairs_capture import captured_pairs


def pairs(
    model: nn.Module,
    tokenizer: Any,
    texts: str | Sequence[Any],
    *,
    targets: str | Sequence[str] | None = None,
    max_length: int | None = None,
    **options: Any,
) -> Page:
    """Show which token attends to which: head, model and neuron view of a few texts, and cross-attention of encoder-decoders.

    The model keeps its own kernels. The page holds query and key, about 50 kB per token for a model of 12 layers x 12 heads, and computes
    the rows it shows.

    Args:
        model: A transformers model; in eval mode during the run, restored afterwards.
        tokenizer: Its tokenizer, or the image processor of a vision model.
        texts: One or more texts (images for a vision model).
        targets: For an encoder-decoder: the decoder's input, one text each.
        max_length: Longest text in tokens; None uses what the model allows. Longer texts are truncated.
        options: Passed to :func:`attviz.view`, such as ``layers``, ``heads``, ``title``.

    Returns:
        The page: ``.save("pairs.html")``, or let a notebook display it.

    Raises:
        ArgumentError: If there are no texts, or targets do not match them or the model.
        CaptureError: If the model's attention cannot be seen.
    """
    texts = [texts] if isinstance(texts, str) else list(texts)
    targets = [targets] if isinstance(targets, str) else targets
    writes = bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))
    _check(texts, targets, writes, type(model).__name__)
    documents: list[Document] = []
    layers: list[list[PairLayer]] = []
    names: tuple[str, ...] = ()
    for place, text in enumerate(texts):
        inputs = _inputs(model, tokenizer, text, max_length)
        if writes and targets is not None:
            inputs["decoder_input_ids"] = _decoder_ids(model, tokenizer, targets[place])
        with eval_mode(model), torch.no_grad(), capture(model, read=[QueryKey(dtype=torch.float32)], cross=writes) as cap:
            output = model(**inputs)
        analysis, found = captured_pairs(cap, None, None if is_processor(tokenizer) else tokenizer)
        outcome = outcomes(output, model, 1)[0]
        if is_processor(tokenizer):
            document = signal_batch(cap.diagonal, inputs, model, [outcome])[0]
        else:
            document = replace(analysis.documents[0], prediction=outcome.prediction, probabilities=outcome.probabilities)
        documents.append(replace(document, name=f"{'input' if is_processor(tokenizer) else 'text'} {place}"))
        layers += found
        names = analysis.layers
        if "pixel_values" in inputs:
            options.setdefault("images", texts)
    known = class_names(model, None)
    named = str(getattr(getattr(model, "config", None), "_name_or_path", "") or type(model).__name__)
    return view(Analysis(names, documents, None if known is None else tuple(known), named), pairs=layers, **options)


def _check(texts: Sequence[Any], targets: Sequence[str] | None, writes: bool, name: str) -> None:
    if not texts:
        raise ArgumentError("pairs: there are no texts. Give one, or several in a list.")
    if writes and targets is None:
        raise ArgumentError(f"pairs: {name} has a decoder. Pass targets=[...], what the decoder reads, one text for each input.")
    if targets is not None and not writes:
        raise ArgumentError(f"pairs: {name} has no decoder to read targets=.")
    if targets is not None and len(targets) != len(texts):
        raise ArgumentError(f"pairs: there are {len(targets)} targets for {len(texts)} texts.")


def _inputs(model: nn.Module, tokenizer: Any, text: Any, max_length: int | None) -> dict[str, Any]:
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    if is_processor(tokenizer):
        made: Mapping[str, Any] = prepared_signals(tokenizer, [text])
    else:
        limit = max_length or length_limit(model, tokenizer)
        made = tokenizer(text, return_tensors="pt", truncation=limit is not None, max_length=limit)
    return {name: value.to(device) for name, value in made.items()}


def _decoder_ids(model: Any, tokenizer: Any, target: str) -> torch.Tensor:
    """What the decoder reads when it writes the target: the target itself, preceded by the start token."""
    ids = tokenizer(text_target=target)["input_ids"]
    starts = (getattr(model.config, name, None) for name in ("decoder_start_token_id", "bos_token_id", "pad_token_id"))
    start = next((one for one in starts if one is not None), 0)
    return torch.tensor([[start, *ids[:-1]]], device=model.device)
