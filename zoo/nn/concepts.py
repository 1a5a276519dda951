"""Continuous concepts (CoCoMix, sec. 2.2): predicted from a hidden state, compressed into one vector, mixed back in."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from zoo.nn.losses import accumulator, add_outer, product_type
from zoo.nn.transformer import Embedding, Linear

EPS = 1e-5  # added to the standard deviation, as the teacher's sparse autoencoder does


class Mixed(NamedTuple):
    """What a mixer makes of hidden states (B, T, D).

    vectors (B, T, D): one per state, to be mixed in, unless it only predicts. loss: scalar with graph, the weighted sum of
    `terms` (B, T), which are without; 0 where there was nothing to learn. logits, ids (B, T, k): the concepts that were kept,
    if it predicts any.
    """

    vectors: Tensor | None
    loss: Tensor
    terms: Tensor
    logits: Tensor | None = None
    ids: Tensor | None = None


class ConceptMixer(nn.Module):
    """Predicts concepts from a hidden state and turns the likeliest into a vector of the same space (eqs. 2 and 3).

    h is normalised over its width without parameters, mean and standard deviation are given back at the end. A learned shift is
    taken off before the prediction and added to the result (as the released code does; the paper says "linear head").

    concepts: number of concepts C. keep: how many logits survive, with their sign (K_SAE, App. A). chunk: rows whose C logits
    exist at a time. mixes: False predicts only, and has no compressor.
    """

    def __init__(self, dim: int, concepts: int = 32768, keep: int = 32, chunk: int | None = None, mixes: bool = True):
        super().__init__()
        if not 1 <= keep <= concepts:
            raise ValueError(f"keep = {keep} of {concepts} concepts cannot be kept: choose 1 to {concepts}.")
        self.keep, self.chunk = keep, chunk
        # Two tables with a row per concept, not maps between hidden spaces: an optimizer must not take them for hidden matrices.
        self.predictor = Embedding(concepts, dim)
        self.compressor = Embedding(concepts, dim) if mixes else None  # W of eq. 3: only kept rows are read
        self.prior = nn.Parameter(torch.empty(concepts))  # of the logits
        self.shift = nn.Parameter(torch.empty(dim))
        self.bias = nn.Parameter(torch.empty(dim)) if mixes else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The vectors start at zero; the tables reset themselves."""
        for vector in (self.prior, self.shift, self.bias):
            if vector is not None:
                nn.init.zeros_(vector)

    def forward(self, h: Tensor, labels: Tensor | None = None, weights: Tensor | None = None) -> Mixed:
        """h (B, T, D); labels (B, T, K) int64 concepts of the teacher, below 0 where there is none; weights (B, T): how much each
        position counts in the loss, default 1."""
        x, mean, std = normalised(h)
        loss, nll, logits, ids = predict(
            x - self.shift, self.predictor.weight, self.prior, labels, weights, self.keep, self.chunk
        )
        vectors = None if self.compressor is None else self.compress(logits, ids, mean, std).to(h.dtype)
        return Mixed(vectors, loss, nll, logits, ids)

    def compress(self, logits: Tensor, ids: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        """The vector (B, T, D) of concepts `ids` (B, T, k) with these logits, on the scale of a state of this mean and std."""
        flat = F.embedding_bag(
            ids.flatten(0, -2), self.compressor.weight, per_sample_weights=logits.flatten(0, -2).to(self.compressor.weight.dtype),
            mode="sum",
        )  # fmt: skip
        return (flat.view(*ids.shape[:-1], -1) + self.bias + self.shift) * std + mean


class PauseMixer(nn.Module):
    """The same learned vector after every state: the computation of a doubled sequence without concepts (Fig. 6f).

    copies: the state itself with that vector on top (ours). A slot with the vector alone holds neither token nor position, and
    the net has to learn first to look at the state before it; this one starts with all that the state says, and no more.
    """

    def __init__(self, dim: int, copies: bool = False):
        super().__init__()
        self.copies = copies
        self.vector = nn.Parameter(torch.empty(dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.vector, std=0.02)

    def forward(self, h: Tensor, *_) -> Mixed:
        """h (B, T, D)."""
        vectors = self.vector.expand_as(h).to(h.dtype)
        return Mixed(h + vectors if self.copies else vectors, h.new_zeros(()), h.new_zeros(h.shape[:2]))


class StateMixer(nn.Module):
    """Predicts the teacher's hidden state itself by a two-layer perceptron, and mixes that in (Fig. 6b).

    width: E of the teacher's states. loss: "l1" or "l2", mean over the width, or "cosine", 1 less the cosine.
    mixes: False predicts only.
    """

    def __init__(self, dim: int, width: int, loss: str = "l2", mixes: bool = True):
        super().__init__()
        if loss not in ("l1", "l2", "cosine"):
            raise ValueError(f"loss is 'l1', 'l2' or 'cosine', not {loss!r}.")
        self.kind = loss
        self.up, self.down = Linear(dim, 4 * dim, True), Linear(4 * dim, width, True)
        self.compressor = Linear(width, dim, True) if mixes else None

    def forward(self, h: Tensor, states: Tensor | None = None, weights: Tensor | None = None) -> Mixed:
        """h (B, T, D); states (B, T, E) of the teacher; weights (B, T): how much each position counts, default 1."""
        guess = self.down(F.gelu(self.up(h), approximate="tanh"))
        vectors = None if self.compressor is None else self.compressor(guess)
        if states is None:
            return Mixed(vectors, h.new_zeros(()), h.new_zeros(h.shape[:2]))
        guess = guess.to(torch.promote_types(guess.dtype, torch.float32))
        if self.kind == "cosine":
            terms = 1 - F.cosine_similarity(guess, states, dim=-1)
        else:
            terms = (guess - states).abs().mean(-1) if self.kind == "l1" else (guess - states).square().mean(-1)
        return Mixed(vectors, (terms if weights is None else terms * weights).sum(), terms.detach())


def normalised(h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """h (..., D) with mean 0 and standard deviation 1 (of a sample, D - 1) over its width, and both (..., 1), in fp32 or more."""
    h = h.to(torch.promote_types(h.dtype, torch.float32))
    mean = h.mean(-1, keepdim=True)
    std = h.std(-1, keepdim=True)
    return (h - mean) / (std + EPS), mean, std


def predict(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    labels: Tensor | None = None,
    weights: Tensor | None = None,
    keep: int = 32,
    chunk: int | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Concept logits z = weight @ hidden + bias: their cross-entropy with several labels (eq. 2) and the `keep` largest of them.

    hidden (..., D); weight (C, D); bias (C,); labels (..., K) int64, below 0 where there is none; weights (...), default 1.
    The cross-entropy, the mean over a position's labels i of -log softmax(z)_i, is logsumexp(z) - mean z_i: one pass, not K.
    A position without labels counts nothing.

    Returns the weighted sum (scalar, with graph), the terms (...) without, and logits (..., keep) with graph and their ids.
    The loss makes its gradients chunk by chunk in the forward pass; those of the kept logits touch `keep` rows per position.
    """
    shape = hidden.shape[:-1]
    labels = None if labels is None else labels.reshape(-1, labels.shape[-1])
    weights = None if weights is None else weights.reshape(-1)
    inputs = hidden.reshape(-1, hidden.shape[-1]), weight, bias
    if not torch.is_grad_enabled():  # a Function is told which inputs want gradients, not that nobody asks for them
        inputs = [x.detach() for x in inputs]
    loss, nll, logits, ids = _Predict.apply(*inputs, labels, weights, keep, chunk)
    return loss, nll.view(shape), logits.view(*shape, keep), ids.view(*shape, keep)


class _Predict(torch.autograd.Function):
    """See `predict`; all shapes flat: hidden (N, D), labels (N, K), weights (N,)."""

    @staticmethod
    def forward(ctx, hidden, weight, bias, labels, weights, keep, chunk):
        matrix = product_type(weight)
        exact = torch.promote_types(matrix.dtype, torch.float32)
        count, chunk = len(hidden), chunk or (256 if hidden.device.type == "cpu" else 2048)
        wants = [wanted and labels is not None for wanted in ctx.needs_input_grad[:3]]
        gradients = [accumulator(x) if wanted else None for x, wanted in zip((hidden, weight, bias), wants)]
        grad_hidden, grad_weight, grad_bias = gradients
        nll = torch.zeros(count, dtype=exact, device=hidden.device)
        logits = torch.empty(count, keep, dtype=exact, device=hidden.device)
        ids = torch.empty(count, keep, dtype=torch.int64, device=hidden.device)
        rows = torch.ones_like(nll) if weights is None else weights.to(exact)
        # Buffers for the whole loop: fresh ones of this size would be handed back to the system and faulted in again every time.
        scores = torch.empty(min(chunk, count), len(matrix), dtype=exact, device=hidden.device)
        products = scores if matrix.dtype == exact else torch.empty_like(scores, dtype=matrix.dtype)
        for first in range(0, count, chunk):
            part = slice(first, min(first + chunk, count))
            x = hidden[part].to(matrix.dtype)
            z, low = scores[: len(x)], products[: len(x)]
            if matrix.dtype == exact:
                torch.addmm(bias.to(exact), x, matrix.t(), out=z)  # (rows, C)
            else:
                z.copy_(torch.mm(x, matrix.t(), out=low)).add_(bias)
            torch.topk(z, keep, out=(logits[part], ids[part]))
            if labels is None:
                continue
            known = labels[part] >= 0
            there = known.any(1)
            share = known.to(exact) / known.sum(1, keepdim=True).clamp(min=1)  # (rows, K)
            chosen = labels[part].clamp(min=0)
            torch.log_softmax(z, -1, out=z)
            nll[part] = -(z.gather(1, chosen) * share).sum(1)
            if not any(wants):
                continue
            z.exp_().scatter_add_(1, chosen, -share)
            # The rows' weights go onto the narrow factors, as in `chunked_nll`: in fp16 they would be lost in the wide one.
            scale = (rows[part] * there)[:, None]
            if grad_bias is not None:
                grad_bias.addmv_(z.t(), scale[:, 0])
            if matrix.dtype != exact:
                low.copy_(z)
            if grad_hidden is not None:
                grad_hidden[part] = torch.mm(low, matrix) * scale
            if grad_weight is not None:
                add_outer(grad_weight, low, (x * scale).to(matrix.dtype))
        ctx.gradients, ctx.types = gradients, [hidden.dtype, weight.dtype, bias.dtype]
        ctx.save_for_backward(hidden, weight, ids)
        ctx.mark_non_differentiable(nll, ids)
        ctx.set_materialize_grads(False)  # where the kept logits are not used there is nothing to scatter
        ctx.chunk = chunk
        return (nll * rows).sum(), nll, logits, ids

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_loss, _, grad_logits, __):
        hidden, weight, ids = ctx.saved_tensors
        found = ctx.gradients
        if found is None:
            raise RuntimeError("This loss made its gradients in the forward pass and gave them away: call backward once.")
        ctx.gradients = None
        for gradient in found:
            if gradient is not None:
                gradient.mul_(0.0 if grad_loss is None else grad_loss)
        if grad_logits is not None:
            found = [accumulator(x) if g is None and wanted else g
                     for x, g, wanted in zip((hidden, weight, weight[:, 0]), found, ctx.needs_input_grad)]  # fmt: skip
            for start in range(0, len(hidden), ctx.chunk):
                _scatter(found, hidden, weight, ids, grad_logits, slice(start, start + ctx.chunk))
        return *(g if g is None else g.to(kind) for g, kind in zip(found, ctx.types)), None, None, None, None


def _scatter(found: list[Tensor | None], hidden: Tensor, weight: Tensor, ids: Tensor, grad_logits: Tensor, part: slice) -> None:
    """Add the gradients of hidden, weight and bias that come from the kept logits of the rows `part`."""
    grad_hidden, grad_weight, grad_bias = found
    rows, kept = ids[part], grad_logits[part].to(torch.promote_types(weight.dtype, torch.float32))  # (rows, k)
    if grad_hidden is not None:
        grad_hidden[part] += F.embedding_bag(rows, weight, per_sample_weights=kept.to(weight.dtype), mode="sum")
    if grad_weight is not None:
        outer = kept[:, :, None] * hidden[part, None].to(kept.dtype)  # (rows, k, D)
        grad_weight.index_add_(0, rows.flatten(), outer.flatten(0, 1).to(grad_weight.dtype))
    if grad_bias is not None:
        grad_bias.index_add_(0, rows.flatten(), kept.flatten().to(grad_bias.dtype))
