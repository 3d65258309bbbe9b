"""``attviz.head_roles``: repeated random tokens through a model, and what each head looks at."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from attviz._capture import capture
from attviz.errors import ArgumentError
from attviz.metrics.head_roles import USUAL, HeadRoles
from attviz.metrics.roles_table import RolesTable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jaxtyping import Int


def head_roles(
    model: nn.Module,
    tokenizer: Any = None,
    *,
    roles: Sequence[str] | None = None,
    texts: int = 32,
    period: int = 24,
    repeats: int = 2,
    batch_size: int = 8,
    vocab_size: int | None = None,
    seed: int = 0,
    least: float = 0.25,
) -> RolesTable:
    """Find the previous-token, duplicate-token, induction and other heads of a model, on random tokens that repeat.

    Random tokens carry no meaning, so a head shows what it does by itself: in the second of two equal blocks, induction heads look at the
    token after the last occurrence (Olsson et al., arXiv:2209.11895), duplicate-token heads at the occurrence itself.

    Args:
        model: Any model whose forward takes token ids; in eval mode during the run, restored afterwards.
        tokenizer: Tells which ids to leave out (special ones) and which one begins a text; None uses the model's configuration.
        roles: Which of ``attviz.metrics.HeadRoles``; all but ``"special"`` by default.
        texts: Number of texts; errors are estimated from the differences between them.
        period: Tokens per block, all different if the vocabulary is large enough.
        repeats: Blocks per text.
        batch_size: Texts per batch.
        vocab_size: Size of the vocabulary, if neither model nor tokenizer has it.
        seed: Seed of the tokens.
        least: Smallest share of a row's attention with which a role can stand out.

    Returns:
        The table: ``.labels``, ``.find("induction")``, ``.to_pandas()``; ``attviz.plots.head_roles`` draws it.

    Raises:
        ArgumentError: If an option is outside its range, or the size of the vocabulary is not known.
        CaptureError: If the model's attention cannot be seen.
    """
    if min(texts, period, batch_size) < 1 or repeats < 2:
        raise ArgumentError(
            f"head_roles: texts={texts}, period={period} and batch_size={batch_size} must be positive, repeats={repeats} at least 2."
        )
    chosen = USUAL if roles is None else tuple(roles)
    metric = HeadRoles(chosen, least=least)
    ids = _repeated(model, tokenizer, texts, period, repeats, vocab_size, seed).to(_device(model))
    call, options = _caller(model)
    with torch.no_grad(), _evaluating(model), capture(model, metrics=metric, keep="none", **options):
        for batch in ids.split(batch_size):
            call(batch)
    return metric.compute()


def _repeated(
    model: nn.Module, tokenizer: Any, texts: int, period: int, repeats: int, vocab_size: int | None, seed: int
) -> Int[Tensor, "texts tokens"]:
    size = vocab_size or _vocabulary(model, tokenizer)
    config = getattr(model, "config", None)
    special = set(getattr(tokenizer, "all_special_ids", ()) if tokenizer is not None else ())
    begin = getattr(tokenizer if tokenizer is not None else config, "bos_token_id", None)
    limit = getattr(config, "max_position_embeddings", None)
    begins = isinstance(begin, int) and 0 <= begin < size
    if isinstance(limit, int) and period * repeats + begins > limit:
        raise ArgumentError(
            f"head_roles: texts of {period * repeats + begins} tokens are too long for the model, which takes {limit}. "
            "Choose a smaller period= or fewer repeats=."
        )
    usable = torch.tensor([token for token in range(size) if token not in special and not (begins and token == begin)])
    if len(usable) < 2:
        raise ArgumentError(f"head_roles: a vocabulary of {size} has {len(usable)} ordinary tokens; at least two are needed.")
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(texts):
        drawn = torch.randperm(len(usable), generator=generator)[:period]
        if len(drawn) < period:
            drawn = torch.randint(len(usable), (period,), generator=generator)
        rows.append(usable[drawn].repeat(repeats))
    ids = torch.stack(rows)
    return torch.cat([torch.full((texts, 1), begin), ids], 1) if begins else ids  # type: ignore[arg-type]


def _vocabulary(model: nn.Module, tokenizer: Any) -> int:
    embeddings = getattr(model, "get_input_embeddings", None)
    try:
        found = embeddings().num_embeddings if embeddings is not None else None
    except (AttributeError, NotImplementedError):
        found = None
    found = found or getattr(getattr(model, "config", None), "vocab_size", None) or (len(tokenizer) if tokenizer is not None else None)
    if not isinstance(found, int):
        raise ArgumentError("head_roles: the vocabulary size is not known. Pass vocab_size=, or the tokenizer.")
    return found


def _device(model: nn.Module) -> torch.device:
    parameter = next(model.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


def _caller(model: nn.Module) -> tuple[Callable[[Tensor], Any], dict[str, Any]]:
    """How to run the model on ids, and which options its capture needs."""
    parameters = inspect.signature(model.forward).parameters
    if "input_ids" not in parameters:
        return model, {"token_ids": lambda args, kwargs: args[0]}
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        return lambda ids: model(input_ids=ids, decoder_input_ids=ids), {}
    return lambda ids: model(input_ids=ids), {}


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in before:
            module.training = training
