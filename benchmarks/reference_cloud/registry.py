"""A list of solvers, each with the pattern of the question it answers."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field

Solver = Callable[[re.Match[str]], str | None]


@dataclass
class Solvers:
    """Filled by `add`; `answer` asks each in the order they were added."""

    _patterns: list[tuple[re.Pattern[str], Solver]] = field(default_factory=list)

    def add(self, pattern: str) -> Callable[[Solver], Solver]:
        """Register the decorated function for questions in which `pattern` is found."""

        def register(solver: Solver) -> Solver:
            self._patterns.append((re.compile(pattern), solver))
            return solver

        return register

    @property
    def families(self) -> list[str]:
        """Names of the generators whose questions are known."""
        return [solver.__name__ for _, solver in self._patterns]

    def answer(self, text: str) -> str | None:
        """The answer to the last known question in `text`, or None.

        The last, because examples come before the question.
        """
        for pattern, solver in self._patterns:
            found = None
            for found in pattern.finditer(text):  # noqa: B007
                pass
            if found is None:
                continue
            try:
                answer = solver(found)
            except (ArithmeticError, ValueError, LookupError):
                continue  # it looked like one of ours, and was not
            if answer is not None:
                return answer
        return None
