"""Attention over a packed batch: the shared start once, then every group before its own keys.

Registered with transformers (`AttentionInterface`) under `PACKED`. A model loaded with it behaves
as with PyTorch's own kernel until a forward is given a `sight`.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from trainer.policy.packing import Sight

PACKED = "edge_agent_packed"
_FLASH_FROM = 1 << 23
"""Scores (B x J x rows x K) from which memory counts for more than time."""


def packed_attention(
    module: Any,
    query_1_H_N_D: Tensor,
    key_1_J_N_D: Tensor,
    value_1_J_N_D: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    sight: Sight | None = None,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """transformers' attention function: output [1, N, H, D]; J heads of keys serve H of queries."""
    if sight is None:
        return sdpa_attention_forward(
            module,
            query_1_H_N_D,
            key_1_J_N_D,
            value_1_J_N_D,
            attention_mask,
            scaling=scaling,
            sliding_window=sliding_window,
            **others,
        )
    # [N, heads, D]: positions are gathered by rows.
    query, key, value = (x[0].transpose(0, 1) for x in (query_1_H_N_D, key_1_J_N_D, value_1_J_N_D))
    start_mask, groups_mask = sight.masks(sliding_window)
    parts = []
    if sight.start:
        first, keys, values = (x[None, : sight.start] for x in (query, key, value))
        parts.append(_attend(first, keys, values, start_mask, scaling)[0])
    own = _rows(query, sight.own_B_Q)
    keys, values = _rows(key, sight.keys_B_K), _rows(value, sight.keys_B_K)
    found = _attend(own, keys, values, groups_mask, scaling)
    parts.append(found.flatten(0, 1).index_select(0, sight.place_N))
    return torch.cat(parts)[None], None


def _rows(x_N_H_D: Tensor, index_B_L: Tensor) -> Tensor:
    return x_N_H_D.index_select(0, index_B_L.flatten()).view(*index_B_L.shape, *x_N_H_D.shape[1:])


def _attend(
    query_B_Q_H_D: Tensor,
    key_B_K_J_D: Tensor,
    value_B_K_J_D: Tensor,
    mask_B_Q_K: Tensor,
    scaling: float,
) -> Tensor:
    """Attention [B, Q, H, D]; the H / J heads that share keys become rows of one head."""
    rows, length, heads, width = query_B_Q_H_D.shape
    shared = heads // key_B_K_J_D.shape[2]
    folded = (
        query_B_Q_H_D.view(rows, length, -1, shared, width).permute(0, 2, 3, 1, 4).flatten(2, 3)
    )
    key, value = key_B_K_J_D.transpose(1, 2), value_B_K_J_D.transpose(1, 2)
    mask = mask_B_Q_K.repeat(1, shared, 1)[:, None]
    if mask.numel() * key.shape[1] > _FLASH_FROM:
        found = scaled_dot_product_attention(folded, key, value, attn_mask=mask, scale=scaling)
    else:
        found = _Attention.apply(folded, key, value, mask, scaling)  # type: ignore[no-untyped-call]
    return found.view(rows, -1, shared, length, width).permute(0, 3, 1, 2, 4).flatten(2, 3)


class _Attention(torch.autograd.Function):
    """softmax(scaling * q k^T) v where `mask` is True, with fp32 softmax; all [B, J, rows, D].

    Plain products on small pieces: PyTorch's fused kernel takes 4 to 7 times as long for its
    backward there. The scores are computed again in the backward, not kept.
    """

    @staticmethod
    def forward(  # noqa: PLR0917
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float
    ) -> Tensor:
        key, value = key.contiguous(), value.contiguous()
        ctx.save_for_backward(query, key, value, mask)
        ctx.scaling = scaling
        return _shares(query, key, mask, scaling).to(query.dtype) @ value

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, mask = ctx.saved_tensors
        grad = grads[0]
        shares = _shares(query, key, mask, ctx.scaling)
        grad_shares = (grad @ value.transpose(2, 3)).float()
        grad_value = shares.to(query.dtype).transpose(2, 3) @ grad
        grad_shares -= (grad_shares * shares).sum(-1, keepdim=True)
        grad_scores = grad_shares.mul_(shares).mul_(ctx.scaling).to(query.dtype)
        grad_key = grad_scores.transpose(2, 3) @ query
        return grad_scores @ key, grad_key, grad_value, None, None


def _shares(query: Tensor, key: Tensor, mask: Tensor, scaling: float) -> Tensor:
    """The softmax, fp32 [B, J, rows, K]."""
    scores = (query @ key.transpose(2, 3)).float().mul_(scaling)
    return scores.masked_fill_(~mask, float("-inf")).softmax(-1)


AttentionInterface.register(PACKED, packed_attention)
AttentionMaskInterface.register(PACKED, sdpa_mask)
