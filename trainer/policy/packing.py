"""Groups of answers as one sequence, so that a prompt is computed once, and a shared start once.

[start | prompt_1 | answer_1.1 | ... | answer_1.G | prompt_2 | ...]: what all prompts of a batch
begin with (a system prompt, mostly) stands first and alone. Every answer sees the start, its own
prompt and itself, and its positions go on from its prompt's end. An answer's last token predicts
nothing and is left out. Nothing is padded but the attention of one group beside another's, and
the ends to a round number.

Suffixes: B groups of a batch, N positions, P positions that predict, G answers, T answer
positions; Q a group's own positions, K those and the start before them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile

import torch
from torch import Tensor

Ids = Sequence[int]
_ROUND = 32
"""N and P are rounded up to this: kernels are compiled and kept for every shape they meet."""


@dataclass(frozen=True, slots=True)
class Answers:
    """Token ids of one prompt (not empty) and its G >= 0 answers (none empty)."""

    prompt_ids: Ids
    answers: Sequence[Ids]

    @property
    def packed_length(self) -> int:
        """Positions the group takes alone."""
        return len(self.prompt_ids) + sum(len(answer) - 1 for answer in self.answers)


def distinct(answers: Sequence[Ids]) -> tuple[list[Ids], list[int]]:
    """Each answer once, and where every answer stands among them."""
    unique = dict.fromkeys(tuple(answer) for answer in answers)
    places = {answer: place for place, answer in enumerate(unique)}
    return list(unique), [places[tuple(answer)] for answer in answers]


@dataclass(frozen=True, slots=True)
class Sight:
    """Who may look at whom: what attention needs to know of a packed batch."""

    start: int
    """Length of the shared start, positions 0 .. start - 1."""
    positions_N: Tensor
    own_B_Q: Tensor
    """Indices into N of each group's own positions; 0 at padding."""
    place_N: Tensor
    """Where the positions after the start stand in own_B_Q, flattened; N - start of them, with 0
    at the padded end, which nobody looks at."""
    segments_B_Q: Tensor
    """0 = prompt, g = answer g (from 1), -1 = padding."""

    keys_B_K: Tensor
    """Indices into N of what a group's positions may look at: the start and themselves."""
    _masks: dict[int | None, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def masks(self, window: int | None = None) -> tuple[Tensor, Tensor]:
        """[1, start, start] and [B, Q, K], True where a query (row) may look.

        `window` limits the distance. Every layer of a model asks for the same one or two.
        """
        if window not in self._masks:
            self._masks[window] = self._start_mask(window), self._groups_mask(window)
        return self._masks[window]

    def _start_mask(self, window: int | None) -> Tensor:
        order = self.positions_N[: self.start]
        distance = order[:, None] - order[None, :]
        allowed = distance >= 0
        return (allowed if window is None else allowed & (distance < window))[None]

    def _groups_mask(self, window: int | None) -> Tensor:
        """Padding looks at the first key, so that its softmax exists."""
        segments = self.segments_B_Q
        own = segments[:, :, None] == segments[:, None, :]
        own = (own | (segments[:, None, :] == 0)).tril()
        before = own.new_ones(*segments.shape, self.start)
        allowed = torch.cat([before, own], dim=2)
        if window is not None:
            positions, keys = self.positions_N[self.own_B_Q], self.positions_N[self.keys_B_K]
            allowed &= positions[:, :, None] - keys[:, None, :] < window
        padding = segments < 0
        allowed &= ~padding[:, :, None]
        allowed[:, :, 0] |= padding
        return allowed


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """B packed groups in N positions, and where their answers' log-probs come from."""

    ids_N: Tensor
    sight: Sight
    predicting_P: Tensor
    """Indices into N of the positions whose next token is wanted."""
    targets_P_G: Tensor
    """Wanted tokens: every answer's first at a prompt's end, one elsewhere (column 0)."""
    decision_B: Tensor
    """Index into P of each group's prompt end."""
    source_B_G_T: Tensor
    """Index into P * G of each answer token's log-prob; 0 at padding."""
    mask_B_G_T: Tensor
    """1.0 at real answer tokens."""


def pack(groups: Sequence[Answers], device: torch.device | str = "cpu") -> PackedBatch:
    """Pack `groups` (at least one)."""
    start = shared_start(groups)
    width = max(1, *(len(group.answers) for group in groups))
    steps = max((len(answer) for group in groups for answer in group.answers), default=1)
    own_length = _rounded(max(group.packed_length for group in groups) - start, 16)
    ids = list(groups[0].prompt_ids[:start])
    positions = list(range(start))
    own = torch.zeros(len(groups), own_length, dtype=torch.long)
    segments = torch.full_like(own, -1)
    place: list[int] = []
    predicting: list[int] = []
    targets: list[list[int]] = []
    decisions: list[int] = []
    source = torch.zeros(len(groups), width, steps, dtype=torch.long)
    mask = torch.zeros(len(groups), width, steps)
    for b, group in enumerate(groups):
        began, prompt = len(ids), len(group.prompt_ids)
        ids.extend(group.prompt_ids[start:])
        positions.extend(range(start, prompt))
        segments[b, : prompt - start] = 0
        decision = len(predicting)
        decisions.append(decision)
        predicting.append(len(ids) - 1)
        targets.append([answer[0] for answer in group.answers])
        for g, answer in enumerate(group.answers):
            count = len(answer) - 1
            source[b, g, 0] = decision * width + g
            source[b, g, 1 : count + 1] = (len(predicting) + torch.arange(count)) * width
            mask[b, g, : count + 1] = 1.0
            segments[b, len(ids) - began : len(ids) - began + count] = g + 1
            predicting.extend(range(len(ids), len(ids) + count))
            targets.extend([token] for token in answer[1:])
            ids.extend(answer[:-1])
            positions.extend(range(prompt, prompt + count))
        here = len(ids) - began
        own[b, :here] = torch.arange(began, len(ids))
        place.extend(range(b * own_length, b * own_length + here))
    spare = _rounded(len(ids), _ROUND) - len(ids)
    for row in (ids, positions, place):
        row.extend([0] * spare)
    spare = _rounded(len(predicting), _ROUND) - len(predicting)
    predicting.extend([0] * spare)
    targets.extend([[]] * spare)
    padded = [row + [0] * (width - len(row)) for row in targets]
    sight = Sight(
        start,
        torch.tensor(positions, device=device),
        own.to(device),
        torch.tensor(place, device=device),
        segments.to(device),
        torch.cat([torch.arange(start).expand(len(groups), -1), own], dim=1).to(device),
    )
    return PackedBatch(
        torch.tensor(ids, device=device),
        sight,
        torch.tensor(predicting, device=device),
        torch.tensor(padded, device=device),
        torch.tensor(decisions, device=device),
        source.to(device),
        mask.to(device),
    )


def _rounded(count: int, step: int) -> int:
    return -(-count // step) * step


def shared_start(groups: Sequence[Answers]) -> int:
    """Tokens that all prompts begin with; each prompt keeps at least its last for itself."""
    first = min(groups, key=lambda group: tuple(group.prompt_ids)).prompt_ids
    last = max(groups, key=lambda group: tuple(group.prompt_ids)).prompt_ids
    common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, last)))  # noqa: B905
    return min(common, min(len(group.prompt_ids) for group in groups) - 1)


def packed_length(groups: Sequence[Answers]) -> int:
    """Positions that `groups` take together."""
    start = shared_start(groups)
    return start + sum(group.packed_length - start for group in groups)


def micro_batches(groups: Sequence[Answers], max_tokens: int) -> Iterator[list[int]]:
    """Indices of `groups`, every one once, in batches of at most `max_tokens` positions.

    Prompts that begin alike go together. A group longer than the limit goes alone.
    """
    batch: list[int] = []
    for index in sorted(range(len(groups)), key=lambda i: tuple(groups[i].prompt_ids)):
        if batch and packed_length([groups[i] for i in (*batch, index)]) > max_tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
