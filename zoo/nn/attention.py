"""Scaled dot-product attention, by whichever of its two forms trains faster."""

import torch
import torch.nn.functional as F
from torch import Tensor

SHORT = 160  # places up to which the plain form was clearly faster (benchmarks/bench_sonar.py has 20); none at 256
FEW = 4  # queries from which torch's form reads keys of bfloat16 in blocks


def attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, *, causal: bool = False, dropout: float = 0.0
) -> Tensor:
    """q (B, H, S, D) and k, v (B, H, T, D) -> (B, H, S, D); mask broadcasts to (B, H, S, T), True where q may look.

    torch's scaled_dot_product_attention, but for training on short texts in bfloat16 on a CPU: its fused backward pass then takes
    several times as long as products and a softmax, which is what is done instead, the softmax in fp32. Errors of both are those
    of bfloat16. And a single query, as decoding has it, goes in as `FEW` of the same, which there take a quarter of its time.
    """
    if not causal and _lone(q):
        return F.scaled_dot_product_attention(q.expand(-1, -1, FEW, -1), k, v, attn_mask=mask)[:, :, :1]
    if not _plain(q, k):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, dropout_p=dropout)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)  # (B, H, S, T)
    if causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)  # finite: a row that may look nowhere is no NaN
    return F.dropout(scores.softmax(-1, dtype=torch.float32).to(v.dtype), dropout) @ v


def _lone(q: Tensor) -> bool:
    return q.shape[-2] == 1 and not torch.is_grad_enabled() and q.device.type == "cpu" and q.dtype == torch.bfloat16


def _plain(q: Tensor, k: Tensor) -> bool:
    learning = torch.is_grad_enabled() and q.requires_grad
    short = max(q.shape[-2], k.shape[-2]) <= SHORT
    return learning and short and q.device.type == "cpu" and q.dtype == torch.bfloat16
