"""The anchor of bench_cocomix.py: a CoCoMix training step with the work that the released code does, restated in plain torch.

The teacher is the very library that the released code calls, transformer-lens, called as it calls it. What else is known to be
avoidable in it is done here as it is done there: a backward pass through every block and into every weight of the teacher, whose
gradients are never cleared; all C latents scattered, gradient times the whole decoder; the mixer's C logits masked and multiplied
as a whole, a cross-entropy for each of the labels; all logits of the vocabulary in fp32 and shifted, both slots of a token sent
through the last block; GPT-2's dropout, which its settings do not switch off (4 % of the time). All else is as fast as we can
make it. The weights are those of our own nets, so that labels and losses can be compared.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.cocomix.attribution import ConceptExtractor
from zoo.cocomix.net import CoCoMix
from zoo.nn.transformer import Block, Transformer

DROPOUT = 0.1


def parameter(x: Tensor) -> nn.Parameter:
    return nn.Parameter(x.detach().clone(memory_format=torch.contiguous_format))


def linear(like: nn.Linear) -> nn.Linear:
    made = nn.Linear(like.in_features, like.out_features)
    made.load_state_dict(like.state_dict())
    return made


def norm(like: nn.LayerNorm) -> nn.LayerNorm:
    made = nn.LayerNorm(like.normalized_shape, like.eps)
    made.load_state_dict(like.state_dict())
    return made


def hooked(trunk: Transformer) -> nn.Module:
    """Our GPT-2 as transformer-lens' HookedTransformer with layer norms folded into what reads them, as it does by default."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig  # takes many seconds

    vocab, width = trunk.embedding.weight.shape
    made = HookedTransformer(
        HookedTransformerConfig(
            n_layers=len(trunk.layers), d_model=width, n_ctx=trunk.positions, d_head=width // trunk.heads, n_heads=trunk.heads,
            d_mlp=trunk.hidden, d_vocab=vocab, act_fn="gelu_new", normalization_type="LNPre", eps=trunk.eps, init_weights=False,
        )
    )  # fmt: skip
    state = {"embed.W_E": trunk.embedding.weight, "pos_embed.W_pos": trunk.position_embedding.weight}
    state["unembed.W_U"], state["unembed.b_U"] = folded(trunk.norm, trunk.unembedding)
    for i, block in enumerate(trunk.layers):
        parts, name = block.attention, f"blocks.{i}."
        qkv, bias = folded(block.attention_norm, parts.qkv.weight, parts.qkv.bias)  # (D, 3 D), (3 D,)
        heads = qkv.view(width, 3, trunk.heads, -1).permute(1, 2, 0, 3), bias.view(3, trunk.heads, -1)
        for letter, weight, shift in zip("QKV", *heads):
            state |= {f"{name}attn.W_{letter}": weight, f"{name}attn.b_{letter}": shift}
        state |= {f"{name}attn.W_O": parts.out.weight.t().reshape(trunk.heads, -1, width), f"{name}attn.b_O": parts.out.bias}
        state[f"{name}mlp.W_in"], state[f"{name}mlp.b_in"] = folded(block.mlp_norm, block.mlp.up.weight, block.mlp.up.bias)
        state |= {f"{name}mlp.W_out": block.mlp.down.weight.t(), f"{name}mlp.b_out": block.mlp.down.bias}
    lost = made.load_state_dict(state, strict=False).missing_keys
    assert all(key.endswith(("mask", "IGNORE")) for key in lost), lost
    return made


@torch.no_grad()
def folded(before: nn.LayerNorm, weight: Tensor, bias: Tensor | float = 0.0) -> tuple[Tensor, Tensor]:
    """A linear map after a layer norm's scale and shift: (D, out), (out,)."""
    return (weight * before.weight).t(), weight @ before.bias + bias


