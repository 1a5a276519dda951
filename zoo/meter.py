"""What a run measures of itself: speed, floating-point operations, memory, and whether it had the machine for itself."""

import contextlib
import math
import os
import re
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import lightning as L
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

STATUS = Path("/proc/self/status")


def peak_memory_mib(device: torch.device) -> float:
    """Highest memory since `reset_peak_memory`: allocated on a GPU, resident of the process elsewhere. MiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if STATUS.exists() and (found := re.search(r"VmHWM:\s+(\d+)", STATUS.read_text())):  # some containers leave it out
        return int(found[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)  # bytes, KiB


def reset_peak_memory(device: torch.device) -> None:
    """Forget what was held before training: data preparation is not part of a net's memory."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif STATUS.exists():
        with contextlib.suppress(OSError):  # a container may forbid it; the figure then includes the preparation
            Path("/proc/self/clear_refs").write_text("5")


class _Flops(TorchDispatchMode):
    """Adds up torch's own counts of every product that runs (FlopCounterMode fails on a backward pass inside a forward pass)."""

    total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        packet = func._overloadpacket
        packet = getattr(torch.ops.aten, str(packet).split(".")[-1].rstrip("_"), packet)  # addmm_ costs what addmm does
        if packet in flop_registry:
            self.total += flop_registry[packet](*args, **(kwargs or {}), out_val=out)
        return out


def training_flops(make_net: Callable[[], nn.Module], batch: dict[str, torch.Tensor]) -> int:
    """Floating-point operations of one forward and backward of `batch`, counted by running them on the meta device.

    A multiply-add is two; attention is counted over all pairs, as is usual.
    """
    # Eager: a net that is to be compiled must not meet its compiler under this mode, which would leave it uncompiled for good.
    with torch.compiler.set_stance("force_eager"), torch.device("meta"), _Flops() as flops:
        net = make_net().train()
        net({name: torch.empty_like(x, device="meta") for name, x in batch.items()})["loss"].backward()
    return flops.total


class AllocatedPeak:
    """Highest memory that torch's allocator held during one optimizer step on a CPU, as the profiler counts it: exact, and free
    of what malloc keeps. Make it before the first optimizer step, `mark` the second, `stop` after it.

    What is there at the start is counted by its size; what is made and freed from then on is followed block by block.
    """

    def __init__(self, lasting: list[torch.Tensor]):
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in lasting}
        self.lasting = sum(storages.values())
        os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # it complains of a missing GPU otherwise
        self.profiler = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True)
        self.profiler.start()

    def mark(self) -> None:
        with torch.profiler.record_function("zoo.second_step"):
            pass

    def stop(self) -> float:
        """MiB."""
        self.profiler.stop()
        events = sorted(self.profiler.profiler.kineto_results.events(), key=lambda event: event.start_ns())
        held = peak = 0
        marked = False
        for event in events:
            marked |= event.name() == "zoo.second_step"
            if event.name() == "[memory]":
                held += event.nbytes()
                peak = max(peak, held) if marked else held
        return (self.lasting + peak) / 2**20


def busy_seconds() -> tuple[float, float]:
    """CPU seconds that the whole machine and this process have used; the machine's are nan where the system does not tell."""
    own = os.times()
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
        user, nice, system, _, _, irq, softirq, steal = map(int, fields[:8])
        machine = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError):
        machine = float("nan")
    return machine, own.user + own.system


