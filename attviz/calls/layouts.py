"""Softmaxes whose last two dimensions are not queries by keys: banded and blocked attention, and layouts that users add.

An entry says which modules it covers, and where their softmax holds each token's weight on itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from attviz.names import approximates_by_landmarks, block_length, one_sided_window, pools_tokens, sees_random_blocks
from attviz.registry import Registry, named_after


@dataclass(frozen=True, slots=True)
class WeightLayout:
    """Where a kind of module has the diagonal in its softmax.

    Attributes:
        matches: Whether the entry covers a module.
        diagonal: Takes ``(module, weights)``, where weights is the result of one softmax over its last dimension. Returns the diagonal
            ``[batch, num_heads, tokens]``; or the reason why there is none (a str); or None if this softmax is not attention.
        name: Name in the table; by default that of the function ``diagonal``.
    """

    matches: Callable[[nn.Module], bool]
    diagonal: Callable[[nn.Module, Tensor], "Tensor | str | None"]
    name: str = ""

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", named_after(self.diagonal))


_table: Registry[WeightLayout] = Registry("layout")


def register_layout(layout: WeightLayout, *, replace: bool = False) -> WeightLayout:
    """Add an entry to the table; the latest one that matches a module is used.

    Args:
        layout: The entry.
        replace: Replace an entry of the same name, which is refused otherwise.

    Raises:
        ArgumentError: If the name is taken.

    Example:
        >>> class Transposed(nn.Module):  # its softmax is [batch, queries, keys, num_heads] seen from the side
        ...     pass
        >>> entry = register_layout(WeightLayout(lambda module: isinstance(module, Transposed), lambda module, weights: weights[..., 0]))
        >>> layout_of(Transposed()) is entry
        True
        >>> unregister_layout(entry)
    """
    return _table.add(layout, replace=replace)


def unregister_layout(layout: WeightLayout) -> None:
    """Remove an entry from the table."""
    _table.remove(layout)


def layout_of(module: nn.Module | None) -> WeightLayout | None:
    """The entry that covers a module."""
    if module is None:
        return None
    return next((layout for layout in _table.entries if layout.matches(module)), None)


def trimmed(diagonal: Tensor, length: int | None) -> Tensor:
    """The diagonal without the tokens that a model appends to fill its last block."""
    return diagonal if length is None or diagonal.shape[-1] <= length else diagonal[..., :length]


def _banded(module: nn.Module, weights: Tensor) -> Tensor | str | None:
    """Longformer: ``[batch, tokens, num_heads, global tokens + 2 * window + 1]``, the own key in the middle of the window."""
    window = one_sided_window(module)
    assert window is not None
    if weights.ndim != 4:
        return None
    if weights.shape[-1] != 2 * window + 1:
        return "global attention: tokens with it get their weights from a second softmax, over all keys"
    return weights[..., window].transpose(1, 2)


def _blocked(module: nn.Module, weights: Tensor) -> Tensor | None:
    """LongT5: ``[batch, blocks, num_heads, block_len, 3 * block_len + global tokens]``, the own block in the middle."""
    block = block_length(module)
    assert block is not None
    if weights.ndim != 5 or weights.shape[-2] != block:
        return None
    own = weights.diagonal(block, -2, -1)
    return own[..., :block].transpose(1, 2).flatten(2)


def _pooled(module: nn.Module, weights: Tensor) -> str:
    """Funnel, from its second block on: queries, then also keys, are means of neighbouring tokens."""
    return "pooled: each query stands for several tokens, so no key is a token's own"


def _sparse_blocks(module: nn.Module, weights: Tensor) -> str:
    """BigBird on long texts: one softmax for each block of queries, over chosen blocks of keys."""
    return "block-sparse attention: a softmax runs over some blocks of keys; attention_type='original_full' runs over all of them"


def _landmarks(module: nn.Module, weights: Tensor) -> str:
    """Nystromformer on texts longer than its landmarks: a product of three softmaxes, one of them inverted."""
    return "Nyström approximation: the weights are a product over landmarks that is never written down"


register_layout(WeightLayout(pools_tokens, _pooled))
register_layout(WeightLayout(sees_random_blocks, _sparse_blocks))
register_layout(WeightLayout(approximates_by_landmarks, _landmarks))
register_layout(WeightLayout(lambda module: one_sided_window(module) is not None, _banded))
register_layout(WeightLayout(lambda module: block_length(module) is not None, _blocked))
