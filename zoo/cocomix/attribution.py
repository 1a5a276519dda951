"""Which concepts matter for what comes next: labels by attribution of a teacher's loss to its latents (CoCoMix, sec. 2.1)."""

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from zoo.cocomix.sae import SparseAutoencoder
from zoo.nn.losses import product_type

Score = Literal["attribution", "-attribution", "|attribution|", "activation", "random"]
NONE = -1  # a label that is none


class ConceptExtractor(nn.Module):
    """Labels of a text: at each position the latents of a frozen teacher's state with the highest scores.

    teacher: a next-token net with a `trunk` (zoo.ntp.NextToken, also of transformers' GPT-2). sae: of its states after `layer`
    blocks (GPT-2 small: 6 blocks, "layer index 5").
    score: "attribution" is a = c · dL/dc, the paper's (eq. 1) and the released code's choice. To first order the loss without
    latent i is L - a_i, so that a large a marks a latent that HURTS the true continuation; "-attribution" takes what helps it,
    "|attribution|" both; "activation" is c alone (Fig. 6a); "random" draws among the active ones.
    candidates: "active" scores the `keep` latents that are active (the released code and the later text of the paper); "all"
    every latent by its pre-activation (version 1 of the paper).
    labels: per position (K_attr = 4). Latents whose score is not above 0, or NaN, are no labels; `NONE` stands in their place.

    L is the summed loss of the whole window: what a state does for all later tokens counts, as in the released code. The
    gradient is taken at the true state, so the autoencoder's error is left out to first order, and the scale of the state,
    the same for all its latents, is dropped. `exact` takes the loss that eq. 1 names, position by position, and the rest as here.
    """

    def __init__(
        self,
        teacher: nn.Module,
        sae: SparseAutoencoder,
        layer: int,
        labels: int = 4,
        score: Score = "attribution",
        candidates: Literal["active", "all"] = "active",
    ):
        super().__init__()
        depth, dim = len(teacher.trunk.layers), teacher.trunk.dim
        if not 0 <= layer <= depth:
            raise ValueError(f"layer = {layer} of a teacher with {depth} blocks: choose 0 to {depth}.")
        if sae.decoder.shape[1] != dim:
            raise ValueError(f"The autoencoder is of states of width {sae.decoder.shape[1]} and the teacher's have {dim}.")
        if score not in get_args(Score):
            raise ValueError(f"score is one of {', '.join(map(repr, get_args(Score)))}, not {score!r}.")
        if candidates not in ("active", "all"):
            raise ValueError(f"candidates is 'active' or 'all', not {candidates!r}.")
        if candidates == "all" and score in ("activation", "random"):
            raise ValueError(f"score {score!r} is of active latents: leave out candidates='all'.")
        if not 1 <= labels <= sae.keep:
            raise ValueError(f"labels = {labels} of {sae.keep} active latents: choose 1 to {sae.keep}.")
        self.teacher, self.sae, self.layer = teacher.requires_grad_(False).eval(), sae.requires_grad_(False).eval(), layer
        self.labels, self.score, self.candidates = labels, score, candidates

    def train(self, mode: bool = True) -> "ConceptExtractor":
        """Stays in evaluation mode, whatever net it is part of."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Labels (B, T, K) int64 of a window's tokens (B, T + 1); mask (B, T + 1) bool: targets that count in the loss."""
        h = self._states(tokens)
        gradient = None
        if "attribution" in self.score:
            gradient = self._gradient(h, tokens, mask)
        return self._chosen(h, gradient, tokens)

    @torch.no_grad()
    def exact(self, tokens: Tensor) -> Tensor:
        """As `forward`, where each position's score is of its own next token's loss alone (that of eq. 1).

        One backward pass per position: a reference for what attribution to the whole window changes.
        """
        h = self._states(tokens)
        gradient = torch.zeros_like(h)
        for t in range(h.shape[1]):
            mask = torch.zeros(tokens.shape, dtype=torch.bool, device=tokens.device)
            mask[:, t + 1] = True
            gradient[:, t] = self._gradient(h, tokens, mask)[:, t]
        return self._chosen(h, gradient, tokens)

    def _states(self, tokens: Tensor) -> Tensor:
        trunk = self.teacher.trunk
        return trunk.blocks(trunk.embed(tokens[:, :-1]), stop=self.layer)  # (B, T, D)

    def _gradient(self, h: Tensor, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """d/dh (B, T, D) of the teacher's summed nll: only the blocks above run again, and no weight gets a gradient."""
        trunk = self.teacher.trunk
        with torch.inference_mode(False), torch.enable_grad():  # Lightning tests and validates in inference mode
            state = h.clone().requires_grad_()
            top = trunk.norm(trunk.blocks(state, start=self.layer))
            of_top = nll_gradient(top.detach(), trunk.unembedding, tokens[:, 1:])
            if mask is not None:
                of_top = of_top * mask[:, 1:, None]
            return torch.autograd.grad(top, state, of_top)[0]

    def _chosen(self, h: Tensor, gradient: Tensor | None, tokens: Tensor) -> Tensor:
        if self.candidates == "all":
            return torch.cat([self._of_all(*rows) for rows in zip(h.split(1), gradient.split(1))])
        active = self.sae.encode(h)  # (B, T, k)
        if self.score == "random":
            score = active.values.sign() * _draws(tokens, active.ids)
        elif self.score == "activation":
            score = active.values
        else:
            score = self._signed(active.values * _dots(gradient, self.sae.decoder, active.ids))
        best, places = score.topk(self.labels)
        return active.ids.gather(-1, places).masked_fill(~(best > 0), NONE)

    def _of_all(self, h: Tensor, gradient: Tensor) -> Tensor:
        """Labels (1, T, K) of one row, among all latents."""
        pre, *_ = self.sae.pre(h)
        best, ids = self._signed(pre * (gradient.to(pre.dtype) @ self.sae.decoder.t().to(pre.dtype))).topk(self.labels)
        return ids.masked_fill(~(best > 0), NONE)

    def _signed(self, attribution: Tensor) -> Tensor:
        return {"-attribution": attribution.neg, "|attribution|": attribution.abs}.get(self.score, lambda: attribution)()


@torch.no_grad()
def nll_gradient(hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int | None = None) -> Tensor:
    """d/d hidden (..., D) of the summed -log softmax(weight @ hidden)[target]; weight (V, D), targets (...).

    It is softmax - one-hot, times the weight; `linear_cross_entropy` would make the loss too. chunk: rows whose logits exist at a
    time.
    """
    matrix = product_type(weight)
    exact, vocab = torch.promote_types(matrix.dtype, torch.float32), len(matrix)
    x, y = hidden.reshape(-1, hidden.shape[-1]).to(matrix.dtype), targets.reshape(-1, 1)
    chunk = min(chunk or (256 if x.device.type == "cpu" else 2048), len(x))
    found = torch.empty(x.shape, dtype=matrix.dtype, device=x.device)
    # A product whose rows are no whole multiple of a vector is a third slower on a CPU: GPT-2's 50,257 columns.
    scores = torch.empty(chunk, vocab + -vocab % 64, dtype=exact, device=x.device)
    products = scores if matrix.dtype == exact else torch.empty_like(scores, dtype=matrix.dtype)
    for first in range(0, len(x), chunk):
        part = slice(first, min(first + chunk, len(x)))
        z, p = products[: len(x[part])], scores[: len(x[part])]
        torch.mm(x[part], matrix.t(), out=z[:, :vocab])
        if p.dtype != z.dtype:
            p.copy_(z)
        p[:, vocab:] = -torch.inf
        torch.softmax(p, -1, out=p)
        p.scatter_add_(1, y[part], p.new_full((len(p), 1), -1.0))
        if p.dtype != z.dtype:
            z.copy_(p)
        torch.mm(z[:, :vocab], matrix, out=found[part])
    return found.view(hidden.shape).to(hidden.dtype)


def _dots(gradient: Tensor, decoder: Tensor, ids: Tensor, chunk: int = 4096) -> Tensor:
    """gradient (B, T, D) times the decoder rows `ids` (B, T, k) -> (B, T, k); `chunk` positions' rows are gathered at a time."""
    pairs = zip(gradient.flatten(0, -2).split(chunk), ids.flatten(0, -2).split(chunk))
    return torch.cat([torch.bmm(decoder[rows].to(g.dtype), g[:, :, None])[:, :, 0] for g, rows in pairs]).view(ids.shape)


def _draws(tokens: Tensor, ids: Tensor) -> Tensor:
    """Numbers in (0, 1] that look random, a function of a position's place, its two tokens and the latent alone: whoever labels
    a window, in whatever batch, draws the same."""
    place = torch.arange(ids.shape[1], device=ids.device)[None, :, None]
    x = ids * 0x9E3779B1 + place * 0x85EBCA77 + tokens[:, :-1, None] * 0xC2B2AE3D + tokens[:, 1:, None] * 0x27D4EB2F
    for factor in (0x7FEB352D, 0x846CA68B):  # a 32-bit integer hash; what overflows lies above the bits that are kept
        x = x & 0xFFFFFFFF
        x = ((x ^ (x >> 16)) * factor) & 0xFFFFFFFF
    return ((x ^ (x >> 16)).double() + 1) / 2**32
