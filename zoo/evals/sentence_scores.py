"""Scores of predicted sentence vectors beside the true ones (LCM paper, sec. 2.4.1; the columns of its table 3).

Which sentences are scored is one rule for all of them (`places`): those that are learnt and have enough sentences before them in
their chunk, in rows that count. The end marker is no sentence of a document: it is the same vector in each, so it is neither
scored nor a distractor.
"""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TARGET = 2  # role of a sentence that is learnt; 0 is padding
ROWS = 1024  # predictions whose distances to all sentences of the batch exist at a time
LEAST = 0.01  # true cosine from which on a ratio to it says something


class Places(NamedTuple):
    """present: (B, S) sentences of documents, in rows that count. scored: (B, S) those whose predictions are scored."""

    present: Tensor
    scored: Tensor


def places(role: Tensor, mask: Tensor, ends: Tensor, first: int = 1) -> Places:
    """role (B, S) int64; mask (B,) bool of rows that count; ends (B, S) bool of end markers; first: sentences before a scored one
    in its chunk, at least (1, because Base-LCM says nothing of a first sentence)."""
    present = (role != 0) & mask[:, None] & ~ends
    enough = torch.arange(role.shape[1], device=role.device) >= first
    return Places(present, present & (role == TARGET) & enough)


def l2(said: Tensor, true: Tensor) -> Tensor:
    """Distance ‖x̂ - x‖ in the space of each prediction (..., E): (...)."""
    return (said.double() - true.double()).norm(dim=-1) if said.device.type != "mps" else (said - true).norm(dim=-1)


def set_sampler(net: nn.Module, settings: Mapping[str, int | float | str | None], who: str) -> None:
    """Give the net's sampler, a dataclass, these settings; the others stay. who: begins the sentence of a ValueError where the
    sampler has no such setting."""
    if not settings:
        return
    known = [field.name for field in fields(net.sampler)] if hasattr(net, "sampler") else []
    if wrong := [name for name in settings if name not in known]:
        raise ValueError(f"{who}: the net's sampler has no {wrong[0]}, but {', '.join(known) or 'nothing'}.")
    net.sampler = replace(net.sampler, **settings)


class Contrast(NamedTuple):
    """Of M scored predictions, in the order of `scored`: how many distractors are farther, and how many there are, (M,) each; by
    the paper's rule, and among other documents alone (`others`), as the released code has it."""

    farther: Tensor
    count: Tensor
    farther_others: Tensor
    count_others: Tensor


def contrastive(said: Tensor, true: Tensor, at: Places, document: Tensor) -> Contrast:
    """Contrastive accuracy: the share of the batch's sentences that are farther (ℓ2) from x̂ than x is. 0.5 is chance.

    By the paper all present sentences are distractors except x and its two neighbours; by the released code, those of other
    documents. One that is as far as x is not farther. said, true (B, S, E); document (B,): its number. Distances are compared
    through products of matrices, (M, B·S) at most ROWS at a time: no tensor is E times as large.
    """
    exact = torch.float32 if said.device.type == "mps" else torch.float64
    rows, steps = at.present.nonzero(as_tuple=True)  # (N,) each
    own = (torch.cumsum(at.present.flatten(), 0) - 1)[at.scored.flatten()]  # (M,) which of the N is the true one
    known = true[at.present].to(exact)  # (N, E)
    middle = known.mean(0)  # of short vectors more digits are left
    known, queries, of = known - middle, said[at.scored].to(exact) - middle, document[rows]
    squares = known.square().sum(1)
    found = []
    for query, mine in zip(queries.split(ROWS), own.split(ROWS)):
        ahead = squares - 2 * query @ known.T  # (m, N) squared distances, less ‖x̂‖²
        limit = ahead.gather(1, mine[:, None])  # (m, 1)
        slack = 1e-12 * (squares + squares[mine, None])  # equal distances that rounding parted
        farther = ahead - limit > slack
        beside = (rows == rows[mine, None]) & ((steps - steps[mine, None]).abs() <= 1)
        other = of != of[mine, None]
        found.append([count.sum(1) for count in (farther & ~beside, ~beside, farther & other, other)])
    return Contrast(*(torch.cat(parts) for parts in zip(*found))) if found else Contrast(*(own.new_zeros(0),) * 4)


def nearest_earlier(vectors: Tensor, true: Tensor, present: Tensor) -> Tensor:
    """max over m < n of cos(vectors_n, x_m): (B, S), -inf where no sentence is before. vectors, true (B, S, E)."""
    cosines = F.normalize(vectors.float(), dim=-1) @ F.normalize(true.float(), dim=-1).mT  # (B, S, S)
    earlier = torch.ones(cosines.shape[1:], dtype=torch.bool, device=cosines.device).tril(-1)
    return cosines.masked_fill(~(earlier & present[:, None]), -torch.inf).amax(-1)


class Sums:
    """Sums and counts by name, of which means are made once, at the end."""

    def __init__(self):
        self.pairs: dict[str, tuple[float, float]] = {}

    def add(self, name: str, total: Tensor | float, count: Tensor | float) -> None:
        before = self.pairs.get(name, (0.0, 0.0))
        self.pairs[name] = before[0] + float(total), before[1] + float(count)

    def mean(self, name: str, values: Tensor) -> None:
        """Add values (N,), which count one each."""
        self.add(name, values.double().sum() if values.device.type != "mps" else values.sum(), values.numel())


def add_vector_scores(sums: Sums, said: Tensor, true: Tensor, at: Places, document: Tensor, row: str = "") -> None:
    """Add what vectors alone tell of a batch, under names that begin with `row`. said, true (B, S, E); document (B,).

    l2: of each scored sentence. contrastive, contrastive_others: shares of distractors (`contrastive`), a mean over sentences
    that have any; their number depends on the batch and is in `distractors`. par: cosine of x̂ to the nearest earlier sentence
    over that of x, a mean over sentences where the latter is 0.01 or more (`par_kept`: their share); par_pooled: the sum of the
    former over the sum of the latter, which no small divisor rules.
    """
    sums.mean(f"{row}l2", l2(said[at.scored], true[at.scored]))
    found = contrastive(said, true, at, document)
    for name, farther, count in (
        ("contrastive", found.farther, found.count),
        ("contrastive_others", found.farther_others, found.count_others),
    ):
        sums.mean(f"{row}{name}", (farther / count)[count > 0])
    if not row:
        sums.mean("distractors", found.count.float())
    theirs, ours = (nearest_earlier(vectors, true, at.present)[at.scored] for vectors in (true, said))  # (M,) each
    has = theirs.isfinite()
    useful = has & (theirs >= LEAST)
    sums.mean(f"{row}par", ours[useful] / theirs[useful])
    sums.add(f"{row}par_pooled", ours[has].sum(), theirs[has].sum())
    if not row:
        sums.add("par_kept", useful.sum(), has.sum())
