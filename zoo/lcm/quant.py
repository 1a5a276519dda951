"""Quant-LCM: the next sentence's vector as a sum of centroids, one codebook after the other (LCM paper, sec. 2.3.5)."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from zoo.lcm.base import read_normalizer
from zoo.lcm.batch import QUARTERS, counted, drawn, shared, told, wide
from zoo.lcm.memory import Memory, Outline
from zoo.lcm.net import Trunk
from zoo.nn.losses import linear_cross_entropy
from zoo.nn.rvq import ResidualQuantizer
from zoo.nn.transformer import Embedding, Linear
from zoo.sampling import Sampling
from zoo.sonar.adapted import open_quantizer


@dataclass(frozen=True)
class Chosen:
    """How a centroid is chosen: by temperature, top-k and top-p (`zoo.sampling.Sampling`; temperature 0 takes the best), from
    logits, or from minus the squared distances to what is left. guidance: g, of the logits or the vector that is said, 1 for
    none.

    The paper's settings (sec. 2.4.1), discrete: g 2 and the best unit for single sentences, g 1, temperature 1 and top-k 3 for
    documents; continuous: g 3 and the best, g 1.5, temperature 0.005 and top-k 5.
    """

    guidance: float = 1.0
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None

    @property
    def guided(self) -> bool:
        return self.guidance != 1.0

    def __call__(self, logits: Tensor, chance: Tensor) -> Tensor:
        """Numbers (...) of centroids, of logits (..., U) and chances (...) in [0, 1]."""
        p = Sampling(self.temperature, self.top_k, self.top_p).probabilities(logits)
        return (p.cumsum(-1) < chance[..., None].clamp(max=1 - 1e-6)).sum(-1).clamp(max=p.shape[-1] - 1)


SINGLE = {"discrete": Chosen(2.0), "continuous": Chosen(3.0)}  # sec. 2.4.1, for one sentence after a true context
DOCUMENT = {"discrete": Chosen(1.0, 1.0, 3), "continuous": Chosen(1.5, 0.005, 5)}  # the same, for many


class Quant(nn.Module):
    """One causal transformer that says the next sentence's vector codebook by codebook: it sees the clean vectors of the
    sentences before, and the sum of the centroids so far, at first zero.

    Args:
        vocab, context, normalizer, clip: as in `Base`; dim, layers, heads, hidden, dropout, positions: as in `OneTower`.
        target: "discrete" says which centroid comes next (Quant-LCM-d), "continuous" the vector itself, and the centroid nearest
            to what the sum lacks is added (Quant-LCM-c).
        quantizer: file or folder of the space's codebooks (`zoo prepare codebooks`). They stay there: the net keeps no copy.
        drop: how often a sentence is learnt without its context, for guidance.
        samples: sums of each sentence that are learnt at a time, of one reading of its context.
        book_dim: width of a codebook's embedding, which is put beside a vector; the paper does not say.
        checkpoint: as in `Base`.
    """

    ahead = 0

    def __init__(
        self,
        vocab: int,
        context: int,
        quantizer: str,
        dim: int = 2048,
        layers: int = 32,
        heads: int = 32,
        hidden: int | None = None,
        *,
        target: Literal["discrete", "continuous"] = "discrete",
        dropout: float = 0.1,
        normalizer: str | None = None,
        clip: float | None = None,
        drop: float = 0.15,
        samples: int = 1,
        book_dim: int = 256,
        positions: int | None = None,
        checkpoint: bool = False,
    ):
        config = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        super().__init__()
        if target not in SINGLE or not 0 <= drop < 1 or samples < 1:
            raise ValueError(
                f"target is 'discrete' or 'continuous', drop lies in [0, 1) and samples is at least 1, not {target!r}, {drop} "
                f"and {samples}."
            )
        self.config, self.vocab, self.context = config | {"normalizer": None}, vocab, context  # it is saved with the weights
        self.target, self.drop, self.samples = target, drop, samples
        self._codebooks = (open_quantizer(quantizer, vocab),)  # in a tuple, so that it is no part of the net
        told = hashlib.sha256(self._codebooks[0].centroids.contiguous().numpy().data).digest()
        self._known = int.from_bytes(told[:8], "big", signed=True)
        self.register_buffer("codebooks", torch.tensor(self._known))  # which ones it has learnt, for those who load it
        self.register_load_state_dict_pre_hook(self._refuse_others)
        self.normalizer = read_normalizer(normalizer, vocab, clip)
        books, units = self._codebooks[0].books, self._codebooks[0].units
        places = positions or context
        self.tower = Trunk(
            vocab, dim, layers, heads, hidden, dropout, places, Embedding(books + 1, book_dim), book_dim, checkpoint
        )
        self.post = Linear(dim, units if target == "discrete" else vocab, target == "continuous")
        self.trunk = Outline(self.tower, self.post)
        self.sampler, self.writing = SINGLE[target], DOCUMENT[target]

    @staticmethod
    def _refuse_others(net: "Quant", state: dict, prefix: str, *_) -> None:
        found = state.get(f"{prefix}codebooks")
        if found is not None and not found.is_meta and int(found) != net._known:
            raise ValueError(f"The net has learnt other codebooks than those in {net.config['quantizer']}: give it its own.")

    @property
    def part_weights(self) -> dict[str, float]:
        """Of the parts of the loss that are parts of another."""
        return {f"{self._part}_quarter{number + 1}": 0.0 for number in range(QUARTERS)}

    @property
    def _part(self) -> str:
        return "unit" if self.target == "discrete" else "mse"

    @property
    def quantizer(self) -> ResidualQuantizer:
        """The codebooks, where the net is."""
        return self._codebooks[0].to(self.post.weight.device)

    def forward(self, batch: dict[str, Tensor]) -> dict:
        """batch: vec (B, S, E), role (B, S), mask (B,), and `window` (B,) outside of training. Every sentence is a target, the
        first one without any context; of which codebook, is drawn. Returns loss, per sentence the nats of a unit or the squared
        error of the normalized vector, and parts {"unit" or "mse": (sum, count)} and of the codebooks' quarters, no graph."""
        rows, size, width = batch["vec"].shape
        quantizer, samples = self.quantizer, self.samples
        with torch.no_grad():
            codes = quantizer.encode(batch["vec"].reshape(-1, width).float()).view(rows, size, -1).repeat(samples, 1, 1)
        book, dropped = self._draw(batch, quantizer.books)  # (R, S), from 0
        x0 = self.normalizer.normalize(batch["vec"])
        sums = self._entered(quantizer.decode(codes[..., :-1], book).to(x0), book)  # (R, S, E)
        h = self.tower.made(sums, book + 1, self.tower.clean(x0), dropped)  # (R, S, D)
        learnt = counted(batch).repeat(samples, 1)
        (count,) = shared(learnt.sum())
        if self.target == "discrete":
            unit = codes.gather(-1, book[..., None])[..., 0]
            loss, error = linear_cross_entropy(h, self.post.weight, unit, learnt.to(wide(h).dtype) / count)
        else:
            graph = (wide(self.post(h)) - wide(x0.repeat(samples, 1, 1))).square().sum(-1)
            loss, error = (graph * learnt).sum() / count, graph.detach()
        return {"loss": loss, "parts": told(self._part, error, learnt, book, quantizer.books)}

    def _draw(self, batch: dict[str, Tensor], books: int) -> tuple[Tensor, Tensor]:
        """Which codebook is learnt, and whether without context, (R, S) each; a batch may bring them, as `step` and `dropped`."""
        shape, device = (self.samples * len(batch["vec"]), batch["vec"].shape[1]), batch["vec"].device
        if "step" in batch:
            return batch["step"], batch["dropped"]
        if self.training:
            return torch.randint(books, shape, device=device), torch.rand(shape, device=device) < self.drop
        chance = torch.cat([drawn(batch, (), k, uniform=True) for k in range(self.samples)])
        return (chance * books).long().clamp(max=books - 1), torch.zeros(shape, dtype=torch.bool, device=device)

    def _entered(self, sums: Tensor, book: Tensor | int) -> Tensor:
        """Sums (..., E) of the centroids before codebook `book` as the transformer takes them: normalized, and zero at first."""
        if isinstance(book, int):
            return self.normalizer.normalize(sums) if book else torch.zeros_like(sums)
        return self.normalizer.normalize(sums) * (book > 0)[..., None]

    # -- making vectors -----------------------------------------------------------------------------------------------
    def _summed(self, made: Callable[[Tensor, Tensor], Tensor], noise: Tensor) -> Tensor:
        """The sum (..., E) of one centroid of each codebook, of what `made` makes of the sum so far and the codebook's number."""
        quantizer, rows = self.quantizer, len(noise)
        sums, chances = torch.zeros_like(noise), torch.special.ndtr(noise)  # uniform ones of normal noise
        stages = torch.arange(quantizer.books + 1, device=noise.device)
        for book in range(quantizer.books):
            x = self._entered(sums, book)
            said = wide(self.post(made(x, stages[book + 1])))
            if self.sampler.guided:
                with_context, without = said[:rows], said[rows:]
                said = without + self.sampler.guidance * (with_context - without)
            if self.target == "continuous":
                lacking = self.normalizer.denormalize(said) - sums  # (..., E)
                scores = lacking @ quantizer.centroids[book].t().to(lacking) - quantizer.halves[book]
                said = 2 * scores - lacking.square().sum(-1, keepdim=True)  # minus the squared distances (..., U), eq. 23
            chosen = self.sampler(said, self._chance(chances, book))
            sums = sums + quantizer.centroids[book][chosen]
        return sums

    def _chance(self, chances: Tensor, book: int) -> Tensor:
        """A chance (...) for each codebook; where there are more of them than numbers in a vector, later digits are taken."""
        turn, place = divmod(book, chances.shape[-1])
        return chances[..., place] * 4096**turn % 1

    @torch.no_grad()
    def predict(self, batch: dict[str, Tensor], seed: int = 0) -> Tensor:
        """What is said of each sentence given the true ones before it: (B, S, E) in the space. Clean vectors are read once.
        seed: of what is drawn, which depends on each chunk's `window` alone."""
        made = partial(
            self.tower.made, left=self.tower.clean(self.normalizer.normalize(batch["vec"])), guided=self.sampler.guided
        )
        return self._summed(made, drawn(batch, (self.vocab,), seed).to(batch["vec"].device))

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
        """Vectors (B, E) that follow what was read; where units are drawn, they are of standard normal noise (B, E)."""
        return self._summed(partial(self.tower.next, cache=memory.caches[0], guided=self.sampler.guided), noise)
