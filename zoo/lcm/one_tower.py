"""One-Tower LCM: one transformer reads the sentences so far and makes the next one's vector (LCM paper, sec. 2.3.3)."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from zoo.lcm.base import read_fragility, read_normalizer
from zoo.lcm.batch import drawn, fresh, wide
from zoo.lcm.diffused import PART_WEIGHTS, Diffusion
from zoo.lcm.memory import Memory, Outline
from zoo.lcm.net import Steps, Trunk
from zoo.nn.diffusion import Predicts, Sampler
from zoo.nn.transformer import Linear


class OneTower(nn.Module):
    """A diffusion model of the next sentence's vector in one causal transformer, which sees the clean vectors of the sentences
    before, and the noisy one that it is to say.

    Args:
        vocab, context, normalizer, clip: as in `Base`; dim, layers, heads, hidden, dropout: of the transformer. Defaults are the
            paper's 1.6B; whose feed-forward parts have 8192 units, or as here two thirds of it with a gate, is not told.
        schedule, steps, schedule_numbers, predicts, snr, snr_mean, drop, drop_rows, samples: of
            `Diffusion`.
        fragility: file or folder of `zoo prepare fragility`, whose model weighs sentences in training (eq. 18); None weighs all
            alike. It reads vectors as its space's normalizer has them: give the net that one. fragility_numbers: of `Diffusion`.
        step_dim: width of a step's embedding, which is put beside a vector; the paper does not say.
        positions: of the longest document, default `context`: places are learnt, and training reads no others.
        checkpoint: as in `Base`.
    """

    ahead = 0
    part_weights = PART_WEIGHTS

    def __init__(
        self,
        vocab: int,
        context: int,
        dim: int = 2048,
        layers: int = 32,
        heads: int = 32,
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
        step_dim: int = 256,
        positions: int | None = None,
        checkpoint: bool = False,
    ):
        config = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        super().__init__()
        self.config, self.vocab, self.context = config | {"normalizer": None, "fragility": None}, vocab, context
        self.normalizer = read_normalizer(normalizer, vocab, clip)
        self.diffusion = Diffusion(
            schedule, steps, schedule_numbers, predicts, snr, snr_mean, drop, drop_rows, samples,
            read_fragility(fragility, vocab), fragility_numbers,
        )  # fmt: skip
        places = positions or context
        self.tower = Trunk(vocab, dim, layers, heads, hidden, dropout, places, Steps(step_dim), step_dim, checkpoint)
        self.post = Linear(dim, vocab, True)
        self.trunk = Outline(self.tower, self.post)
        self.sampler = self.writing = Sampler(predicts=predicts)  # the paper has one for sentences and documents

    def forward(self, batch: dict[str, Tensor]) -> dict:
        """batch: vec (B, S, E), role (B, S), mask (B,), and `window` (B,) outside of training. Every sentence is a target, the
        first one without any context. Returns loss and parts of `Diffusion.scored`."""
        x0 = self.normalizer.normalize(batch["vec"])
        draw = self.diffusion.draw(batch)
        said = self.post(self.tower.made(self.diffusion.noised(x0, draw), draw.t + 1, self.tower.clean(x0), draw.dropped))
        return self.diffusion.scored(said, x0, draw, batch)

    @torch.no_grad()
    def predict(self, batch: dict[str, Tensor], seed: int = 0) -> Tensor:
        """A sample of each sentence given the true ones before it: (B, S, E) in the space. Clean vectors are read once.
        seed: of the noise, which depends on each chunk's `window` alone."""
        x0 = self.normalizer.normalize(batch["vec"])
        left, noise = self.tower.clean(x0), drawn(batch, (self.vocab,), seed).to(x0)
        made = partial(self.tower.made, left=left, guided=self.sampler.guided)
        more = fresh(batch, (self.vocab,), seed)
        return self.normalizer.denormalize(self.sampler(self.diffusion.schedule, self._sayer(made), noise, more))

    def _sayer(self, made: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, int], tuple[Tensor, Tensor | None]]:
        """What a sampler asks, of what `made` makes of x and its stage: rows with the context and, for guidance, more without."""
        stages = torch.arange(self.diffusion.schedule.steps + 1, device=self.post.weight.device)

        def say(x: Tensor, t: int) -> tuple[Tensor, Tensor | None]:
            said = wide(self.post(made(x, stages[t + 1])))
            return said[: len(x)], said[len(x) :] if self.sampler.guided else None

        return say

    def memory(self, batch_size: int, capacity: int) -> Memory:
        """What is held of documents that have been read: at first of none, at most `capacity` sentences each."""
        return Memory(self.tower.cache(batch_size, capacity))

    @torch.no_grad()
    def read(self, vectors: Tensor, memory: Memory, lengths: Sequence[int] | None = None) -> None:
        """Read sentences (B, S, E) on; of a row that has fewer, the first `lengths`."""
        self.tower.clean(self.normalizer.normalize(vectors), memory.caches[0])
        memory.advance(vectors.shape[1], lengths)

    @torch.no_grad()
    def next_vector(self, memory: Memory, noise: Tensor, fresh: Callable[[], Tensor] | None = None) -> Tensor:
        """Vectors (B, E) that follow what was read, made of standard normal noise (B, E); fresh() -> more of it, for η > 0."""
        made = partial(self.tower.next, cache=memory.caches[0], guided=self.sampler.guided)
        return self.normalizer.denormalize(self.sampler(self.diffusion.schedule, self._sayer(made), noise, fresh))
