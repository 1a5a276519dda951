"""Per-dimension scaling of sentence vectors (LCM paper, sec. 2.3.1, eq. 4)."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

BLOCK = 8_000_000  # values that are sorted at a time
ROWS = 2**23  # vectors that are looked at, evenly spread, where there are more


def exact(fn: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """What `nn.Module._apply` does to tensors, without making them narrower: a net may be cast to bfloat16, constants that its
    inputs and outputs are computed with may not."""

    def kept(tensor: Tensor) -> Tensor:
        moved = fn(tensor)
        return tensor.to(moved.device) if moved.element_size() < tensor.element_size() else moved

    return kept


class Normalizer(nn.Module):
    """normalize(x) = (x - center) / scale and its inverse, dimension by dimension; fitted once, then frozen.

    width: E, of the vectors. clip: normalized values are kept within ± this, before and after; None does not clip.
    """

    center: Tensor
    scale: Tensor

    def __init__(self, width: int, clip: float | None = None):
        super().__init__()
        self.config = {"width": width, "clip": clip}
        self.width, self.clip = width, clip
        self.register_buffer("center", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))

    @classmethod
    def fitted(
        cls,
        vectors: Tensor,
        low: float = 25.0,
        high: float = 75.0,
        unit: Literal["gaussian", "iqr"] = "gaussian",
        clip: float | None = None,
    ) -> "Normalizer":
        """The robust scaler of these vectors (N, E): their median, and the distance between two percentiles.

        low, high: in percent. unit: "iqr" divides by that distance, as the paper's text says; "gaussian" makes it that of a
        standard normal, as the released code does, so that normal data get a standard deviation of 1.
        A dimension whose percentiles coincide is scaled by its standard deviation, or not at all where that is 0 too.
        Raises ValueError for percentiles in the wrong order, for fewer than two vectors and for values that are not finite.
        """
        if not 0 <= low < high <= 100:
            raise ValueError(f"a normalizer's percentiles are 0 <= low < high <= 100, in percent, not {low} and {high}.")
        if vectors.ndim != 2 or len(vectors) < 2:
            raise ValueError(
                f"a normalizer is fitted on at least two vectors, (N, E), not on a tensor of {tuple(vectors.shape)}."
            )
        if not bool(torch.isfinite(vectors).all()):
            raise ValueError("there are NaN or infinite values among the vectors: encode their sentences again.")
        vectors = vectors[:: -(-len(vectors) // ROWS)]  # more cannot be sorted at a time, nor say anything more
        made = cls(vectors.shape[1], clip)
        probabilities = torch.tensor([low / 100, 0.5, high / 100], device=vectors.device)
        normal = torch.special.ndtri(probabilities.double().clamp(1e-12, 1 - 1e-12))
        wanted = float(normal[2] - normal[0]) if unit == "gaussian" else 1.0
        columns = max(1, BLOCK // len(vectors))
        for first in range(0, made.width, columns):
            part = slice(first, first + columns)
            block = vectors[:, part].float()
            bottom, middle, top = torch.quantile(block, probabilities, dim=0)
            spread = (top - bottom) / wanted
            fallback = block.std(0)
            fallback = torch.where(fallback > 0, fallback, torch.ones_like(fallback))
            made.center[part], made.scale[part] = middle.cpu(), torch.where(spread > 0, spread, fallback).cpu()
        return made

    @classmethod
    def as_released(cls, vectors: Tensor) -> "Normalizer":
        """What the released code fits: it hands 0.25 and 0.75 to a scaler that reads percent, so the scale comes from the lowest
        hundredth of the values and is several times less certain. For normalizers that have to agree with it."""
        return cls.fitted(vectors, 0.25, 0.75)

    def normalize(self, x: Tensor) -> Tensor:
        """(..., E) in the space -> (..., E) normalized."""
        return self._clipped((x - self.center) / self.scale)

    def denormalize(self, y: Tensor) -> Tensor:
        """(..., E) normalized -> (..., E) in the space."""
        return self.center + self.scale * self._clipped(y)

    def noised(self, x: Tensor, level: float | Tensor, generator: torch.Generator | None = None) -> Tensor:
        """x (..., E) with the share `level`, (..., 1) or one for all, of its variance, in normalized space, replaced by normal
        noise (eq. 27)."""
        level = torch.as_tensor(level, dtype=x.dtype, device=x.device)
        draw = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        return self.denormalize((1 - level).sqrt() * self.normalize(x) + level.sqrt() * draw)

    def _apply(self, fn: Callable, recurse: bool = True) -> "Normalizer":
        return super()._apply(exact(fn), recurse)

    def _clipped(self, y: Tensor) -> Tensor:
        return y if self.clip is None else y.clamp(-self.clip, self.clip)
