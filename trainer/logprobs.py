"""Log-probs of packed answers under the torch model, without ever holding T x V logits."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from trainer.packing import Answers, PackedBatch


@dataclass(frozen=True, slots=True)
class AnswerLogProbs:
    """Natural logs, fp32, with gradient; suffixes as in `packing`."""

    local_B_G_T: Tensor
    """Of each answer token given a local start: the offload token is masked (at positions
    1 .. window - 1 it is not: there the answer may still ask). 0 at padding."""
    mask_B_G_T: Tensor
    log_p_B: Tensor
    """Of the offload token at the first position."""
    log_not_p_B: Tensor
    """log(1 - p), computed without cancellation."""

    def row(self, b: int, group: Answers) -> "AnswerLogProbs":
        """The log-probs of one group of the batch (B = 1) without the padding of the others."""
        answers = len(group.answers)
        longest = max((len(answer) for answer in group.answers), default=0)
        here = slice(b, b + 1)
        return AnswerLogProbs(
            self.local_B_G_T[here, :answers, :longest],
            self.mask_B_G_T[here, :answers, :longest],
            self.log_p_B[here],
            self.log_not_p_B[here],
        )


def answer_logprobs(
    model: Any,
    batch: PackedBatch,
    offload_token: int,
    *,
    window: int = 1,
    rows_at_once: int = 64,
) -> AnswerLogProbs:
    """Run `model` (transformers, causal) on `batch`.

    `window` is the decision window w; `rows_at_once` bounds the logits held (rows x V, fp32).
    """
    config = model.config
    full = batch.attention_mask()
    masks = {
        "full_attention": full,
        "sliding_attention": batch.attention_mask(getattr(config, "sliding_window", None)),
    }
    hidden = model.get_decoder()(
        input_ids=batch.ids_B_L,
        position_ids=batch.positions_B_L,
        attention_mask=masks if hasattr(config, "layer_types") else full,
        use_cache=False,
    ).last_hidden_state
    hidden_N_D = hidden.flatten(0, 1)[batch.predicting_N]
    offload = batch.targets_N_G.new_full((batch.targets_N_G.shape[0], 1), offload_token)
    wanted = torch.cat([batch.targets_N_G, offload], dim=1)
    head = model.get_output_embeddings().weight
    parts = [
        checkpoint(_chosen, rows, head, tokens, use_reentrant=False)
        for rows, tokens in zip(
            torch.split(hidden_N_D, rows_at_once), torch.split(wanted, rows_at_once), strict=True
        )
    ]
    chosen, masked_N = (torch.cat(column) for column in zip(*parts, strict=True))
    open_N = torch.logaddexp(masked_N, chosen[:, -1])
    source = batch.source_B_G_T
    local = (chosen[:, :-1] - masked_N[:, None]).reshape(-1)[source]
    if window > 1:
        may_ask = (chosen[:, :-1] - open_N[:, None]).reshape(-1)[source[..., 1:window]]
        local = torch.cat([local[..., :1], may_ask, local[..., window:]], dim=-1)
    decision = batch.decision_B
    return AnswerLogProbs(
        local_B_G_T=torch.where(batch.mask_B_G_T > 0, local, 0.0),
        mask_B_G_T=batch.mask_B_G_T,
        log_p_B=chosen[decision, -1] - open_N[decision],
        log_not_p_B=masked_N[decision] - open_N[decision],
    )


def _chosen(hidden_N_D: Tensor, head_V_D: Tensor, tokens_N_K: Tensor) -> tuple[Tensor, Tensor]:
    """Logits of `tokens_N_K`, and the log-sum-exp over all but the last of them (per row)."""
    logits = (hidden_N_D @ head_V_D.T).float()
    local = logits.scatter(1, tokens_N_K[:, -1:], float("-inf"))
    return logits.gather(1, tokens_N_K), local.logsumexp(-1)
