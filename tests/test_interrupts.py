"""A capture that is interrupted leaves nothing: at 500 random moments by Ctrl-C, at 400 random lines by an exception, and across a fork."""

from __future__ import annotations

import gc
import os
import random
import signal
import sys
import threading
import time
import weakref
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch.utils import _python_dispatch

import attviz
from attviz.hooks.tap import dispatcher, functions, hub
from tests.tiny import Encoder, hook_counts, reference

PACKAGE = str(Path(attviz.__file__).parent)
pytestmark = [
    pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs POSIX timers"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),  # Ctrl-C inside a finalizer, of Python's or ours
]


EXCLUDED = torch._C._dispatch_tls_local_exclude_set()


class Interrupted(Exception):
    """Raised at a random line."""


@pytest.fixture(scope="module")
def model():
    return Encoder(2)


def assert_nothing_left(model, x, plain):
    if hub.listeners:
        gc.collect()  # of a capture that nobody holds any more, if it hangs in a cycle
    assert sum(hook_counts(model).values()) == 0
    assert all(module.__dict__.get("_compiled_call_impl") is None for module in model.modules())
    assert hub.listeners == ()
    assert not dispatcher.installed()
    assert not functions.installed()
    assert not hub.thread_state.busy
    assert torch.is_grad_enabled()
    assert torch._C._dispatch_tls_local_exclude_set() == EXCLUDED
    assert _python_dispatch._get_current_dispatch_mode() is None
    free = []
    thread = threading.Thread(target=lambda: free.append(hub.lock.acquire(timeout=5)) or hub.lock.release())
    thread.start()
    thread.join()
    assert free == [True]


def run(model, x):
    with attviz.capture(model, read=attviz.readings.Offset(-1)):  # no torch.no_grad(): an interrupt inside it is not ours
        model(x)


def test_ctrl_c_at_five_hundred_random_moments(model):
    x = torch.randn(1, 5, 32)
    with torch.no_grad():
        plain = model(x)
    run(model, x)
    began = time.perf_counter()
    run(model, x)
    longest = 1.5 * (time.perf_counter() - began)
    chance, hit = random.Random(0), 0
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)  # KeyboardInterrupt, as Ctrl-C
    try:
        for _ in range(500):
            try:
                signal.setitimer(signal.ITIMER_REAL, chance.uniform(1e-5, longest))
                run(model, x)
                signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                hit += 1
            signal.setitimer(signal.ITIMER_REAL, 0)
            if hit % 10 == 0:
                assert_nothing_left(model, x, plain)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert hit > 50
    assert_right(model, x, plain)


def assert_right(model, x, plain):
    assert_nothing_left(model, x, plain)
    with torch.no_grad(), attviz.capture(model) as cap:
        assert torch.equal(model(x), plain)
    torch.testing.assert_close(cap.diagonal.double(), reference(model, x), rtol=0, atol=1e-5)


def lines_of(model, x) -> int:
    """How many lines of ours one capture runs."""
    count = 0

    def trace(frame, event, argument):
        nonlocal count
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        count += event == "line"
        return trace

    sys.settrace(trace)
    try:
        run(model, x)
    finally:
        sys.settrace(None)
    return count


@pytest.mark.parametrize("kind", [Interrupted, KeyboardInterrupt])
def test_exceptions_at_two_hundred_random_lines_each(model, kind):
    x = torch.randn(1, 5, 32)
    with torch.no_grad():
        plain = model(x)
    run(model, x)
    total, chance, raised = lines_of(model, x), random.Random(1), 0
    for place in sorted(chance.sample(range(total), 200)):
        left = place

        def trace(frame, event, argument):
            nonlocal left
            if not frame.f_code.co_filename.startswith(PACKAGE):
                return None
            if event == "line":
                left -= 1
                if left == 0:
                    sys.settrace(None)
                    raise kind(f"{frame.f_code.co_filename}:{frame.f_lineno}")
            return trace

        where = None
        sys.settrace(trace)
        try:
            run(model, x)
        except kind as error:
            where, raised = str(error), raised + 1
            error.__traceback__ = None
        except Exception as error:  # of a cleanup that met the exception
            where, raised = repr(error), raised + 1
            error.__traceback__ = None
        finally:
            sys.settrace(None)
        try:
            assert_nothing_left(model, x, plain)
        except AssertionError as error:
            raise AssertionError(f"after an exception at {where}") from error
    assert raised > 100
    assert_right(model, x, plain)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Python, about forking a process with threads
def test_a_child_forked_while_another_thread_captures_does_not_hang(model):
    x, stop = torch.randn(1, 5, 32), threading.Event()

    def capture_on():
        while not stop.is_set():
            run(model, x)

    thread = threading.Thread(target=capture_on)
    thread.start()
    try:
        for _ in range(20):
            child = os.fork()
            if child == 0:
                hub.listen(_Deaf())
                hub.unlisten(_Deaf())
                os._exit(0)
            deadline = time.monotonic() + 20
            while os.waitpid(child, os.WNOHANG) == (0, 0):
                if time.monotonic() > deadline:
                    os.kill(child, signal.SIGKILL)
                    os.waitpid(child, 0)
                    pytest.fail("the child hangs")
                time.sleep(0.005)
    finally:
        stop.set()
        thread.join()


class _Deaf:
    def listening(self):
        return False

    def observe(self, *args):
        raise AssertionError("nobody is listening")


def test_faults_are_counted_the_first_is_raised_and_no_activation_is_held():
    held, model, x = [], Encoder(3), torch.randn(1, 5, 32)

    @dataclass(frozen=True, kw_only=True, eq=False)
    class Broken(attviz.readings.Reading):
        def read(self, call, tokens):
            held.append(weakref.ref(call.query))
            raise ValueError("first")

    capture = attviz.capture(model, read=Broken())
    with pytest.raises(ValueError, match="first") as caught, torch.no_grad(), capture:
        for _ in range(50):
            model(x)
        gc.collect()
        assert len(held) == 150
        assert [ref() for ref in held] == [None] * 150
    assert capture._observer.faults.count == 150
    if sys.version_info >= (3, 11):
        assert "the first of 150 faults" in caught.value.__notes__[0]
        assert "raise ValueError" in caught.value.__notes__[0]
