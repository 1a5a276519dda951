"""What a net holds of documents that it has read, and what others ask of any net."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from zoo.lcm.net import Tower, Trunk
from zoo.nn.cache import Cache


class Outline(NamedTuple):
    """A net's `trunk`, as optimizers, `zoo.pretrained.Saved` and whoever writes with it ask for it."""

    tower: Tower | Trunk
    post: nn.Linear

    @property
    def unembedding(self) -> Tensor:
        """The matrix (E or U, D) that makes vectors or logits."""
        return self.post.weight

    @property
    def positions(self) -> int:
        """Sentences of the longest document."""
        return self.tower.positions

    def fits(self, length: int) -> None:
        """Raise ValueError, in a sentence, where so many sentences are too many."""
        self.tower.fits(length)


class Memory:
    """What a net has read of B documents, and what it holds of it: caches of equal lengths.

    last: (B, D) of the sentence that was read last, where a net needs it. kept: what a net has worked out for its sampler.
    """

    def __init__(self, *caches: Cache):
        self.caches = caches
        self.last: Tensor | None = None
        self.kept: dict = {}

    @property
    def held(self) -> list[int]:
        """Sentences per row."""
        return self.caches[0].held

    def advance(self, count: int, lengths: Sequence[int] | None) -> None:
        """`count` sentences per row were put into all caches; of a row that had fewer, so many `lengths` count."""
        for cache in self.caches:
            before = cache.held
            cache.advance(count)
            if lengths is not None:
                cache.truncate([held + length for held, length in zip(before, lengths)])

    def select(self, rows: list[int]) -> None:
        """Keep only these rows, given in rising order."""
        for cache in self.caches:
            cache.select(rows)
        if self.last is not None:
            self.last = self.last[rows]

    def forget(self, count: int) -> None:
        """Forget the last `count` sentences of every row; what is read next goes behind those before."""
        for cache in self.caches:
            cache.truncate([held - count for held in cache.held])
        self.last = None


def ends(h: Tensor, lengths: Sequence[int] | None) -> Tensor:
    """The last of each row's vectors h (B, S, D), of which so many count: (B, D)."""
    if lengths is None:
        return h[:, -1]
    return h[torch.arange(len(h), device=h.device), torch.tensor([length - 1 for length in lengths], device=h.device)]
