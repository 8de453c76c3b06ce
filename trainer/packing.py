"""Groups of answers as one sequence each, so that a prompt is computed once per group.

[prompt | answer_1 | ... | answer_G]: every answer sees the prompt and itself, and its positions go
on from the prompt's end. An answer's last token predicts nothing and is left out. Suffixes:
B groups of a batch, L packed positions, N positions that predict, G answers, T answer positions.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Ids = Sequence[int]


@dataclass(frozen=True, slots=True)
class Answers:
    """Token ids of one prompt (not empty) and its G >= 0 answers (none empty)."""

    prompt_ids: Ids
    answers: Sequence[Ids]

    @property
    def packed_length(self) -> int:
        """Positions the packed sequence takes."""
        return len(self.prompt_ids) + sum(len(answer) - 1 for answer in self.answers)


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """B packed groups, padded to L positions, and where their answers' log-probs come from."""

    ids_B_L: Tensor
    positions_B_L: Tensor
    segments_B_L: Tensor
    """0 = prompt, g = answer g (from 1), -1 = padding."""
    predicting_N: Tensor
    """Indices into B * L of the positions whose next token is wanted."""
    targets_N_G: Tensor
    """Wanted tokens: every answer's first at a prompt's end, one elsewhere (column 0)."""
    decision_B: Tensor
    """Index into N of each group's prompt end."""
    source_B_G_T: Tensor
    """Index into N * G of each answer token's log-prob; 0 at padding."""
    mask_B_G_T: Tensor
    """1.0 at real answer tokens."""

    def attention_mask(self, window: int | None = None) -> Tensor:
        """[B, 1, L, L], True where a query (row) may look; `window` limits the distance."""
        segments, positions = self.segments_B_L, self.positions_B_L
        length = segments.shape[1]
        own = segments[:, :, None] == segments[:, None, :]
        allowed = (own | (segments[:, None, :] == 0)).tril()
        if window is not None and length > 0:
            allowed &= positions[:, :, None] - positions[:, None, :] < window
        return allowed[:, None]


def pack(groups: Sequence[Answers], device: torch.device | str = "cpu") -> PackedBatch:
    """Pack `groups`, one per row."""
    length = max(group.packed_length for group in groups)
    width = max(1, *(len(group.answers) for group in groups))
    steps = max((len(answer) for group in groups for answer in group.answers), default=1)
    ids, positions, segments = (torch.zeros(len(groups), length, dtype=torch.long) for _ in "abc")
    segments.fill_(-1)
    predicting: list[int] = []
    targets: list[list[int]] = []
    decisions: list[int] = []
    source = torch.zeros(len(groups), width, steps, dtype=torch.long)
    mask = torch.zeros(len(groups), width, steps)
    for b, group in enumerate(groups):
        start = len(group.prompt_ids)
        ids[b, :start] = torch.as_tensor(group.prompt_ids)
        positions[b, :start] = torch.arange(start)
        segments[b, :start] = 0
        decision = len(predicting)
        decisions.append(decision)
        predicting.append(b * length + start - 1)
        targets.append([answer[0] for answer in group.answers])
        end = start
        for g, answer in enumerate(group.answers):
            count = len(answer) - 1
            ids[b, end : end + count] = torch.as_tensor(answer[:-1])
            positions[b, end : end + count] = torch.arange(start, start + count)
            segments[b, end : end + count] = g + 1
            source[b, g, 0] = decision * width + g
            source[b, g, 1 : count + 1] = (len(predicting) + torch.arange(count)) * width
            mask[b, g, : count + 1] = 1.0
            predicting.extend(b * length + end + i for i in range(count))
            targets.extend([token] for token in answer[1:])
            end += count
    padded = torch.tensor([row + [0] * (width - len(row)) for row in targets])
    return PackedBatch(
        ids.to(device),
        positions.to(device),
        segments.to(device),
        torch.tensor(predicting, device=device),
        padded.to(device),
        torch.tensor(decisions, device=device),
        source.to(device),
        mask.to(device),
    )


def micro_batches(groups: Sequence[Answers], max_tokens: int) -> Iterator[list[int]]:
    """Indices of `groups`, every one once, in batches of at most `max_tokens` padded positions.

    Groups of similar length go together. A group longer than the limit goes alone.
    """
    batch: list[int] = []
    for index in sorted(range(len(groups)), key=lambda i: -groups[i].packed_length):
        longest = groups[batch[0] if batch else index].packed_length
        if batch and (len(batch) + 1) * longest > max_tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
