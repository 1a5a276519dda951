"""How much memory a training step needs, found by running it on tensors that have shapes and no content; and where it fits.

What torch holds follows from the order in which tensors are made and let go, not from their values. So the real step runs
(zero_grad, autocast, forward, backward, optimizer, as `zoo.module` and Lightning have it) on torch's fake tensors, and a dispatch
mode follows the life of every storage. A net of 7B parameters takes a second or two, and no memory.
"""

import math
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from itertools import accumulate as running

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from zoo.nn.heads import FutureHeads

TYPES = {"64": torch.float64, "32": torch.float32, "16": torch.float16, "bf16": torch.bfloat16}
USABLE = 0.92  # of a device's memory; the rest is for drivers, communication buffers and fragments
NODE = 8  # devices
MOST = 1024  # devices that are tried


@dataclass(frozen=True)
class Device:
    """peak: FLOP/s of dense bf16 products, 0: not stated; memory: GiB that a program finds on it, None: no limit."""

    name: str
    peak: float
    memory: float | None


DEVICES = {
    "a100": Device("A100-80GB", 312e12, 79),
    "h100": Device("H100-SXM", 989e12, 79),
    "h200": Device("H200", 989e12, 139),
    "4090": Device("RTX 4090", 165e12, 23.5),
    "cpu": Device("CPU", 0, None),
}


@dataclass(frozen=True)
class Memory:
    """Bytes of one training step, the second and every later one alike.

    weights, gradients, optimizer: of the whole net, as they are between steps. activations: highest sum of everything else: what
    the graph keeps, copies of weights in autocast's type, new gradients of weights outside the blocks, work space, the batch.
    peak: highest sum of all of it, on one device. root: weights outside the transformer blocks. block: of the largest block.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    peak: int
    root: int
    block: int

    def replicated(self, devices: int) -> int:
        """Bytes per device with every weight on each: peak, and under DDP (more than one device) its buckets, a second copy of
        the gradients."""
        return self.peak + (self.gradients if devices > 1 else 0)

    def sharded(self, devices: int) -> int:
        """Bytes per device under FSDP2 as `zoo.shard` applies it, every transformer block and the rest of the net:

            (weights + gradients + optimizer) / devices + root + 3 block + activations

        The root's weights are whole from the forward to the end of the backward pass, and so are their new gradients, which
        activations contain. Of the blocks two have whole weights at a time, the one at work and the next, and one has whole
        gradients. Copies in autocast's type belong to the graph: they are never sharded.
        """
        return (self.weights + self.gradients + self.optimizer) // devices + self.root + 3 * self.block + self.activations


@dataclass(frozen=True)
class Fit:
    """How a run is laid out. batch: windows of a device's micro-step; memory: bytes on a device."""

    devices: int
    strategy: str  # single, ddp or fsdp2
    batch: int
    accumulate: int
    memory: int

    @property
    def nodes(self) -> int:
        return math.ceil(self.devices / NODE)

    @property
    def per_node(self) -> int:
        return self.devices // self.nodes


def training_memory(
    make_net: Callable[[], nn.Module],
    make_optimizer: Callable[[nn.Module], Optimizer],
    batch: dict[str, Tensor],
    precision: str | int = "32-true",
    accumulate: int = 1,
    *,
    gpu: bool = False,
    sharded: bool = False,
) -> Memory:
    """Memory of training `make_net()` with `make_optimizer(net)` on micro-steps like `batch`.

    batch: tensors whose shapes and types count, on any device, meta included. precision: Lightning's word ("bf16-mixed").
    accumulate: micro-steps of an optimizer step. gpu: with the chunks and the RMSNorm of a GPU instead of a CPU's. sharded: with
    the heads trained in one graph, as `FutureHeads` trains sharded ones.

    What an allocator reserves beyond what is used, and what drivers and communication need, is not counted.
    Raises ValueError for a precision that is not known here.
    """
    weight_type, low = _types(precision)
    usual = torch.get_default_dtype()
    torch.set_default_dtype(weight_type)
    # Eager: a net that is to be compiled must not meet its compiler here, which would leave it uncompiled for good.
    try:
        with torch.compiler.set_stance("force_eager"), FakeTensorMode(), _Ledger() as ledger:
            net = _adapted(make_net(), gpu, sharded).train()
            weights = ledger.held
            optimizer = make_optimizer(net)
            like = {name: torch.empty(x.shape, dtype=x.dtype) for name, x in batch.items()}
            for p in net.parameters():
                p.grad = torch.empty_like(p) if p.requires_grad else None
            optimizer.step()  # what a step before has left: gradients and the optimizer's state
            old = ledger.serials(p.grad for p in net.parameters() if p.grad is not None)
            start = ledger.held
            gradients = sum(ledger.sizes[serial] for serial in old)
            batch_bytes = sum(x.untyped_storage().nbytes() for x in like.values())
            ledger.events.clear()
            if accumulate == 1:  # of several micro-steps the second holds most: it adds to gradients that are there
                optimizer.zero_grad()
            with torch.autocast("cpu", low, enabled=low is not None, cache_enabled=False):  # as Lightning has it
                loss = net(like)["loss"]
            loss.backward()
            del loss
            optimizer.step()
            blocks = [m for m in net.modules() if hasattr(m, "shard_entries")]
            inside = ledger.serials(p.grad for block in blocks for p in block.parameters() if p.grad is not None)
    finally:
        torch.set_default_dtype(usual)
    sizes = [_bytes(block.parameters()) for block in blocks]
    others = [n for serial, n in ledger.events if serial not in old | inside]
    return Memory(
        weights=weights,
        gradients=gradients,
        optimizer=start - weights - gradients - batch_bytes,
        activations=batch_bytes + max(running(others, initial=0)),
        peak=start + max(running((n for _, n in ledger.events), initial=0)),
        root=_bytes(net.parameters()) - sum(sizes),
        block=max(sizes, default=0),
    )


