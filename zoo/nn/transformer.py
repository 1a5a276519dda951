"""The one trunk: a causal transformer in two flavours, handed out in pieces (embed, blocks, norm, unembed)."""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from zoo.nn.cache import Cache


class Linear(nn.Linear):
    """A linear map whose weights start as N(0, std) and whose bias starts at zero, also when reset after a meta-device build."""

    def __init__(self, inputs: int, outputs: int, bias: bool, std: float = 0.02):
        self.std = std  # read by reset_parameters, which the parent's constructor calls
        super().__init__(inputs, outputs, bias)

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=self.std)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class Embedding(nn.Embedding):
    """A table of vectors that start as N(0, 0.02)."""

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=0.02)


def rotary(positions: Tensor, dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosine and sine of the rotary angles, fp32, for positions (T,) or (B, T); each (..., T, 1, 1, dim / 2).

    Computed when needed and not kept in a buffer: a buffer would be lost on the meta device and rounded by `.to(bfloat16)`.
    """
    frequency = theta ** -(torch.arange(0, dim, 2, device=positions.device, dtype=torch.float32) / dim)
    angle = (positions[..., None].float() * frequency)[..., None, None, :]
    return angle.cos(), angle.sin()


def rotate(x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    """Turn the pairs (x_i, x_{i + dim/2}) of queries and keys x (B, T, 2, H, dim) by their angles, in fp32."""
    cos, sin = rope
    a, b = x.chunk(2, dim=-1)
    return torch.cat((torch.addcmul(a * cos, b, sin, value=-1), torch.addcmul(b * cos, a, sin)), dim=-1).to(x.dtype)


class Attention(nn.Module):
    """Multi-head attention with one fused projection of queries, keys and values."""

    def __init__(self, dim: int, heads: int, bias: bool, dropout: float, residual_std: float):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.qkv = Linear(dim, 3 * dim, bias)
        self.out = Linear(dim, dim, bias, residual_std)

    def forward(self, x: Tensor, rope, mask: Tensor | None, causal: bool, layer, read: slice | None = None) -> Tensor:
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1))  # (B, T, 3, H, D/H)
        if rope is None:
            q, k, v = qkv.unbind(2)
        else:
            q, k = rotate(qkv[:, :, :2], rope).unbind(2)
            v = qkv[:, :, 2]
        if layer is not None:
            k, v = layer.append(k, v)  # (B, S, H, D/H): everything this layer has seen
        if read is not None:
            q = q[:, read]
        y = F.scaled_dot_product_attention(
            q.to(k.dtype).transpose(1, 2),
            k.transpose(1, 2),
            v.transpose(1, 2),
            attn_mask=mask,
            is_causal=causal,
            dropout_p=self.dropout if self.training else 0.0,
        )
        return self.out(y.transpose(1, 2).flatten(2).to(qkv.dtype))


class MLP(nn.Module):
    """GPT-2's feed-forward part: up, GELU (tanh form), down."""

    def __init__(self, dim: int, hidden: int, residual_std: float):
        super().__init__()
        self.up, self.down = Linear(dim, hidden, True), Linear(hidden, dim, True, residual_std)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x), approximate="tanh"))


class SwiGLU(nn.Module):
    """Llama's feed-forward part: gate and value in one product, SiLU(gate) * value, down."""

    def __init__(self, dim: int, hidden: int, residual_std: float):
        super().__init__()
        self.up, self.down = Linear(dim, 2 * hidden, False), Linear(hidden, dim, False, residual_std)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * value)


