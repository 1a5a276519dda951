"""Two slots a token above some layer: how the sequence, what may be seen, and the cache are doubled (CoCoMix, sec. 2.2)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from zoo.nn.cache import Cache, Layer


def interleaved(h: Tensor, vectors: Tensor) -> Tensor:
    """(h_1, v_1, h_2, v_2, …): h, vectors (B, T, D) -> (B, 2 T, D)."""
    return torch.stack((h, vectors), dim=2).flatten(1, 2)


def doubled_mask(mask: Tensor) -> Tensor:
    """Who sees whom among tokens, mask (…, T, T) -> (…, 2 T, 2 T) among their slots: of a token that is seen both, and of each
    token itself the first slot sees the first only."""
    slots = mask.repeat_interleave(2, -2).repeat_interleave(2, -1)
    later = torch.arange(slots.shape[-1], device=mask.device)
    return slots & ~((later[:, None] % 2 == 0) & (later == later[:, None] + 1))


class DoubledCache:
    """A cache of tokens, of which the layers from `start` on hold two slots each.

    `lower` and `upper` are what the layers below and from `start` on are given. All else is counted in tokens, as in `Cache`.
    extra: layers of one slot a token above the doubled ones, as heads are; in `lower` they are layers `start`, `start` + 1, …
    """

    def __init__(
        self,
        start: int,
        layers: int,
        batch_size: int,
        capacity: int,
        heads: int,
        head_dim: int,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        extra: int = 0,
    ):
        self.start, self.sizes = start, (heads, head_dim, dtype, device, extra)
        self.lower = Cache(start + extra, batch_size, capacity, heads, head_dim, dtype, device)
        self.upper = _Above(start, layers - start, batch_size, 2 * capacity, heads, head_dim, dtype, device)

    def empty(self, batch_size: int, capacity: int) -> "DoubledCache":
        """Another one of these layers."""
        layers = self.start + len(self.upper.keys)
        return DoubledCache(self.start, layers, batch_size, capacity, *self.sizes)

    @property
    def capacity(self) -> int:
        return self.lower.capacity

    @property
    def keys(self) -> Tensor:
        """Of the layers below; their device and type are those of all."""
        return self.lower.keys

    @property
    def lengths(self) -> Tensor:
        return self.lower.lengths

    @property
    def held(self) -> list[int]:
        return self.lower.held

    @property
    def shortest(self) -> int:
        return self.lower.shortest

    @property
    def longest(self) -> int:
        return self.lower.longest

    def positions(self, count: int) -> Tensor:
        return self.lower.positions(count)

    def advance(self, count: int) -> None:
        self.lower.advance(count)
        self.upper.advance(2 * count)

    def truncate(self, lengths: int | Sequence[int] | Tensor) -> None:
        known = lengths.tolist() if isinstance(lengths, Tensor) else lengths
        self.lower.truncate(known)
        self.upper.truncate(2 * known if isinstance(known, int) else [2 * length for length in known])

    def select(self, rows: list[int]) -> None:
        self.lower.select(rows)
        self.upper.select(rows)

    def put(self, rows: list[int], other: "DoubledCache") -> None:
        self.lower.put(rows, other.lower)
        self.upper.put(rows, other.upper)

    def keep(self, base: Sequence[int] | Tensor, nodes: Tensor) -> None:
        first = base.tolist() if isinstance(base, Tensor) else list(base)
        self.lower.keep(first, nodes)
        slots = torch.stack((2 * nodes, 2 * nodes + 1), dim=-1).flatten(1)  # (B, 2 m)
        self.upper.keep([2 * slot for slot in first], slots)


class _Above(Cache):
    """The cache of layers `start`, `start` + 1, …, which are known to it by these numbers."""

    def __init__(self, start: int, *sizes):
        self.start = start
        super().__init__(*sizes)

    def layer(self, index: int) -> Layer:
        return super().layer(index - self.start)
