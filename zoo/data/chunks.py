"""Batches of chunks of documents, and the orders that bring those of similar length together."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from zoo.data.loader import Numbered
from zoo.data.sentence_store import SentenceStore

PADDING, GIVEN, TARGET = 0, 1, 2  # `role` of a sentence: none, part of a prompt, to be learnt
POOL, RUN = 4096, 64  # chunks among which those of similar length are brought together, and how many stay together


class SentenceBatches(Numbered):
    """Chunks of documents, of which `window` may give as many as it likes."""

    def __init__(
        self,
        store: SentenceStore,
        batch: int,
        window: Callable[[np.ndarray], np.ndarray],
        scored: int | None = None,
        rank: int = 0,
        world: int = 1,
    ):
        super().__init__(batch, window, scored, rank, world)
        self.store = store

    def __getitem__(self, k: int) -> dict[str, Tensor]:
        numbers, counted = self.numbers(k)  # (B,)
        counted = counted if len(counted) == len(numbers) else np.ones(len(numbers), bool)
        vectors, lengths = self.store.chunks(numbers)  # (B, S, E)
        role = np.where(np.arange(vectors.shape[1]) < lengths[:, None], TARGET, PADDING)  # (B, S)
        arrays = {"vec": vectors, "length": lengths, "role": role, "mask": counted, "window": numbers}
        arrays["tokens"] = role[counted][role[counted] != PADDING][None]  # (1, sentences)
        return {name: torch.from_numpy(array) for name, array in arrays.items()}


class ByLength:
    """An order in which chunks of similar length come together, made of another: (B,) positions -> (B,) chunk numbers.

    Each epoch's positions are cut into pools of POOL; the chunks that `order` puts into a pool stay in it, sorted by length, in
    runs of RUN, which are shuffled: a pure function of the position, whatever the batch size.
    """

    def __init__(self, order: Callable[[np.ndarray], np.ndarray], lengths: np.ndarray):
        self.order, self.lengths = order, lengths
        self._kept: tuple = (), np.zeros(0, np.int64)  # the pool that was asked for last

    def __call__(self, position: np.ndarray) -> np.ndarray:
        epoch, index = np.divmod(np.asarray(position, np.int64), len(self.lengths))
        out = np.empty(len(index), np.int64)
        for e, p in sorted(set(zip(epoch.tolist(), (index // POOL).tolist()))):
            mine = (epoch == e) & (index // POOL == p)
            out[mine] = self._pool(e, p)[index[mine] - p * POOL]
        return out

    def _pool(self, epoch: int, pool: int) -> np.ndarray:
        if self._kept[0] != (epoch, pool):
            members, shuffled = pooled(self.order, self.lengths, epoch, pool)
            starts = np.arange(0, len(members), RUN)
            starts = starts[np.argsort(shuffled[starts], kind="stable")]  # as random as `order` is, without another generator
            self._kept = (epoch, pool), np.concatenate([members[start : start + RUN] for start in starts])
        return self._kept[1]


class Filled:
    """Batches of as many chunks of similar length as fit into a number of sentences, padding counted: (1,) the number of a batch,
    of all processes -> (B,) chunk numbers.

    As in `ByLength`, but a pool's chunks, sorted by length, are cut where the next one would not fit, and these batches are
    shuffled. An epoch has as many of them as come out; which ones is a pure function of its number.
    """

    def __init__(self, order: Callable[[np.ndarray], np.ndarray], lengths: np.ndarray, sentences: int):
        self.order, self.lengths, self.sentences = order, lengths, sentences
        self._counts: list[int] = []  # of batches in each epoch so far
        self._kept: tuple[int, list[np.ndarray]] = -1, []  # the epoch that was asked for last

    def __call__(self, number: np.ndarray) -> np.ndarray:
        left, epoch = int(number[0]), 0
        while left >= (count := self.count(epoch)):
            left, epoch = left - count, epoch + 1
        return self._epoch(epoch)[left]

    def count(self, epoch: int) -> int:
        """Batches of an epoch."""
        while len(self._counts) <= epoch:
            self._counts.append(len(self._epoch(len(self._counts))))
        return self._counts[epoch]

    def _epoch(self, epoch: int) -> list[np.ndarray]:
        if self._kept[0] != epoch:
            found = []
            for pool in range(-(-len(self.lengths) // POOL)):
                members, shuffled = pooled(self.order, self.lengths, epoch, pool)
                batches = self._cut(members)
                found += [batches[place] for place in np.argsort(shuffled[: len(batches)], kind="stable")]
            self._kept = epoch, found
        return self._kept[1]

    def _cut(self, members: np.ndarray) -> list[np.ndarray]:
        """Chunks from short to long, in batches whose longest times their number fits."""
        batches, first = [], 0
        for place, length in enumerate(self.lengths[members].tolist()):
            if (place + 1 - first) * length > self.sentences and place > first:
                batches.append(members[first:place])
                first = place
        return [*batches, members[first:]]


def pooled(order: Callable, lengths: np.ndarray, epoch: int, pool: int) -> tuple[np.ndarray, np.ndarray]:
    """The chunks of a pool of an epoch, sorted by length, and as `order` has them."""
    n = len(lengths)
    shuffled = order(epoch * n + np.arange(pool * POOL, min(n, (pool + 1) * POOL)))
    return shuffled[np.argsort(lengths[shuffled], kind="stable")], shuffled
