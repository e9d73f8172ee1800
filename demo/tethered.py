"""Runs a module that ends when its parent process ends: ``python tethered.py MODULE ARGUMENTS…``.

The parent holds the other end of standard input. The kernel closes it when the parent ends, even after SIGKILL. This
program then sends itself SIGTERM, and SIGKILL 15 s later.
"""

import os
import runpy
import signal
import sys
import threading
import time

STOP_SECONDS = 15.0


def main() -> None:
    """Run the module as ``python -m`` does."""
    del sys.argv[0]
    threading.Thread(target=_end_with_parent, args=(sys.stdin.fileno(),), daemon=True).start()
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


def _end_with_parent(tether: int) -> None:
    while os.read(tether, 1024):
        """Ignore the input; only its end matters."""
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(STOP_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
