"""The process's memory: what the interpreter is told at start."""

import gc


def tune_memory() -> None:
    """Collect seldom.

    Arrivals die by reference counting, and the tail of the ledger would be walked over and over (docs/performance.md).
    """
    gc.set_threshold(50_000, 20, 100)
