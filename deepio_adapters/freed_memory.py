"""Giving back to the system what has been freed.

glibc's allocator keeps what a thread has freed for the next thread, up to twice the size of the largest block that the
process ever gave back: a decoded picture has more than a megabyte. With a thread for each source, that is some three
megabytes a stream that were used for a moment, when the source was opened.
"""

from __future__ import annotations

import functools
import sys
from typing import Any

__all__ = ["give_back"]


@functools.cache
def _find_trim() -> Any:
    """Finds malloc_trim of glibc; None with other allocators, which are left to themselves."""
    if sys.platform != "linux":
        return None
    try:
        import ctypes  # takes longer than all of this module, and many a command frees nothing

        return getattr(ctypes.CDLL(None), "malloc_trim", None)
    except (ImportError, OSError):  # a Python that was built without it
        return None


def give_back() -> None:
    """Gives the system what this process has freed, where the allocator can do that; from any thread.

    It takes a millisecond, or ten with hundreds of megabytes, in which other threads run. It is for where megabytes
    have been freed that are not needed again soon: after a medium was opened, and when a decoder or encoder has ended.
    """
    trim = _find_trim()
    if trim is not None:
        trim(0)