class Extraction(nn.Module):
    """Labels of a batch: forward, backward and autoencoder, with everything dense."""

    def __init__(self, extractor: ConceptExtractor):
        super().__init__()
        sae = extractor.sae
        self.keep, self.labels, self.place = sae.keep, extractor.labels, f"blocks.{extractor.layer - 1}.hook_resid_post"
        self.teacher = hooked(extractor.teacher.trunk)
        self.encoder, self.bias = parameter(sae.encoder.weight), parameter(sae.encoder.bias)
        self.decoder, self.shift = parameter(sae.decoder), parameter(sae.shift)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """tokens (B, T) -> labels (B, T, K), and the attribution (B, T, C), which lives as long as its graph is held."""
        tapped: dict[str, Tensor] = {}

        def keep(name: str):
            return lambda x, hook: tapped.update({name: x.detach()})

        with self.teacher.hooks([(self.place, keep("states"))], [(self.place, keep("gradient"))]):
            self.teacher(tokens, return_type="loss").backward()
        states = tapped["states"]
        centred = states - states.mean(-1, keepdim=True)
        normed = centred / (centred.std(-1, keepdim=True) + 1e-5)
        kept = F.linear(normed - self.shift, self.encoder, self.bias).topk(self.keep)
        latents = torch.zeros(*kept.values.shape[:-1], len(self.encoder)).scatter(-1, kept.indices, kept.values.relu())
        attribution = tapped["gradient"] @ self.decoder.t() * latents
        return attribution.topk(self.labels).indices, attribution


class StudentBlock(nn.Module):
    """A block of GPT-2 with fused attention, as the released student has it."""

    def __init__(self, block: Block):
        super().__init__()
        self.heads = block.attention.heads
        self.first, self.second = norm(block.attention_norm), norm(block.mlp_norm)
        self.qkv, self.out = linear(block.attention.qkv), linear(block.attention.out)
        self.up, self.down = linear(block.mlp.up), linear(block.mlp.down)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in self.qkv(self.first(x)).chunk(3, -1))
        share = DROPOUT if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=share).transpose(1, 2).flatten(2)
        x = x + F.dropout(self.out(mixed), share)
        return x + F.dropout(self.down(gelu(self.up(self.second(x)))), share)


class Student(nn.Module):
    """The student with its concepts, everything dense."""

    def __init__(self, net: CoCoMix):
        super().__init__()
        trunk, mixer = net.trunk, net.mixer
        self.insert, self.keep, self.lam = net.insert, mixer.keep, net.lam
        self.tokens, self.positions = parameter(trunk.embedding.weight), parameter(trunk.position_embedding.weight)
        self.blocks, self.norm = nn.ModuleList(map(StudentBlock, trunk.layers)), norm(trunk.norm)
        self.predictor, self.prior = parameter(mixer.predictor.weight), parameter(mixer.prior)
        self.compressor = parameter(mixer.compressor.weight.t())  # (D, C)
        self.bias, self.shift = parameter(mixer.bias), parameter(mixer.shift)

    def forward(self, tokens: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """tokens (B, T), labels (B, T, K) -> mean next-token loss over T - 1 positions, mean concept loss over T."""
        h = F.dropout(self.tokens[tokens] + self.positions[: tokens.shape[1]], DROPOUT, self.training)
        for block in self.blocks[: self.insert]:
            h = block(h)
        mean = h.mean(-1, keepdim=True)
        std = (h - mean).std(-1, keepdim=True)
        z = F.linear((h - mean) / (std + 1e-5) - self.shift, self.predictor, self.prior)  # (B, T, C)
        chosen = torch.zeros_like(z, dtype=torch.bool).scatter(-1, z.topk(self.keep).indices, True)
        vectors = (F.linear(torch.where(chosen, z, 0.0), self.compressor, self.bias) + self.shift) * std + mean
        h = torch.stack((h, vectors), 2).flatten(1, 2)
        for block in self.blocks[self.insert :]:
            h = block(h)
        logits = F.linear(self.norm(h[:, 1::2]), self.tokens).float()
        shifted = logits[:, :-1].contiguous()
        next_token = F.cross_entropy(shifted.flatten(0, 1), tokens[:, 1:].flatten())
        terms = [F.cross_entropy(z.flatten(0, 1).float(), labels[..., i].flatten()) for i in range(labels.shape[-1])]
        return next_token, sum(terms) / len(terms)


def gelu(x: Tensor) -> Tensor:
    """GELU's tanh form operation by operation, as transformers' GPT-2 computes it."""
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x.pow(3))))
