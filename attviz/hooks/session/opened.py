"""Padding that a mask leaves its own key to look at (``mask | eye``), so that no row of its softmax is empty."""

from __future__ import annotations

import torch
from torch import Tensor


def may_be_opened(next_key: Tensor, previous_key: Tensor) -> bool:
    """Whether any token is hidden from both its neighbours, but for the last of a causal text.

    Args:
        next_key: Whether each query but the last sees the key behind its own, ``[batch, q_len - 1]``.
        previous_key: Whether each query but the first sees the key before its own.
    """
    alone = torch.nn.functional.pad(next_key, (1, 0)) | torch.nn.functional.pad(previous_key, (0, 1))
    causal = next_key.any(-1).logical_not() & previous_key[:, -1]
    return not bool(alone[:, :-1].all() & (alone[:, -1] | causal).all())


def opened_padding(shown: Tensor, batch: int) -> Tensor | None:
    """True where a query is padding that sees itself and that no other query sees, ``[batch, q_len]``. Waits for no device.

    A token that no other sees is padding where the mask could have shown it: it sees nothing but itself; or the text is not causal; or a
    later query passes it over and sees what comes before it. The last token of a causal text is seen by nobody, as are tokens that only
    read: so padding has to stand at an end of its text, among its like, and not at the same places in all texts of the batch. A mask that
    all texts share is no mask of padding; of one text alone nothing is concluded, nor of one in which every token is alone.

    Args:
        shown: Which keys each query sees, ``[batch, q_len, q_len]``; one text where the mask is the same for all.
        batch: How many texts there are.

    Example:
        >>> real = torch.tensor([[True, True, True], [True, True, False]])
        >>> opened_padding(real[:, None] | torch.eye(3, dtype=torch.bool), 2)
        tensor([[False, False, False],
                [False, False,  True]])
    """
    q_len = shown.shape[-1]
    if batch == 1 or shown.shape[0] != batch or q_len < 2:
        return None
    shown = shown & torch.eye(q_len, dtype=torch.bool, device=shown.device).logical_not()
    unseen, sees = shown.any(-2).logical_not(), shown.any(-1)
    ahead = shown.triu(1).flatten(1).any(-1)[:, None]
    alone = unseen & (sees.logical_not() | ((ahead | _passed_over(shown, sees)) & (unseen != unseen[:1]).any()))
    # nobody comes after the last token, to see it or to pass it over: it is like the one before it if it does not see that
    last = unseen[:, -1:] & alone[:, -2:-1] & shown[:, -1:, -2].logical_not()
    alone = torch.cat([alone[:, :-1], alone[:, -1:] | last], 1)
    behind, before = alone.flip(-1).cumprod(-1).flip(-1), alone.cumprod(-1)
    return ((behind | before) > 0) & alone.all(-1, keepdim=True).logical_not()


def _passed_over(shown: Tensor, sees: Tensor) -> Tensor:
    """Keys that a later query does not see, although it sees one before them, ``[batch, q_len]``."""
    places = torch.arange(shown.shape[-1], device=shown.device)
    first = torch.where(sees, shown.to(torch.uint8).argmax(-1), shown.shape[-1])[..., None]
    return (shown.logical_not() & (first < places) & (places < places[:, None])).any(-2)
