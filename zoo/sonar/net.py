"""SONAR's text encoder and decoder in pure torch, under sonar-space's parameter names (LCM paper, sec. 2.1; SONAR, 2308.11466).

The encoder is a pre-norm transformer that ends in a mean over the tokens; the decoder is a causal one whose cross-attention looks
at that one vector. With a single key the softmax is 1, so the cross-attention is W_o (W_v e + b_v) + b_o for every token: one
vector per sentence and layer. Its queries, keys and their norm have no effect; they are kept, frozen, so that checkpoints go to
sonar-space and back.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.nn.attention import attention

POOLINGS = ("mean", "max", "last")
PROJECTION = "final_proj.weight"  # sonar-space's second name of the decoder's table


class Projection(nn.Linear):
    """A linear map of an attention: Xavier-uniform weights times `gain`, zero bias; also when reset after a meta-device build."""

    def __init__(self, inputs: int, outputs: int, gain: float = 1.0):
        self.gain = gain  # read by reset_parameters, which the parent's constructor calls
        super().__init__(inputs, outputs)

    def reset_parameters(self) -> None:
        nn.init.xavier_uniform_(self.weight, gain=self.gain)
        nn.init.zeros_(self.bias)


class Embedding(nn.Embedding):
    """A table of vectors that start as N(0, 1/dim), the pad's as zero."""

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=self.embedding_dim**-0.5)
        with torch.no_grad():
            self.weight[self.padding_idx].zero_()


def sinusoid(positions: Tensor, dim: int) -> Tensor:
    """Positions (T,) -> their fp32 vectors (T, dim): first half sines, second half cosines, wavelengths 2π .. 20000π.

    Computed when needed: a buffer would be lost on the meta device and rounded by `.to(bfloat16)`.
    """
    half = dim // 2
    steps = torch.arange(half, device=positions.device, dtype=torch.float32)
    angle = torch.outer(positions.float(), torch.exp(steps * (-math.log(10000.0) / (half - 1))))
    return torch.cat((angle.sin(), angle.cos()), dim=1)


