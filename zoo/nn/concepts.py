"""Continuous concepts (CoCoMix, sec. 2.2): predicted from a hidden state, compressed into one vector, mixed back in."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from zoo.nn.losses import accumulator, product_type, scaled
from zoo.nn.transformer import Embedding, Linear

EPS = 1e-5  # added to the standard deviation, as the teacher's sparse autoencoder does


class Mixed(NamedTuple):
    """What a mixer makes of hidden states (B, T, D).

    vectors (B, T, D): one per state, to be mixed in. loss: scalar with graph, the weighted sum of `terms` (B, T), which are
    without; 0 where there was nothing to learn. logits, ids (B, T, k): the concepts that were kept, if it predicts any.
    """

    vectors: Tensor
    loss: Tensor
    terms: Tensor
    logits: Tensor | None = None
    ids: Tensor | None = None


class ConceptMixer(nn.Module):
    """Predicts concepts from a hidden state and turns the likeliest into a vector of the same space (eqs. 2 and 3).

    h is normalised over its width without parameters, mean and standard deviation are given back at the end. A learned shift is
    taken off before the prediction and added to the result (as the released code does; the paper says "linear head").

    concepts: number of concepts C. keep: how many logits survive, with their sign (K_SAE, App. A). chunk: rows whose C logits
    exist at a time.
    """

    def __init__(self, dim: int, concepts: int = 32768, keep: int = 32, chunk: int | None = None):
        super().__init__()
        if not 1 <= keep <= concepts:
            raise ValueError(f"keep = {keep} of {concepts} concepts cannot be kept: choose 1 to {concepts}.")
        self.keep, self.chunk = keep, chunk
        # Two tables with a row per concept, not maps between hidden spaces: an optimizer must not take them for hidden matrices.
        self.predictor = Embedding(concepts, dim)
        self.compressor = Embedding(concepts, dim)  # W of eq. 3: only kept rows are read
        self.prior = nn.Parameter(torch.empty(concepts))  # of the logits
        self.shift = nn.Parameter(torch.empty(dim))
        self.bias = nn.Parameter(torch.empty(dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The vectors start at zero; the tables reset themselves."""
        for vector in (self.prior, self.shift, self.bias):
            nn.init.zeros_(vector)

    def forward(self, h: Tensor, labels: Tensor | None = None, weights: Tensor | None = None) -> Mixed:
        """h (B, T, D); labels (B, T, K) int64 concepts of the teacher, below 0 where there is none; weights (B, T): how much each
        position counts in the loss, default 1."""
        x, mean, std = normalised(h)
        loss, nll, logits, ids = predict(
            x - self.shift, self.predictor.weight, self.prior, labels, weights, self.keep, self.chunk
        )
        return Mixed(self.compress(logits, ids, mean, std).to(h.dtype), loss, nll, logits, ids)

    def compress(self, logits: Tensor, ids: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        """The vector (B, T, D) of concepts `ids` (B, T, k) with these logits, on the scale of a state of this mean and std."""
        flat = F.embedding_bag(
            ids.flatten(0, -2), self.compressor.weight, per_sample_weights=logits.flatten(0, -2).to(self.compressor.weight.dtype),
            mode="sum",
        )  # fmt: skip
        return (flat.view(*ids.shape[:-1], -1) + self.bias + self.shift) * std + mean


class PauseMixer(nn.Module):
    """The same learned vector after every state: the computation of a doubled sequence without concepts (Fig. 6f)."""

    def __init__(self, dim: int):
        super().__init__()
        self.vector = nn.Parameter(torch.empty(dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.vector, std=0.02)

    def forward(self, h: Tensor, *_) -> Mixed:
        """h (B, T, D)."""
        return Mixed(self.vector.expand_as(h).to(h.dtype), h.new_zeros(()), h.new_zeros(h.shape[:2]))


class StateMixer(nn.Module):
    """Predicts the teacher's hidden state itself by a two-layer perceptron, and mixes that in (Fig. 6b).

    width: E of the teacher's states. loss: "l1" or "l2", mean over the width, or "cosine", 1 less the cosine.
    """

    def __init__(self, dim: int, width: int, loss: str = "l2"):
        super().__init__()
        if loss not in ("l1", "l2", "cosine"):
            raise ValueError(f"loss is 'l1', 'l2' or 'cosine', not {loss!r}.")
        self.kind = loss
        self.up, self.down = Linear(dim, 4 * dim, True), Linear(4 * dim, width, True)
        self.compressor = Linear(width, dim, True)

    def forward(self, h: Tensor, states: Tensor | None = None, weights: Tensor | None = None) -> Mixed:
        """h (B, T, D); states (B, T, E) of the teacher; weights (B, T): how much each position counts, default 1."""
        guess = self.down(F.gelu(self.up(h), approximate="tanh"))
        vectors = self.compressor(guess)
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
    loss, nll, logits, ids = _Predict.apply(hidden.reshape(-1, hidden.shape[-1]), weight, bias, labels, weights, keep, chunk)
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
        for first in range(0, count, chunk):
            part = slice(first, first + chunk)
            x = hidden[part].to(matrix.dtype)
            z = torch.mm(x, matrix.t()).to(exact) + bias.to(exact)  # (rows, C)
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
            scale = (rows[part] * there)[:, None]
            z.mul_(scale)
            if grad_bias is not None:
                grad_bias += z.sum(0)
            z = z.to(matrix.dtype)
            if grad_hidden is not None:
                grad_hidden[part] = torch.mm(z, matrix)
            if grad_weight is not None:
                grad_weight += torch.mm(z.t(), x)
        ctx.gradients, ctx.types = gradients, [hidden.dtype, weight.dtype, bias.dtype]
        ctx.save_for_backward(hidden, weight, ids)
        ctx.mark_non_differentiable(nll, ids)
        return (nll * rows).sum(), nll, logits, ids

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_loss, _, grad_logits, __):
        hidden, weight, ids = ctx.saved_tensors
        wants = ctx.needs_input_grad[:3]
        found = scaled(ctx, grad_loss)
        kept = grad_logits.to(torch.promote_types(weight.dtype, torch.float32))
        if wants[0]:
            sparse = F.embedding_bag(ids, weight, per_sample_weights=kept.to(weight.dtype), mode="sum")
            found[0] = sparse.to(hidden.dtype) if found[0] is None else found[0].add_(sparse)
        if wants[1]:
            found[1] = torch.zeros_like(weight) if found[1] is None else found[1]
            outer = kept[:, :, None] * hidden[:, None].to(kept.dtype)  # (N, k, D)
            found[1].index_add_(0, ids.flatten(), outer.flatten(0, 1).to(found[1].dtype))
        if wants[2]:
            found[2] = torch.zeros_like(weight[:, 0]) if found[2] is None else found[2]
            found[2].index_add_(0, ids.flatten(), kept.flatten().to(found[2].dtype))
        return *found, None, None, None, None
