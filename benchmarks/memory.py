"""How much memory a training step needs, found by running it on tensors that have shapes and no content.

What a framework holds follows from the order in which tensors are made and let go, not from their values. So the real step runs
(autocast, forward, zero_grad, backward, optimizer, in Lightning's order) on torch's fake tensors, and a dispatch mode follows the
life of every storage. A net of 7B parameters takes a second and no memory.
"""

import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import accumulate as running

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from zoo.nn.transformer import Block

TYPES = {"64": torch.float64, "32": torch.float32, "16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Memory:
    """Bytes of one training step, the second and every later one alike.

    weights, gradients, optimizer: of the whole net. activations: highest sum of everything else: what the graph keeps, copies of
    weights in autocast's type, gradients in the making, work space, the batch. peak: highest sum of all four at one moment, at
    most their total. root: weights outside the transformer blocks. block: weights of the largest block.
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

            (weights + gradients + optimizer) / devices + 2 root + 2 block + activations

        The root's weights stay whole from forward to backward, and so do their gradients; two blocks are whole at a time, the one
        at work and the next. Copies in autocast's type belong to the graph and are never sharded.
        """
        return (self.weights + self.gradients + self.optimizer) // devices + 2 * (self.root + self.block) + self.activations


def training_memory(
    make_net: Callable[[], nn.Module],
    make_optimizer: Callable[[nn.Module], Optimizer],
    batch: dict[str, Tensor],
    precision: str | int = "32-true",
    accumulate: int = 1,
) -> Memory:
    """Memory of training `make_net()` with `make_optimizer(net)` on micro-steps like `batch`, on one device.

    batch: tensors whose shapes and types count, on any device, meta included. precision: Lightning's word ("bf16-mixed").
    accumulate: micro-steps of an optimizer step.

    The step is that of a CPU. A GPU differs where its kernels keep other things for the backward pass: its RMSNorm keeps one
    vector per position less, which makes the activations of a Llama-like net up to 15 % smaller. What the allocator reserves
    beyond what is used (fragments, a CUDA context, communication buffers) is in neither figure.

    Raises ValueError for a precision that is not known here.
    """
    weight_type, low = _types(precision)
    usual = torch.get_default_dtype()
    torch.set_default_dtype(weight_type)
    # Eager: a net that is to be compiled must not meet its compiler here, which would leave it uncompiled for good.
    try:
        with torch.compiler.set_stance("force_eager"), FakeTensorMode(), _Ledger() as ledger:
            net = make_net().train()
            weights = ledger.held
            optimizer = make_optimizer(net)
            like = {name: torch.empty(x.shape, dtype=x.dtype) for name, x in batch.items()}
            _step(net, optimizer, like, low, 1)  # leaves gradients and optimizer state behind, as every step does
            old = ledger.serials(p.grad for p in net.parameters() if p.grad is not None)
            start = ledger.held
            gradients = sum(ledger.sizes[serial] for serial in old)
            batch_bytes = sum(x.untyped_storage().nbytes() for x in like.values())
            ledger.events.clear()
            _step(net, optimizer, like, low, min(accumulate, 2))  # further micro-steps are like the second
            new = ledger.serials(p.grad for p in net.parameters() if p.grad is not None)
    finally:
        torch.set_default_dtype(usual)
    blocks = [m for m in net.modules() if isinstance(m, Block)]
    sizes = [_bytes(block.parameters()) for block in blocks]
    others = [n for serial, n in ledger.events if serial not in old | new]
    return Memory(
        weights=weights,
        gradients=gradients,
        optimizer=start - weights - gradients - batch_bytes,
        activations=batch_bytes + max(running(others, initial=0)),
        peak=start + max(running((n for _, n in ledger.events), initial=0)),
        root=_bytes(net.parameters()) - sum(sizes),
        block=max(sizes, default=0),
    )


def _step(net: nn.Module, optimizer: Optimizer, batch: dict[str, Tensor], low: torch.dtype | None, micro_steps: int) -> None:
    """One optimizer step as Lightning does it: the last step's gradients live until the first forward pass is over."""
    for i in range(micro_steps):
        with torch.autocast("cpu", low, enabled=low is not None):
            loss = net(batch)["loss"]
        if i == 0:
            optimizer.zero_grad()
        loss.backward()
        del loss
    optimizer.step()


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
