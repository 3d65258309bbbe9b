"""Attaches a capture to a model: containers open steps, attention modules report that they run. Everything comes off again.

Modules get ordinary forward hooks wherever these run and change nothing. Two kinds of module are entered another way, through
``_compiled_call_impl``, the slot ``nn.Module.__call__`` looks at first: those compiled in place (a hook would be traced into their graph)
and ``nn.TransformerEncoderLayer`` as the model itself (any hook switches its fast path off).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from torch import nn
from torch._C import _current_graph_task_id as _graph_task
from torch.compiler import is_compiling
from torch.utils.hooks import RemovableHandle

from attviz.hooks.scope.evidence import places_of_others, situation_of
from attviz.hooks.scope.model_map import Layout, is_compiled, is_scripted
from attviz.hooks.scope.tokens import ContextReader, TokenContext, TokenSource
from attviz.hooks.session.observer import Observer


def inert(*_: Any) -> None:
    """Stands in for our hooks in a copy or pickle of the model."""


class Hook:
    """Our forward hook: it does nothing during tracing, inside backward, or in a copy of the model.

    Inside backward, a checkpoint repeats a forward that was already seen. A call returns None: anything else would replace
    the module's output.
    """

    __slots__ = ()

    _observer: Observer

    def __deepcopy__(self, memo: dict[int, Any]) -> Callable[..., None]:
        return inert

    def __reduce__(self) -> tuple[Callable[[], Any], tuple[()]]:
        return _make_inert, ()


def _off() -> bool:
    return is_compiling() or _graph_task() != -1


class ContainerHook(Hook):
    """Runs an action with the arguments of the hook."""

    __slots__ = ("_action", "_observer")

    def __init__(self, observer: Observer, action: Callable[..., None]) -> None:
        self._observer, self._action = observer, action

    def __call__(self, *args: Any) -> None:
        """Run the action."""
        if not _off():
            self._action(*args)


class EnterLayer(Hook):
    """Reports that an attention module begins, and which sequences it was given. On the hot path of every attention."""

    __slots__ = ("_name", "_observer", "_others")

    def __init__(self, observer: Observer, name: str, others: tuple[tuple[int, str], ...]) -> None:
        self._observer, self._name, self._others = observer, name, others

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before the forward."""
        if not is_compiling() and _graph_task() == -1:
            self._observer.enter_layer(self._name, situation_of(self._others, args, kwargs) if self._others else (), args, kwargs)


class LeaveLayer(Hook):
    """Reports that an attention module ends."""

    __slots__ = ("_name", "_observer")

    def __init__(self, observer: Observer, name: str) -> None:
        self._observer, self._name = observer, name

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """After the forward; the output is None if it raised."""
        if not is_compiling() and _graph_task() == -1:
            self._observer.leave_layer(self._name, args, output)


def _make_inert() -> Callable[..., None]:
    return inert


