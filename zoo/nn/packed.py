"""Weights laid out for products with few rows on a CPU: decoding reads every weight for a handful of vectors at a time."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.nn.transformer import Transformer

LARGEST = 4 * 2**30  # bytes of weights that are kept twice without being asked


def packable(net: nn.Module) -> bool:
    """Whether oneDNN can pack the weights of `net`: all fp32, or all bf16 where the machine multiplies that; on a CPU, `LARGEST`
    bytes at most, and torch has the operations."""
    weights = list(net.parameters())
    kinds = {(w.device.type, w.dtype) for w in weights}
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_reorder_linear_weight"):
        return False
    known = {("cpu", torch.float32)}
    if getattr(torch.cpu, "_is_avx512_bf16_supported", bool)():  # elsewhere oneDNN emulates it, slower than F.linear
        known.add(("cpu", torch.bfloat16))
    return len(kinds) <= 1 and kinds <= known and sum(w.nbytes for w in weights) <= LARGEST


@contextmanager
def packed(net: nn.Module) -> Iterator[None]:
    """Within this context the linear maps and the unembedding of `net` use packed copies of their weights; outputs are the same
    to rounding.

    Why: F.linear's product of one to some sixteen rows (MKL's; of bf16, oneDNN's, which packs each time) takes up to four times
    as long as the memory needs, oneDNN's on packed weights about as long. Besides, a row's result then depends less on how many
    rows come with it: the rounding of a speculative step and of a plain one is closer. The copies cost the weights' memory once
    more, and packing about the time of a few tokens; both last as long as the outermost context. Weights must not change inside.
    A net that is not `packable`, or whose gradients are wanted, is left as it is.
    """
    if not packable(net) or hasattr(net, "_is_packed") or torch.is_grad_enabled():
        yield
        return
    net._is_packed = True
    changed: list[tuple[nn.Module, str]] = [(net, "_is_packed")]
    try:
        known: dict[int, Tensor] = {}
        for module in net.modules():
            if type(module).forward is nn.Linear.forward:
                module.forward = _product(module.weight, module.bias, known)
                changed.append((module, "forward"))
            elif isinstance(module, Transformer):
                module.unembed = _product(module.unembedding, None, known)
                changed.append((module, "unembed"))
        yield
    finally:
        for module, name in changed:
            delattr(module, name)  # the class's own is found again


def _product(weight: Tensor, bias: Tensor | None, known: dict[int, Tensor]):
    """x (..., inputs) -> (..., outputs) with a packed copy of `weight` (outputs, inputs)."""
    if id(weight) not in known:
        known[id(weight)] = torch.ops.mkldnn._reorder_linear_weight(weight.detach())
    copy = known[id(weight)]

    def product(x: Tensor) -> Tensor:
        if x.dtype != weight.dtype:  # under autocast
            return F.linear(x, weight, bias)
        rows = x.shape[:-1].numel()
        if rows > 2:
            return torch.ops.mkldnn._linear_pointwise(x, copy, bias, "none", [], "")
        # oneDNN reads memory a quarter slower for one or two rows than for four.
        padded = F.pad(x.reshape(rows, -1), (0, 0, 0, 4 - rows))
        return torch.ops.mkldnn._linear_pointwise(padded, copy, bias, "none", [], "")[:rows].view(*x.shape[:-1], len(weight))

    return product
