"""A shim before libc that counts the operations which change files, and kills the process at the n-th: really, with SIGKILL.

It needs a C compiler and Linux. A write that is hit is written by half first.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path

SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

static long target = 0, seen = 0;
static int trace = -1;

void attviz_arm(long at) { target = at; seen = 0; }
void attviz_trace(int descriptor) { trace = descriptor; }
long attviz_seen(void) { return seen; }

static int hit(const char *name, const char *path) {
    if (trace >= 0) { char line[4400]; int n = snprintf(line, sizeof line, "%s %s\n", name, path ? path : "");
        static ssize_t (*real)(int, const void *, size_t); if (!real) real = dlsym(RTLD_NEXT, "write"); real(trace, line, n); }
    if (target == 0) return 0;
    return ++seen == target;
}
static void die(void) { kill(getpid(), SIGKILL); for (;;) pause(); }

#define WRAP(ret, name, args, path, call) ret name args { \
    static ret (*real) args; if (!real) real = dlsym(RTLD_NEXT, #name); if (hit(#name, path)) die(); return real call; }

#define OPEN(name) int name(const char *path, int flags, ...) { \
    static int (*real)(const char *, int, ...); if (!real) real = dlsym(RTLD_NEXT, #name); \
    va_list list; va_start(list, flags); mode_t mode = va_arg(list, mode_t); va_end(list); \
    if ((flags & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC)) && hit(#name, path)) die(); return real(path, flags, mode); }
#define OPENAT(name) int name(int at, const char *path, int flags, ...) { \
    static int (*real)(int, const char *, int, ...); if (!real) real = dlsym(RTLD_NEXT, #name); \
    va_list list; va_start(list, flags); mode_t mode = va_arg(list, mode_t); va_end(list); \
    if ((flags & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC)) && hit(#name, path)) die(); return real(at, path, flags, mode); }
OPEN(open) OPEN(open64) OPENAT(openat) OPENAT(openat64)

ssize_t write(int fd, const void *data, size_t size) {
    static ssize_t (*real)(int, const void *, size_t); if (!real) real = dlsym(RTLD_NEXT, "write");
    char name[64]; snprintf(name, sizeof name, "fd %d", fd);
    if (fd > 2 && hit("write", name)) { real(fd, data, size / 2); die(); }
    return real(fd, data, size);
}
WRAP(ssize_t, pwrite64, (int fd, const void *data, size_t size, off_t at), NULL, (fd, data, size, at))
WRAP(int, fsync, (int fd), NULL, (fd))
WRAP(int, fdatasync, (int fd), NULL, (fd))
WRAP(int, ftruncate, (int fd, off_t size), NULL, (fd, size))
WRAP(int, ftruncate64, (int fd, off_t size), NULL, (fd, size))
WRAP(int, fchmod, (int fd, mode_t mode), NULL, (fd, mode))
WRAP(int, flock, (int fd, int how), NULL, (fd, how))
WRAP(int, rename, (const char *from, const char *to), to, (from, to))
WRAP(int, renameat, (int a, const char *from, int b, const char *to), to, (a, from, b, to))
WRAP(int, link, (const char *from, const char *to), to, (from, to))
WRAP(int, unlink, (const char *path), path, (path))
WRAP(int, unlinkat, (int at, const char *path, int flags), path, (at, path, flags))
WRAP(int, mkdir, (const char *path, mode_t mode), path, (path, mode))
WRAP(int, rmdir, (const char *path), path, (path))
"""


def compiler() -> str | None:
    """The C compiler, where there is one and the system is Linux."""
    return shutil.which("cc") if sys.platform == "linux" else None


def build(folder: Path) -> Path:
    """Compile the shim."""
    source, library = folder / "shim.c", folder / "shim.so"
    source.write_text(SOURCE)
    subprocess.run([str(compiler()), "-shared", "-fPIC", "-O1", "-w", "-o", str(library), str(source), "-ldl"], check=True)
    return library


def loaded() -> bool:
    """Whether this process runs under the shim."""
    return "shim.so" in os.environ.get("LD_PRELOAD", "")


def arm(at: int) -> None:
    """Kill this process at its n-th operation from now on; 0 disarms."""
    ctypes.CDLL(None).attviz_arm(ctypes.c_long(at))


def trace(descriptor: int) -> None:
    """Write a line for every operation to an open file; -1 stops."""
    ctypes.CDLL(None).attviz_trace(ctypes.c_int(descriptor))
