"""The anchor of bench_lcm.py: what LCM's released two-tower does, restated in plain torch over the weights of our own net.

Done as it is done there: masks are dense floats, made anew at every step and added to scores; queries and keys of a
self-attention that sees its own position alone; modulators for every position; the optimizer tensor by tensor; two more losses
for the log, one of them in the space; at inference keys and values of the whole context in every layer, at every step, for both
halves of a doubled batch, the second of which is all zeros, and the context grown by concatenation. (Its list of steps has 50
where 40 are asked for; here it has 40.) Left out, so that the anchor does less than the released code: masks of padding, the
gradient norm that is taken twice, copies of all caches after every sentence.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.lcm import TwoTower
from zoo.lcm.net import Layer
from zoo.lcm.two_tower import DenoiserLayer
from zoo.nn.diffusion import trailing
from zoo.nn.transformer import rotary, rotate


def lower(rows: int, columns: int, diagonal: int = 0) -> Tensor:
    """0 where a row may look at a column, -inf elsewhere."""
    return torch.ones(rows, columns).tril(diagonal).log()


def split(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)  # (B, H, S, D/H)


def attended(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor) -> Tensor:
    """Attention of q (B, S, D) to k and v, under a dense mask of floats: (B, S, D)."""
    found = F.scaled_dot_product_attention(split(q, heads), split(k, heads), split(v, heads), attn_mask=mask)
    return found.transpose(1, 2).flatten(2)


def dropped(layer: Layer | DenoiserLayer, x: Tensor) -> Tensor:
    return F.dropout(x, layer.dropout, layer.training)


def contextualizer(layer: Layer, h: Tensor, rope, mask: Tensor) -> Tensor:
    q, k, v = layer.qkv(layer.attention_norm(h)).unflatten(-1, (3, layer.heads, -1)).unbind(2)
    q, k = rotate(torch.stack((q, k), 2), rope).unbind(2)
    found = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attn_mask=mask)
    h = h + dropped(layer, layer.out(found.transpose(1, 2).flatten(2)))
    return h + dropped(layer, layer.mlp(layer.mlp_norm(h)))


def context(net: TwoTower, x0: Tensor) -> Tensor:
    """What the contextualizer makes of all sentences (B, S, E): (B, S, D)."""
    size = x0.shape[1]
    rope = rotary(torch.arange(size), net.tower.dim // net.tower.heads, 1e4)
    h = net.tower.pre(x0)
    for layer in net.tower.layers:
        h = contextualizer(layer, h, rope, lower(size, size))
    return net.tower.norm(h)


def denoiser(layer: DenoiserLayer, h: Tensor, embedded: Tensor, context: Tensor, own: Tensor, sees: Tensor) -> Tensor:
    shift1, scale1, gate1, shift2, scale2, gate2, shift3, scale3, gate3 = layer.modulation(embedded).chunk(9, -1)
    q, k, v = layer.value(layer.norms[0](h) * (1 + scale1) + shift1).chunk(3, -1)
    h = h + gate1 * dropped(layer, layer.value_out(attended(q, k, v, layer.heads, own)))
    k, v = layer.kv(context).chunk(2, -1)
    found = attended(layer.query(layer.norms[1](h) * (1 + scale2) + shift2), k, v, layer.heads, sees)
    h = h + gate2 * dropped(layer, layer.out(found))
    return h + gate3 * dropped(layer, layer.mlp(layer.norms[2](h) * (1 + scale3) + shift3))


def said(net: TwoTower, x: Tensor, t: Tensor, context: Tensor, own: Tensor, sees: Tensor) -> Tensor:
    """What the denoiser says (B, S, E) of x (B, S, E) at steps t (B, S), given the zero vector and the context (B, 1 + N, D)."""
    embedded, h = F.silu(net.steps(t + 1)), net.pre(x)
    for layer in net.layers:
        h = denoiser(layer, h, embedded, context, own, sees)
    return net.post(net.norm(h))


def loss(net: TwoTower, batch: dict[str, Tensor]) -> Tensor:
    """Of a step of training; net has `queries`. The batch may bring step, noise and dropped (the same places in all rows)."""
    vectors = batch["vec"].clone()
    x0, size = net.normalizer.normalize(vectors), batch["vec"].shape[1]
    schedule = net.diffusion.schedule
    if "noise" in batch:
        t, noise, places = batch["step"], batch["noise"], batch["dropped"][0]
    else:
        t, noise = torch.randint(schedule.steps, x0.shape[:2]), torch.randn_like(x0)
        places = torch.zeros(size, dtype=torch.bool)
        places[1 + torch.randperm(size - 1)[: math.floor(net.diffusion.drop * (size - 1))]] = True
    sees = lower(size, size + 1)
    sees[places] = torch.where(torch.arange(size + 1) == 0, 0.0, -math.inf)
    before = F.pad(context(net, x0), (0, 0, 1, 0))  # (B, 1 + S, D)
    out = said(net, schedule.noised(x0, t, noise), t, before, torch.eye(size).log(), sees)
    error = (out - x0).square().sum(-1)
    with torch.no_grad():  # for the log
        in_space = (net.normalizer.denormalize(out) - vectors).square().sum(-1).sum()
    value = error.sum()
    for each in (value.detach(), in_space, error.detach().mean()):
        assert math.isfinite(float(each))
    return value / error.numel()


def sampling(net: TwoTower, prompt: Tensor, noise: Tensor) -> Callable[[], Tensor]:
    """Makes sentences (B, count, E) of noise (B, count, E) behind prompts (B, N, E), whenever it is called.

    The contextualizer keeps its own keys and values there as here, and reads each sentence once: that is left to our net; what it
    said is concatenated.
    """
    cache = net.tower.cache(len(prompt), prompt.shape[1] + noise.shape[1])
    with torch.no_grad():
        read = net.tower(net.normalizer.normalize(prompt), cache)
    cache.advance(prompt.shape[1])

    @torch.no_grad()
    def made() -> Tensor:
        seen, found = read, []
        for number in range(noise.shape[1]):
            found.append(one(net, seen, noise[:, number : number + 1]))
            new = net.tower(found[-1], cache)
            cache.advance(1)
            seen = torch.cat((seen, new), 1)
        cache.truncate(prompt.shape[1])
        return net.normalizer.denormalize(torch.cat(found, 1))

    return made


def one(net: TwoTower, seen: Tensor, noise: Tensor) -> Tensor:
    """The next sentence (B, 1, E), normalized, of the contextualizer's (B, N, D) and noise (B, 1, E)."""
    sampler, schedule = net.sampler, net.diffusion.schedule
    x, steps = noise * sampler.sigma, trailing(schedule.steps, sampler.taken)
    for place, step in enumerate(steps):
        before = F.pad(seen, (0, 0, 1, 0))
        both = torch.cat((before, torch.zeros_like(before)))  # (2 B, 1 + N, D)
        t, sees = torch.full((2 * len(x), 1), step), torch.zeros(1, both.shape[1])
        with_context, without = said(net, torch.cat((x, x)), t, both, torch.eye(1).log(), sees).chunk(2)
        alpha, sigma = schedule.alpha[step], schedule.sigma[step]
        if step == schedule.steps - 1:
            epsilon, x0 = x, with_context
        else:
            conditional, free = (x - alpha * with_context) / sigma, (x - alpha * without) / sigma
            epsilon = free + sampler.guidance * (conditional - free)
            ratio = conditional.std(-1, keepdim=True) / epsilon.std(-1, keepdim=True)
            epsilon = (epsilon * (sampler.rescale * ratio + 1 - sampler.rescale)).clamp(-100, 100)
            x0 = (x - sigma * epsilon) / alpha
        x0 = x0.clamp(-100, 100)
        if place + 1 < len(steps):
            x = schedule.alpha[steps[place + 1]] * x0 + schedule.sigma[steps[place + 1]] * epsilon / sampler.scale
    return x0
