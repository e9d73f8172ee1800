"""Compiles documents' expressions in turns, so that one namespace's expressions never stop the whole process.

A single expression takes up to 15 ms to compile, and a listener may have 64. The native core holds the
interpreter's lock meanwhile, so a thread would not help. So expressions are compiled one by one, and the event loop
serves its other tasks in between. After each 10 ms for a document, its namespace pauses three times as long, so that
its expressions use at most a quarter of a core.
"""

import asyncio
import time
from collections.abc import Callable, Iterable

from usher_gateway.expressions import programs, samples

UNPAUSED_SECONDS = 0.01  # CPU time of a document's expressions until a pause. Most documents take 1 to 3 ms.
PAUSE_FACTOR = 3.0  # A pause's length, as a multiple of the CPU time before it
_ASK_AGAIN_SECONDS = 0.2  # How long a document waits while another one of its namespace is compiled


class ExpressionTurns:
    """Prepares expressions, document by document.

    Args:
        prepare: compiles or checks one expression.
        is_prepared: says whether `prepare` would return at once.
        cpu_clock: the calling thread's CPU time in seconds.
    """

    def __init__(
        self,
        prepare: Callable[[str, programs.Where], object],
        is_prepared: Callable[[str, programs.Where], bool],
        *,
        cpu_clock: Callable[[], float] = time.thread_time,
    ) -> None:
        self._prepare, self._is_prepared, self._cpu_clock = prepare, is_prepared, cpu_clock
        self._turn = asyncio.Lock()
        """Lets one expression be compiled per round of the event loop, however many tasks compile."""
        self._busy: set[str] = set()  # Namespaces of which a document is compiled now

    def are_prepared(self, sources: Iterable[programs.Source]) -> bool:
        """Return whether `prepare` would return at once."""
        return all(self._is_prepared(*source) for source in sources)

    async def take(self, namespace: str, sources: Iterable[programs.Source]) -> float:
        """Prepare a document's expressions with pauses, unless another one from its namespace is prepared now.

        Returns:
            0.0 if all are prepared now; else the seconds after which to try again.
        """
        missing = [source for source in sources if not self._is_prepared(*source)]
        if not missing:
            return 0.0
        if namespace in self._busy:
            return _ASK_AGAIN_SECONDS
        self._busy.add(namespace)
        try:
            await self.prepare(missing, has_pauses=True)
        finally:
            self._busy.discard(namespace)
        return 0.0

    async def prepare(self, sources: Iterable[programs.Source], *, has_pauses: bool) -> None:
        """Prepare a document's expressions. Other tasks run between two expressions."""
        seconds = 0.0  # CPU time since the last pause
        for source in sources:
            if self._is_prepared(*source):
                continue
            async with self._turn:
                began = self._cpu_clock()
                self._prepare(*source)
                seconds += self._cpu_clock() - began
                await asyncio.sleep(0)
            if has_pauses and seconds > UNPAUSED_SECONDS:
                await asyncio.sleep(seconds * PAUSE_FACTOR)
                seconds = 0.0


def compiling_turns() -> ExpressionTurns:
    """Turns that keep the programs, for a gateway that evaluates them."""
    return ExpressionTurns(programs.compile_expression, programs.is_compiled)


def checking_turns() -> ExpressionTurns:
    """Turns that only look for problems and try the samples, for an operator."""
    return ExpressionTurns(samples.check_expression, samples.is_checked)