class Frontend(nn.Module):
    """Token vectors times sqrt(dim), plus sinusoids that start at pad + 1 as fairseq's did."""

    def __init__(self, vocab: int, dim: int, positions: int, pad: int, dropout: float):
        super().__init__()
        self.positions, self.first, self.dropout = positions, pad + 1, dropout
        self.embed = Embedding(vocab, dim, padding_idx=pad)

    def forward(self, tokens: Tensor, start: int = 0) -> Tensor:
        """tokens (B, T) that stand at `start`, `start` + 1, ... -> (B, T, D)."""
        length, dim = tokens.shape[1], self.embed.embedding_dim
        if start + length > self.positions:
            raise ValueError(
                f"{start + length} tokens were given to a SONAR net that has {self.positions} positions: split the text."
            )
        x = self.embed(tokens) * math.sqrt(dim)
        first = self.first + start
        places = sinusoid(torch.arange(first, first + length, device=tokens.device), dim)
        return F.dropout((x.float() + places).to(x.dtype), self.dropout, self.training)


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, dim: int, heads: int, dropout: float):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.q_proj, self.k_proj, self.v_proj = (Projection(dim, dim, 2**-0.5) for _ in range(3))
        self.output_proj = Projection(dim, dim)

    def forward(self, x: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
        """x (B, T, D) -> (B, T, D); mask (B, 1, 1, T) bool, True where a token may be looked at."""
        q, k, v = (proj(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for proj in (self.q_proj, self.k_proj, self.v_proj))
        y = attention(q, k, v, mask, causal=causal, dropout=self.dropout if self.training else 0.0)
        return self.output_proj(y.transpose(1, 2).flatten(2))


class CrossAttention(nn.Module):
    """Attention to one vector per sentence: a linear map of it, the same for every token.

    Differs from sonar-space in training with dropout only: there every token drops heads of its own from this map.
    """

    def __init__(self, dim: int, memory: int):
        super().__init__()
        self.q_proj = Projection(dim, dim, 2**-0.5)
        self.k_proj, self.v_proj = (Projection(memory, dim, 2**-0.5) for _ in range(2))
        self.output_proj = Projection(dim, dim)
        for unused in (self.q_proj, self.k_proj):
            unused.requires_grad_(False)

    def forward(self, vectors: Tensor) -> Tensor:
        """vectors (B, E) -> (B, D)."""
        return self.output_proj(self.v_proj(vectors))


class FeedForward(nn.Module):
    """Up, ReLU, down."""

    def __init__(self, dim: int, hidden: int, dropout: float):
        super().__init__()
        self.dropout = dropout
        self.inner_proj, self.output_proj = nn.Linear(dim, hidden), nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.output_proj(F.dropout(F.relu(self.inner_proj(x), inplace=True), self.dropout, self.training))


class EncoderLayer(nn.Module):
    """One pre-norm layer."""

    def __init__(self, dim: int, heads: int, hidden: int, dropout: float):
        super().__init__()
        self.dropout = dropout
        self.self_attn_layer_norm, self.self_attn = nn.LayerNorm(dim), Attention(dim, heads, dropout)
        self.ffn_layer_norm, self.ffn = nn.LayerNorm(dim), FeedForward(dim, hidden, dropout)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        x = x + F.dropout(self.self_attn(self.self_attn_layer_norm(x), mask), self.dropout, self.training)
        return x + F.dropout(self.ffn(self.ffn_layer_norm(x)), self.dropout, self.training)


class DecoderLayer(nn.Module):
    """One pre-norm causal layer with the cross-attention between its two parts."""

    def __init__(self, dim: int, heads: int, hidden: int, memory: int, dropout: float):
        super().__init__()
        self.dropout = dropout
        self.self_attn_layer_norm, self.self_attn = nn.LayerNorm(dim), Attention(dim, heads, dropout)
        self.encoder_decoder_attn_layer_norm = nn.LayerNorm(dim).requires_grad_(False)  # a norm of queries alone
        self.encoder_decoder_attn = CrossAttention(dim, memory)
        self.ffn_layer_norm, self.ffn = nn.LayerNorm(dim), FeedForward(dim, hidden, dropout)

    def forward(self, x: Tensor, vectors: Tensor) -> Tensor:
        x = x + F.dropout(self.self_attn(self.self_attn_layer_norm(x), causal=True), self.dropout, self.training)
        seen = self.encoder_decoder_attn(vectors)[:, None]  # (B, 1, D)
        if self.training and self.dropout:
            seen = F.dropout(seen.expand_as(x), self.dropout)
        x = x + seen
        return x + F.dropout(self.ffn(self.ffn_layer_norm(x)), self.dropout, self.training)


class Layers(nn.Module):
    """A stack of layers; the decoder's ends in a norm (the encoder's norm lies outside, as in sonar-space)."""

    def __init__(self, layers: list[nn.Module], norm: nn.Module | None = None):
        super().__init__()
        self.layers = nn.ModuleList(layers)
        if norm is not None:
            self.layer_norm = norm


class TextEncoder(nn.Module):
    """Token ids of a sentence -> one vector. The defaults are SONAR's "basic" text encoder, 766M parameters.

    Args:
        vocab, dim, layers, heads, hidden: sizes; hidden is the width of the feed-forward part.
        positions: longest sentence in tokens (512, and the 2 that fairseq counted off).
        pad: id that the weights' authors took for padding: its vector gets no gradient, and the sinusoids start at pad + 1. The
            released weights say 1 although the tokenizer pads with 0; weights of our own say 0.
        pooling: mean | max | last, over the tokens.
        dropout: of vectors, attention and feed-forward parts alike.

    `config` holds these arguments. Source: sonar-space's architecture "basic".
    """

    def __init__(
        self,
        vocab: int = 256206,
        dim: int = 1024,
        layers: int = 24,
        heads: int = 16,
        hidden: int = 8192,
        positions: int = 514,
        pad: int = 1,
        pooling: str = "mean",
        dropout: float = 0.1,
    ):
        super().__init__()
        _check(dim, heads)
        if pooling not in POOLINGS:
            raise ValueError(f"A SONAR text encoder pools by one of {', '.join(POOLINGS)}, not by {pooling!r}.")
        self.config = {"vocab": vocab, "dim": dim, "layers": layers, "heads": heads, "hidden": hidden, "positions": positions}
        self.config |= {"pad": pad, "pooling": pooling, "dropout": dropout}
        self.vocab, self.dim, self.positions, self.pooling = vocab, dim, positions, pooling
        self.encoder_frontend = Frontend(vocab, dim, positions, pad, dropout)
        self.encoder = Layers([EncoderLayer(dim, heads, hidden, dropout) for _ in range(layers)])
        self.layer_norm = nn.LayerNorm(dim)

    def forward(self, tokens: Tensor, lengths: Tensor | None = None) -> Tensor:
        """tokens (B, S) int64, rows padded on the right with any id; lengths (B,) -> vectors (B, D).

        lengths None: all rows are full, and no mask is made; that is the fastest form.
        """
        x, mask = self.encoder_frontend(tokens), None
        if lengths is not None:
            mask = torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]  # (B, S)
        for layer in self.encoder.layers:
            x = layer(x, None if mask is None else mask[:, None, None])
        return self.pool(self.layer_norm(x), lengths, mask)

    def pool(self, x: Tensor, lengths: Tensor | None, mask: Tensor | None) -> Tensor:
        """Token vectors (B, S, D) -> (B, D); sums in fp32."""
        if self.pooling == "last":
            return x[:, -1] if lengths is None else x[torch.arange(len(x), device=x.device), lengths - 1]
        if self.pooling == "max":
            return (x if mask is None else x.masked_fill(~mask[..., None], -torch.inf)).amax(1)
        if mask is None:
            return x.mean(1)
        return (x.masked_fill(~mask[..., None], 0).sum(1, dtype=torch.float32) / lengths[:, None]).to(x.dtype)


class TextDecoder(nn.Module):
    """A sentence vector and the tokens so far -> logits of the next. The defaults are SONAR's "basic" decoder, 867M parameters.

    Args: as `TextEncoder`'s; positions counts the two tokens that every target starts with ("</s>" and the language);
        memory is the width of the sentence vector, default dim.
    """

    def __init__(
        self,
        vocab: int = 256206,
        dim: int = 1024,
        layers: int = 24,
        heads: int = 16,
        hidden: int = 8192,
        positions: int = 512,
        pad: int = 1,
        memory: int | None = None,
        dropout: float = 0.1,
    ):
        super().__init__()
        _check(dim, heads)
        memory = memory or dim
        self.config = {"vocab": vocab, "dim": dim, "layers": layers, "heads": heads, "hidden": hidden, "positions": positions}
        self.config |= {"pad": pad, "memory": memory, "dropout": dropout}
        self.vocab, self.dim, self.heads, self.memory, self.positions = vocab, dim, heads, memory, positions
        self.decoder_frontend = Frontend(vocab, dim, positions, pad, dropout)
        self.decoder = Layers([DecoderLayer(dim, heads, hidden, memory, dropout) for _ in range(layers)], nn.LayerNorm(dim))
        self.register_load_state_dict_pre_hook(_drop_tied)

    def fits(self, context: int) -> None:
        """Raise ValueError where sentences of `context` pieces, with the end and the language before them, are too long."""
        if context + 2 > self.positions:
            raise ValueError(
                f"this decoder has {self.positions} positions, and sentences of {context} pieces need {context + 2}: "
                "make data.context smaller."
            )

    def forward(self, vectors: Tensor, tokens: Tensor) -> Tensor:
        """vectors (B, E), tokens (B, T) -> logits (B, T, V). Rows of unequal length are padded on the right, with any id."""
        return self.unembed(self.hidden(vectors, tokens))

    def hidden(self, vectors: Tensor, tokens: Tensor) -> Tensor:
        """What the logits are a linear map of, (B, T, D): for `zoo.nn.losses.linear_cross_entropy` with `unembedding`."""
        x = self.decoder_frontend(tokens)
        for layer in self.decoder.layers:
            x = layer(x, vectors)
        return self.decoder.layer_norm(x)

    @property
    def unembedding(self) -> Tensor:
        """(V, D): the table of token vectors, tied."""
        return self.decoder_frontend.embed.weight

    def unembed(self, x: Tensor) -> Tensor:
        return F.linear(x, self.unembedding)

    def sonar_state(self) -> dict[str, Tensor]:
        """The state under all of sonar-space's names: the tied table a second time as `final_proj.weight`."""
        state = self.state_dict()
        return state | {PROJECTION: state["decoder_frontend.embed.weight"]}


def _drop_tied(decoder, state: dict, prefix: str, *_) -> None:
    """Take the second name of the tied table out of a state that is about to be loaded."""
    tied, table = state.pop(prefix + PROJECTION, None), state.get(prefix + "decoder_frontend.embed.weight")
    if tied is not None and table is not None and tied is not table and not tied.is_meta and not torch.equal(tied, table):
        raise ValueError(f"{PROJECTION} is not the decoder's table of token vectors: a SONAR decoder ties the two.")


def _check(dim: int, heads: int) -> None:
    if dim % heads or dim % 2 or dim < 4:
        raise ValueError(f"A SONAR net's width is even and a multiple of its heads: {dim} is no width for {heads} heads.")
