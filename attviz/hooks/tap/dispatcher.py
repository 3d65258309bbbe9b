"""The dispatcher tap: one process-wide override of the attention operators, shared by all captures.

While there is at least one listener, each operator of the table runs through :func:`_tapped`, which calls the original kernel, returns its
result unchanged, and shows arguments and result to the listeners. It sits below autograd and autocast.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Sequence
from typing import Any

import torch
from torch.library import Library, get_kernel

from attviz.hooks.tap import hub
from attviz.hooks.tap.operators import Operator, registered

_looked_at: set[tuple[str, str]] = set()  # operators and dispatch keys that are overridden, or that this build does not have
_installed: dict[str, Library] = {}  # one for each namespace: making one reads the Python stack, which shows on entering
# Kernels of ours that another thread may still be executing after the override is gone: without a handle that outlives the
# library, leaving a capture crashes such a thread. Closures hold no records, so the bound only limits small change.
_handles: deque[Any] = deque(maxlen=1024)


def override(wanted: bool) -> None:
    """Install or remove the override; the caller holds the lock of the hub.

    Idempotent; a call finishes what an interrupted one left half done.
    """
    if wanted:
        try:
            with warnings.catch_warnings():  # torch warns once a process that a kernel is overridden; that is the point
                warnings.simplefilter("ignore")
                _install()
        except Exception:
            override(False)
            raise
    else:
        for namespace in tuple(_installed):
            _installed[namespace]._destroy()
            del _installed[namespace]
        _looked_at.clear()


def _install() -> None:
    present: dict[str, bool] = {}
    for operator in registered():
        namespace, name = operator.name.split("::")
        for key in operator.keys:
            if (operator.name, key) in _looked_at:
                continue
            if key not in present:
                present[key] = _device_present(key)
            if present[key]:
                _override(namespace, name, key, operator)
                _looked_at.add((operator.name, key))


def installed() -> bool:
    """Whether the override is installed (for tests of hygiene)."""
    return bool(_installed)


def _override(namespace: str, name: str, key: str, operator: Operator) -> None:
    if not _has_kernel(operator.name, key):
        return  # this build has no such kernel
    original = get_kernel(operator.name, key)
    if namespace not in _installed:
        _installed[namespace] = Library(namespace, "IMPL")
    _installed[namespace].impl(name, _tapped(operator, original), key, with_keyset=True, allow_override=True)  # also one in Python
    _handles.append(get_kernel(operator.name, key))


def keys_present(operator: Operator) -> list[str]:
    """Return the dispatch keys a capture would override for this operator in this process (for ``attviz info``)."""
    found = []
    for key in operator.keys:
        if _device_present(key) and _has_kernel(operator.name, key):
            found.append(key)
    return found


def _has_kernel(name: str, key: str) -> bool:
    """Whether ``get_kernel`` would find one; checked first, because it takes 50 us to report that there is none, as for most rows."""
    if not torch._C._dispatch_has_kernel(name):  # asking for the kernel of an unknown overload raises
        return False
    return bool(torch._C._dispatch_has_computed_kernel_for_dispatch_key(name, key))


def _device_present(key: str) -> bool:
    """Whether this process has a device of the key: ``torch.cuda``, ``torch.xpu`` or the module of another backend is asked."""
    if key in ("CPU", "NestedTensorCPU"):
        return True
    if key == "MPS":
        return torch.backends.mps.is_available()
    name = torch._C._get_privateuse1_backend_name() if key == "PrivateUse1" else key.lower()
    available = getattr(getattr(torch, name, None), "is_available", None)
    return available is not None and bool(available())


def _tapped(operator: Operator, original: Any) -> Any:
    call_original, prepare, restore, thread = original.call_boxed, operator.prepare, operator.restore, hub.thread_state

    def kernel(keyset: Any, *args: Any, **kwargs: Any) -> Any:
        if thread.busy:
            return call_original(keyset, *args, **kwargs)
        listeners: Sequence[hub.Listener] = hub.listeners
        if len(listeners) != 1:
            listeners = [listener for listener in listeners if listener.listening()]
        elif not listeners[0].listening():  # one capture, as almost always: every attention pays for what stands here
            listeners = ()
        if not listeners:
            return call_original(keyset, *args, **kwargs)
        thread.busy = True
        try:
            if prepare is None:
                result = call_original(keyset, *args, **kwargs)
            else:
                asked_args, asked_kwargs = prepare(args, kwargs)
                result = call_original(keyset, *asked_args, **asked_kwargs)
            for listener in listeners:
                listener.observe(operator, args, kwargs, result)
            return result if restore is None else restore(args, kwargs, result)
        finally:
            thread.busy = False

    return kernel
