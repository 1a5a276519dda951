"""Seconds per generated sentence against the sentences before it, measured (beside the operations of figure 13, LCM paper).

`python -m zoo.lcm.speed 7b --device cuda` measures a Two-Tower of the paper's shape, with random weights, on any device.
"""

import argparse
import math
import re
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import lightning as L
import torch
from torch import nn

from zoo.lcm.cost import LARGE, SMALL
from zoo.lcm.two_tower import TwoTower
from zoo.meter import busy_seconds
from zoo.nn.diffusion import Sampler
from zoo.nn.packed import LARGEST, packed

SHAPES = {"1.6b": SMALL, "7b": LARGE}
HEAD = 128  # numbers of an attention head, in both


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

    def setup(self, trainer: L.Trainer, module: L.LightningModule, stage: str) -> None:
        """Raise ValueError, in a sentence, where there is too little memory, before any is taken."""
        with trainer.precision_plugin.module_init_context(), torch.device("meta"):
            self.check(module._make_net(module.vocab, module.context), trainer.strategy.root_device)

    def check(self, net: nn.Module, device: torch.device) -> None:
        """Raise ValueError, in a sentence, where a net like this one, which may be a meta one, does not fit on a device."""
        needed, room = held(net, self.rows, max(self.contexts) + self.repeats + 1, device), free(device)
        if needed > room:
            raise ValueError(
                f"The net and what it keeps of {max(self.contexts)} sentences take {needed:,} bytes, and {device} has {room:,} "
                "free: measure shorter contexts, in bfloat16, or on another device."
            )

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


def held(net: nn.Module, rows: int, sentences: int, device: torch.device | str = "cpu") -> int:
    """Bytes of a net and of what it keeps of documents of so many sentences, twice, as samplers read copies; and of weights that
    are packed, which a CPU may do, those of the copies."""
    weights = sum(each.nbytes for each in net.parameters())
    twice = weights if torch.device(device).type == "cpu" and weights <= LARGEST else 0
    caches = [store for cache in net.memory(rows, sentences).caches for store in (cache.keys, cache.values)]
    return weights + twice + sum(each.nbytes for each in (*net.buffers(), *caches, *caches))


def free(device: torch.device) -> float:
    """Bytes that can be had on a device; inf where that cannot be told."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    told = Path("/proc/meminfo")
    found = re.search(r"MemAvailable:\s+(\d+) kB", told.read_text()) if device.type == "cpu" and told.is_file() else None
    return 1024 * int(found[1]) if found else math.inf


def timed(device: torch.device, work: Callable[[], Any]) -> float:
    """Seconds that the work takes, kernels of a GPU included."""
    start = _now(device)
    work()
    return _now(device) - start


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def main(words: list[str] | None = None) -> None:
    """Prints a line for each context: seconds of the next sentence, and to read those before."""
    parser = argparse.ArgumentParser("python -m zoo.lcm.speed", description=__doc__.splitlines()[0])
    parser.add_argument("shape", choices=SHAPES, help="of the paper's Two-Towers")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16")
    parser.add_argument("--contexts", type=int, nargs="+", default=[16, 128, 512, 2048], help="sentences before the next one")
    parser.add_argument("--rows", type=int, default=1, help="documents side by side (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="sentences that are timed at each place (default: %(default)s)")
    given = parser.parse_args(words)
    device, shape, kept = torch.device(given.device), SHAPES[given.shape], torch.get_default_dtype()
    sizes = (shape.dim, shape.layers, shape.denoiser_layers, shape.dim // HEAD, shape.hidden)
    make = partial(TwoTower, shape.width, max(given.contexts), *sizes, dropout=0.0)
    torch.set_default_dtype(getattr(torch, given.dtype))
    try:
        measure = SecondsPerSentence(given.contexts, given.rows, given.repeats)
        with torch.device("meta"):
            measure.check(make(), device)
        with device:
            net = make().eval()
        for context in given.contexts:
            reading, each = measure.measured(net, shape.width, context, device)
            following, reading = median(each) / given.rows, reading / given.rows
            print(f"{context:>6} sentences: {following:.3g} s for the next one, {reading:.3g} s to read", flush=True)
    except ValueError as error:
        sys.exit(str(error))
    finally:
        torch.set_default_dtype(kept)


if __name__ == "__main__":
    main()
