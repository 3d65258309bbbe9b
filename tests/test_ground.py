"""The ground we stand on: one row for each private interface of torch, torchmetrics and transformers that the package leans on.

A row says what it is, which room uses it, what happens to a user when it goes, and a check that it is still there and still does what we
need. When a new release turns one of these red, the row says what to mend. ``nox -s newest`` finds out before users do.
"""

from __future__ import annotations

import ast
import inspect
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import torchmetrics
from torch import nn

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.jit, loaded by what is looked at here
PACKAGE = Path(__file__).parent.parent / "attviz"


class Ground(NamedTuple):
    """One private interface: its name as the code spells it, the room that uses it, what breaks without it, and a check."""

    name: str
    room: str
    without_it: str
    holds: Callable[[], bool]


def _library_can_be_undone() -> bool:
    name = "aten::_softmax"
    before = torch.softmax(torch.zeros(2), 0)
    original = torch.library.get_kernel(name, "CPU")
    library = torch.library.Library("aten", "IMPL")
    seen = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            library.impl(
                "_softmax", lambda keys, *args: seen.append(1) or original.call_boxed(keys, *args), "CPU",
                with_keyset=True, allow_override=True,
            )  # fmt: skip
        kept = torch.library.get_kernel(name, "CPU")
        during = torch.softmax(torch.zeros(2), 0)
    finally:
        library._destroy()
    after = torch.softmax(torch.zeros(2), 0)
    return bool(kept) and len(seen) == 1 and torch.equal(before, during) and torch.equal(before, after)


def _kernels_can_be_asked_for() -> bool:
    has = torch._C._dispatch_has_computed_kernel_for_dispatch_key
    known, unknown = "aten::_softmax", "flash_attn_9::fwd"
    asked = [torch._C._dispatch_has_kernel(name) for name in (known, unknown)]
    return asked == [True, False] and has(known, "CPU") and not has("aten::_flash_attention_forward", "CPU")


def _third_devices_have_a_name() -> bool:
    return isinstance(torch._C._get_privateuse1_backend_name(), str)


def _stance_is_known() -> bool:
    from torch._dynamo import eval_frame

    with torch.compiler.set_stance("force_eager"):
        return bool(eval_frame._stance.stance == "force_eager")


def _compiled_modules_know_their_options() -> bool:
    model = nn.Linear(2, 2)
    apart = torch.compile(model, mode="reduce-overhead")
    model.compile(mode="reduce-overhead")
    return all(each.get_compiler_config()["triton.cudagraphs"] for each in (apart, model._compiled_call_impl))


def _dispatch_modes_are_counted() -> bool:
    with torch.utils._python_dispatch.TorchDispatchMode():
        inside = torch._C._len_torch_dispatch_stack()
    return inside == 1 + torch._C._len_torch_dispatch_stack()


def _frames_hold_the_running_module() -> bool:
    found = []

    class Probe(nn.Module):
        def forward(self) -> None:
            frame = inspect.currentframe()
            codes = (nn.Module._call_impl.__code__, nn.Module._wrapped_call_impl.__code__)
            while frame is not None:
                if frame.f_code in codes:
                    found.append(frame.f_locals["self"])
                frame = frame.f_back

    probe = Probe()
    probe()
    return bool(found) and all(module is probe for module in found)


def _compiled_call_is_used_by_call() -> bool:
    module = nn.Identity()
    if module._compiled_call_impl is not None:
        return False
    module._compiled_call_impl = lambda x: x + 1
    return bool(module(torch.zeros(1)) == 1)


def _recompute_has_a_graph_task() -> bool:
    inside = []
    x = torch.ones(1, requires_grad=True)
    x.register_hook(lambda gradient: inside.append(torch._C._current_graph_task_id()))
    x.sum().backward()
    return torch._C._current_graph_task_id() == -1 and inside[0] != -1


def _vmap_is_visible() -> bool:
    seen = []
    torch.vmap(lambda x: seen.append(torch._C._functorch.is_batchedtensor(x)) or x)(torch.zeros(2))
    return seen == [True] and not torch._C._functorch.is_batchedtensor(torch.zeros(1))


def _tracing_is_visible() -> bool:
    seen = []
    torch.jit.trace(lambda x: seen.append(torch._C._is_tracing()) or x * 2, torch.zeros(1), check_trace=False)
    return seen[0] and not torch._C._is_tracing()


