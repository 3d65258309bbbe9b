"""The one writer and the one lock: what is not ours stays, what is dead goes, and nobody holds a lock twice."""

import ast
import errno
import multiprocessing
import os
import resource
import signal
import stat
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import attviz
from attviz import io
from attviz.analysis import Analysis
from attviz.errors import ArgumentError, FormatError
from attviz.files import Lock, check_input, check_output, replacing, replacing_text
from attviz.files.lock import lock_descriptor

fork = multiprocessing.get_context("fork")


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "page.html"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), replacing(path) as file:
        file.write(b"half of the n")
        raise ZeroDivisionError
    assert (path.read_text(), names(tmp_path)) == ("old", ["page.html"])
    with replacing(path) as file:
        file.write(b"new")
        assert path.read_text() == "old"
    assert (path.read_text(), names(tmp_path)) == ("new", ["page.html"])


def test_lines_end_the_same_everywhere_and_lone_surrogates_are_written_as_asked(tmp_path):
    with replacing_text(tmp_path / "a", errors="backslashreplace") as file:
        file.write("é\n\ud800")
    assert (tmp_path / "a").read_bytes() == b"\xc3\xa9\n\\ud800"


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o604])
def test_the_mode_of_the_old_file_stays_and_the_new_one_is_never_open_to_more(tmp_path, mode):
    path = tmp_path / "a"
    path.write_text("old")
    path.chmod(mode)
    with replacing(path) as file:
        beside = next(entry for entry in tmp_path.iterdir() if entry.name != "a")
        assert stat.S_IMODE(beside.stat().st_mode) == mode
        file.write(b"new")
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_a_new_file_has_the_mode_that_the_user_asks_of_all(tmp_path):
    before = os.umask(0o027)
    try:
        with replacing(tmp_path / "a"):
            pass
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


def test_a_link_is_replaced_and_what_it_points_at_stays(tmp_path):
    (tmp_path / "theirs").write_text("theirs")
    (tmp_path / "a").symlink_to("theirs")
    with replacing(tmp_path / "a") as file:
        file.write(b"ours")
    assert ((tmp_path / "theirs").read_text(), (tmp_path / "a").read_text()) == ("theirs", "ours")
    assert not (tmp_path / "a").is_symlink()


def test_no_name_beside_the_output_can_be_guessed(tmp_path, monkeypatch):
    import secrets

    taken = iter(["0" * 16, "1" * 16])
    monkeypatch.setattr(secrets, "token_hex", lambda _: next(taken))
    (tmp_path / "theirs").write_text("theirs")
    (tmp_path / f".a.attviz-{'0' * 16}.tmp").symlink_to("theirs")  # even if it were
    with pytest.raises(OSError) as caught, replacing(tmp_path / "a") as file:
        file.write(b"ours")
    assert caught.value.errno == errno.EEXIST
    assert (tmp_path / "theirs").read_text() == "theirs"


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda path: path.mkdir(), "a folder"),
        (os.mkfifo, "a FIFO"),
        (lambda path: path.symlink_to("/dev/full"), "a character device"),
    ],
)
def test_only_regular_files_are_replaced(tmp_path, make, kind):
    make(tmp_path / "a")
    with pytest.raises(ArgumentError, match=f"a: is {kind}, but attviz replaces regular files only"), replacing(tmp_path / "a"):
        pass
    with pytest.raises(ArgumentError, match="/dev/full: is a character device"):
        check_output("/dev/full")
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda path: path.mkdir(), "is a folder, not an archive"),
        (os.mkfifo, "is a FIFO, not an archive"),
        (lambda path: path.symlink_to("/dev/zero"), "is a character device, not an archive"),
        (lambda path: path.symlink_to("nowhere"), "a link to nowhere, which does not exist"),
        (lambda path: path.symlink_to(path), "cannot be opened"),
        (lambda path: os.truncate(os.open(path, os.O_CREAT | os.O_RDWR), 1 << 32), "a sparse file"),
    ],
)
def test_special_files_are_refused_by_kind(tmp_path, make, kind):
    make(tmp_path / "a")
    with pytest.raises(FormatError, match=kind):
        check_input(tmp_path / "a", "an archive")


def test_the_output_is_not_the_input_by_whatever_name(tmp_path):
    (tmp_path / "texts.csv").write_text("text\n")
    os.link(tmp_path / "texts.csv", tmp_path / "same")
    (tmp_path / "link").symlink_to("texts.csv")
    for name in ("texts.csv", "same", "link", "../" + tmp_path.name + "/texts.csv"):
        with pytest.raises(ArgumentError, match="the output is the input"):
            check_output(tmp_path / name, inputs=[tmp_path / "texts.csv"])
    with pytest.raises(ArgumentError, match=r"already exists. Choose another output, or allow replacing it with --overwrite"):
        check_output(tmp_path / "texts.csv", overwrite=False)
    with pytest.raises(ArgumentError, match="must name a file"):
        check_output("")


def test_overwrite_replaces_archives_only(tmp_path):
    ours, foreign, empty = tmp_path / "run.attviz", tmp_path / "model.safetensors", tmp_path / "empty"
    io.save(Analysis(("0",), []), ours)
    save_file({"weight": np.ones(3)}, foreign)
    empty.touch()
    before = foreign.read_bytes()
    check_output(ours, overwrite=True)
    check_output(empty, overwrite=True)
    with pytest.raises(ArgumentError, match="was not written by attviz, which replaces archives of its own only"):
        io.save(Analysis(("0",), []), foreign, overwrite=True)
    assert (foreign.read_bytes(), names(tmp_path)) == (before, ["empty", "model.safetensors", "run.attviz"])


