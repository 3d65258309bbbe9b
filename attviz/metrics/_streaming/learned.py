"""A size that a metric reads from its first model. It is not an option: a metric that does not know it takes it from another state."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from attviz.errors import MetricError


class Learned:
    """By default there is no size; a metric that has one overrides :meth:`_size` and :meth:`_set_size`."""

    def _size(self) -> int | None:
        """The size, such as that of the vocabulary; None while it is not known."""
        return None

    def _set_size(self, size: int | None) -> None:
        """Adopt a size."""

    def _learn(self, size: int | None) -> None:
        """Adopt a size unless another is known."""
        if size is None or size == self._size():
            return
        name = type(self).__name__
        if self._size() is not None:
            raise MetricError(f"{name}: has size {self._size()}, but the other state has size {size}: they come from different models.")
        self._set_size(size)

    @contextmanager
    def _learning(self) -> Iterator[None]:
        """Forget what was learned inside if that fails."""
        before = self._size()
        try:
            yield
        except Exception:
            self._set_size(before)
            raise
