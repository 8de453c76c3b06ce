"""Which grader an item gets: the one its client named, else one that suits the reference."""

from edge_agent.log.grader_spec import Choice, Exact, Json, Numeric, Similarity, Spec, validate
from trainer.data.items import Item
from trainer.graders.numbers import announces_number, looks_numeric
from trainer.graders.text import letter, normalise, options, read_json

__all__ = ["Spec", "infer", "of", "validate"]

SHORT_WORDS = 6
"""References up to here are answers; longer ones are prose, compared by meaning."""
SHORT_CHARS = 60


def of(item: Item) -> Spec:
    """The item's spec, or the one its reference suggests. InvalidRequest for a bad spec."""
    if item.grader is not None:
        return validate(item.grader)
    return infer(item.reference, item.question)


def infer(reference: str, question: str) -> Spec:
    """Numeric for a number (announced in prose, too), choice for a letter of the question's
    options, JSON for an object or array, exact for a short text, else similarity."""
    is_json, value = read_json(reference)
    if is_json and isinstance(value, dict | list):
        return Json()
    named = options(question)
    if named and letter(reference, named) in named:
        return Choice()
    if looks_numeric(reference) or announces_number(reference):
        return Numeric()
    if len(reference) <= SHORT_CHARS and 0 < len(normalise(reference).split()) <= SHORT_WORDS:
        return Exact()
    return Similarity()
