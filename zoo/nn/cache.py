"""Keys and values of earlier positions, preallocated, with a length per row."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Cache:
    """Keys and values of `layers` attention layers for up to `capacity` vectors per row.

    Rows may differ in length. A ragged prompt is written padded on the right and cut back with `truncate`; rejected drafts are
    cut back the same way; the accepted path of a draft tree is kept with `keep`. What lies beyond a row's length is never seen.

    lengths (B,) int64: vectors held per row; held: the same numbers known to Python, so that no step waits for the device.
    keys, values (layers, B, capacity, H, D/H).
    """

    def __init__(
        self,
        layers: int,
        batch_size: int,
        capacity: int,
        heads: int,
        head_dim: int,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ):
        # Zeros, not empty: a masked slot still meets a weight of 0 in the attention, and 0 * nan would be nan.
        self.keys = torch.zeros(layers, batch_size, capacity, heads, head_dim, dtype=dtype, device=device)
        self.values = torch.zeros_like(self.keys)
        self._hold([0] * batch_size)
        self._complete: list[float] = [float("inf")] * layers  # slots that a layer which sat out a step still has in full
        self._appended: set[int] = set()

    def empty(self, batch_size: int, capacity: int) -> "Cache":
        """Another cache of these layers, for so many rows and vectors."""
        layers, _, _, *sizes = self.keys.shape
        return Cache(layers, batch_size, capacity, *sizes, self.keys.dtype, self.keys.device)

    @property
    def capacity(self) -> int:
        return self.keys.shape[2]

    def layer(self, index: int) -> "Layer":
        """One layer's `append`, as an attention takes it."""
        return Layer(self, index)

    def positions(self, count: int) -> Tensor:
        """Positions of the next `count` vectors: (count,) when all rows are equally long, else (B, count)."""
        steps = torch.arange(count, device=self.lengths.device)
        return steps + self.longest if self.shortest == self.longest else steps + self.lengths[:, None]

    def visible(self, count: int, mask: Tensor | None = None) -> tuple[Tensor | None, bool]:
        """What the next `count` vectors may look at: a bool mask (B or 1, 1, count, S) or None, and SDPA's causal flag.

        mask (count, count) or (B, count, count) bool says which of the new vectors see each other, default causal. All see what
        is held.
        """
        known = self._seen  # by the layers before, in this very step
        if known is None or known[0] != count or known[1] is not mask:
            known = self._seen = (count, mask, self._visible(count, mask))
        return known[2]

    def _visible(self, count: int, mask: Tensor | None) -> tuple[Tensor | None, bool]:
        device, held = self.lengths.device, self.longest
        if mask is None and self.shortest == held:
            if held == 0:
                return None, True
            if count == 1:
                return None, False
        if mask is None:
            mask = torch.ones(count, count, dtype=torch.bool, device=device).tril()
        mask = mask.view(-1, count, count)
        lengths = self.lengths[:, None] if self.shortest < held else self.lengths[:1, None]
        offset = torch.arange(held + count, device=device) - lengths  # (B or 1, S): slot relative to the first new one
        rows = max(len(mask), len(offset))
        index = offset.clamp(0, count - 1)[:, None].expand(rows, count, -1)
        new = mask.expand(rows, -1, -1).gather(2, index) & ((offset >= 0) & (offset < count))[:, None]
        return (new | (offset < 0)[:, None])[:, None], False

    def advance(self, count: int) -> None:
        """Count the `count` vectors per row that the layers have just appended as held."""
        for index in range(len(self._complete)):
            if index not in self._appended:
                self._complete[index] = min(self._complete[index], self.shortest)
        self._appended.clear()
        self._hold([length + count for length in self.held], self.lengths + count)

    def truncate(self, lengths: int | Sequence[int] | Tensor) -> None:
        """Forget what lies beyond `lengths`, one number or one per row (B,). A tensor is waited for."""
        known = lengths.tolist() if isinstance(lengths, Tensor) else lengths
        kept = [known] * len(self.held) if isinstance(known, int) else list(known)
        if len(kept) != len(self.held) or any(not 0 <= new <= old for new, old in zip(kept, self.held)):
            raise ValueError(f"A cache can only be cut back: lengths {kept} do not lie between 0 and {self.held}.")
        self._hold(kept)

    def select(self, rows: list[int]) -> None:
        """Keep only these rows, given in rising order; what they hold moves to the front, in place."""
        index = torch.tensor(rows, device=self.lengths.device, dtype=torch.int64)
        for store in (self.keys, self.values):
            for layer in store:  # one at a time: the right side is a copy
                layer[: len(rows), : self.longest] = layer[index, : self.longest]
        self.keys, self.values = self.keys[:, : len(rows)], self.values[:, : len(rows)]
        self._hold([self.held[row] for row in rows])

    def put(self, rows: list[int], other: "Cache") -> None:
        """Replace what these rows hold by what the rows of `other` hold, which must fit."""
        index, held = torch.tensor(rows, device=self.lengths.device, dtype=torch.int64), other.longest
        self.keys[:, index, :held] = other.keys[:, :, :held]
        self.values[:, index, :held] = other.values[:, :, :held]
        self._complete = list(map(min, self._complete, other._complete))
        now = dict(zip(rows, other.held))
        self._hold([now.get(row, length) for row, length in enumerate(self.held)])

    def _hold(self, held: list[int], lengths: Tensor | None = None) -> None:
        """Set how much every row holds."""
        self.held, self.shortest, self.longest = held, min(held, default=0), max(held, default=0)
        self.lengths = torch.tensor(held, dtype=torch.int64, device=self.keys.device) if lengths is None else lengths
        self._seen: tuple | None = None

    def keep(self, base: Sequence[int] | Tensor, nodes: Tensor) -> None:
        """Keep only the path `nodes` (B, m) of a draft tree whose first node sits in slot `base` of each row, in path order.

        The rows end with base + m vectors each; where the accepted paths differ in length, pad `nodes` and `truncate` afterwards.
        """
        first = base.tolist() if isinstance(base, Tensor) else list(base)
        base = torch.as_tensor(base, device=nodes.device)[:, None]
        rows, source = torch.arange(len(base), device=nodes.device)[:, None], base + nodes
        target = base + torch.arange(nodes.shape[1], device=nodes.device)
        for store in (self.keys, self.values):
            store[:, rows, target] = store[:, rows, source]  # the right side is a copy, so paths may overlap
        self.truncate([slot + nodes.shape[1] for slot in first])


class Layer(NamedTuple):
    """One layer of a cache."""

    cache: Cache
    index: int

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write new keys and values (B, T, H, D/H) behind each row's own; returns all that is held (B, S, H, D/H)."""
        cache, index, held, count = self.cache, self.index, self.cache.longest, k.shape[1]
        if held + count > cache.capacity:
            raise ValueError(
                f"The cache holds {cache.capacity} positions and {held + count} are needed: make it with capacity={held + count}."
            )
        if cache._complete[index] < held:
            raise ValueError(
                f"Layer {index} of the cache sat out earlier steps: ask for the same number of heads from the first step on."
            )
        cache._complete[index] = float("inf")
        cache._appended.add(index)
        keys, values = cache.keys[index], cache.values[index]
        if cache.shortest == held:
            keys[:, held : held + count] = k
            values[:, held : held + count] = v
        else:
            rows = torch.arange(len(k), device=k.device)[:, None]
            slots = cache.lengths[:, None] + torch.arange(count, device=k.device)
            keys[rows, slots] = k.to(keys.dtype)
            values[rows, slots] = v.to(values.dtype)
        return keys[:, : held + count], values[:, : held + count]
