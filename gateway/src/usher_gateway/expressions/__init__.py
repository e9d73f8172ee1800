"""CEL expressions over a visit, with limits on what each may cost. Pure, except ``turns.py``.

- ``programs.py`` compiles and evaluates; ``turns.py`` compiles without stopping the process.
- ``syntax.py`` says what the text of an expression reads and calls, ``patterns.py`` has its patterns, ``functions.py``
  has Usher's own functions, and ``samples.py`` tries an expression on sample visits.
"""

from usher_gateway.expressions.programs import (
    Evaluation,
    Program,
    Source,
    Where,
    compile_expression,
    is_compiled,
    visit_values,
)

__all__ = [
    "Evaluation",
    "Program",
    "Source",
    "Where",
    "compile_expression",
    "is_compiled",
    "visit_values",
]
