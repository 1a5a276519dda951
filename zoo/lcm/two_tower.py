"""Two-Tower LCM: a contextualizer reads the sentences so far, a denoiser makes the next one's vector (LCM paper, sec. 2.3.4)."""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.lcm.base import read_fragility, read_normalizer
from zoo.lcm.batch import drawn, fresh, wide
from zoo.lcm.diffused import PART_WEIGHTS, Diffusion
from zoo.lcm.memory import Memory, Outline
from zoo.lcm.net import Steps, SwiGLU, Tower, check, empty, entered, run
from zoo.nn.attention import attention
from zoo.nn.cache import Cache
from zoo.nn.diffusion import Predicts, Sampler, trailing
from zoo.nn.transformer import Linear, hidden_size

Look = Callable[[Tensor], Tensor]  # queries (R, H, S, D/H) -> what they find (R, H, S, D/H)


class DenoiserLayer(nn.Module):
    """Self-attention, cross-attention to the context, SwiGLU, each shifted, scaled and gated by the step (eq. 21 and 22).

    A vector's self-attention sees itself alone, so it is the linear map of its value: queries and keys, which the released net
    has, have no part in it. `queries` keeps room for them.
    """

    shard_entries = ()  # see zoo.shard

    def __init__(self, dim: int, heads: int, hidden: int, dropout: float, depth: int, queries: bool):
        super().__init__()
        std = 0.02 / (3 * depth) ** 0.5
        self.heads, self.dropout = heads, dropout
        self.norms = nn.ModuleList(nn.RMSNorm(dim, eps=1e-5) for _ in range(3))
        self.value, self.value_out = Linear(dim, dim * (3 if queries else 1), True), Linear(dim, dim, True, std)
        self.query, self.kv, self.out = Linear(dim, dim, True), Linear(dim, 2 * dim, True), Linear(dim, dim, True, std)
        self.mlp = SwiGLU(dim, hidden, std)
        self.modulation = Linear(dim, 9 * dim, True, 0.0)  # zeros: at first every layer passes on what it is given

    def forward(self, h: Tensor, embedded: Tensor, which: Tensor | None, before: Tensor, dropped: Tensor, samples: int) -> Tensor:
        """Whole documents in training: h (R, S, D), R = `samples` · B -> (R, S, D).

        embedded: SiLU of the steps' embeddings, (R, S, D), or (T, D) of which vectors take `which` (R, S). before (B, S, D): what
        the contextualizer says before each sentence. dropped (R, S): who looks at nothing.
        """
        modulation = self.modulation(embedded)  # (R, S, 9 D), or (T, 9 D)
        if which is not None:
            modulation = F.embedding(which, modulation)
        known = self.keys(before) if samples == 1 else (each.repeat(samples, 1, 1, 1) for each in self.keys(before))
        keys, values = (each.transpose(1, 2) for each in known)  # (R, H, S, D/H)
        nothing = self.nothing()

        def look(q: Tensor) -> Tensor:
            # Sentence n sees the zero vector, which is key 0, and those before n, which are keys 1 to n: as causal as can be.
            found = attention(q, keys, values, causal=True)
            return torch.where(dropped[:, None, :, None], nothing, found)  # with the zero vector alone, its value is found

        return self.made(h, modulation, look)

    def made(self, x: Tensor, modulation: Tensor, look: Look, free: Tensor | None = None) -> Tensor:
        """x (R, S, D) and modulation (R, S, 9 D), or (9 D,) for all alike -> (R, S, D).

        free (D,): what cross-attention adds where there is no context; then the second half of the rows have none.
        """
        shift1, scale1, gate1, shift2, scale2, gate2, shift3, scale3, gate3 = modulation.chunk(9, -1)
        x = torch.addcmul(x, gate1, self._dropped(self.value_out(self._value(self._modulated(0, x, shift1, scale1)))))
        asked = x if free is None else x[: len(x) // 2]
        q = self.query(self._modulated(1, asked, shift2, scale2)).unflatten(-1, (self.heads, -1))  # (R, S, H, D/H)
        found = self.out(look(q.transpose(1, 2)).transpose(1, 2).flatten(2).to(q.dtype))  # (R, S, D)
        found = found if free is None else torch.cat((found, free.expand_as(found)))
        x = torch.addcmul(x, gate2, self._dropped(found))
        return torch.addcmul(x, gate3, self._dropped(self.mlp(self._modulated(2, x, shift3, scale3))))

    def _modulated(self, number: int, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        h = self.norms[number](x)
        return torch.addcmul(h + shift, h, scale)  # not h (1 + scale): in bfloat16 a small scale would vanish beside 1

    def _value(self, x: Tensor) -> Tensor:
        dim = x.shape[-1]
        return F.linear(x, self.value.weight[-dim:], self.value.bias[-dim:]) if len(self.value.weight) > dim else self.value(x)

    def keys(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (B, S, H, D/H) of the context (B, S, D)."""
        return self.kv(context).unflatten(-1, (2, self.heads, -1)).unbind(2)

    def nothing(self) -> Tensor:
        """The value (H, 1, D/H) of the zero vector that stands before every context: all that is found without one."""
        return self.kv.bias[len(self.kv.bias) // 2 :].view(self.heads, 1, -1)

    def _dropped(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


class TwoTower(nn.Module):
    """A diffusion model of the next sentence's vector, given what a causal transformer makes of those before it.

    Args:
        vocab, context, hidden, dropout, normalizer, clip, positions: as in `Base`.
        dim, heads: of both towers; layers, denoiser_layers: their depths. Defaults are the paper's 1.6B.
        schedule, steps, schedule_numbers, predicts, snr, snr_mean, drop, drop_rows, samples: of
            `Diffusion`.
        fragility: file or folder of `zoo prepare fragility`, whose model weighs sentences in training (eq. 18); None weighs all
            alike. It reads vectors as its space's normalizer has them: give the net that one. fragility_numbers: of `Diffusion`.
        queries: keep room for the released net's queries and keys that have no effect.
        checkpoint: keep only the inputs of each layer in training, and recompute the rest: less memory for more time.
    """

    ahead = 0
    part_weights = PART_WEIGHTS

    def __init__(
        self,
        vocab: int,
        context: int,
        dim: int = 2048,
        layers: int = 5,
        denoiser_layers: int = 13,
        heads: int = 16,
        hidden: int | None = None,
        *,
        dropout: float = 0.1,
        normalizer: str | None = None,
        clip: float | None = None,
        schedule: Literal["cosine", "quadratic", "sigmoid"] = "cosine",
        steps: int = 100,
        schedule_numbers: list[float] | None = None,
        predicts: Predicts = "x0",
        snr: list[float] | None = None,
        snr_mean: bool = False,
        drop: float = 0.15,
        drop_rows: Literal["each", "batch"] = "each",
        samples: int = 1,
        fragility: str | None = None,
        fragility_numbers: list[float] | None = None,
        queries: bool = False,
        positions: int = 4096,
        checkpoint: bool = False,
    ):
        config = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        super().__init__()
        self.config, self.vocab, self.context = config | {"normalizer": None, "fragility": None}, vocab, context
        self.normalizer, self.checkpoint = read_normalizer(normalizer, vocab, clip), checkpoint
        self.diffusion = Diffusion(
            schedule, steps, schedule_numbers, predicts, snr, snr_mean, drop, drop_rows, samples,
            read_fragility(fragility, vocab), fragility_numbers,
        )  # fmt: skip
        self.tower = Tower(vocab, dim, layers, heads, hidden, dropout, max(positions, context), checkpoint)
        check(dim, heads, denoiser_layers, positions)
        self.steps, self.pre = Steps(dim), Linear(vocab, dim, True, vocab**-0.5)
        hidden = hidden or hidden_size(dim, "llama")
        self.layers = nn.ModuleList(
            DenoiserLayer(dim, heads, hidden, dropout, denoiser_layers, queries) for _ in range(denoiser_layers)
        )
        self.norm, self.post = nn.RMSNorm(dim, eps=1e-5), Linear(dim, vocab, True)
        self.trunk = Outline(self.tower, self.post)
        self.sampler = self.writing = Sampler(predicts=predicts)  # the paper has one for sentences and documents

    def forward(self, batch: dict[str, Tensor]) -> dict:
        """batch: vec (B, S, E), role (B, S), mask (B,), and `window` (B,) outside of training. Every sentence is a target, the
        first one without any context. Returns loss and parts of `Diffusion.scored`."""
        x0 = self.normalizer.normalize(batch["vec"])
        draw = self.diffusion.draw(batch)
        said = self._said(self.diffusion.noised(x0, draw), draw.t, self._before(x0), draw.dropped)
        return self.diffusion.scored(said, x0, draw, batch)

    def _before(self, x0: Tensor) -> Tensor:
        """What the sentences before each say: the zero vector, and rows 0 to S - 2 of the contextualizer (B, S, D)."""
        return F.pad(self.tower(x0[:, :-1]), (0, 0, 1, 0))

    def _said(self, x: Tensor, t: Tensor, before: Tensor, dropped: Tensor) -> Tensor:
        """What the denoiser says (R, S, E) of x (R, S, E) at steps t (R, S)."""
        h, embedded, which = entered(self.pre, x), *self._steps(t)
        samples = len(x) // len(before)
        for layer in self.layers:
            h = run(self.checkpoint, layer, h, embedded, which, before, dropped, samples)
        return self.post(self.norm(h))

    def _steps(self, t: Tensor) -> tuple[Tensor, Tensor | None]:
        """SiLU of the steps' embeddings, those of t, or those of all steps and which of them t are: there are but so many."""
        steps = self.diffusion.schedule.steps
        if t.numel() <= steps:
            return F.silu(self.steps(t + 1)), None
        return F.silu(self.steps(torch.arange(1, steps + 1, device=t.device))), t

    # -- making vectors -----------------------------------------------------------------------------------------------
    @torch.no_grad()
    def predict(self, batch: dict[str, Tensor], seed: int = 0) -> Tensor:
        """A sample of each sentence given the true ones before it: (B, S, E) in the space. The contextualizer runs once.
        seed: of the noise, which depends on each chunk's `window` alone."""
        x0 = self.normalizer.normalize(batch["vec"])
        before, noise = self._before(x0), drawn(batch, (self.vocab,), seed).to(x0)
        looks = [self._all_look(layer, before) for layer in self.layers]
        made = self.sampler(self.diffusion.schedule, self._sayer(looks, {}), noise, fresh(batch, (self.vocab,), seed))
        return self.normalizer.denormalize(made)

    @staticmethod
    def _all_look(layer: DenoiserLayer, before: Tensor) -> Look:
        keys, values = (each.transpose(1, 2) for each in layer.keys(before))
        return lambda q: F.scaled_dot_product_attention(q, keys, values, is_causal=True)

    def _sayer(self, looks: Sequence[Look], kept: dict) -> Callable[[Tensor, int], tuple[Tensor, Tensor | None]]:
        """What a sampler asks: x (B, S, E), t -> what is said of it with the context and, for guidance, without.

        looks: of each layer for the rows with context. kept: where modulations are left for the next sentence.
        """
        guided, weight = self.sampler.guided, self.pre.weight
        taken = trailing(self.diffusion.schedule.steps, self.sampler.taken)
        if (kept.get("taken"), kept.get("guided")) != (taken, guided):  # they depend on the step alone
            embedded = F.silu(self.steps(torch.tensor([t + 1 for t in taken], device=weight.device)))
            kept |= {"taken": taken, "guided": guided, "modulation": [layer.modulation(embedded) for layer in self.layers]}
            kept["free"] = [layer.out(layer.nothing().flatten()) if guided else None for layer in self.layers]
        place = {t: number for number, t in enumerate(taken)}

        def say(x: Tensor, t: int) -> tuple[Tensor, Tensor | None]:
            rows, number = len(x), place[t]
            h = entered(self.pre, torch.cat((x, x)) if guided else x)
            for layer, look, modulation, free in zip(self.layers, looks, kept["modulation"], kept["free"]):
                h = layer.made(h, modulation[number], look, free)
            said = wide(self.post(self.norm(h)))
            return said[:rows], said[rows:] if guided else None

        return say

    def memory(self, batch_size: int, capacity: int) -> Memory:
        """What is held of documents that have been read: at first of none, at most `capacity` sentences each."""
        cross = empty(len(self.layers), batch_size, capacity + 1, self.layers[0].heads, self.pre.weight)
        memory = Memory(self.tower.cache(batch_size, capacity), cross)
        with torch.no_grad():
            for index, layer in enumerate(self.layers):
                cross.layer(index).append(*layer.keys(self.pre.weight.new_zeros(batch_size, 1, self.tower.dim)))
        cross.advance(1)
        return memory

    @torch.no_grad()
    def read(self, vectors: Tensor, memory: Memory, lengths: Sequence[int] | None = None) -> None:
        """Read sentences (B, S, E) on; of a row that has fewer, the first `lengths`."""
        tower, cross = memory.caches
        h = self.tower(self.normalizer.normalize(vectors), tower)  # (B, S, D)
        for index, layer in enumerate(self.layers):
            cross.layer(index).append(*layer.keys(h))
        memory.advance(vectors.shape[1], lengths)

    @torch.no_grad()
    def next_vector(self, memory: Memory, noise: Tensor, fresh: Callable[[], Tensor] | None = None) -> Tensor:
        """Vectors (B, E) that follow what was read, made of standard normal noise (B, E); fresh() -> more of it, for η > 0."""
        more = None if fresh is None else lambda: fresh()[:, None]
        cross = memory.caches[1]
        looks = [self._look(cross, index) for index in range(len(self.layers))]
        made = self.sampler(self.diffusion.schedule, self._sayer(looks, memory.kept), noise[:, None], more)
        return self.normalizer.denormalize(made[:, 0])

    @staticmethod
    def _look(cross: Cache, index: int) -> Look:
        held, kind = cross.longest, cross.keys.dtype
        if cross.keys.device.type == "cpu":
            kind = torch.promote_types(kind, torch.float32)  # where one query looks among bfloat16 several times as slowly
        # Copied once, head by head, for all the steps of a sampler: far quicker to read where there is much of it.
        keys, values = (store[index, :, :held].transpose(1, 2).to(kind).contiguous() for store in (cross.keys, cross.values))
        mask = None
        if cross.shortest < held:
            mask = (torch.arange(held, device=keys.device) < cross.lengths[:, None])[:, None, None]
        return lambda q: F.scaled_dot_product_attention(q.to(kind), keys, values, attn_mask=mask)
