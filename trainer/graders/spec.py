"""Which grader an item gets: the one its client named, else one that suits the reference."""

from edge_agent.log.grader_spec import (
    Choice,
    Exact,
    Json,
    Numeric,
    Similarity,
    Spec,
    ToolCall,
    validate,
)
from trainer.data.answers import calls_in
from trainer.data.items import Item
from trainer.graders.numbers import announces_number, looks_numeric
from trainer.graders.text import letter, normalise, options, read_json

__all__ = ["Spec", "infer", "of", "validate"]

SHORT_WORDS = 6
"""References up to here are answers; longer ones are prose, compared by meaning."""
SHORT_CHARS = 60


def of(item: Item, *, partial: bool = False) -> Spec:
    """The item's spec, or the one its reference suggests. InvalidRequest for a bad spec."""
    if item.grader is not None:
        return validate(item.grader)
    return infer(item.reference, item.question, tools=item.form.has_tools, partial=partial)


def infer(reference: str, question: str, *, tools: bool = False, partial: bool = False) -> Spec:
    """Tool call for calls where tools were given, numeric for a number (announced in prose, too),
    choice for a letter of the question's options, JSON for an object or array, exact for a short
    text, else similarity. `partial`: JSON and calls that are right in part get credit for it."""
    if tools and calls_in(reference) is not None:
        return ToolCall(partial=partial)
    is_json, value = read_json(reference)
    if is_json and isinstance(value, dict | list):
        return Json(partial=partial)
    named = options(question)
    if named and letter(reference, named) in named:
        return Choice()
    if looks_numeric(reference) or announces_number(reference):
        return Numeric()
    if len(reference) <= SHORT_CHARS and 0 < len(normalise(reference).split()) <= SHORT_WORDS:
        return Exact()
    return Similarity()