class Block(nn.Module):
    """One pre-norm transformer layer.

    `depth` is the number of layers of the whole network: projections into the residual stream start at 0.02 / sqrt(2 depth)
    (GPT-2, sec. 2.3). A head of a multi-token predictor is one such block.
    """

    shard_entries: tuple[str, ...] = ()  # see zoo.shard

    def __init__(self, dim: int, heads: int, hidden: int, *, flavour: str, eps: float, dropout: float, depth: int):
        super().__init__()
        std = 0.02 / (2 * depth) ** 0.5
        norm, mlp = {"gpt2": (nn.LayerNorm, MLP), "llama": (nn.RMSNorm, SwiGLU)}[flavour]
        self.dropout = dropout
        self.attention_norm = norm(dim, eps=eps)
        self.attention = Attention(dim, heads, flavour == "gpt2", dropout, std)
        self.mlp_norm = norm(dim, eps=eps)
        self.mlp = mlp(dim, hidden, std)

    def forward(
        self, x: Tensor, rope=None, mask: Tensor | None = None, causal: bool = True, layer=None, read: slice | None = None
    ) -> Tensor:
        """x (B, T, D) -> (B, T, D). `rope` is from `rotary`, `mask` is broadcast to (B, H, T, S), `layer` is of a cache.

        read: only these vectors are wanted, (B, len, D); the others are looked at. `mask` has their rows alone.
        """
        attended = self.attention(self.attention_norm(x), rope, mask, causal, layer, read)
        x = (x if read is None else x[:, read]) + F.dropout(attended, self.dropout, self.training)
        return x + F.dropout(self.mlp(self.mlp_norm(x)), self.dropout, self.training)


def _rows(read: slice, mask: Tensor | None, causal: bool, h: Tensor) -> Tensor | None:
    """Rows `read` of what the vectors h (B, T, D) may look at."""
    if mask is None and causal:
        mask = torch.ones(h.shape[1], h.shape[1], dtype=torch.bool, device=h.device).tril()
    return mask if mask is None else mask[..., read, :]