class Meter(L.Callback):
    """Measures tokens/s, FLOP/s and memory; leaves the sums in `module.measured` for the benchmark runner.

    parameters · tokens (predicted positions) · epochs (passes over the training text) · seconds, tokens_per_second and
    step_seconds (median of an optimizer step, all its micro-steps and the optimizer's own time; on a GPU the mean) without the
    first two micro-steps · flops · peak_memory_mib, of the process or the card · allocated_mib, the most that torch's allocator
    held in a step (`AllocatedPeak`) · crowd, the cores that other processes kept busy meanwhile: times mean little above a tenth
    of a core. It is the first of a run's callbacks, so that its times hold what a teacher takes.
    """

    peak: AllocatedPeak | None = None

    def setup(self, trainer, module, stage: str) -> None:
        """Go before all others, whose order stays. (Those behind are set up next, as they would have been.)"""
        trainer.callbacks.sort(key=lambda each: each is not self)

    def on_fit_start(self, trainer, module) -> None:
        self.micro_steps = self.seconds = self.step = self.timed = 0
        self.flops, self.peak, self.start, self.times = None, None, None, []
        reset_peak_memory(module.device)
        module.measured = {"parameters": sum(p.numel() for p in module.net.parameters())}

    def on_train_batch_start(self, trainer, module, batch, batch_idx) -> None:
        if self.start is None:
            self.start, self.began, self.busy = batch_idx, time.perf_counter(), busy_seconds()
        if module.device.type == "cpu":
            self._profile(trainer, module, batch_idx - self.start)
        self.clock = time.perf_counter()

    def _profile(self, trainer, module, step: int) -> None:
        """Follow the allocator through the first two optimizer steps; the second is like all that follow."""
        each = trainer.accumulate_grad_batches
        if step == 0 and not torch.autograd.profiler._is_profiler_enabled:
            state = (x for s in trainer.optimizers[0].state.values() for x in s.values() if isinstance(x, torch.Tensor))
            tensors = [*module.parameters(), *module.buffers(), *state]  # a resumed run has its optimizer state already
            self.peak = AllocatedPeak([t.to_local() if hasattr(t, "to_local") else t for t in tensors])
        elif step == each and self.peak:
            self.peak.mark()
        elif step == 2 * each and self.peak:
            self._note(module)

    def _note(self, module) -> None:
        module.measured["allocated_mib"] = self.peak.stop()
        self.peak = None

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        log, each, cuda = (
            trainer._logger_connector.should_update_logs,
            trainer.accumulate_grad_batches,
            module.device.type == "cuda",
        )
        if cuda and (log or batch_idx == self.start + 1):
            torch.cuda.synchronize()  # kernels run behind the clock; those of the first steps must not fall into the next ones
        rows, length = batch["tokens"].shape
        tokens = rows * (length - module.net.ahead)
        if self.flops is None:  # here, where the batch has all that a teacher adds to it
            self.tokens, self.seen = tokens, batch_idx * tokens  # those before a resumption are taken to be like this one
            self.flops = training_flops(lambda: module._make_net(module.vocab, module.context), batch)
        self.seen += tokens
        if self.start + 2 > batch_idx:
            return  # the first steps pay for allocations, kernels and the profiler
        spent = time.perf_counter() - self.clock
        if self.peak is None:  # the profiler's own time is not the net's
            self.seconds += spent
            self.micro_steps += 1
            self.timed += tokens
            self.step += spent
            if (batch_idx + 1) % each == 0:  # the optimizer's step falls into the last micro-step
                whole = self.micro_steps >= each
                self.times += [self.step] * whole
                self.step = 0
        rate = self.timed * trainer.world_size / max(self.seconds, 1e-9)
        seen = self.seen * trainer.world_size
        machine, own = (now - then for now, then in zip(busy_seconds(), self.busy))
        module.measured |= {
            "tokens": seen,
            "epochs": trainer.datamodule.epochs_seen(seen),
            "seconds": self.seconds,
            "tokens_per_second": rate,
            "step_seconds": self.step_seconds(each, cuda),
            "flops": self.flops * seen // self.tokens,  # batches may differ in length
            "peak_memory_mib": peak_memory_mib(module.device),
            "crowd": None if math.isnan(machine) else max(0.0, machine - own) / (time.perf_counter() - self.began),
        }
        if cuda:
            module.measured["allocated_mib"] = module.measured["peak_memory_mib"]
        if log:
            module.log("speed/tokens_per_second", rate)
            module.log("speed/flop_per_second", rate / self.tokens * self.flops)
            module.log("speed/peak_memory_mib", module.measured["peak_memory_mib"])

    def step_seconds(self, each: int, mean: bool) -> float:
        """Of an optimizer step of `each` micro-steps: the median, or the mean where clocks are read at log steps only."""
        return median(self.times) if self.times and not mean else each * self.seconds / max(self.micro_steps, 1)

    def on_train_end(self, trainer, module) -> None:
        if self.peak:  # a run of two optimizer steps ends inside the profile
            self._note(module)

    def on_exception(self, trainer, module, exception) -> None:
        if self.peak:  # a profiler that stays on would follow whatever the process does next
            self.peak.stop()
            self.peak = None
