"""How the process handles freed memory."""

from __future__ import annotations

import ctypes
import sys

# Parameters of glibc's mallopt (malloc.h), and a size above that of any blob.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT = 1 << 30


def keep_freed_memory() -> None:
    """Keeps freed memory for the next allocation instead of returning it to the kernel.

    This holds for the whole process as long as it runs.

    Each pass of a net allocates and frees the same large blobs. glibc returns them when they are at the end of its
    heap, or 32 MiB or more, and the kernel clears every page again: up to 5 % of the time of a detection on a CPU.
    Other C libraries are left as they are.
    """
    if sys.platform != "linux":
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "gnu_get_libc_version"):
        library.mallopt(_M_MMAP_THRESHOLD, _KEPT)
        library.mallopt(_M_TRIM_THRESHOLD, _KEPT)
