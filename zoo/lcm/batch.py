"""What nets ask of a batch of sentences: which are learnt, random numbers that belong to them, the parts of a loss."""

import itertools
from collections.abc import Callable, Iterable

import torch
import torch.distributed as dist
from torch import Tensor

QUARTERS = 4  # of the stages in which a vector is made, whose errors are told apart
BLOCK = 16  # sentences whose random numbers come from one generator
TARGET = 2  # role of a sentence that is learnt, as batches have it; 0 is padding, 1 given


def wide(x: Tensor) -> Tensor:
    """At least float32: losses and what samplers add up are no matter of bfloat16."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def counted(batch: dict[str, Tensor]) -> Tensor:
    """Which sentences of a batch are learnt or scored, (B, S) bool."""
    return (batch["role"] == TARGET) & batch["mask"][:, None]


def shared(*sums: Tensor) -> tuple[Tensor, ...]:
    """Sums () over a process's sentences -> their means () over all processes that train together; without others, themselves. At
    least 1e-12: what is divided by a count of none is zero.

    Documents differ in length, so processes count different numbers of sentences. DDP and FSDP average gradients: a loss that
    each divides by the mean count gives those of one process with all the documents, where its own count would weigh sentences
    of short documents more. Others are not asked without a graph, of which nothing is averaged and they may have fewer batches,
    nor of meta tensors, on which one process counts operations.
    """
    means: Iterable[Tensor] = [each.detach() for each in sums]
    several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
    if several and torch.is_grad_enabled() and not sums[0].is_meta:
        together = torch.stack([each.double() for each in means])
        dist.all_reduce(together)
        means = together / dist.get_world_size()
    return tuple(mean.to(torch.promote_types(each.dtype, torch.float32)).clamp(min=1e-12) for mean, each in zip(means, sums))


def told(name: str, error: Tensor, learnt: Tensor, stage: Tensor, stages: int) -> dict[str, tuple[Tensor, Tensor]]:
    """The parts of a loss: sums of `error` (R, S) over the sentences that are `learnt` and their counts, of all and of each
    quarter of the stages."""
    error = error * learnt
    parts = {name: (error.sum(), learnt.sum().float())}
    for number in range(QUARTERS):
        mine = (stage * QUARTERS // stages == number) & learnt
        count = mine.sum().float().clamp(min=1e-12)  # of a quarter without a sentence the mean is 0, and no NaN
        parts[f"{name}_quarter{number + 1}"] = ((error * mine).sum(), count)
    return parts


def drawn(batch: dict[str, Tensor], shape: tuple[int, ...], seed: int, uniform: bool = False) -> Tensor:
    """Random numbers (B, S, *shape) for the sentences of a batch that depend on nothing but the seed, the number of each chunk
    and the place in it: what a net is scored with. Standard normal ones, or `uniform` in [0, 1)."""
    size, draw, rows = batch["role"].shape[1], torch.rand if uniform else torch.randn, []
    for window in batch["window"].tolist():
        blocks = []
        for block in range(-(-size // BLOCK)):  # of one length, whatever the batch
            generator = torch.Generator().manual_seed(hash((seed, window, block)) & 0x7FFFFFFFFFFFFFFF)
            blocks.append(draw(BLOCK, *shape, generator=generator))
        rows.append(torch.cat(blocks)[:size])
    return torch.stack(rows).to(batch["role"].device)


def fresh(batch: dict[str, Tensor], shape: tuple[int, ...], seed: int) -> Callable[[], Tensor]:
    """More and more noise for the sentences of a batch, as `drawn` has it."""
    calls = itertools.count(1)
    return lambda: drawn(batch, shape, hash((seed, next(calls))))
