"""What PyTorch keeps for a thread, and an interrupt inside one of its guards leaves changed: gradients stay off."""

from __future__ import annotations

import threading

import torch

_KEYS = tuple(
    getattr(torch._C.DispatchKey, name) for name in ("AutogradFunctionality", "AutogradOther", "AutogradNestedTensor", "ADInplaceOrView")
)


class ThreadState:
    """Gradient mode and the excluded dispatch keys of the thread that made it."""

    def __init__(self) -> None:
        self._thread = threading.get_ident()
        self._grad = torch.is_grad_enabled()
        self._excluded = torch._C._dispatch_tls_local_exclude_set()

    def restore(self) -> None:
        """Set both back, if this is that thread."""
        if threading.get_ident() != self._thread:
            return
        torch.set_grad_enabled(self._grad)
        for key in _KEYS:
            torch._C._dispatch_tls_set_dispatch_key_excluded(key, self._excluded.has(key))
