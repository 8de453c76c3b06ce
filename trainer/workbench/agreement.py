"""Whether the cloud agrees with itself: its answers to one prompt, where it was asked repeatedly.

Where they differ, none of them alone is the truth. The reference becomes the one that most of
them agree with, every answer is graded against all of them, and what no majority agrees with is
not taught. As the reward of asking, the cloud gets the chance that two of its answers agree.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from trainer.data.items import Item
from trainer.graders import Graders

_MOST_DRAWS = 16
"""The newest of one prompt."""


def settled(items: Sequence[Item], graders: Graders) -> list[Item]:
    """The same items; those whose prompt the cloud answered in several ways have all `draws`."""
    prompts: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for place, item in enumerate(items):
        if item.reference_source == "cloud":
            spec = json.dumps(item.grader, sort_keys=True)
            prompts[item.prompt_ids, item.form.grammar, spec].append(place)
    found = list(items)
    for places in prompts.values():
        draws = tuple(items[place].reference for place in places[-_MOST_DRAWS:])
        if len(set(draws)) < 2:
            continue
        first = replace(items[places[0]], draws=draws)
        kinds = list(dict.fromkeys(draws))
        grades = graders.score_many([(first, draw) for draw in kinds])
        agreeing = {draw: grade.reward for draw, grade in zip(kinds, grades, strict=True)}
        best = max(kinds, key=agreeing.__getitem__)
        if min(agreeing.values()) == 1:
            continue
        for place in places:
            found[place] = replace(
                items[place], reference=best, draws=draws, agreement=agreeing[best]
            )
    return found


def teachable(item: Item) -> bool:
    """Whether its reference is more than a chance answer, and one that the model can write."""
    return item.agreement > 0.5 and item.form.write(item.reference) is not None
