"""Compiles the expressions of documents in turns, so that one namespace's expressions never stop the whole process.

A single expression takes up to 15 ms to compile, and a listener may have 64 of them. The native core holds the
interpreter's lock meanwhile, so a thread would not help. So expressions are compiled one by one, and the event loop
serves its other tasks in between. After an expensive expression its namespace pauses three times as long as that took,
so that the expressions of a namespace use at most a quarter of a core.
"""

import asyncio
import time
from collections.abc import Callable, Iterable

from usher_gateway import expression_samples, expressions

CHEAP_SECONDS = 0.001  # An expression that takes less CPU time causes no pause before the next one of its document

# A document whose cheap expressions take less CPU time together causes no pause. Most documents take 1 to 3 ms.
CHEAP_DOCUMENT_SECONDS = 0.01

PAUSE_FACTOR = 3.0  # Length of a pause, as a multiple of the CPU time before it
_ASK_AGAIN_SECONDS = 0.2  # How long a document waits while another one of its namespace is compiled


class ExpressionTurns:
    """Prepares expressions, document by document.

    Args:
        prepare: compiles or checks one expression.
        is_prepared: says whether `prepare` would return at once.
        clock: monotonic seconds.
        cpu_clock: seconds of CPU time of the calling thread.
    """

    def __init__(
        self,
        prepare: Callable[[str, expressions.Where], object],
        is_prepared: Callable[[str, expressions.Where], bool],
        *,
        clock: Callable[[], float] = time.monotonic,
        cpu_clock: Callable[[], float] = time.thread_time,
    ) -> None:
        self._prepare, self._is_prepared = prepare, is_prepared
        self._clock, self._cpu_clock = clock, cpu_clock
        self._turn = asyncio.Lock()
        """Lets one expression be compiled per round of the event loop, however many tasks compile."""
        self._busy: set[str] = set()  # Namespaces of which a document is compiled now
        self._pauses: dict[str, float] = {}  # Namespace -> when its pause ends

    def are_prepared(self, sources: Iterable[expressions.Source]) -> bool:
        """Return whether `take` would return at once."""
        return all(self._is_prepared(*source) for source in sources)

    async def take(self, namespace: str, sources: Iterable[expressions.Source]) -> float:
        """Prepare the expressions of a document, unless its namespace has to wait.

        Returns:
            0.0 if all of them are prepared now; else the seconds after which to try again.
        """
        missing = [source for source in dict.fromkeys(sources) if not self._is_prepared(*source)]
        if not missing:
            return 0.0
        if namespace in self._busy:
            return _ASK_AGAIN_SECONDS
        left = self._pauses.get(namespace, 0.0) - self._clock()
        if left > 0.0:
            return left
        self._busy.add(namespace)
        try:
            await self._prepare_paced(namespace, missing)
        finally:
            self._busy.discard(namespace)
        return 0.0

    async def take_all(self, sources: Iterable[expressions.Source]) -> None:
        """Prepare the expressions of a document of a complete reading, which never waits."""
        for source in sources:
            if not self._is_prepared(*source):
                await self._prepare_one(source)

    async def _prepare_paced(self, namespace: str, missing: list[expressions.Source]) -> None:
        cheap = 0.0
        for source in missing:
            spent = await self._prepare_one(source)
            if spent > CHEAP_SECONDS:
                await asyncio.sleep(spent * PAUSE_FACTOR)
            else:
                cheap += spent
        if cheap > CHEAP_DOCUMENT_SECONDS:
            now = self._clock()
            self._pauses = {name: end for name, end in self._pauses.items() if end > now}
            self._pauses[namespace] = now + cheap * PAUSE_FACTOR

    async def _prepare_one(self, source: expressions.Source) -> float:
        """Prepare an expression, and let other tasks run; returns the CPU time."""
        async with self._turn:
            began = self._cpu_clock()
            self._prepare(*source)
            spent = self._cpu_clock() - began
            await asyncio.sleep(0)
        return spent


def compiling_turns() -> ExpressionTurns:
    """Turns that keep the programs, for a gateway that evaluates them."""
    return ExpressionTurns(expressions.compile_expression, expressions.is_compiled)


def checking_turns() -> ExpressionTurns:
    """Turns that only look for problems and try the samples, for an operator."""
    return ExpressionTurns(expression_samples.check_expression, expression_samples.is_checked)
