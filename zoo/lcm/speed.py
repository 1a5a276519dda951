"""Seconds per generated sentence against the sentences before it, measured (beside the operations of figure 13, LCM paper)."""

import math
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import lightning as L
import torch
from torch import nn

from zoo.meter import busy_seconds
from zoo.nn.diffusion import Sampler
from zoo.nn.packed import packed


class SecondsPerSentence(L.Callback):
    """At test: how long a net takes for the next sentence's vector, behind so many sentences. What it says does not matter, so
    neither do its weights.

    The net has `memory(rows, capacity)`, `read(vectors (B, s, E), memory)`, `next_vector(memory, noise (B, E)) -> (B, E)` and, if
    it samples, `sampler`.

    Logs `test/sentence_seconds@8` and on, median seconds of one sentence of all rows over the rows, reading it included;
    `test/read_seconds@8` and on, seconds to read the sentences before it, over the rows; and `test/sentences@8` and on, how many
    these are.

    Args:
        contexts: sentences before the one that is generated.
        rows: documents that are generated side by side.
        repeats: sentences that are timed at each place, one after the other; one more goes before them.
        sampler: the net's for as long as it is measured; None: its own.
    """

    def __init__(
        self,
        contexts: Sequence[int] = (8, 32, 128, 512, 2048),
        rows: int = 1,
        repeats: int = 5,
        sampler: Sampler | None = None,
    ):
        if min(*contexts, rows, repeats) < 1:
            raise ValueError(f"contexts, rows and repeats are at least 1, not {list(contexts)}, {rows} and {repeats}.")
        self.contexts, self.rows, self.repeats, self.sampler = tuple(contexts), rows, repeats, sampler

    def on_test_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if trainer.world_size > 1:
            raise ValueError("SecondsPerSentence measures one process: test with --trainer.devices=1.")
        machine, own, began = *busy_seconds(), time.perf_counter()
        kept = getattr(module.net, "sampler", None)
        if self.sampler is not None:
            module.net.sampler = self.sampler
        try:
            with trainer.precision_plugin.forward_context():
                for context in self.contexts:
                    reading, each = self.measured(module.net, module.vocab, context, module.device)
                    module.log(f"test/sentence_seconds@{context}", median(each) / self.rows)
                    module.log(f"test/read_seconds@{context}", reading / self.rows)
                    module.log(f"test/sentences@{context}", float(context))
        finally:
            if self.sampler is not None:
                module.net.sampler = kept
        others = busy_seconds()[0] - machine - (busy_seconds()[1] - own)
        seen = max(others, 0.0) / (time.perf_counter() - began)  # in this order, nan stays nan
        module.measured = measured = getattr(module, "measured", {})  # of Meter, where the net was trained in this process
        measured["crowd"] = None if math.isnan(seen) else max(seen, measured.get("crowd") or 0.0)

    @torch.inference_mode()
    def measured(self, net: nn.Module, width: int, context: int, device: torch.device) -> tuple[float, list[float]]:
        """Seconds to read `context` sentences of `width` numbers, and then, `repeats` times, to generate one and read it."""
        draw, dtype = torch.Generator(device).manual_seed(0), torch.get_default_dtype()  # of a net of bfloat16, that
        if hasattr(net, "trunk"):
            net.trunk.fits(context + self.repeats + 1)
        memory = net.memory(self.rows, context + self.repeats + 1)
        vectors = torch.randn(self.rows, context, width, generator=draw, device=device, dtype=dtype)
        reading, each = timed(device, lambda: net.read(vectors, memory)), []
        with packed(net):  # as `zoo generate` writes
            for _ in range(self.repeats + 1):
                noise = torch.randn(self.rows, width, generator=draw, device=device, dtype=dtype)
                each.append(timed(device, lambda: net.read(net.next_vector(memory, noise)[:, None], memory)))  # noqa: B023
        return reading, each[1:]  # the first pays for kernels and tables


def timed(device: torch.device, work: Callable[[], Any]) -> float:
    """Seconds that the work takes, kernels of a GPU included."""
    start = _now(device)
    work()
    return _now(device) - start


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
