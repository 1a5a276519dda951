"""Batches of sentences of equal length, so that nothing is padded, in an order that is a pure function of the position."""

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from zoo.data.order import mix, permute
from zoo.data.store import TokenStore
from zoo.sonar.tokens import EOS, PAD

AT_ONCE = 10_000_000  # pieces that are copied at a time


class Side:
    """The sentences of one side of a corpus as rows of pieces: row i is what lies between the end tokens i - 1 and i.

    tokens (N,); langs: id of the language's symbol, of all rows or (R,) of each.
    """

    def __init__(self, tokens: np.ndarray, langs: int | np.ndarray):
        self.tokens = tokens
        self.ends = np.flatnonzero(tokens == EOS)  # (R,)
        self.starts = np.concatenate([[0], self.ends[:-1] + 1])[: len(self.ends)]  # (R,)
        self.lengths = self.ends - self.starts  # (R,) pieces of each sentence
        self.langs = np.broadcast_to(np.asarray(langs), len(self.ends))  # (R,)

    @classmethod
    def of(cls, store: TokenStore, langs: int | np.ndarray) -> "Side":
        """The rows of a token store, whose sentences each end in an end token."""
        tokens = np.empty(len(store), np.int32)
        for at in range(0, len(store), AT_ONCE):
            tokens[at : at + AT_ONCE] = store.windows(np.array([at]), min(AT_ONCE, len(store) - at))[0]
        return cls(tokens.astype(np.uint16) if tokens.max(initial=0) < 2**16 else tokens, langs)

    def row(self, i: int) -> np.ndarray:
        return self.tokens[self.starts[i] : self.ends[i]]

    def hashes(self, numbers: np.ndarray) -> np.ndarray:
        """(R,) uint64 of rows that are not empty, equal where their pieces are."""
        found = np.empty(len(numbers), np.uint64)
        for at in range(0, len(numbers), AT_ONCE // 100):
            part = numbers[at : at + AT_ONCE // 100]
            lengths = self.lengths[part]
            starts = np.cumsum(lengths) - lengths
            place = np.arange(lengths.sum()) - np.repeat(starts, lengths)
            pieces = self.tokens[np.repeat(self.starts[part], lengths) + place]
            words = mix(place.astype(np.uint64) << np.uint64(32) | pieces.astype(np.uint64))
            found[at : at + len(part)] = np.add.reduceat(words, starts)  # wraps around
        return found

    def rows(self, numbers: np.ndarray, target: bool) -> tuple[np.ndarray, np.ndarray]:
        """These rows (B, S) int64 as sources, [language] … [end], or as targets, with an end token in front too; padded on the
        right. And their lengths (B,)."""
        front = 2 if target else 1
        lengths = self.lengths[numbers] + front + 1  # (B,)
        out = np.full((len(numbers), lengths.max()), PAD, np.int64)
        out[:, 0] = EOS
        out[:, front - 1] = self.langs[numbers]
        for line, number, length in zip(out, numbers, lengths):
            line[front : length - 1] = self.row(number)
            line[length - 1] = EOS
        return out, lengths


class Known:
    """The sentences that were taken so far, as 64-bit hashes."""

    def __init__(self):
        self.taken = self.trained = np.zeros(0, np.uint64)  # of all sides together; of the first side, in training

    def fresh(self, sides: list[Side], rows: np.ndarray, training: bool) -> np.ndarray:
        """(R,) those of the rows that were not taken before, each once; what is held out has no first side that training has."""
        first, *others = (side.hashes(rows) for side in sides)
        whole = first
        for other in others:
            whole = mix(whole) ^ other
        _, places = np.unique(whole, return_index=True)
        places = np.sort(places)
        new = ~np.isin(whole[places], self.taken)
        if not training:
            new &= ~np.isin(first[places], self.trained)
        places = places[new]
        self.taken = np.concatenate([self.taken, whole[places]])
        if training:
            self.trained = np.concatenate([self.trained, first[places]])
        return rows[places]


class Group:
    """Rows that make batches with each other: all of one corpus, whose sides are the same sentences in one or more languages.

    rows (R,): numbers of those that count. tokens: in a batch at most, end and language included; its rows have one length on the
    first side.
    """

    def __init__(self, sides: list[Side], rows: np.ndarray, tokens: int):
        self.sides, self.rows = sides, rows
        lengths, counts = np.unique(sides[0].lengths[rows], return_counts=True)
        sizes, starts = np.maximum(1, tokens // (lengths + 2)), np.cumsum(counts) - counts
        cuts = [np.arange(start, start + count, size) for start, count, size in zip(starts, counts, sizes)]
        self.cuts = np.append(np.concatenate(cuts), len(rows)) if cuts else np.zeros(1, np.int64)  # (M + 1,) where batches begin
        self._key, self._order = None, rows

    def __len__(self) -> int:
        """Batches in one pass."""
        return len(self.cuts) - 1

    def batch(self, number: int, epoch: int, seed: int | None) -> np.ndarray:
        """(B,) the rows of a batch; with a seed, those of one length fall into other batches in each epoch."""
        if self._key != (epoch, seed):
            rows = self.rows
            if seed is not None:
                rows = rows[permute(np.arange(len(rows)) + epoch * len(rows), len(rows), seed)]
            self._order = rows[np.argsort(self.sides[0].lengths[rows], kind="stable")]
            self._key = (epoch, seed)
        return self._order[self.cuts[number] : self.cuts[number + 1]]


class Batches(Dataset):
    """Batch k of one process, a pure function of k. Where a group has several sides, it translates from one of them to one of
    them, which its position draws.

    scored: None trains, in an order of `seed`; True goes through all rows once, and repeats the last batch uncounted.
    one_way: whether it translates from the first side to the second alone.
    """

    batch = 1  # what `Loader` counts in

    def __init__(
        self,
        groups: list[Group],
        token_bytes: np.ndarray,
        seed: int = 0,
        scored: bool | None = None,
        rank: int = 0,
        world: int = 1,
    ):
        self.groups, self.token_bytes, self.seed, self.scored = groups, token_bytes, seed, scored
        self.rank, self.world, self.offset, self.one_way = rank, world, 0, False
        self.starts = np.cumsum([0, *map(len, groups)])

    def __len__(self) -> int:
        """Batches in one pass."""
        return int(self.starts[-1])

    def __getitem__(self, k: int) -> dict[str, Tensor]:
        position = self.offset + k * self.world + self.rank
        group, numbers, counted = self._rows(position)
        draw = int(mix(np.uint64(position) + (np.uint64(self.seed % 2**31) << np.uint64(33)))) >> 8
        return self._batch(group.sides, numbers, 1 if self.one_way else draw % len(group.sides) ** 2, counted)

    def _rows(self, position: int) -> tuple[Group, np.ndarray, bool]:
        """The group, the rows (B,) and whether they count, of the batch at a position of all processes together."""
        count = len(self)
        if self.scored is None:
            counted, epoch, number = True, position // count, int(permute(np.array([position]), count, self.seed + 1)[0])
        else:
            counted, epoch, number = position < count, 0, min(position, count - 1)
        place = int(np.searchsorted(self.starts, number, side="right")) - 1
        group = self.groups[place]
        return group, group.batch(number - int(self.starts[place]), epoch, self.seed if self.scored is None else None), counted

    def first(self, position: int) -> Tensor:
        """source (B, S) of the batch at a position, in the first language of its group: without padding."""
        group, numbers, _ = self._rows(position)
        return torch.from_numpy(group.sides[0].rows(numbers, target=False)[0])

    def _batch(self, sides: list[Side], numbers: np.ndarray, direction: int, counted: bool) -> dict[str, Tensor]:
        from_, to = divmod(direction, len(sides))
        source, source_length = sides[from_].rows(numbers, target=False)  # (B, S)
        tokens, length = sides[to].rows(numbers, target=True)  # (B, T + 1)
        place = np.arange(tokens.shape[1])
        mask = counted & (place != 1) & (place < length[:, None])  # nothing is learnt from the language's symbol
        batch = {"source": source, "tokens": tokens, "mask": mask, "bytes": self.token_bytes[tokens], "sentence": numbers}
        if len(sides) > 1 and not self.one_way:
            batch["source_length"] = source_length
            batch["other"], batch["other_length"] = sides[(from_ + 1) % len(sides)].rows(numbers, target=False)
        return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in batch.items()}