def fit(
    memory: Callable[[int, int, bool], Memory], batch: int, accumulate: int, own: int, device: Device, devices: int | None = None
) -> Fit:
    """How to lay a run out on `devices` devices, or on its `own` number, or on two, four … times as many where it takes them.

    memory(windows of a micro-step, micro-steps, sharded): of a device. batch, accumulate: the run's on its own number of devices;
    a step keeps its windows whatever the layout. Replicated where that fits, else sharded, else with fewer windows at a time.
    Raises ValueError where it fits nowhere, or where so many devices cannot share a step evenly.
    """
    room = math.inf if device.memory is None else device.memory * USABLE * 2**30
    step = batch * accumulate * own
    held, least = 0, math.inf
    for count in [devices] if devices else [n for i in range(12) if (n := own << i) == own or n <= MOST]:
        if count > NODE and count % NODE:
            raise ValueError(f"{count} devices are no whole nodes of {NODE}: take a multiple of {NODE}.")
        for size in [b for b in range(min(batch, step // count), 0, -1) if step % (count * b) == 0]:
            for sharded in (False, True)[: 1 if count == 1 else 2]:
                if held > room and not sharded:
                    continue  # weights, gradients and optimizer state alone are too much
                turns = step // (count * size)
                found = memory(size, turns, sharded)
                held = found.weights + found.gradients + found.optimizer
                needed = found.sharded(count) if sharded else found.replicated(count)
                if needed <= room:
                    return Fit(count, "fsdp2" if sharded else "ddp" if count > 1 else "single", size, turns, needed)
                least = min(least, needed)
    if least == math.inf:
        raise ValueError(f"{devices} devices cannot share the {step} windows of a step evenly: take a divisor of them.")
    where, more = (f"{devices}", "more devices, ") if devices else (f"any number up to {MOST}", "")
    raise ValueError(
        f"it does not fit on {where} of {device.name}, where a device needs {least / 2**30:.1f} GiB and can use "
        f"{room / 2**30:.1f}: take {more}a larger device, a shorter context, or model.init_args.net.init_args.checkpoint: true."
    )


def _adapted(net: nn.Module, gpu: bool, sharded: bool) -> nn.Module:
    for module in net.modules():
        if gpu and getattr(module, "chunk", 0) is None:
            module.chunk = 2048  # what linear_cross_entropy takes there
        if sharded and isinstance(module, FutureHeads) and module.backward == "head-by-head":
            if any(
                hasattr(part, "shard_entries") for part in module.modules()
            ):  # else the root holds the heads, whole while it runs
                module.backward = "joint"
        if gpu and isinstance(module, nn.RMSNorm):
            module.forward = partial(_RMSNorm.apply, module.weight)
    return net


class _RMSNorm(torch.autograd.Function):
    """What a GPU's RMSNorm makes and keeps: one number per position beside its input. (A CPU's keeps the normed input too.)"""

    @staticmethod
    def forward(ctx, weight, x):
        ctx.save_for_backward(x, weight, x.new_empty(x.shape[:-1]))
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx, grad):
        x, weight, _ = ctx.saved_tensors
        return torch.empty_like(weight), torch.empty_like(x)


class _Ledger(TorchDispatchMode):
    """Follows every storage from the operation that makes it to the moment nobody holds it any more."""

    def __init__(self):
        super().__init__()
        self.held = 0
        self.events: list[tuple[int, int]] = []  # (serial number of a storage, bytes it adds; negative when it goes)
        self.sizes: list[int] = []  # bytes by serial number
        self._known: dict[int, tuple[int, weakref.ref]] = {}  # address -> serial number; addresses are used again

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._follow(leaf.untyped_storage())
        return out

    def serials(self, tensors: Iterable[Tensor]) -> set[int]:
        return {self._known[t.untyped_storage()._cdata][0] for t in tensors}

    def _follow(self, storage: torch.UntypedStorage) -> None:
        address = storage._cdata
        if address in self._known:
            return
        serial, size = len(self.sizes), storage.nbytes()

        def gone(_) -> None:
            del self._known[address]
            self._note(serial, -size)

        self.sizes.append(size)
        self._known[address] = serial, weakref.ref(storage, gone)
        self._note(serial, size)

    def _note(self, serial: int, size: int) -> None:
        self.held += size
        self.events.append((serial, size))


def _types(precision: str | int) -> tuple[torch.dtype, torch.dtype | None]:
    """Type of the weights, and autocast's if there is one, of Lightning's word for a precision."""
    number, _, kind = str(precision).partition("-")
    if number not in TYPES or kind not in ("", "true", "mixed"):
        raise ValueError(f"The memory of precision {precision!r} is not known: take 32-true, bf16-mixed, 16-mixed or bf16-true.")
    mixed = kind == "mixed" or (not kind and "16" in number)  # "bf16" alone is short for "bf16-mixed"
    return (torch.float32, TYPES[number]) if mixed else (TYPES[number], None)


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)
