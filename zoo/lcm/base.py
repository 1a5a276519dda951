"""Base-LCM: the next sentence's vector by regression (LCM paper, sec. 2.3.1 and 2.4.1)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from zoo.lcm.batch import counted, drawn, shared, wide
from zoo.lcm.memory import Memory, Outline, ends
from zoo.lcm.net import Tower
from zoo.nn.fragility import FragilityModel
from zoo.nn.normalizer import Normalizer
from zoo.nn.transformer import Linear
from zoo.saved import NORMALIZER, opened
from zoo.sonar.folder import located

FRAGILITY = "fragility.safetensors"


@dataclass(frozen=True)
class Moved:
    """What is done to a vector that was regressed: normal noise of so much deviation, in normalized space (the released code's
    default is 1; its instructions, and ours, leave it out)."""

    temperature: float = 0.0


class Base(nn.Module):
    """A causal transformer that says the next sentence's vector; what it is off by, squared, is the loss (eq. 1 to 6).

    Args:
        vocab: numbers in a sentence's vector (E). context: sentences of the longest chunk.
        dim, layers, heads, hidden: of the transformer; defaults are the paper's 1.6B, hidden is 8/3 dim rounded up to 256s.
        dropout: of what layers add; attention has none.
        normalizer: file of the space's normalizer, or a folder that holds it; None takes vectors as they are.
        clip: normalized values are kept within ± this.
        loss: "space" measures errors in the space, as the paper's equations do (in units of the dimensions' mean square scale, so
            that learning rates mean the same in any space); "normalized" in normalized space, as the released code does.
        positions: of the longest document; they are rotary, so also those behind `context` can be read, which training does not.
        checkpoint: keep only the inputs of each layer in training, and recompute the rest: less memory for more time.
    """

    ahead = 0

    def __init__(
        self,
        vocab: int,
        context: int,
        dim: int = 2048,
        layers: int = 32,
        heads: int = 16,
        hidden: int | None = None,
        *,
        dropout: float = 0.1,
        normalizer: str | None = None,
        clip: float | None = None,
        loss: Literal["space", "normalized"] = "space",
        positions: int = 4096,
        checkpoint: bool = False,
    ):
        config = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        super().__init__()
        self.config, self.vocab, self.context = config | {"normalizer": None}, vocab, context  # it is saved with the weights
        self.normalizer = read_normalizer(normalizer, vocab, clip)
        self.loss = loss
        self.tower = Tower(vocab, dim, layers, heads, hidden, dropout, max(positions, context), checkpoint)
        self.post = Linear(dim, vocab, True)
        self.trunk = Outline(self.tower, self.post)
        self.sampler = self.writing = Moved()

    def forward(self, batch: dict[str, Tensor]) -> dict:
        """batch: vec (B, S, E), role (B, S), mask (B,). The first sentence of a chunk is no target. Returns loss (squared error
        per sentence, summed over E) and parts {"mse": (sum, sentences)}, without graph and always in normalized space, beside
        which `in_space` is the loss where that is another."""
        x, learnt = self.normalizer.normalize(batch["vec"]), counted(batch)[:, 1:]
        error = (wide(self._said(x[:, :-1])) - wide(x[:, 1:])).square()  # (B, S - 1, E)
        mse = error.sum(-1)
        if self.loss == "space":
            units = self.normalizer.scale.square()
            loss = (error * (units / units.mean())).sum(-1)
        else:
            loss = mse
        count = learnt.sum()
        parts = {"mse": mse, "in_space": loss} if self.loss == "space" else {"mse": mse}
        return {
            "loss": (loss * learnt).sum() / shared(count)[0],
            "parts": {name: ((each.detach() * learnt).sum(), count.float()) for name, each in parts.items()},
        }

    @property
    def part_weights(self) -> dict[str, float]:
        """What is trained is what `val/loss` says."""
        return {"mse": 0.0} if self.loss == "space" else {}

    def _said(self, x: Tensor) -> Tensor:
        return self.post(self.tower(x))

    @torch.no_grad()
    def predict(self, batch: dict[str, Tensor], seed: int = 0) -> Tensor:
        """What is said of each sentence given the true ones before it: (B, S, E) in the space. Of the first, it is the
        normalizer's centre. seed: of the sampler's noise, which depends on each chunk's `window` alone."""
        x = self.normalizer.normalize(batch["vec"])
        said = torch.cat((torch.zeros_like(x[:, :1]), wide(self._said(x[:, :-1]))), 1)
        if self.sampler.temperature:
            noise = drawn(batch, (self.vocab,), seed).to(said)
            said = said + self.sampler.temperature * noise
        return self.normalizer.denormalize(said)

    def memory(self, batch_size: int, capacity: int) -> Memory:
        """What is held of documents that have been read: at first of none, at most `capacity` sentences each."""
        return Memory(self.tower.cache(batch_size, capacity))

    @torch.no_grad()
    def read(self, vectors: Tensor, memory: Memory, lengths: Sequence[int] | None = None) -> None:
        """Read sentences (B, S, E) on; of a row that has fewer, the first `lengths`, at least 1."""
        h = self.tower(self.normalizer.normalize(vectors), memory.caches[0])  # (B, S, D)
        memory.last = ends(h, lengths)
        memory.advance(vectors.shape[1], lengths)

    @torch.no_grad()
    def next_vector(self, memory: Memory, noise: Tensor, fresh: Callable[[], Tensor] | None = None) -> Tensor:
        """The vectors (B, E) that follow what was read; noise (B, E) is standard normal, and enough."""
        if memory.last is None:
            raise ValueError("Base-LCM begins no document: give it at least one sentence to go on from.")
        said = wide(self.post(memory.last))
        return self.normalizer.denormalize(said + self.sampler.temperature * noise.to(said))


def read_normalizer(place: str | None, width: int, clip: float | None = None) -> Normalizer:
    """The normalizer of a file, or of a folder that holds it, for vectors of `width` numbers; None is one that does nothing.

    Raises FileNotFoundError or ValueError, in a sentence.
    """
    made = Normalizer(width, clip)
    if place is not None:
        path = located(place)
        path = path / NORMALIZER if path.is_dir() else path
        with torch.device("cpu"):  # also where the net is only counted
            found = opened(Normalizer, path)
        if found.width != width:
            raise ValueError(f"the normalizer {path} is for vectors of {found.width} numbers, and the data have {width}.")
        if not made.center.is_meta:
            made.load_state_dict(found.state_dict())
    return made


def read_fragility(place: str | None, width: int) -> FragilityModel | None:
    """The model of fragility of a file, or of a folder that holds it, for vectors of `width` numbers; None is none.

    Raises FileNotFoundError or ValueError, in a sentence.
    """
    if place is None:
        return None
    path = Path(place) / FRAGILITY if Path(place).is_dir() else Path(place)
    with torch.device("cpu"):
        found = opened(FragilityModel, path)
    if found.config["width"] != width:
        raise ValueError(f"{path} is for vectors of {found.config['width']} numbers, and the data have {width}.")
    return found
