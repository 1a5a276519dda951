"""Cross-entropy with the next token and with a teacher's distribution in one pass, a few hundred rows of logits at a time."""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from zoo.nn.losses import accumulator, add_outer, product_type, scaled


def linear_distillation(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    weights: Tensor,
    teacher_hidden: Tensor,
    teacher_weight: Tensor,
    lam: float,
    chunk: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Weighted sum of nll + λ KL(teacher || student), with graph, and both terms (...) in nats without.

    Logits are weight @ hidden, for the teacher teacher_weight @ teacher_hidden, at temperature 1 (CoCoMix, App. A).
    hidden (..., D); weight (V, D); targets (...) int64; weights (...); teacher_hidden (..., E); teacher_weight (V, E): the last
    two get no gradient.
    chunk: rows whose logits, twice V, exist at a time. As in `linear_cross_entropy` the gradients are made in the forward pass.
    """
    rows, teacher_rows = hidden.reshape(-1, hidden.shape[-1]), teacher_hidden.detach().reshape(-1, teacher_hidden.shape[-1])
    arguments = targets.reshape(-1), weights.reshape(-1), teacher_rows, product_type(teacher_weight), lam, chunk
    if not torch.is_grad_enabled():  # a Function is told which inputs want gradients, not that nobody asks for them
        rows, weight = rows.detach(), weight.detach()
    loss, nll, divergence = _LinearDistillation.apply(rows, weight, *arguments)
    return loss, nll.view(targets.shape), divergence.view(targets.shape)


class _LinearDistillation(torch.autograd.Function):
    """See `linear_distillation`; all shapes flat."""

    @staticmethod
    def forward(ctx, hidden, weight, targets, weights, teacher_hidden, teacher_matrix, lam, chunk):
        matrix = product_type(weight)
        exact = torch.promote_types(matrix.dtype, torch.float32)
        grad_hidden, grad_weight = gradients = [
            accumulator(x) if wanted else None for x, wanted in zip((hidden, weight), ctx.needs_input_grad)
        ]
        chunk = chunk or (256 if hidden.device.type == "cpu" else 2048)
        nll, divergence = torch.empty(2, len(hidden), dtype=exact, device=hidden.device)
        for first in range(0, len(hidden), chunk):
            part = slice(first, first + chunk)
            x, y, scale = hidden[part].to(matrix.dtype), targets[part, None], weights[part, None].to(exact)
            log_p = torch.mm(x, matrix.t()).to(exact).log_softmax(-1)  # (rows, V)
            if hidden.is_meta:  # operations are counted there, and these are the teacher's
                log_q = torch.empty_like(log_p)
            else:
                log_q = torch.mm(teacher_hidden[part].to(teacher_matrix.dtype), teacher_matrix.t()).to(exact).log_softmax(-1)
            nll[part] = -log_p.gather(1, y)[:, 0]
            q = log_q.exp()
            divergence[part] = (q * (log_q - log_p)).sum(1)
            if grad_hidden is None and grad_weight is None:
                continue
            # d/dz of nll + λ KL: softmax - one-hot + λ (softmax - q)
            z = log_p.exp_().mul_(1 + lam).sub_(q, alpha=lam).scatter_add_(1, y, torch.full_like(scale, -1.0))
            z = z.to(matrix.dtype)  # the rows' weights go onto the narrow factors, as in `chunked_nll`
            if grad_hidden is not None:
                grad_hidden[part] = torch.mm(z, matrix) * scale
            if grad_weight is not None:
                add_outer(grad_weight, z, (x * scale).to(matrix.dtype))
        ctx.gradients, ctx.types = gradients, [hidden.dtype, weight.dtype]
        ctx.mark_non_differentiable(nll, divergence)
        return ((nll + lam * divergence) * weights).sum(), nll, divergence

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_loss, *_):
        return *scaled(ctx, grad_loss), *[None] * 6
