"""Calls of tools, compared as the caller would: by name and by what the arguments say.

The order of calls and of keys, and white space between JSON's tokens, do not count; types do: 1 is
1.0, and neither is "1" or true.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from edge_agent.log.grader_spec import ToolCall
from trainer.data.answers import Call, calls_in
from trainer.graders.text import same_value

_MOST_MATCHED = 10
"""Calls that are matched in the best way; more are matched one by one, in their order."""
_LEFT_OUT = ""
"""Among the accepted values of an argument: it may be left out."""


def grade(spec: ToolCall, reference: str, answer: str) -> float:
    """1 if the calls are the wanted ones, else 0; with `partial` the share that is right.

    A call with the right name is worth (1 + right arguments) / (1 + arguments of either side);
    the sum over the best matching is divided by the larger number of calls. Where no call is
    wanted, any call is worth 0.
    """
    wanted = _wanted(spec, reference)
    given = calls_in(answer) or ()
    larger = max(len(wanted), len(given))
    if larger == 0:
        return 1.0
    scores = [[_credit(*one, call) for call in given] for one in wanted]
    if not spec.partial:
        scores = [[float(credit == 1) for credit in row] for row in scores]
    score = _best(scores, len(given)) / larger
    return score if spec.partial else float(score == 1)


_Accepted = Mapping[str, Sequence[Any]]
"""Argument → accepted values, nested as BFCL has them."""
_Wanted = tuple[str, _Accepted, bool]
"""Name, its arguments, and whether a value may be nested accepted ones."""


def _wanted(spec: ToolCall, reference: str) -> list[_Wanted]:
    if spec.accepted is not None:
        return [(name, values, True) for one in spec.accepted for name, values in one.items()]
    calls: Sequence[Call] = calls_in(reference) or ()
    return [(name, {key: [value] for key, value in args.items()}, False) for name, args in calls]


def _credit(name: str, accepted: _Accepted, nested: bool, call: Call) -> float:
    if call[0] != name:
        return 0.0
    given = call[1]
    may_be_left_out = {key for key, values in accepted.items() if nested and _LEFT_OUT in values}
    fields = given.keys() | (accepted.keys() - may_be_left_out)
    right = sum(
        key in given and any(_fits(one, given[key], nested) for one in accepted.get(key, ()))
        for key in fields
    )
    return (1 + right) / (1 + len(fields))


def _fits(accepted: Any, value: Any, nested: bool) -> bool:
    """Whether `value` is the accepted one; within objects of nested ones lists are choices."""
    if same_value(accepted, value):
        return True
    if not nested:
        return False
    if isinstance(accepted, list) and isinstance(value, list):
        pairs = zip(accepted, value, strict=False)
        return len(accepted) == len(value) and all(_fits(a, v, nested) for a, v in pairs)
    if not isinstance(accepted, Mapping) or not isinstance(value, Mapping):
        return False
    choices = {key: list(one) if isinstance(one, list) else [one] for key, one in accepted.items()}
    return value.keys() <= choices.keys() and all(
        any(_fits(one, value[key], nested) for one in listed) if key in value else "" in listed
        for key, listed in choices.items()
    )


def _best(scores: Sequence[Sequence[float]], n_given: int) -> float:
    """The largest sum of credits where each wanted call takes at most one of those given."""
    if max(len(scores), n_given) > _MOST_MATCHED:
        free, total = set(range(n_given)), 0.0
        for row in scores:
            if free:
                place = max(sorted(free), key=row.__getitem__)
                free.discard(place)
                total += row[place]
        return total

    @lru_cache(None)
    def best(first: int, taken: int) -> float:
        if first == len(scores):
            return 0.0
        options = [best(first + 1, taken)]
        for place, credit in enumerate(scores[first]):
            if not taken >> place & 1:
                options.append(credit + best(first + 1, taken | 1 << place))
        return max(options)

    return best(0, 0)
