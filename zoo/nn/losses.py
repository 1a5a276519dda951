"""Linear map and cross-entropy in one, a few hundred rows at a time: the logits of all positions never exist together."""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

SLICE = 8192  # vocabulary rows of a low-precision weight gradient at a time: the product stays in the processor's cache


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    weights: Tensor | None = None,
    bias: Tensor | None = None,
    chunk: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Weighted sum of -log softmax(weight @ hidden + bias)[target], and the terms themselves.

    hidden (..., D); weight (V, D); targets (...) int64; weights (...), default 1; bias (V,).
    chunk: rows whose logits exist at a time, default 256 on a CPU and 2048 elsewhere.
    Returns the loss (scalar, with graph) and the nll (...) in nats without graph, both fp32 (fp64 for fp64 weights).

    Where gradients are wanted they are made chunk by chunk in the forward pass, so the products are those of the plain form and
    nothing is computed twice. Under autocast the products run in its type, softmax and the gradient of `weight` in fp32.
    """
    rows = hidden.reshape(-1, hidden.shape[-1])
    arguments = rows, weight, bias, targets.reshape(-1), None if weights is None else weights.reshape(-1), chunk
    if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in (hidden, weight, bias)):
        loss, nll = _LinearCrossEntropy.apply(*arguments)
    else:
        nll = chunked_nll(rows.detach(), product_type(weight), targets.reshape(-1), bias=bias, chunk=chunk)
        loss = nll.sum() if weights is None else (nll * weights.reshape(-1)).sum()
    return loss, nll.view(targets.shape)


def product_type(weight: Tensor) -> Tensor:
    """`weight` without graph, in the type that autocast, where it is on, would multiply in."""
    kind = weight.device.type
    autocast = kind != "meta" and torch.is_autocast_enabled(kind)  # there is none on the meta device, where nets are counted
    return weight.detach().to(torch.get_autocast_dtype(kind) if autocast else weight.dtype)


def accumulator(like: Tensor) -> Tensor:
    """Zeros for a gradient to add up in: fp32, or fp64 for fp64."""
    return torch.zeros_like(like, dtype=torch.promote_types(like.dtype, torch.float32))


@torch.no_grad()
def chunked_nll(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    rows: Tensor | None = None,
    grad_hidden: Tensor | None = None,
    grad_weight: Tensor | None = None,
    grad_bias: Tensor | None = None,
    chunk: int | None = None,
) -> Tensor:
    """nll (N,) of targets (N,) under hidden (N, D) and weight (V, D), of the type to multiply in.

    For the loss sum(rows * nll), rows (N,) default 1: writes d/d hidden into `grad_hidden` (N, D) and ADDS the gradients of
    weight and bias to `grad_weight` (V, D) and `grad_bias` (V,), each where given.
    """
    count, vocab, dtype = len(hidden), len(weight), weight.dtype
    exact = torch.promote_types(dtype, torch.float32)
    chunk = min(chunk or (256 if hidden.device.type == "cpu" else 2048), max(count, 1))
    wanted = any(g is not None for g in (grad_hidden, grad_weight, grad_bias))
    hidden = hidden.to(dtype)
    scale = torch.ones(count, dtype=exact, device=hidden.device) if rows is None else rows.to(exact)
    # Two buffers for the whole loop: fresh ones of this size would be handed back to the system and faulted in again every time.
    products = torch.empty(chunk, vocab, dtype=dtype, device=hidden.device)
    scores = products if dtype == exact else torch.empty_like(products, dtype=exact)
    nll = torch.empty(count, dtype=exact, device=hidden.device)
    for first in range(0, count, chunk):
        part = slice(first, min(first + chunk, count))
        x, y = hidden[part], targets[part, None]
        z, p = products[: len(x)], scores[: len(x)]
        torch.mm(x, weight.t(), out=z)
        if dtype != exact:
            p.copy_(z)
        if bias is not None:
            p += bias
        torch.log_softmax(p, -1, out=p)
        torch.neg(p.gather(1, y).squeeze(1), out=nll[part])
        if not wanted:
            continue
        p.exp_().scatter_add_(1, y, p.new_full((len(x), 1), -1.0))  # softmax - one-hot
        if grad_bias is not None:
            grad_bias.addmv_(p.t(), scale[part])
        if dtype != exact:
            z.copy_(p)
        # The rows' weights go onto the narrow factors: one pass over (rows, V) less.
        if grad_hidden is not None:
            grad_hidden[part] = torch.mm(z, weight) * scale[part, None]
        if grad_weight is not None:
            add_outer(grad_weight, z, (x * scale[part, None]).to(dtype))
    return nll


def add_outer(total: Tensor, z: Tensor, x: Tensor) -> None:
    """total (V, D) += z' x for z (N, V) and x (N, D), adding up in the type of `total`."""
    if total.dtype == z.dtype:
        total.addmm_(z.t(), x)
        return
    for part, columns in zip(total.split(SLICE), z.split(SLICE, dim=1)):
        part += torch.mm(columns.t(), x).to(total.dtype)  # adding mixed types directly is far slower on a CPU


class _LinearCrossEntropy(torch.autograd.Function):
    """Gradients in the forward pass; the backward pass scales them."""

    @staticmethod
    def forward(ctx, hidden, weight, bias, targets, weights, chunk):
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        grad_hidden = torch.empty_like(hidden) if wants_hidden else None
        grad_weight = accumulator(weight) if wants_weight else None
        grad_bias = accumulator(bias) if wants_bias else None
        nll = chunked_nll(
            hidden,
            product_type(weight),
            targets,
            bias=bias,
            rows=weights,
            chunk=chunk,
            grad_hidden=grad_hidden,
            grad_weight=grad_weight,
            grad_bias=grad_bias,
        )
        ctx.gradients = [grad_hidden, grad_weight, grad_bias]
        ctx.types = [hidden.dtype, weight.dtype, None if bias is None else bias.dtype]
        ctx.mark_non_differentiable(nll)
        return nll.sum() if weights is None else (nll * weights).sum(), nll

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_loss, _):
        return *scaled(ctx, grad_loss), None, None, None


def scaled(ctx, grad_loss: Tensor) -> list[Tensor | None]:
    """The gradients kept on a function's context, times `grad_loss`, in place and once; the context lets go of them.

    Letting go matters: a gradient nobody else holds becomes the parameter's `.grad` without a copy.
    """
    if ctx.gradients is None:
        raise RuntimeError("This loss made its gradients in the forward pass and gave them away: call backward once per forward.")
    gradients, ctx.gradients = ctx.gradients, None
    return [g if g is None else g.mul_(grad_loss).to(dtype) for g, dtype in zip(gradients, ctx.types)]
