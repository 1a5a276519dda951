"""The anchor of bench_cocomix.py: a CoCoMix training step with the work that the released code does, restated in plain torch.

What is known to be avoidable in it is done here as it is done there: the teacher's backward pass through every block and into
every weight (gradients are never cleared), heads projected by einsum and scores written out, an untied unembedding, all C latents
scattered, gradient times the whole decoder, the mixer's C logits masked and multiplied as a whole, a cross-entropy for each of
the labels, all logits of the vocabulary in fp32 and shifted, both slots of a token through the last block. All else is as fast as
we can make it. The weights are those of our own nets, so that labels and losses can be compared.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.cocomix.attribution import ConceptExtractor
from zoo.cocomix.net import CoCoMix
from zoo.nn.transformer import Block


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


class TeacherBlock(nn.Module):
    """A block of GPT-2 with a projection per head and all scores."""

    def __init__(self, block: Block):
        super().__init__()
        heads, (out, width) = block.attention.heads, block.attention.out.weight.shape
        self.first, self.second = norm(block.attention_norm), norm(block.mlp_norm)
        weights = block.attention.qkv.weight.view(3, heads, width // heads, width).transpose(2, 3)  # (3, H, D, D/H)
        self.maps = nn.ParameterList(map(parameter, weights))
        self.biases = nn.ParameterList(map(parameter, block.attention.qkv.bias.view(3, heads, width // heads)))
        self.out = parameter(block.attention.out.weight.view(out, heads, width // heads).permute(1, 2, 0))  # (H, D/H, D)
        self.out_bias = parameter(block.attention.out.bias)
        self.up, self.down = linear(block.mlp.up), linear(block.mlp.down)

    def forward(self, x: Tensor) -> Tensor:
        h, length = self.first(x), x.shape[1]
        q, k, v = (torch.einsum("btd,hde->bthe", h, w) + b for w, b in zip(self.maps, self.biases))
        scores = torch.einsum("bqhe,bkhe->bhqk", q, k) / math.sqrt(q.shape[-1])
        later = torch.ones(length, length, dtype=torch.bool).triu(1)
        mixed = torch.einsum("bhqk,bkhe->bqhe", scores.masked_fill(later, -math.inf).softmax(-1), v)
        x = x + torch.einsum("bqhe,hed->bqd", mixed, self.out) + self.out_bias
        return x + self.down(gelu(self.up(self.second(x))))


class Extraction(nn.Module):
    """Labels of a batch: forward, backward and autoencoder, with everything dense."""

    def __init__(self, extractor: ConceptExtractor):
        super().__init__()
        trunk, sae = extractor.teacher.trunk, extractor.sae
        self.layer, self.keep, self.labels = extractor.layer, sae.keep, extractor.labels
        self.tokens, self.positions = parameter(trunk.embedding.weight), parameter(trunk.position_embedding.weight)
        self.blocks = nn.ModuleList(map(TeacherBlock, trunk.layers))
        self.norm, self.unembedding = norm(trunk.norm), parameter(trunk.unembedding)  # its own copy
        self.encoder, self.bias = parameter(sae.encoder.weight), parameter(sae.encoder.bias)
        self.decoder, self.shift = parameter(sae.decoder), parameter(sae.shift)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """tokens (B, T) -> labels (B, T, K), and the attribution (B, T, C), which lives as long as its graph is held."""
        h = self.tokens[tokens] + self.positions[: tokens.shape[1]]
        for index, block in enumerate(self.blocks):
            h = block(h)
            if index + 1 == self.layer:
                tapped = h
                tapped.retain_grad()
        log_p = (self.norm(h) @ self.unembedding.t()).log_softmax(-1)
        loss = -log_p[:, :-1].gather(-1, tokens[:, 1:, None]).mean()
        loss.backward()
        states = tapped.detach()
        centred = states - states.mean(-1, keepdim=True)
        normed = centred / (centred.std(-1, keepdim=True) + 1e-5)
        kept = F.linear(normed - self.shift, self.encoder, self.bias).topk(self.keep)
        latents = torch.zeros(*kept.values.shape[:-1], len(self.encoder)).scatter(-1, kept.indices, kept.values.relu())
        attribution = tapped.grad @ self.decoder.t() * latents
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
        x = x + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        return x + self.down(gelu(self.up(self.second(x))))


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
        h = self.tokens[tokens] + self.positions[: tokens.shape[1]]
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
