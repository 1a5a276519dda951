"""Exact and near duplicates among texts, by MinHash (Broder 1997) with the bands that FineWeb's de-duplication uses (arXiv
2406.17557, §3.4: 5-grams, 14 bands of 8 hashes)."""

import hashlib
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from zoo.data.order import GOLDEN, mix
from zoo.data.sources import Document, Source, digest

GRAM, BANDS, ROWS = 5, 14, 8
_KEYS = mix(np.arange(BANDS * ROWS, dtype=np.uint64))


class Duplicates:
    """`duplicates(text)` says why a text repeats an earlier one, or None, and remembers it then; the first of several is kept.

    similar: the Jaccard similarity of 5-grams of words (of characters where words are not spaced), as estimated from 112 hashes,
    from which on a text is a near duplicate; None: only exact repetitions count, up to white space. About 5 kB per kept text.
    """

    def __init__(self, similar: float | None = 0.8):
        self.similar = similar
        self._exact: set[bytes] = set()
        self._bands: dict[tuple[int, bytes], list[int]] = {}
        self._signatures: list[np.ndarray] = []

    def __call__(self, text: str) -> str | None:
        exact = hashlib.sha256(" ".join(text.split()).encode(errors="replace")).digest()[:16]
        if exact in self._exact:
            return "exact duplicate"
        if self.similar is not None:
            mine = signature(text)
            bands = [(i, mine[i * ROWS : (i + 1) * ROWS].tobytes()) for i in range(BANDS)]
            for other in sorted({number for band in bands for number in self._bands.get(band, ())}):
                if (mine == self._signatures[other]).mean() >= self.similar:
                    return "near duplicate"
            for band in bands:
                self._bands.setdefault(band, []).append(len(self._signatures))
            self._signatures.append(mine)
        self._exact.add(exact)
        return None


class Distinct(Source):
    """A source without the documents that repeat earlier ones. Before the first one is read, a pass over all plans what is kept,
    as a repetition is one of the corpus and not of a part; workers are handed the plan.

    similar: as in `Duplicates`. A part is (its number, the part of the source).
    """

    def __init__(self, source: Source, similar: float | None = 0.8):
        self.source, self.similar = source, similar

    @property
    def description(self) -> str:
        return self.source.description

    @property
    def fingerprint(self) -> str:
        return digest("distinct", self.source.fingerprint, self.similar)

    @property
    def dropped(self) -> Counter:
        """Reason → documents left out."""
        return Counter(getattr(self.source, "dropped", {})) + self._plan[1]

    def parts(self) -> list[tuple[int, Any]]:
        return self._plan[0]

    def read(self, part: tuple[int, Any]) -> Iterator[Document]:
        repeated = self._plan[2].get(part[0], frozenset())
        return (document for i, document in enumerate(self.source.read(part[1])) if i not in repeated)

    @cached_property
    def _plan(self) -> tuple[list[tuple[int, Any]], Counter, dict[int, frozenset[int]]]:
        """(parts, reason → count, number of a part → its documents that repeat others)"""
        parts, dropped, repeated, seen = list(enumerate(self.source.parts())), Counter(), {}, Duplicates(self.similar)
        for number, part in parts:
            reasons = {i: reason for i, each in enumerate(self.source.read(part)) if (reason := seen(each.text))}
            dropped.update(reasons.values())
            repeated[number] = frozenset(reasons)
        return parts, dropped, repeated


def near(texts: Sequence[str], others: Iterable[str], similar: float = 0.8) -> np.ndarray:
    """(N,) bool: which of `texts` have a near duplicate among `others`, of at least this Jaccard similarity of 5-grams.

    Counted, not estimated, since a few texts are looked for among many: every other one costs its grams alone (60 µs).
    """
    own = [grams(text) for text in texts]
    holders: dict[int, list[int]] = {}
    for number, mine in enumerate(own):
        for gram in mine.tolist():
            holders.setdefault(gram, []).append(number)
    found = np.zeros(len(own), bool)
    for other in others:
        theirs = grams(other)
        shared = Counter(number for gram in theirs.tolist() for number in holders.get(gram, ()))
        for number, count in shared.items():
            found[number] |= count >= similar * (len(own[number]) + len(theirs) - count)
    return found


def grams(text: str) -> np.ndarray:
    """Hashes of the 5-grams of a text, each once: (n,) uint64."""
    tokens = re.findall(r"\w+", text.lower())
    if sum(map(len, tokens)) > 12 * len(tokens):
        tokens = list("".join(tokens))
    hashes = np.array([zlib.crc32(token.encode(errors="replace")) for token in tokens], np.uint64)
    width = min(GRAM, len(hashes))
    gram = np.zeros(max(len(hashes) - width + 1, 0), np.uint64)
    for i in range(width):
        gram = mix(gram * GOLDEN + hashes[i : len(hashes) - width + 1 + i])
    return np.unique(gram)


def signature(text: str) -> np.ndarray:
    """The least of each of 112 hashes of the 5-grams; texts agree in about the share of their Jaccard similarity: (112,)."""
    gram = grams(text)
    if not len(gram):
        return np.zeros(len(_KEYS), np.uint32)
    return np.array([mix(gram ^ key).min() >> np.uint64(32) for key in _KEYS]).astype(np.uint32)
