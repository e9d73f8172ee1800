"""The process's memory: what the interpreter and the allocator are told at start."""

import ctypes
import gc

_M_TRIM_THRESHOLD, _M_TOP_PAD = -1, -2
"""Parameters of glibc's mallopt(3)."""

_KEEP_BYTES = 256 * 1024 * 1024
_GROW_BYTES = 16 * 1024 * 1024


def tune_memory() -> None:
    """Keep freed memory, collect seldom.

    Batches come and go hundreds of times a second; giving their memory back each time costs 5 to 10 us an arrival in
    page faults (docs/performance.md). Arrivals die by reference counting: few, large collections are enough.
    """
    gc.set_threshold(50_000, 20, 100)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # glibc only
        mallopt(_M_TRIM_THRESHOLD, _KEEP_BYTES)
        mallopt(_M_TOP_PAD, _GROW_BYTES)