def hidden_size(dim: int, flavour: str) -> int:
    """Width of the feed-forward part: 4 dim for GPT-2; for Llama 2/3 of that, rounded up to a multiple of 256."""
    return 4 * dim if flavour == "gpt2" else -(-(8 * dim // 3) // 256) * 256


class Transformer(nn.Module):
    """A causal transformer in pieces, so that nets can enter and leave it at any layer with any vectors.

    flavour "gpt2": LayerNorm, learned positions, GELU (tanh form), biases, tied unembedding.
    flavour "llama": RMSNorm, rotary positions, SwiGLU, no biases, own unembedding.

    vocab: number of token ids; dim: width; layers: blocks held here; heads: attention heads; positions: longest sequence.
    hidden: width of the feed-forward part (default `hidden_size`; 8/3 dim gives the 12 L d^2 parameters of MTP's Table S14).
    depth: layers of the whole network when some live outside (prediction heads), for the initialisation only.
    checkpoint: keep only the input of each block in training and recompute the rest in the backward pass.
    Raises ValueError where the sizes cannot work.
    """

    def __init__(
        self,
        vocab: int,
        dim: int,
        layers: int,
        heads: int,
        *,
        positions: int,
        flavour: str = "llama",
        hidden: int | None = None,
        tied: bool | None = None,
        theta: float = 10000.0,
        eps: float = 1e-5,
        dropout: float = 0.0,
        checkpoint: bool = False,
        depth: int | None = None,
    ):
        super().__init__()
        if flavour not in ("gpt2", "llama"):
            raise ValueError(f"flavour is 'gpt2' or 'llama', not {flavour!r}.")
        if min(vocab, dim, heads, positions) < 1 or layers < 0:
            raise ValueError(
                f"vocab, dim, heads and positions must be at least 1 and layers at least 0, "
                f"not {vocab}, {dim}, {heads}, {positions} and {layers}."
            )
        if dim % heads:
            raise ValueError(f"dim {dim} cannot be split over {heads} heads: choose heads that divide dim.")
        if flavour == "llama" and dim // heads % 2:
            raise ValueError(
                f"Rotary positions turn pairs, but dim {dim} over {heads} heads leaves {dim // heads} per head: make it even."
            )
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout must lie in [0, 1), not {dropout}.")
        self.dim, self.heads, self.positions, self.flavour, self.theta = dim, heads, positions, flavour, theta
        self.hidden, self.eps, self.dropout, self.checkpoint = hidden or hidden_size(dim, flavour), eps, dropout, checkpoint
        self.depth = depth or max(layers, 1)
        tied = flavour == "gpt2" if tied is None else tied
        # Tables before blocks: whoever adds blocks of its own afterwards draws the same random numbers as a deeper trunk would.
        self.embedding = Embedding(vocab, dim)
        self.position_embedding = Embedding(positions, dim) if flavour == "gpt2" else None
        self.output = None if tied else Linear(dim, vocab, False)
        self.norm = (nn.LayerNorm if flavour == "gpt2" else nn.RMSNorm)(dim, eps=eps)
        self.layers = nn.ModuleList(self.block() for _ in range(layers))

    def block(self) -> Block:
        """A fresh block of this trunk's shape, for heads that are mounted on it."""
        return Block(
            self.dim, self.heads, self.hidden, flavour=self.flavour, eps=self.eps, dropout=self.dropout, depth=self.depth
        )

    @property
    def unembedding(self) -> Tensor:
        """The matrix (V, D) that turns normed vectors into logits; the embedding itself when tied."""
        return self.embedding.weight if self.output is None else self.output.weight

    def embed(self, tokens: Tensor, positions: Tensor | None = None) -> Tensor:
        """tokens (B, T) -> vectors (B, T, D). `positions` (T,) or (B, T), default 0 .. T-1; used by learned positions only."""
        h = self.embedding(tokens)
        if self.position_embedding is not None:
            if positions is None:
                self.fits(tokens.shape[1])
                positions = torch.arange(tokens.shape[1], device=tokens.device)
            h = h + self.position_embedding(positions)
        return F.dropout(h, self.dropout, self.training)

    def blocks(
        self,
        h: Tensor,
        start: int = 0,
        stop: int | None = None,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
        cache: Cache | None = None,
        read: slice | None = None,
    ) -> Tensor:
        """Send any vectors h (B, T, D) through blocks start .. stop-1; see `through`."""
        return self.through(self.layers[start:stop], h, start, positions, mask, cache, self.checkpoint, read)

    def through(
        self,
        blocks: Iterable[Block],
        h: Tensor,
        layer: int = 0,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
        cache: Cache | None = None,
        recompute: bool = False,
        read: slice | None = None,
    ) -> Tensor:
        """Send vectors through blocks that use this trunk's positions: its own, or heads mounted on it.

        h (B, T, D); positions (T,) or (B, T), default 0 .. T-1, or the next free ones of the cache;
        mask (T, T) or (B, T, T) bool among these T vectors, True where row may look at column, default causal;
        cache: keys and values of earlier vectors, which all T may look at; these blocks are its layers `layer`, `layer` + 1, ...
        Whoever is done with all layers calls `cache.advance(T)`. recompute: in training keep only each block's input.
        read: which vectors are wanted of the last block, (B, len, D); it computes no more than that, with the same result.
        """
        length = h.shape[1]
        if cache is None:
            mask, causal = (mask if mask is None else mask.view(-1, 1, length, length)), mask is None
        else:
            positions = cache.positions(length) if positions is None else positions
            mask, causal = cache.visible(length, mask)
        rope = None
        if self.flavour == "llama":
            if positions is None:
                self.fits(length)
                positions = torch.arange(length, device=h.device)
            rope = rotary(positions, self.dim // self.heads, self.theta)
        blocks = list(blocks)
        for index, block in enumerate(blocks, start=layer):
            wanted = read if block is blocks[-1] else None
            if wanted is not None:
                mask, causal = _rows(wanted, mask, causal, h), False
            if cache is not None:  # `forward`, not a call: a compiled block would be compiled anew for every length
                h = block.forward(h, rope, mask, causal, cache.layer(index), wanted)
            elif recompute and torch.is_grad_enabled():
                h = checkpoint(block, h, rope, mask, causal, None, wanted, use_reentrant=False)
            else:
                h = block(h, rope, mask, causal, None, wanted)
        return h

    def unembed(self, h: Tensor) -> Tensor:
        """Normed vectors (..., D) -> logits (..., V). For losses use `linear_cross_entropy`, which never holds all of them."""
        return F.linear(h, self.unembedding)

    def cache(
        self,
        batch_size: int,
        capacity: int,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        extra: int = 0,
    ) -> Cache:
        """An empty cache for `capacity` positions of every block here and `extra` blocks mounted on top."""
        weight = self.embedding.weight
        return Cache(
            len(self.layers) + extra,
            batch_size,
            capacity,
            self.heads,
            self.dim // self.heads,
            weight.dtype if dtype is None else dtype,
            weight.device if device is None else device,
        )

    def fits(self, length: int) -> None:
        """Raise ValueError when `length` positions are more than this trunk has."""
        if length > self.positions:
            raise ValueError(
                f"{length} positions were asked of a trunk that has {self.positions}: "
                f"shorten the context or build it with positions={length}."
            )
