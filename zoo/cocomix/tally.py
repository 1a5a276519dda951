"""Where each concept stands in the labelled windows of a split, and what comes next there, in bounded memory."""

from collections.abc import Iterator

import numpy as np

from zoo.data.labels import WindowLabels
from zoo.data.store import TokenStore

ENTRIES = 1 << 20  # labels read at a time


class Tally:
    """Counts over the labelled windows of a split. `labels` and `store` are of the same split; C concepts, V token ids.

    windows: at most so many, spread evenly; None: all. best: how many places to keep of each concept.

    counts (C,): places where a concept is among the labels. unigrams (V,): what comes next, over all places. places: how many.
    best (C, best): of each concept the places, window · T + t, where it comes first among the labels, then those where it is
    second, and so on; -1 where there are no more. Of equals it takes those that a hash of the place chooses, from all over.
    """

    def __init__(self, labels: WindowLabels, store: TokenStore, windows: int | None = None, best: int = 16):
        self.labels, self.store = labels, store
        self.concepts, self.vocab, self.context = labels.about["concepts"], store.manifest["vocab"], labels.about["context"]
        numbers = np.sort(labels.numbers)
        if windows is not None and windows < len(numbers):
            numbers = numbers[np.arange(windows) * len(numbers) // windows]
        self.numbers = numbers
        self.places = len(numbers) * self.context
        self.counts, self.unigrams = np.zeros(self.concepts, np.int64), np.zeros(self.vocab, np.int64)
        self.best = np.full((self.concepts, best), -1, np.int64)
        self._order = np.full((self.concepts, best), np.iinfo(np.uint64).max, np.uint64)
        for ids, following, places in self._parts():
            self.unigrams += np.bincount(following.ravel(), minlength=self.vocab)
            known = ids >= 0
            concept, rank = ids[known], np.broadcast_to(np.arange(ids.shape[-1]), ids.shape)[known]
            self.counts += np.bincount(concept, minlength=self.concepts)
            self._keep(concept, rank, np.broadcast_to(places[..., None], ids.shape)[known])

    def following(self, first: int, stop: int) -> np.ndarray:
        """What comes next where the concepts first .. stop - 1 stand: (stop - first, V) int32, one pass over the labels."""
        found = np.zeros((stop - first, self.vocab), np.int32)
        for ids, following, _ in self._parts():
            mine = (ids >= first) & (ids < stop)
            np.add.at(found, (ids[mine] - first, np.broadcast_to(following[..., None], ids.shape)[mine]), 1)
        return found

    def _parts(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Labels (n, T, K), the token after each place (n, T), and the places (n, T)."""
        step = max(1, ENTRIES // (self.context * self.labels.about["labels"]))
        for begin in range(0, len(self.numbers), step):
            numbers = self.numbers[begin : begin + step]
            tokens = self.store.windows(numbers * self.context + 1, self.context)
            yield self.labels[numbers], tokens, numbers[:, None] * self.context + np.arange(self.context)

    def _keep(self, concept: np.ndarray, rank: np.ndarray, place: np.ndarray) -> None:
        """Put the best of these labels (m,) into `best`."""
        scattered = place.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(32)
        order = (rank.astype(np.uint64) << np.uint64(32)) | scattered
        sorting = np.lexsort((order, concept))
        concept, order, place = concept[sorting], order[sorting], place[sorting]
        those, first, count = np.unique(concept, return_index=True, return_counts=True)
        nth = np.arange(len(concept)) - np.repeat(first, count)
        width = self.best.shape[1]
        kept = nth < width
        row = np.repeat(np.arange(len(those)), count)[kept]
        new_order = np.full((len(those), width), np.iinfo(np.uint64).max, np.uint64)
        new_place = np.full((len(those), width), -1, np.int64)
        new_order[row, nth[kept]], new_place[row, nth[kept]] = order[kept], place[kept]
        both = np.concatenate((self._order[those], new_order), 1)
        places = np.concatenate((self.best[those], new_place), 1)
        least = np.argsort(both, axis=1, kind="stable")[:, :width]
        self._order[those], self.best[those] = np.take_along_axis(both, least, 1), np.take_along_axis(places, least, 1)