def test_a_full_disk_says_so_and_leaves_the_old_file_alone(tmp_path):
    path = tmp_path / "a"
    path.write_text("old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError, match="the existing file is unchanged") as caught, replacing(path) as file:
            file.write(b"x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.filename == str(path)
    assert (path.read_text(), names(tmp_path)) == ("old", ["a"])


def test_an_error_of_what_the_block_reads_keeps_its_own_words(tmp_path):
    with pytest.raises(FileNotFoundError, match="No such file or directory: '/none'"), replacing(tmp_path / "a"):
        open("/none").close()


def test_leftovers_of_the_dead_go_and_the_living_and_strangers_stay(tmp_path):
    dead, living = f".a.attviz-{'0' * 16}.tmp", f".a.attviz-{'1' * 16}.tmp"
    strangers = [f".b.attviz-{'0' * 16}.tmp", ".a.attviz-00.tmp", "a.1234.tmp", f".a.attviz-{'0' * 16}.tmp.txt"]
    for name in (dead, living, *strangers):
        (tmp_path / name).write_text("x")
    (tmp_path / f".a.attviz-{'2' * 16}.tmp").symlink_to("a.1234.tmp")
    descriptor = os.open(tmp_path / living, os.O_RDWR)
    lock_descriptor(descriptor)
    try:
        with replacing(tmp_path / "a"):
            pass
    finally:
        os.close(descriptor)
    assert names(tmp_path) == sorted(["a", living, f".a.attviz-{'2' * 16}.tmp", *strangers])


def test_a_name_as_long_as_a_file_system_allows_can_be_written(tmp_path):
    with replacing(tmp_path / ("é" * 127)) as file:
        file.write(b"x")
    with Lock(tmp_path / ("é" * 127)):
        pass
    assert names(tmp_path) == ["é" * 127]


def test_a_lock_is_held_once_in_a_process_and_goes_without_a_trace(tmp_path):
    with Lock(tmp_path / "a") as lock:
        assert lock.held
        with pytest.raises(FormatError, match=f"another process .id {os.getpid()}. is writing to this archive"):
            Lock(tmp_path / "a").acquire()
        with pytest.raises(FormatError, match="already held"):
            lock.acquire()
    assert not lock.held
    assert names(tmp_path) == []
    lock.release()


@pytest.mark.parametrize("how", ["content", "symlink", "folder", "fifo"])
def test_what_is_not_our_lock_is_not_touched(tmp_path, how):
    path, theirs = tmp_path / ".a.attviz-lock", tmp_path / "theirs"
    theirs.write_text("")
    make = {"content": lambda: path.write_text("mine"), "symlink": lambda: path.symlink_to(theirs), "folder": path.mkdir}
    make.get(how, lambda: os.mkfifo(path))()
    with pytest.raises(FormatError, match="is not a lock of attviz"):
        Lock(tmp_path / "a").acquire()
    assert (names(tmp_path), theirs.read_text()) == ([".a.attviz-lock", "theirs"], "")


def _count(path, shared, rounds):
    done = 0
    while done < rounds:
        try:
            with Lock(path):
                value = shared.value
                time.sleep(0)  # somebody who wrongly holds it too would now lose an increment
                shared.value = value + 1
                done += 1
        except FormatError:
            time.sleep(0)


@pytest.mark.parametrize("kind", ["processes", "threads"])
def test_a_lock_cannot_be_held_twice(tmp_path, kind):
    shared = fork.Value("q", 0, lock=False)
    make = fork.Process if kind == "processes" else threading.Thread
    team = [make(target=_count, args=(tmp_path / "a", shared, 300)) for _ in range(4)]
    for one in team:
        one.start()
    for one in team:
        one.join()
    assert shared.value == 1200
    assert names(tmp_path) == []


def test_a_forked_child_holds_nothing_and_a_dead_parent_leaves_no_lock_to_it(tmp_path):
    ready, leave, held = fork.Event(), fork.Event(), fork.Value("i", -1)

    def child(lock):
        held.value = lock.held
        lock.release()  # the child's release is not the parent's
        ready.set()
        leave.wait(60)

    def parent():
        lock = Lock(tmp_path / "a").acquire()
        process = fork.Process(target=child, args=(lock,))
        process.start()
        process.join()

    middle = fork.Process(target=parent)
    middle.start()
    assert ready.wait(60)
    assert held.value == 0
    with pytest.raises(FormatError, match=f"another process .id {middle.pid}. is writing"):
        Lock(tmp_path / "a").acquire()
    os.kill(middle.pid, signal.SIGKILL)
    middle.join()
    try:
        with Lock(tmp_path / "a"):
            pass
    finally:
        leave.set()


def test_the_file_is_synced_before_it_is_renamed_and_the_folder_after(tmp_path, monkeypatch):
    order = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *args, name=name, real=real: (order.append((name, *args)), real(*args))[1])
    with replacing(tmp_path / "a") as file:
        number = file.fileno()
    assert [entry[0] for entry in order] == ["fsync", "replace", "fsync"]
    assert order[0][1] == number


def test_nothing_else_in_the_library_writes_a_file():
    """Every output goes through ``attviz.files``: no other file opens one for writing, or knows a writer of its own."""
    package = Path(attviz.__file__).parent
    for path in package.rglob("*.py"):
        if path.parent.name == "files" or path.name == "journal.py":  # the journal's columns only grow, and carry checksums
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            modes = [arg.value for arg in (*node.args, *(k.value for k in node.keywords)) if isinstance(arg, ast.Constant)]
            writes = name == "open" and any(
                isinstance(mode, str) and set(mode) & set("wax+") and set(mode) <= set("wax+rbt") for mode in modes
            )
            assert not writes, f"{path}:{node.lineno}"
            assert name not in {"write_text", "write_bytes", "save_file"}, f"{path}:{node.lineno}"
