"""A program that does not outlive who started it: ``python -m day.tethered MODULE ARGUMENTS…``.

Standard input is the tether: its other end closes however the starter ends, with SIGKILL too. The program is then
told to stop, and ended if it does not.
"""

import os
import runpy
import signal
import sys
import threading
import time

STOP_SECONDS = 15.0


def main() -> None:
    """Run the module as ``python -m`` would."""
    del sys.argv[0]
    threading.Thread(target=_follow, args=(sys.stdin.fileno(),), daemon=True).start()
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


def _follow(tether: int) -> None:
    while os.read(tether, 1024):
        """What comes is nothing to us: only its end is."""
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(STOP_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
