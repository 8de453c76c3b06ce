"""Log-probs of packed answers under the torch model, without ever holding T x V logits."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from trainer.policy.packing import Answers, PackedBatch


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

    def spread(self, places: Sequence[int]) -> "AnswerLogProbs":
        """Of one group (B = 1): answer number `places[g]` as the g-th; masked out where negative.

        The decision stays as it is.
        """
        index = torch.tensor(places, dtype=torch.long, device=self.mask_B_G_T.device)
        here = (index >= 0)[None, :, None]
        spared = nn.functional.pad(self.mask_B_G_T, (0, 1, 0, 1))  # there may be no answer at all
        local = nn.functional.pad(self.local_B_G_T, (0, 1, 0, 1))
        return replace(self, local_B_G_T=local[:, index] * here, mask_B_G_T=spared[:, index] * here)


def answer_logprobs(
    model: Any,
    batch: PackedBatch,
    offload_token: int,
    *,
    window: int = 1,
    rows_at_once: int = 64,
) -> AnswerLogProbs:
    """Run `model` (transformers, causal, loaded with `attention.PACKED`) on `batch`.

    `window` is the decision window w; `rows_at_once` bounds the logits held (rows x V, fp32).
    """
    prepared = torch.ones(1, 1, 1, 1)  # what is shaped like a mask, transformers passes through
    kinds = ("full_attention", "sliding_attention")
    layered = hasattr(model.config, "layer_types")
    hidden_1_N_D = model.get_decoder()(
        input_ids=batch.ids_N[None],
        position_ids=batch.sight.positions_N[None],
        attention_mask=dict.fromkeys(kinds, prepared) if layered else prepared,
        use_cache=False,
        sight=batch.sight,
    ).last_hidden_state
    offload = batch.targets_P_G.new_full((batch.targets_P_G.shape[0], 1), offload_token)
    chosen, masked_P = _Head.apply(  # type: ignore[no-untyped-call]
        hidden_1_N_D[0].index_select(0, batch.predicting_P),
        model.get_output_embeddings().weight,
        torch.cat([batch.targets_P_G, offload], dim=1),
        rows_at_once,
    )
    open_P = torch.logaddexp(masked_P, chosen[:, -1])
    source = batch.source_B_G_T
    local = (chosen[:, :-1] - masked_P[:, None]).reshape(-1)[source]
    if window > 1:
        may_ask = (chosen[:, :-1] - open_P[:, None]).reshape(-1)[source[..., 1:window]]
        local = torch.cat([local[..., :1], may_ask, local[..., window:]], dim=-1)
    decision = batch.decision_B
    return AnswerLogProbs(
        local_B_G_T=torch.where(batch.mask_B_G_T > 0, local, 0.0),
        mask_B_G_T=batch.mask_B_G_T,
        log_p_B=chosen[decision, -1] - open_P[decision],
        log_not_p_B=masked_P[decision] - open_P[decision],
    )


class _Head(torch.autograd.Function):
    """Logits of chosen tokens [P, K], and the log-sum-exp over all but the last of them [P].

    The head is frozen, so the gradient of the log-sum-exp is one vector per row: the mean of the
    head's rows under the softmax. It is computed with the logits at hand, and they are let go.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden_P_D: Tensor, head_V_D: Tensor, tokens_P_K: Tensor, rows_at_once: int
    ) -> tuple[Tensor, Tensor]:
        chosen, normalizer, means = [], [], []
        for rows, tokens in zip(
            torch.split(hidden_P_D, rows_at_once),
            torch.split(tokens_P_K, rows_at_once),
            strict=True,
        ):
            logits = (rows @ head_V_D.T).float()
            chosen.append(logits.gather(1, tokens))
            logits.scatter_(1, tokens[:, -1:], float("-inf"))
            normalizer.append(logits.logsumexp(-1))
            if ctx.needs_input_grad[0]:
                shares = logits.sub_(normalizer[-1][:, None]).exp_().to(rows.dtype)
                means.append(shares @ head_V_D)
        if means:
            ctx.save_for_backward(torch.cat(means), head_V_D, tokens_P_K)
        return torch.cat(chosen), torch.cat(normalizer)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        means_P_D, head_V_D, tokens_P_K = ctx.saved_tensors
        chosen_P_K, normalizer_P = (grad.to(means_P_D.dtype) for grad in grads)
        hidden_P_D = means_P_D * normalizer_P[:, None]
        hidden_P_D += torch.bmm(chosen_P_K[:, None], head_V_D[tokens_P_K])[:, 0]
        return hidden_P_D, None, None, None
