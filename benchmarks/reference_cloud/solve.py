"""Question text → right answer, for every known generator of reasoning-gym."""

from benchmarks.reference_cloud import solvers, words

FAMILIES = (*solvers.solvers.families, "decimal_chain_sum", *words.solvers.families)
"""Names of the generators whose questions are recognised."""


def solve(text: str) -> str | None:
    """The answer to the question in `text`, with instructions around it or not; else None."""
    return words.solvers.answer(text) or solvers.solvers.answer(text)
