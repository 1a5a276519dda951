"""Future heads over one trunk (MTP, sec. 2), their other forms (App. B), and the memory-flat way to train them (Figs. 2, S11)."""

import logging
from collections.abc import Callable, Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from zoo.nn.losses import accumulator, chunked_nll, linear_cross_entropy, product_type, scaled

log = logging.getLogger(__name__)


class FutureHeads(nn.Module):
    """n heads that share the trunk's last norm; head i (from 1) predicts the token i places ahead.

    blocks: one module per head, or none where the heads differ in their unembeddings alone.
    unembeddings: modules whose `weight` (V, D) is the own unembedding of head 2, 3, ... ("replicated", App. B); none: all heads
    share one.
    arrangement: "parallel", every head on the trunk; "causal", head i on top of head i - 1, head 1 on the trunk; "anticausal",
    head i on top of head i + 1, head n on the trunk (App. B).
    backward: "head-by-head" makes the gradients of one head after the other inside the forward pass, so that there are logits of
    one head at a time, and in parallel also the graph of one; "joint" is one graph with the chunked loss, every head recomputed
    in the backward pass. Both give the same gradients. "naive" holds the logits of all heads at once, as one writes it first: for
    comparison (Fig. 2). Sharded parameters (FSDP2) do not allow "head-by-head"; "joint" is then taken, and logged once.
    recompute: stacked heads keep only their inputs for the backward pass.
    chunk: rows whose logits exist at a time.
    """

    def __init__(
        self,
        blocks: Iterable[nn.Module],
        *,
        unembeddings: Iterable[nn.Module] = (),
        arrangement: str = "parallel",
        backward: str = "head-by-head",
        recompute: bool = False,
        chunk: int | None = None,
    ):
        super().__init__()
        if backward not in ("head-by-head", "joint", "naive"):
            raise ValueError(f"backward is 'head-by-head', 'joint' or 'naive', not {backward!r}.")
        if arrangement not in ("parallel", "causal", "anticausal"):
            raise ValueError(f"arrangement is 'parallel', 'causal' or 'anticausal', not {arrangement!r}.")
        self.blocks, self.unembeddings = nn.ModuleList(blocks), nn.ModuleList(unembeddings)
        self.n = len(self.blocks) or len(self.unembeddings) + 1
        if self.unembeddings and len(self.unembeddings) != self.n - 1:
            raise ValueError(f"{self.n} heads need {self.n - 1} unembeddings beside the first, not {len(self.unembeddings)}.")
        self.arrangement, self.backward, self.recompute, self.chunk = arrangement, backward, recompute, chunk

    @property
    def stacked(self) -> bool:
        return self.arrangement != "parallel"

    def outputs(
        self, hidden: Tensor, run: Callable[[int, Tensor], Tensor], count: int | None = None
    ) -> Iterator[tuple[int, Tensor]]:
        """(i, output (B, T, D)) of the first `count` heads, default all, from the trunk's output hidden (B, T, D).

        In the order in which they run; where far heads lie below near ones, all of them run.
        """
        count = self.n if count is None else count
        order = range(count) if self.arrangement != "anticausal" else reversed(range(self.n))
        for i in order:
            output = run(i, hidden)
            if self.stacked:
                hidden = output
            if i < count:
                yield i, output

    def forward(
        self,
        hidden: Tensor,
        run: Callable[[int, Tensor], Tensor],
        norm: nn.Module,
        unembedding: Tensor,
        targets: Tensor,
        weights: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Weighted sum of all heads' nll, with graph, and the nll (n, B, T) without.

        hidden (B, T, D): the trunk's output. run(i, hidden) -> (B, T, D) applies head i (from 0); every parameter it uses must
        belong to blocks[i]. norm is shared by all heads. unembedding (V, D): of all heads, or of the first where the others have
        their own. targets, weights (n, B, T): the tokens ahead and how much each counts in the loss.
        """
        matrices = [unembedding, *(own.weight for own in self.unembeddings)]  # one for all heads, or one each
        if not torch.is_grad_enabled():
            terms = {}
            for i, out in self.outputs(hidden, run):
                matrix = matrices[i if len(matrices) > 1 else 0]
                terms[i] = linear_cross_entropy(norm(out), matrix, targets[i], chunk=self.chunk)[1]
            nll = torch.stack([terms[i] for i in range(self.n)])
            return (nll * weights).sum(), nll
        if self.backward == "head-by-head" and not self._sharded():
            shared = [p for p in norm.parameters() if p.requires_grad]
            own = [p for p in self.blocks.parameters() if p.requires_grad]
            return _HeadByHead.apply(self, run, norm, targets, weights, hidden, *matrices, *shared, *own)
        return self._one_graph(hidden, run, norm, matrices, targets, weights)

    def _one_graph(self, hidden, run, norm, matrices, targets, weights) -> tuple[Tensor, Tensor]:
        """As `forward`, all heads in one graph: "joint" or "naive"."""
        joint, replicated = self.backward != "naive", len(matrices) > 1
        again = (lambda i, x: checkpoint(run, i, x, use_reentrant=False)) if joint and self.blocks else run
        outputs = [norm(out) for _, out in sorted(self.outputs(hidden, again), key=lambda pair: pair[0])]
        if joint and replicated:
            parts = zip(outputs, matrices, targets, weights)
            losses, terms = zip(*(linear_cross_entropy(x, m, y, w, chunk=self.chunk) for x, m, y, w in parts))
            return torch.stack(losses).sum(), torch.stack(terms)
        if replicated:
            logits = torch.stack([F.linear(out, own) for out, own in zip(outputs, matrices)])  # (n, B, T, V)
        else:
            outputs = torch.stack(outputs)  # (n, B, T, D)
            if joint:  # one call for all heads: n calls would hold n gradients of the unembedding
                return linear_cross_entropy(outputs, matrices[0], targets, weights, chunk=self.chunk)
            logits = F.linear(outputs, matrices[0])
        exact = torch.promote_types(logits.dtype, torch.float32)
        nll = F.cross_entropy(logits.flatten(0, 2).to(exact), targets.flatten(), reduction="none").view(targets.shape)
        return (nll * weights).sum(), nll.detach()

    def _sharded(self) -> bool:
        """Whether the heads' parameters are sharded, so that only their owner may run a backward pass."""
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return False
        from torch.distributed.tensor import DTensor

        if not any(isinstance(p, DTensor) for p in self.parameters()):
            return False
        log.warning(
            "The heads' parameters are sharded: training with one graph for all heads (backward='joint'), "
            "chunked loss and recomputed heads instead of head by head."
        )
        self.backward = "joint"  # so that it is said once
        return True


class _HeadByHead(torch.autograd.Function):
    """Forward and backward of each head in turn within the forward pass; the backward pass hands the finished gradients on.

    All parameters are inputs, so whoever listens to their gradients (DDP's hooks, accumulation, clipping, scaling) sees one
    ordinary backward pass.
    """

    @staticmethod
    def forward(ctx, heads, run, norm, targets, weights, hidden, *parameters):
        trunk = hidden.detach().requires_grad_()
        count = len(heads.unembeddings) + 1
        wants, tables = ctx.needs_input_grad[6 : 6 + count], parameters[:count]
        grads = [accumulator(table) if wanted else None for table, wanted in zip(tables, wants)]
        matrix = product_type(tables[0])
        total = {id(p): torch.zeros_like(p) for p in (*norm.parameters(), trunk) if p.requires_grad}
        terms, arriving = [None] * heads.n, None
        for i, start, end in _stack(heads, run, trunk) if heads.stacked else _fan(heads, run, trunk):
            with torch.enable_grad():
                out = norm(end)  # (B, T, D)
            grad_out = torch.empty_like(out)
            own = i if count > 1 else 0
            terms[i] = chunked_nll(
                out.detach().flatten(0, 1),
                product_type(tables[i]) if own else matrix,
                targets[i].flatten(),
                rows=weights[i].flatten(),
                chunk=heads.chunk,
                grad_hidden=grad_out.view(-1, out.shape[-1]),
                grad_weight=grads[own],
            ).view(targets[i].shape)
            modules = (norm, heads.blocks[i]) if heads.blocks else (norm,)
            wanted = [start, *(p for m in modules for p in m.parameters() if p.requires_grad)]
            # What is stacked on this head has sent its own gradient down to `end` (Fig. S11).
            ends, seeds = ([out], [grad_out]) if arriving is None else ([out, end], [grad_out, arriving])
            del end  # else it would outlive its part of the graph
            found = torch.autograd.grad(ends, wanted, seeds)
            arriving = found[0] if start is not trunk else None
            for p, g in zip(wanted, found):
                if p is not start or p is trunk:
                    total[id(p)] = total[id(p)].add_(g) if id(p) in total else g
            del start, out, ends, seeds, grad_out, found, wanted, p, g  # before the next head is run
        nll = torch.stack(terms)  # (n, B, T)
        ctx.gradients = [total[id(trunk)], *grads, *(total[id(p)] for p in parameters[count:])]
        ctx.types = [hidden.dtype, *(p.dtype for p in parameters)]
        ctx.mark_non_differentiable(nll)
        return (nll * weights).sum(), nll

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_loss, _):
        return None, None, None, None, None, *scaled(ctx, grad_loss)


def _fan(heads: FutureHeads, run: Callable, trunk: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
    """(i, input, output) of parallel heads, each run when it is its turn."""
    for i in range(heads.n):
        with torch.enable_grad():
            output = [run(i, trunk)]
        yield i, trunk, output.pop()  # so that it is the caller's alone


def _stack(heads: FutureHeads, run: Callable, trunk: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
    """(i, input, output) of stacked heads, all run at once, then handed out from the farthest from the trunk inwards.

    Each has a graph of its own that begins at its input. Together they hold what as many trunk layers would.
    """
    graphs, hidden = [], trunk
    for i in range(heads.n) if heads.arrangement == "causal" else reversed(range(heads.n)):
        with torch.enable_grad():
            output = checkpoint(run, i, hidden, use_reentrant=False) if heads.recompute else run(i, hidden)
        graphs.append((i, hidden, output))
        hidden = output.detach().requires_grad_()
    del hidden, output
    while graphs:
        yield graphs.pop()