class Scope:
    """The hooks of one capture. ``attach`` and ``detach`` may be called again and again."""

    def __init__(
        self,
        layout: Layout,
        observer: Observer,
        token_source: TokenSource | None,
        on_enter: Callable[[], None],
        on_leave: Callable[[], None],
    ) -> None:
        self._layout, self._observer, self._on_enter, self._on_leave = layout, observer, on_enter, on_leave
        self._token_source = token_source
        self._containers, self._layers = ExitStack(), ExitStack()
        self._hooked: set[str] = set()
        self._attached = -1  # owners that were known when layers were hooked last
        self._towers: list[tuple[str, ContextReader, tuple[RemovableHandle, RemovableHandle]]] = []

    def attach_containers(self) -> None:
        """Put hooks on the model and its towers."""
        for name in self._layout.containers:
            module = self._layout.regions.get(name, self._layout.modules[name])
            reader = ContextReader(self._layout.modules[name], self._token_source if name == "" else None)
            if module._compiled_call_impl is not None or isinstance(module, nn.TransformerEncoderLayer) or is_scripted(module):
                self._containers.callback(_wrap(module, self._observer, self._wrapper(reader, name)))
                continue
            before = ContainerHook(
                self._observer, lambda _, args, kwargs, reader=reader, name=name: self._enter(reader, name, args, kwargs)
            )
            after = ContainerHook(self._observer, lambda _, args, output: self._leave(output is not None))
            handles = (
                module.register_forward_pre_hook(before, with_kwargs=True, prepend=True),
                module.register_forward_hook(after, always_call=True),
            )
            for handle in handles:
                self._containers.callback(handle.remove)
            self._towers.append((name, reader, handles))
        self._attach_regions()

    def _attach_regions(self) -> None:
        """Notice whether the other compiled modules are called: the compiler may leave nothing of their attention to see."""
        for name, module in self._layout.regions.items():
            if name in self._layout.containers or not is_compiled(module):
                continue
            if module._compiled_call_impl is not None:
                self._containers.callback(_wrap(module, self._observer, self._marker(name)))
            else:
                mark = ContainerHook(self._observer, lambda *_, name=name: self._mark(name))
                self._containers.callback(module.register_forward_pre_hook(mark, prepend=True).remove)

    def release_containers(self) -> None:
        """Remove the hooks of towers that added nothing in the first forward and cannot later: the model around them opens the steps."""
        heard = self._towers[0][1].hears if self._towers and not self._towers[0][0] else frozenset()
        for name, reader, handles in self._towers:
            if name and reader.told is False and reader.hears <= heard:
                for handle in handles:
                    handle.remove()
        self._towers.clear()

    def attach_layers(self) -> None:
        """Put hooks on the modules that should attend and on those that were seen to attend."""
        if self._attached == len(self._observer.owners):
            return
        self._attached = len(self._observer.owners)
        for name in dict.fromkeys((*self._layout.expected, *self._observer.owners)):
            if name in self._layout.hidden or name in self._layout.regions or name in self._hooked:
                continue
            self._hooked.add(name)
            module = self._layout.modules[name]
            before = EnterLayer(self._observer, name, places_of_others(module))
            after = LeaveLayer(self._observer, name)
            self._layers.callback(module.register_forward_pre_hook(before, with_kwargs=True).remove)
            self._layers.callback(module.register_forward_hook(after, always_call=True, prepend=True).remove)

    def detach_layers(self) -> None:
        """Remove the hooks of the attention modules."""
        self._hooked.clear()
        self._attached = -1
        self._layers.close()

    def detach(self) -> None:
        """Remove everything, including what an interrupt left behind. Idempotent."""
        self.detach_layers()
        self._containers.close()
        for module in (*self._layout.modules.values(), *self._layout.regions.values()):
            _sweep(module, self._observer)

    # ---- what the hooks do

    def _enter(self, reader: ContextReader, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        def read(outer: TokenContext | None) -> TokenContext:
            try:
                return reader.read(args, kwargs, outer)
            except Exception as fault:  # an odd cache or mask must not break the user's forward
                self._observer.faults.keep(fault)
                return TokenContext()

        self._on_enter()
        self._observer.enter(read, name, args, kwargs)
        if name in self._layout.regions:
            self._mark(name)

    def _mark(self, region: str) -> None:
        observer = self._observer
        if not _off() and not observer.paused and not observer.place.elsewhere():
            observer.inlined.entered.add(region)

    def _leave(self, completed: bool) -> None:
        if self._observer.leave(completed):
            self._on_leave()

    def _marker(self, region: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        def around(call: Callable[..., Any]) -> Callable[..., Any]:
            def run(*args: Any, **kwargs: Any) -> Any:
                self._mark(region)
                return call(*args, **kwargs)

            run.get_compiler_config = getattr(call, "get_compiler_config", None)  # type: ignore[attr-defined]  # another capture asks
            return run

        return around

    def _wrapper(self, reader: ContextReader, name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        def around(call: Callable[..., Any]) -> Callable[..., Any]:
            def run(*args: Any, **kwargs: Any) -> Any:
                self._enter(reader, name, args, kwargs)
                output = None
                try:
                    output = call(*args, **kwargs)
                    return output
                finally:
                    self._leave(output is not None)

            return run

        return around


def _sweep(module: nn.Module, observer: Observer) -> None:
    """Remove every hook and wrapper of a capture from a module, whether or not its handle still exists."""
    own = module.__dict__
    if not (own.get("_forward_pre_hooks") or own.get("_forward_hooks") or own.get("_compiled_call_impl")):
        return  # as almost always
    for kind in ("_forward_pre_hooks", "_forward_hooks"):
        hooks = own.get(kind)
        for key in [key for key, hook in hooks.items() if isinstance(hook, Hook) and hook._observer is observer] if hooks else ():
            for table in (kind, f"{kind}_with_kwargs", f"{kind}_always_called"):
                own.get(table, {}).pop(key, None)
    wrapper = own.get("_compiled_call_impl")
    if wrapper is not None and getattr(wrapper, "attviz_observer", None) is observer:
        wrapper.attviz_undo()


def _wrap(module: nn.Module, observer: Observer, around: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Callable[[], None]:
    """Put ``around`` between the caller and the module; what it returns undoes that."""
    slot, name = vars(module), "_compiled_call_impl"  # not setattr, which a ScriptModule refuses
    held, before = name in slot, module._compiled_call_impl
    ours: Any = around(module._call_impl if before is None else before)

    def put_back() -> None:
        if held:
            slot[name] = before
        else:
            del slot[name]

    def undo() -> None:
        ours.attviz_left = True
        while getattr(slot.get(name), "attviz_left", False):  # also those inside it, whose captures ended first
            slot[name].attviz_put_back()  # if the user compiled the module meanwhile, theirs stays

    ours.attviz_observer, ours.attviz_undo, ours.attviz_put_back = observer, undo, put_back
    slot[name] = ours
    return undo
