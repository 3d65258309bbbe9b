"""Trust a backend's log-sum-exp only after a look: some have returned zeros, or base 2, or another scale."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

_SAMPLES = 5


def logsumexp_is_sound(
    query: Float[Tensor, "batch num_heads q_len head_dim"],
    key: Float[Tensor, "batch num_kv_heads kv_len head_dim"],
    logsumexp: Float[Tensor, "batch num_heads q_len"],
    *,
    scale: float,
    bias: Tensor | None = None,
    is_causal: bool = False,
) -> bool:
    """Compare a few rows of a log-sum-exp with a direct computation: all heads of the first batch element.

    Waits for the device, so it is meant for the first call of an operator and not for every one. Rows that see nothing are left out,
    because each backend writes something else there.

    Args:
        query: As the attention operator received it.
        key: As it received it; ``num_kv_heads`` divides ``num_heads``.
        logsumexp: What the operator returned, one number a row.
        scale: Factor on ``query @ key.mT``.
        bias: Additive or bool mask, broadcastable to ``[batch, num_heads, q_len, kv_len]``.
        is_causal: Keys after the row's index are hidden (top-left alignment, as torch SDPA).

    Returns:
        False if a sampled row is off by more than the rounding of half-precision inputs explains.

    Example:
        >>> query = torch.zeros(1, 1, 4, 8)
        >>> right = torch.full((1, 1, 4), 4.0).log()
        >>> logsumexp_is_sound(query, query, right, scale=1.0), logsumexp_is_sound(query, query, right * 0, scale=1.0)
        (True, False)
    """
    num_heads, q_len, kv_len = query.shape[1], query.shape[2], key.shape[2]
    if query.numel() == 0 or kv_len == 0:
        return True
    rows = torch.linspace(0, q_len - 1, min(_SAMPLES, q_len), device=query.device).long()
    keys = key[0].float().repeat_interleave(num_heads // key.shape[1], 0)
    logits = query[0, :, rows].float() @ keys.mT * scale
    if bias is not None:
        shaped = bias[(None,) * (4 - bias.dim())][0]
        shaped = shaped if shaped.shape[1] == 1 else shaped[:, rows]
        logits = logits.masked_fill(~shaped, float("-inf")) if shaped.dtype is torch.bool else logits + shaped
    if is_causal:
        logits = logits.masked_fill(torch.arange(kv_len, device=rows.device) > rows[:, None], float("-inf"))
    expected, actual = logits.logsumexp(-1), logsumexp[0, :, rows].float()
    close = (actual - expected).abs() <= 0.02 + 2e-3 * expected.abs()
    return bool((close | expected.isinf()).all())
