"""Chains over a codebook: documents of vectors whose next one is known exactly, a test bed without a decoder.

A vector of the codebook stands for a sentence. What was said last is a context, and each context allows a few equally likely next
vectors. So the best regression says their mean, which is no vector of the codebook, and an exact sampler says one of them, at
twice the squared error: what Large Concept Models (arXiv 2412.08821, table 3) are compared by, without a space's own errors.
"""

from typing import Literal

import numpy as np

from zoo.data.order import mix
from zoo.data.sources import digest

NONE = -1  # in place of an item: no sentence
KEYS = {"train": 1, "validation": 2, "test": 3}
CLUSTER, APART = 6, (0.1, 0.6)  # vectors of a cluster on average, less the one it is around; how far from that


class Chains:
    """A random codebook and a random Markov chain over it. Pure numpy, and picklable.

    Items 0 to size - 1 are vectors of the codebook, the last `hubs` of them hubs; item `size` is the end of a document. The first
    item of a document is any but a hub, each as likely.

    Args:
        size: M, vectors of the codebook.
        width: E, numbers in a vector; all have length 1 but hubs.
        ways: K, equally likely next items of each context, all different.
        memory: how many of the last items a context is made of, 1 or 2.
        contexts: how many there are; several items, or pairs of items, have the same.
        hubs: share of the codebook that is short, near the origin, and never follows on anything: generic sentences.
        hub_length: of these.
        near: share of the vectors that are no hubs which lie close to others, in clusters, from twins on:
            sentences that a little noise makes another.
        end: share of all continuations that end the document, at most one of a context; a document has about 1 / end items.
        seed: of the codebook, the chain and the documents.
    """

    def __init__(
        self,
        size: int = 128,
        width: int = 24,
        ways: int = 4,
        memory: Literal[1, 2] = 1,
        contexts: int = 64,
        hubs: float = 0.0,
        hub_length: float = 0.2,
        near: float = 0.0,
        end: float = 1 / 16,
        seed: int = 0,
    ):
        self.settings = {name: value for name, value in locals().items() if name != "self"}
        ends, self.hubs = round(end * contexts * ways), round(hubs * size)
        self.size, self.width, self.ways, self.memory, self.contexts, self.seed = size, width, ways, memory, contexts, seed
        if memory not in (1, 2):
            raise ValueError(f"a context is made of the last 1 or 2 items, not of {memory}.")
        if not (1 <= ways <= size - self.hubs and 0 <= ends <= contexts and self.hubs >= 0 and min(width, contexts) >= 1):
            raise ValueError(
                f"no chain has {ways} ways over {size} vectors, {self.hubs} of them hubs, with {ends} ends in {contexts} "
                "contexts: take fewer ways than vectors that are no hubs, and `end` at most 1 / ways."
            )
        if not 0 <= near < 1:
            raise ValueError(f"near is the share of the vectors that lie close to others, below 1, not {near}.")
        draw = np.random.Generator(np.random.PCG64(seed))
        vectors = draw.standard_normal((size + 1, width))
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors[size - self.hubs : size] *= hub_length
        plain = size - self.hubs
        self.allowed = np.stack([draw.permutation(plain)[:ways] for _ in range(contexts)])  # (contexts, K)
        self.allowed[draw.permutation(contexts)[:ends], draw.integers(ways, size=ends)] = size
        # of the last item, and of the one before it (the last row: there was none)
        self._last, self._before = draw.permutation(size + 1) % contexts, draw.integers(contexts, size=size + 2)
        self._before[-1] = 0
        close = min(round(near * plain), plain - 1)
        first, last = plain - close, slice(plain - close, plain)
        around = vectors[:first][draw.integers(min(first, -(-close // CLUSTER) or 1), size=close)]
        vectors[last] = around + draw.uniform(*APART, (close, 1)) * draw.standard_normal((close, width)) / width**0.5
        vectors[last] /= np.linalg.norm(vectors[last], axis=1, keepdims=True)
        self.vectors = vectors.astype(np.float32)  # (M + 1, E)

    @property
    def description(self) -> str:
        about = f", {self.hubs} of them hubs" if self.hubs else ""
        if self.settings["near"]:
            about += f", {self.settings['near']:.0%} of the others in clusters"
        known = "the last two" if self.memory == 2 else "the last one"
        return f"chains over {self.size} vectors of {self.width} numbers{about}, {self.ways} ways on from {known}"

    @property
    def fingerprint(self) -> str:
        return digest("chains", self.settings)

    def context(self, last: np.ndarray, before: np.ndarray) -> np.ndarray:
        """Numbers (…) of the contexts after items `last` (…) and those `before` them (…), which may be NONE."""
        found = self._last[last]
        return found if self.memory == 1 else (found + self._before[before]) % self.contexts

    def documents(self, split: str, numbers: np.ndarray, longest: int) -> np.ndarray:
        """Items (B, longest) of these documents (B,) of a split, NONE behind each end: a pure function of the number."""
        with np.errstate(over="ignore"):
            split_key = mix(np.uint64(KEYS[split] + 16 * (self.seed + 1)))
            key = mix(split_key ^ np.asarray(numbers).astype(np.uint64))  # (B,)
        items = np.full((len(key), longest), NONE)
        items[:, 0] = mix(key) % np.uint64(self.size - self.hubs)
        before = np.full(len(key), NONE)
        for n in range(1, longest):
            last = items[:, n - 1]
            choice = (mix(key + np.uint64(n)) % np.uint64(self.ways)).astype(np.int64)
            on = (last != NONE) & (last != self.size)
            items[on, n] = self.allowed[self.context(last, before), choice][on]
            before = last
        return items

    def nearest(self, vectors: np.ndarray) -> np.ndarray:
        """Items (…) whose vectors are nearest to these (…, E): a codebook's encode(decode(x))."""
        return ((self.vectors**2).sum(1) - 2 * vectors @ self.vectors.T).argmin(-1)

    def contexts_of(self, vectors: np.ndarray) -> np.ndarray:
        """Contexts (B, S) in which each vector of documents (B, S, E) stands; NONE for the first of each."""
        items = self.nearest(vectors)  # (B, S)
        before = np.concatenate([np.full_like(items[:, :1], NONE), items[:, :-1]], 1)
        return np.concatenate([np.full_like(items[:, :1], NONE), self.context(items, before)[:, :-1]], 1)

    def is_hub(self, items: np.ndarray) -> np.ndarray:
        """Which of these items (…) are hubs, bool."""
        return (items >= self.size - self.hubs) & (items < self.size)

    def occurrences(self, longest: int) -> np.ndarray:
        """How often each item stands in a document of at most `longest` items, on average, the end too: (M + 1,)."""
        found = np.zeros(self.size + 1)
        found[: self.size - self.hubs] = 1 / (self.size - self.hubs)
        np.add.at(found, self.allowed, self.visits(longest)[:, None] / self.ways)
        return found

    # -- what is best, by enumeration ------------------------------------------------------------------------------
    @property
    def means(self) -> np.ndarray:
        """What a perfect regression says in each context: (contexts, E) float32."""
        return self.vectors[self.allowed].mean(1)

    @property
    def variances(self) -> np.ndarray:
        """The squared error of that, on average: (contexts,)."""
        return ((self.vectors[self.allowed] - self.means[:, None]) ** 2).sum(-1).mean(1)

    def visits(self, longest: int) -> np.ndarray:
        """How many sentences of a document of at most `longest` stand in each context, on average: (contexts,)."""
        last, before = np.arange(self.size), np.arange(self.size + 1)
        before[-1] = NONE  # the last row
        chance = np.zeros((self.size + 1, self.size))  # of (the item before, the last item), while the document goes on
        chance[-1, : self.size - self.hubs] = 1 / (self.size - self.hubs)
        context = self.context(last[None], before[:, None]) + np.zeros_like(chance, dtype=np.int64)
        found = np.zeros(self.contexts)
        follows = self.allowed[context]  # (before, last, K)
        place = last[None, :, None] * self.size + follows
        on = follows < self.size
        for _ in range(longest - 1):
            found += np.bincount(context.ravel(), chance.ravel(), self.contexts)
            each = np.broadcast_to(chance[..., None] / self.ways, place.shape)
            chance = np.zeros_like(chance)
            chance[:-1] = np.bincount(place[on], each[on], self.size**2).reshape(self.size, self.size)
        return found

    def optimal(self, longest: int) -> dict[str, float]:
        """What the best regression ("mean_…") and an exact sampler ("sample_…") score in documents of at most `longest` items, on
        average and without any sampling: l2_squared, l2, l2_roundtrip, gap, allowed, hub, as `TestbedScores` logs them."""
        weight = self.visits(longest)
        weight = weight / weight.sum()
        follows, means = self.vectors[self.allowed], self.means  # (C, K, E), (C, E)
        said = self.nearest(means)  # (C,)
        away = lambda a, b: np.sqrt(((a - b) ** 2).sum(-1))
        pairs = away(follows[:, :, None], follows[:, None]).mean((1, 2))  # (C,)
        found = {
            "mean_l2_squared": self.variances,
            "mean_l2": away(means[:, None], follows).mean(1),
            "mean_l2_roundtrip": away(self.vectors[said][:, None], follows).mean(1),
            "mean_allowed": 100 * (said[:, None] == self.allowed).any(1),
            "mean_hub": 100 * self.is_hub(said),
            "sample_l2_squared": 2 * self.variances,
            "sample_l2": pairs,
            "sample_l2_roundtrip": pairs,
            "sample_allowed": np.full(self.contexts, 100.0),
            "sample_hub": np.zeros(self.contexts),
        }
        scores = {name: float(weight @ value) for name, value in found.items()}
        return scores | {f"{who}_gap": scores[f"{who}_l2_roundtrip"] - scores[f"{who}_l2"] for who in ("mean", "sample")}
