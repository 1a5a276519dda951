"""Residual vector quantization: a vector as a sum of centroids, one of each codebook (LCM paper, sec. 2.3.5)."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

ROWS = {"cpu": 512, "cuda": 65536}  # vectors whose scores against one codebook exist at a time


class ResidualQuantizer(nn.Module):
    """K codebooks of U centroids in E dimensions. A vector is coded by the nearest centroid of the first, plus the nearest one of
    the second to what is left, and so on; the first k terms are a coarser vector.

    width: E; books: K; units: U. The defaults are the paper's. The one copy of the centroids is `centroids` (K, U, E).
    """

    centroids: Tensor

    def __init__(self, width: int = 1024, books: int = 64, units: int = 8192):
        super().__init__()
        if min(width, books, units) < 1:
            raise ValueError(f"a quantizer has at least one codebook, unit and dimension, not {books}, {units}, {width}.")
        self.config = {"width": width, "books": books, "units": units}
        self.width, self.books, self.units = width, books, units
        self.register_buffer("centroids", torch.zeros(books, units, width))
        self.register_buffer("halves", torch.zeros(books, units), persistent=False)  # (K, U) half the squared lengths
        self.register_load_state_dict_post_hook(lambda module, _: module._halve())  # also where it is a part of a net

    def _halve(self) -> None:
        self.halves = self.centroids.square().sum(-1) / 2

    @torch.no_grad()
    def encode(self, vectors: Tensor, books: int | None = None) -> Tensor:
        """vectors (N, E) -> codes (N, K) int64, or of the first `books` codebooks."""
        codes = torch.empty(len(vectors), books or self.books, dtype=torch.int64, device=vectors.device)
        rows = ROWS.get(vectors.device.type, 4096)
        scores = vectors.new_empty(min(rows, len(vectors)), self.units)  # one buffer: fresh ones would be faulted in every time
        for first in range(0, len(vectors), rows):
            left = vectors[first : first + rows].clone()  # (n, E) what is left
            for book in range(codes.shape[1]):
                codes[first : first + rows, book] = nearest(left, self.centroids[book], self.halves[book], scores)
                left -= self.centroids[book][codes[first : first + rows, book]]
        return codes

    def decode(self, codes: Tensor, kept: Tensor | None = None) -> Tensor:
        """codes (..., k) of the first k codebooks -> vectors (..., E), the sums of their centroids; kept: (...) how many of them
        count, k where it is not given."""
        if codes.shape[-1] > self.books:
            raise ValueError(
                f"{codes.shape[-1]} codes per vector are too many for a quantizer of {self.books} codebooks: give as many "
                "at most, or open the quantizer that made them."
            )
        total = self.centroids.new_zeros(*codes.shape[:-1], self.width)
        for book in range(codes.shape[-1]):  # no (..., k, E) tensor: it would be k times as large as the answer
            terms = self.centroids[book][codes[..., book]]
            total += terms if kept is None else terms * (book < kept)[..., None]
        return total

    def prefixes(self, codes: Tensor, counts: list[int]) -> list[Tensor]:
        """Vectors (..., E) of the first `count` codes, for each count in rising order; every centroid is added once."""
        if list(counts) != sorted(counts):
            raise ValueError(f"the counts of a prefix sum rise: {counts} do not.")
        found, total, done = [], self.centroids.new_zeros(*codes.shape[:-1], self.width), 0
        for count in counts:
            for book in range(done, count):
                total = total + self.centroids[book][codes[..., book]]
            found, done = [*found, total], count
        return found

    @torch.no_grad()
    def fit(
        self,
        vectors: Tensor,
        steps: int = 20,
        seed: int = 0,
        tell: Callable[[int, float], None] = lambda *_: None,
        in_place: bool = False,
    ) -> list[float]:
        """Fit one codebook after the other to what the ones before leave of `vectors` (N, E), by k-means.

        The vectors may be in half precision and on another device than the quantizer: a block of them at a time is taken to it
        and to float32. in_place: what is left of them is written over them, which saves the one copy.
        steps: rounds of k-means per codebook. tell(book, share) hears the share of the variance that is left after each.
        Returns these shares. Raises ValueError where there are fewer vectors than units.
        """
        if len(vectors) < self.units:
            raise ValueError(f"{len(vectors)} vectors are too few for {self.units} units: give more, or ask for fewer units.")
        generator = torch.Generator(vectors.device).manual_seed(seed)
        left, shares, rows, device = vectors if in_place else vectors.clone(), [], self._rows, self.centroids.device
        mean = vectors.mean(0, dtype=torch.float32).to(device)
        squares = lambda middle: sum(
            float((block(part, device) - middle).square().sum(dtype=torch.float64)) for part in left.split(rows)
        )
        total = squares(mean)
        for book in range(self.books):
            centroids = kmeans(left, self.units, steps, generator, device)
            self.centroids[book], self.halves[book] = centroids, centroids.square().sum(-1) / 2
            scores = centroids.new_empty(min(rows, len(left)), self.units)
            for part in left.split(rows):
                part -= centroids[nearest(block(part, device), centroids, self.halves[book].to(centroids), scores)].to(part)
            shares.append(squares(0) / max(total, 1e-30))
            tell(book, shares[-1])
        return shares

    @property
    def _rows(self) -> int:
        return ROWS.get(self.centroids.device.type, 4096)


def block(part: Tensor, device: torch.device) -> Tensor:
    """Some vectors (n, E) as they are computed with: float32, on this device."""
    return part.to(device, torch.float32)


def nearest(vectors: Tensor, centroids: Tensor, halves: Tensor, scores: Tensor) -> Tensor:
    """Number of the nearest centroid of each vector, (n,) int64. vectors (n, E), centroids (U, E), halves (U,) half their squared
    lengths, scores (n or more, U) to work in: the largest x'c - |c|²/2 is the least |x - c|²."""
    room = scores[: len(vectors)]
    return torch.addmm(halves, vectors, centroids.t(), beta=-1, out=room).argmax(1)