def _compiled_functions_name_their_original() -> bool:
    def original(x: torch.Tensor) -> torch.Tensor:
        return x

    return torch.compile(original)._torchdynamo_orig_callable is original


def _optimized_module_is_where_it_was() -> bool:
    from torch._dynamo.eval_frame import OptimizedModule

    return isinstance(torch.compile(nn.Identity()), OptimizedModule)


def _index_transform_is_there() -> bool:
    from torch._dynamo._trace_wrapped_higher_order_op import TransformGetItemToIndex

    with TransformGetItemToIndex():
        return True


def _floats_can_be_constants() -> bool:
    from torch._dynamo import config

    return isinstance(config.specialize_float, bool)


def _flex_operator_is_there() -> bool:
    return bool(torch._higher_order_ops.flex_attention)


def _dispatch_modes_stack() -> bool:
    from torch.utils import _python_dispatch

    class Mode(_python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            return function(*args, **(kwargs or {}))

    mode = Mode()
    with mode:
        inside = _python_dispatch._get_current_dispatch_mode() is mode and mode in _python_dispatch._get_current_dispatch_mode_stack()
    return inside and _python_dispatch._get_current_dispatch_mode() is None


def _excluded_keys_are_put_back() -> bool:
    from attviz.hooks.session.thread import ThreadState

    before, state, x = torch._C._dispatch_tls_local_exclude_set(), ThreadState(), torch.ones(1, requires_grad=True)
    guard = torch._C._AutoDispatchBelowAutograd()
    guard.__enter__()  # as an interrupt leaves it
    left = not (x * 2).requires_grad
    state.restore()
    return left and (x * 2).requires_grad and torch._C._dispatch_tls_local_exclude_set() == before


def _composites_can_be_taken_apart() -> bool:
    key = torch._C.DispatchKey.CompositeImplicitAutograd
    with torch._C._SetExcludeDispatchKeyGuard(torch._C.DispatchKey.AutocastCPU, True):
        excluded = True
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    return excluded and has("aten::matmul", key) and not has("aten::bmm", key)


def _overloads_are_told_apart() -> bool:
    from torch._ops import OpOverload

    return isinstance(torch.ops.aten.softmax.int, OpOverload)


def _metric_life_cycle() -> bool:
    private = ("_update_count", "_computed", "_forward_cache", "_cache", "_is_synced")
    metric = torchmetrics.SumMetric()
    methods = ("_copy_state_dict", "_reduce_states", "_sync_dist", "_wrap_compute")
    return all(hasattr(metric, name) for name in private) and all(callable(getattr(metric, name)) for name in methods)


def _transformers_fetches_flash() -> bool:
    from transformers import modeling_flash_attention_utils as flash

    return callable(flash.lazy_import_flash_attention)


def _transformers_holds_flex() -> bool:
    from transformers.integrations.flex_attention import WrappedFlexAttention

    return "__call__" in vars(WrappedFlexAttention)


def _caches_know_their_length() -> bool:
    from transformers import DynamicCache, StaticCache

    return callable(DynamicCache.get_seq_length) and callable(StaticCache.get_seq_length) and hasattr(DynamicCache(), "layers")


GROUND = [
    Ground("_destroy", "hooks/tap", "the override of the attention operators stays after a capture", _library_can_be_undone),
    Ground("call_boxed", "hooks/tap", "the tap cannot call the kernel that was in force: no capture at all", _library_can_be_undone),
    Ground("_dispatch_has_kernel", "hooks/tap", "entering a capture fails", _kernels_can_be_asked_for),
    Ground("_dispatch_has_computed_kernel_for_dispatch_key", "hooks/tap", "entering a capture fails", _kernels_can_be_asked_for),
    Ground("_get_privateuse1_backend_name", "hooks/tap", "entering a capture fails", _third_devices_have_a_name),
    Ground("_stance", "hooks/session", "models compiled with CUDA graphs are refused under force_eager too", _stance_is_known),
    Ground("get_compiler_config", "hooks/session", "models that replay CUDA graphs are missed late", _compiled_modules_know_their_options),
    Ground("_len_torch_dispatch_stack", "kernels", "every diagonal on a GPU fails", _dispatch_modes_are_counted),
    Ground("_call_impl", "hooks/scope", "calls find no owner: CaptureError for every model", _frames_hold_the_running_module),
    Ground("_wrapped_call_impl", "hooks/scope", "the same, for modules that are called plainly", _frames_hold_the_running_module),
    Ground("_compiled_call_impl", "hooks/scope", "modules compiled in place are missed, loudly", _compiled_call_is_used_by_call),
    Ground("_current_graph_task_id", "hooks", "checkpointed layers are recorded twice", _recompute_has_a_graph_task),
    Ground("_functorch", "hooks/scope", "a model under vmap is recorded slice by slice instead of refused", _vmap_is_visible),
    Ground("_is_tracing", "hooks/tap", "torch.jit.trace fails inside a capture of a flex or flash model", _tracing_is_visible),
    Ground("_torchdynamo_orig_callable", "hooks/tap", "flex compiled by hand is missed, loudly", _compiled_functions_name_their_original),
    Ground("_dynamo", "hooks/scope", "whole compiled models: layers without names", _optimized_module_is_where_it_was),
    Ground("_trace_wrapped_higher_order_op", "calls", "a score_mod that indexes a table fails", _index_transform_is_there),
    Ground("_dynamo", "calls", "flex with a softcap is read by torch on a GPU: slow, with a warning", _floats_can_be_constants),
    Ground("_higher_order_ops", "calls", "flex under autocast is read in the wrong dtype", _flex_operator_is_there),
    Ground("_python_dispatch", "hooks/scope", "the first forward cannot be followed: CaptureError", _dispatch_modes_stack),
    Ground("_dispatch_tls_local_exclude_set", "hooks/session", "an interrupt can leave gradients off", _excluded_keys_are_put_back),
    Ground("_dispatch_tls_set_dispatch_key_excluded", "hooks/session", "an interrupt can leave gradients off", _excluded_keys_are_put_back),
    Ground("_SetExcludeDispatchKeyGuard", "hooks/scope", "following changes last bits in inference mode", _composites_can_be_taken_apart),
    Ground("_dispatch_has_kernel_for_dispatch_key", "hooks/scope", "the same", _composites_can_be_taken_apart),
    Ground("_ops", "checking", "attviz.check cannot tell an operator from its overloads", _overloads_are_told_apart),
    Ground("_update_count", "metrics", "streaming metrics lose count of their updates", _metric_life_cycle),
    Ground("_sync_dist", "metrics", "metrics of several processes are gathered instead of reduced", _metric_life_cycle),
    Ground("_reduce_states", "metrics", "metric(record) and merge_state fail", _metric_life_cycle),
    Ground("_wrap_compute", "metrics", "torchmetrics warns of every compute", _metric_life_cycle),
    Ground("lazy_import_flash_attention", "hooks/tap", "flash kernels from the hub are missed, loudly", _transformers_fetches_flash),
    Ground("WrappedFlexAttention", "hooks/tap", "transformers' flex_attention is missed, loudly", _transformers_holds_flex),
    Ground("get_seq_length", "hooks/scope", "decoding steps are refused", _caches_know_their_length),
]  # fmt: skip


@pytest.mark.parametrize("ground", GROUND, ids=lambda ground: ground.name)
def test_ground_holds(ground):
    assert ground.holds(), f"{ground.name}, used in attviz/{ground.room}, has changed. Without it: {ground.without_it}"


@pytest.mark.parametrize("ground", GROUND, ids=lambda ground: ground.name)
def test_ground_is_still_used(ground):
    assert any(ground.name in path.read_text() for path in (PACKAGE / ground.room).rglob("*.py")), (
        f"{ground.name}: no longer used in {ground.room}"
    )


def test_every_private_part_of_torch_has_its_row():
    known = {ground.name for ground in GROUND} | {
        "_C",
        "_parameters",
        "_modules",
    }  # _C holds what the rows name; the two are public in all but name
    unknown = {}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            for name in _private_parts(node) - known:
                unknown.setdefault(name, str(path.relative_to(PACKAGE)))
    assert not unknown, f"private interfaces of torch without a row in tests/test_ground.py: {unknown}"


def _private_parts(node: ast.AST) -> set[str]:
    """``_C`` and ``_functorch`` of ``torch._C._functorch.x``, and of ``from torch._dynamo.y import z``."""
    if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ("torch", "torchmetrics", "transformers"):
        parts = [*str(node.module).split("."), *(alias.name for alias in node.names)]
        return {part for part in parts if part.startswith("_")}
    if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
        inner: ast.AST = node
        while isinstance(inner, ast.Attribute):
            inner = inner.value
        if isinstance(inner, ast.Name) and inner.id in ("torch", "nn"):
            return {node.attr}
    return set()
