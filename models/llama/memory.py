"""Memory that nobody uses any more, handed back to the system: mapped pages, freed buffers."""

import ctypes
import sys
from pathlib import Path

_MADV_DONTNEED = 4
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""mallopt(3)"""
_MAPPED = 4 << 20
"""Bytes of a buffer that is mapped on its own; more than what drawing a token takes."""
_KEPT = 8 << 20
"""Bytes that a thread may keep at the end of its arena."""
_MAPS = Path("/proc/self/maps")


def drop_mapped_pages(gguf: Path) -> None:
    """Let go of the mapped pages of `gguf`; those that are read after all come back by themselves.

    llama.cpp copies most weights into memory of its own, in the order its kernels like, and keeps
    the file mapped: without this they are resident twice. Linux only; nothing happens elsewhere.
    """
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None)
    name = str(gguf.resolve())
    for line in _MAPS.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[5] == name and "w" not in fields[1]:
            start, end = (int(part, 16) for part in fields[0].split("-"))
            libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _MADV_DONTNEED)


def keep_little_freed() -> None:
    """Bound what the allocator keeps for each thread, in this process from now on.

    glibc raises both thresholds as large buffers come and go, up to 32 and 64 MB, and what is free
    at the end of a thread's arena even `give_back_freed` leaves there: after some swaps each thread
    that ever made a context keeps tens of MB. Nothing happens with other libraries.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _MAPPED)
        mallopt(_M_TRIM_THRESHOLD, _KEPT)


def give_back_freed() -> None:
    """Return to the system what was freed and what the allocator keeps for later.

    glibc keeps freed buffers of up to 32 MB in the arena of the thread that made them: contexts and
    weights are made in any of a pool's threads, and a learner's activations come in a hundred
    sizes, some hundred MB a step. Nothing happens with other libraries.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(ctypes.c_size_t(0))