def kmeans(vectors: Tensor, units: int, steps: int, generator: torch.Generator, device: torch.device | None = None) -> Tensor:
    """Centroids (U, E), float32 on `device` (default: the vectors'), of vectors (N, E) after `steps` rounds of Lloyd's algorithm
    that starts from random ones of them.

    Centroids that no vector is nearest to become the vectors that are farthest from theirs. generator: on the vectors' device.
    """
    count, device = len(vectors), device or vectors.device
    start = torch.randperm(count, generator=generator, device=vectors.device)[:units]
    centroids, rows = block(vectors[start], device), ROWS.get(device.type, 4096)
    scores = centroids.new_empty(min(rows, count), units)
    distance = torch.empty(count, device=vectors.device)
    for _ in range(steps):
        halves, sums = centroids.square().sum(-1) / 2, torch.zeros_like(centroids)
        sizes = torch.zeros(units, dtype=torch.int64, device=device)  # (U,)
        for first in range(0, count, rows):
            part = block(vectors[first : first + rows], device)
            found = nearest(part, centroids, halves, scores)
            best = scores[: len(part)].gather(1, found[:, None]).squeeze(1)
            distance[first : first + rows] = part.square().sum(1) - 2 * best  # |x - c|²
            sums.index_add_(0, found, part)
            sizes += torch.bincount(found, minlength=units)
        centroids = sums / sizes.clamp(min=1)[:, None]
        empty = (sizes == 0).nonzero().squeeze(1)
        if len(empty):
            chance = distance.clamp(min=0).double() + 1e-30
            picked = (
                torch.multinomial(chance, len(empty), generator=generator) if count < 2**24 else chance.topk(len(empty)).indices
            )
            centroids[empty] = block(vectors[picked], device)
    return centroids
