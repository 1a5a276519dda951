"""What the nets of Large Concept Models (arXiv 2412.08821) are made of: layers, the causal tower, embeddings of steps, and the
one-tower trunk, in which vectors that are being made look at clean ones."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recomputed

from zoo.nn.attention import attention
from zoo.nn.cache import Cache
from zoo.nn.transformer import Embedding, Linear, hidden_size, rotary, rotate

Past = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # keys and values of new vectors -> all that they may look at


class SwiGLU(nn.Module):
    """Gate and value in one product, SiLU(gate) * value, down; with biases, as LCM's released code has them."""

    def __init__(self, dim: int, hidden: int, std: float):
        super().__init__()
        self.up, self.down = Linear(dim, 2 * hidden, True), Linear(hidden, dim, True, std)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * value)


class Layer(nn.Module):
    """A pre-norm transformer layer with biases: RMSNorm, attention, RMSNorm, SwiGLU (sec. 2.4.1).

    depth: layers of the whole net, for the initialisation of what is added to the residual stream.
    """

    shard_entries = ("keys",)  # see zoo.shard

    def __init__(self, dim: int, heads: int, hidden: int, dropout: float, depth: int):
        super().__init__()
        std = 0.02 / (2 * depth) ** 0.5
        self.heads, self.dropout = heads, dropout
        self.attention_norm, self.mlp_norm = nn.RMSNorm(dim, eps=1e-5), nn.RMSNorm(dim, eps=1e-5)
        self.qkv, self.out = Linear(dim, 3 * dim, True), Linear(dim, dim, True, std)
        self.mlp = SwiGLU(dim, hidden, std)

    def forward(
        self, h: Tensor, rope=None, mask: Tensor | None = None, causal: bool = False, past: Past | None = None, alone: int = 0
    ) -> Tensor:
        """h (B, S, D) -> (B, S, D).

        mask: broadcast to (B, H, S, all). past: what else the keys and values (B, S, H, D/H) are looked up among. alone: the last
        so many rows of h look at nothing but themselves, whatever mask and past are.
        """
        qkv = self.qkv(self.attention_norm(h)).unflatten(-1, (3, self.heads, -1))  # (B, S, 3, H, D/H)
        seen = qkv[: len(h) - alone]
        q, k = (seen[:, :, 0], seen[:, :, 1]) if rope is None else rotate(seen[:, :, :2], rope).unbind(2)
        k, v = (k, seen[:, :, 2]) if past is None else past(k, seen[:, :, 2])
        q, k, v = (each.transpose(1, 2) for each in (q.to(k.dtype), k, v))
        y = attention(q, k, v, mask, causal=causal).transpose(1, 2)  # (B, S, H, D/H)
        if alone:
            y = torch.cat((y.to(qkv.dtype), qkv[len(h) - alone :, :, 2]))
        h = h + F.dropout(self.out(y.flatten(2).to(qkv.dtype)), self.dropout, self.training)
        return h + F.dropout(self.mlp(self.mlp_norm(h)), self.dropout, self.training)

    def keys(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (B, S, H, D/H) of h (B, S, D), and nothing else of the layer; without rotary positions."""
        dim = h.shape[-1]
        kv = F.linear(self.attention_norm(h), self.qkv.weight[dim:], self.qkv.bias[dim:])
        return kv.unflatten(-1, (2, self.heads, -1)).unbind(2)


class Tower(nn.Module):
    """A causal transformer over sentence vectors with rotary positions: Base-LCM's, and the contextualizer of the two towers.

    width: E, of the vectors; positions: of the longest sequence; checkpoint: see `run`. A final norm ends it.
    """

    def __init__(
        self,
        width: int,
        dim: int,
        layers: int,
        heads: int,
        hidden: int | None,
        dropout: float,
        positions: int,
        checkpoint: bool = False,
    ):
        super().__init__()
        check(dim, heads, layers, positions)
        self.dim, self.heads, self.positions, self.checkpoint = dim, heads, positions, checkpoint
        self.pre = Linear(width, dim, True, width**-0.5)
        self.layers = nn.ModuleList(
            Layer(dim, heads, hidden or hidden_size(dim, "llama"), dropout, layers) for _ in range(layers)
        )
        self.norm = nn.RMSNorm(dim, eps=1e-5)

    def forward(self, x: Tensor, cache: Cache | None = None) -> Tensor:
        """Normalized vectors x (B, S, E) -> (B, S, D), row n of what vectors 0 to n say.

        cache: of earlier vectors, behind which these are put; whoever is done calls `cache.advance(S)`.
        """
        length = x.shape[1]
        self.fits(length + (cache.longest if cache else 0))
        positions = torch.arange(length, device=x.device) if cache is None else cache.positions(length)
        mask, causal = (None, True) if cache is None else cache.visible(length)
        rope = rotary(positions, self.dim // self.heads, 1e4)
        h = entered(self.pre, x)  # (B, S, D)
        for index, layer in enumerate(self.layers):
            h = run(self.checkpoint, layer, h, rope, mask, causal, cache and cache.layer(index).append)
        return self.norm(h)

    def cache(self, batch_size: int, capacity: int) -> Cache:
        """An empty cache for `capacity` vectors per row."""
        return empty(len(self.layers), batch_size, capacity, self.heads, self.pre.weight)

    def fits(self, length: int) -> None:
        """Raise ValueError, in a sentence, where so many sentences are more than there are positions."""
        fits(length, self.positions)


class Steps(nn.Module):
    """Embeddings (…, D) of diffusion steps: 256 cosines and sines, a linear map, SiLU, a linear map (sec. 2.3.4)."""

    def __init__(self, dim: int, frequencies: int = 256, period: float = 1e4):
        super().__init__()
        self.frequencies, self.period = frequencies, period
        self.first, self.second = Linear(frequencies, dim, True), Linear(dim, dim, True)

    def forward(self, t: Tensor) -> Tensor:
        """t (...) of steps, counted from 1; 0 stands for a clean vector."""
        half = self.frequencies // 2
        speed = torch.exp(-math.log(self.period) / half * torch.arange(half, device=t.device, dtype=torch.float32))
        angle = t[..., None].float() * speed  # (..., 128)
        waves = torch.cat((angle.cos(), angle.sin()), -1).to(self.first.weight.dtype)
        return self.second(F.silu(self.first(waves)))


class Clean(NamedTuple):
    """Keys and values of clean vectors in one layer, each (B, S, H, D/H)."""

    keys: Tensor
    values: Tensor

    def and_own(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """These, and behind them those (R, S, H, D/H) of vectors in the making, of which there may be several samples."""
        samples = len(k) // len(self.keys)
        keys, values = (each.repeat(samples, 1, 1, 1) if samples > 1 else each for each in self)
        return torch.cat((keys, k), 1), torch.cat((values, v), 1)


class Trunk(nn.Module):
    """The one tower (sec. 2.3.3): a transformer over clean sentence vectors, at each place of which a vector that is being made
    looks at the clean ones before it and at itself. Noisy and clean vector of a place share its learned position.

    The paper interleaves both in one sequence; here the clean ones go first, once, and leave their keys and values.

    width: E; stages: makes the embedding (…, `stage_dim`) of how far a vector is made, which is put beside it. Stage 0 is clean.
    checkpoint: see `run`.
    """

    def __init__(
        self,
        width: int,
        dim: int,
        layers: int,
        heads: int,
        hidden: int | None,
        dropout: float,
        positions: int,
        stages: nn.Module,
        stage_dim: int,
        checkpoint: bool = False,
    ):
        super().__init__()
        check(dim, heads, layers, positions)
        self.dim, self.heads, self.positions, self.stages, self.checkpoint = dim, heads, positions, stages, checkpoint
        self.places = Embedding(positions, dim)
        self.pre = Linear(width + stage_dim, dim, True, (width + stage_dim) ** -0.5)
        self.layers = nn.ModuleList(
            Layer(dim, heads, hidden or hidden_size(dim, "llama"), dropout, layers) for _ in range(layers)
        )
        self.norm = nn.RMSNorm(dim, eps=1e-5)

    def clean(self, x: Tensor, cache: Cache | None = None) -> list[Clean]:
        """Normalized clean vectors x (B, S, E) -> what they leave in each layer; or in the cache, which they are put into."""
        length = x.shape[1]
        self.fits(length + (cache.longest if cache else 0))
        positions = torch.arange(length, device=x.device) if cache is None else cache.positions(length)
        h = self._entered(x, torch.zeros((), dtype=torch.int64, device=x.device), positions)
        mask, causal = (None, True) if cache is None else cache.visible(length)
        left: list[Clean] | None = []

        def past(k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
            if left is not None:
                left.append(Clean(k, v))
            return (k, v) if cache is None else cache.layer(len(left) - 1).append(k, v)

        for layer in self.layers[:-1]:
            h = run(self.checkpoint, layer, h, None, mask, causal, past)
        past(*self.layers[-1].keys(h))
        found, left = left, None  # what a layer leaves that is computed anew, in a backward pass, is not kept
        return found

    def made(
        self, x: Tensor, stage: Tensor, left: Sequence[Clean], dropped: Tensor | None = None, guided: bool = False
    ) -> Tensor:
        """What is said (B, S, D) of vectors x (B, S, E) in the making, the one at n given the clean ones before n.

        stage: (B, S), (S,) or one for all. left: of the clean vectors 0 to S - 1, for each layer. dropped (B, S): who looks at no
        clean vector. guided: twice as many rows are given back, the second half as if none looked at any.
        """
        size, alone = x.shape[1], len(x) if guided else 0
        x = torch.cat((x, x)) if guided else x
        h = self._entered(x, stage, torch.arange(size, device=x.device))
        before = torch.ones(size, size, dtype=torch.bool, device=x.device).tril(-1)
        own = torch.eye(size, dtype=torch.bool, device=x.device)
        if dropped is not None:
            before, own = before & ~dropped[:, :, None], own.expand(len(x), -1, -1)  # (B, S, S)
        mask = torch.cat((before, own), -1)[..., None, :, :]  # (1 or B, 1, S, 2 S)
        for layer, clean in zip(self.layers, left):
            h = run(self.checkpoint, layer, h, None, mask, False, clean.and_own, alone)
        return self.norm(h)

    def next(self, x: Tensor, stage: Tensor, cache: Cache, guided: bool) -> Tensor:
        """What is said (B, D) of x (B, E) in the making, each behind all that the cache holds; twice as many rows where `guided`,
        the second half of them as if nothing were held."""
        self.fits(cache.longest + 1)
        rows = torch.cat((x, x)) if guided else x
        positions = cache.positions(1)  # (1,) or (B, 1)
        positions = positions.expand(len(x), 1).repeat(2 if guided else 1, 1)
        mask, causal = cache.visible(1)
        h = self._entered(rows[:, None], stage, positions)
        for index, layer in enumerate(self.layers):  # without `advance`: the next step writes to the same place
            h = layer(h, None, mask, causal, cache.layer(index).append, len(x) if guided else 0)
        return self.norm(h)[:, 0]

    def cache(self, batch_size: int, capacity: int) -> Cache:
        """An empty cache for `capacity` clean vectors per row."""
        return empty(len(self.layers), batch_size, capacity + 1, self.heads, self.pre.weight)  # and the one in the making

    def fits(self, length: int) -> None:
        """Raise ValueError, in a sentence, where so many sentences are more than there are positions."""
        fits(length, self.positions)

    def _entered(self, x: Tensor, stage: Tensor, positions: Tensor) -> Tensor:
        beside = self.stages(stage).to(x.dtype).expand(*x.shape[:-1], -1)
        return entered(self.pre, torch.cat((x, beside), -1)) + self.places(positions)


def run(checkpoint: bool, layer: nn.Module, *arguments) -> Tensor:
    """What a layer makes of its arguments. With `checkpoint` it keeps these alone in training, and computes the rest anew in the
    backward pass."""
    if checkpoint and torch.is_grad_enabled():
        return recomputed(layer, *arguments, use_reentrant=False)
    return layer(*arguments)


def entered(pre: nn.Linear, x: Tensor) -> Tensor:
    """What layers add to: of the weights' type, also under autocast, whatever the type of x."""
    return pre(x.to(pre.weight.dtype)).to(pre.weight.dtype)


def empty(layers: int, batch_size: int, capacity: int, heads: int, weight: Tensor) -> Cache:
    """A cache of the type and on the device of a weight (D, …)."""
    return Cache(layers, batch_size, capacity, heads, len(weight) // heads, weight.dtype, weight.device)


def check(dim: int, heads: int, layers: int, positions: int) -> None:
    """Raise ValueError, in a sentence, for sizes that cannot work."""
    if min(dim, heads, layers, positions) < 1:
        raise ValueError(f"dim, heads, layers and positions are at least 1, not {dim}, {heads}, {layers} and {positions}.")
    if dim % (2 * heads):
        raise ValueError(f"dim {dim} cannot be split into pairs over {heads} heads: choose heads that divide dim / 2.")


def fits(length: int, positions: int) -> None:
    """Raise ValueError, in a sentence, where `length` sentences are more than a net has positions."""
    if length > positions:
        raise ValueError(
            f"{length} sentences were asked of a net that has {positions} positions: shorten the document, or train with "
            f"data.context={length}."
        )
