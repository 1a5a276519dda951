"""Future heads: n one-layer transformers over one trunk (MTP, sec. 2), and the memory-flat way to train them (Fig. 2)."""

import logging
from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from zoo.nn.losses import accumulator, chunked_nll, linear_cross_entropy, product_type, scaled

log = logging.getLogger(__name__)


class FutureHeads(nn.Module):
    """n parallel heads that share the trunk's last norm and unembedding; head i (from 1) predicts the token i places ahead.

    blocks: one module per head.
    backward: "head-by-head" makes the gradients of one head after the other inside the forward pass, so that the memory of a
    step does not grow with n; "joint" is one graph with the chunked loss, every head recomputed in the backward pass. Both give
    the same gradients. "naive" holds the logits of all heads at once, as one writes it first: for comparison (Fig. 2).
    Sharded parameters (FSDP2) do not allow "head-by-head"; "joint" is then taken, and logged once.
    chunk: rows whose logits exist at a time.
    """

    def __init__(self, blocks: Iterable[nn.Module], *, backward: str = "head-by-head", chunk: int | None = None):
        super().__init__()
        if backward not in ("head-by-head", "joint", "naive"):
            raise ValueError(f"backward is 'head-by-head', 'joint' or 'naive', not {backward!r}.")
        self.blocks = nn.ModuleList(blocks)
        self.backward, self.chunk = backward, chunk

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
        belong to blocks[i]. norm and unembedding (V, D) are shared by all heads. targets, weights (n, B, T): the tokens ahead and
        how much each counts in the loss.
        """
        if not torch.is_grad_enabled():
            nll = torch.stack(
                [linear_cross_entropy(norm(run(i, hidden)), unembedding, y, chunk=self.chunk)[1] for i, y in enumerate(targets)]
            )
            return (nll * weights).sum(), nll
        if self.backward == "head-by-head" and not self._sharded():
            shared = [p for p in norm.parameters() if p.requires_grad]
            own = [p for p in self.blocks.parameters() if p.requires_grad]
            return _HeadByHead.apply(self, run, norm, targets, weights, hidden, unembedding, *shared, *own)
        if self.backward == "naive":
            outputs = torch.stack([norm(run(i, hidden)) for i in range(len(self.blocks))])  # (n, B, T, D)
            logits = F.linear(outputs, unembedding)  # (n, B, T, V)
            exact = torch.promote_types(logits.dtype, torch.float32)
            nll = F.cross_entropy(logits.flatten(0, 2).to(exact), targets.flatten(), reduction="none").view(targets.shape)
            return (nll * weights).sum(), nll.detach()
        outputs = [norm(checkpoint(run, i, hidden, use_reentrant=False)) for i in range(len(self.blocks))]
        # One call for all heads: n calls would hold n gradients of the unembedding.
        return linear_cross_entropy(torch.stack(outputs), unembedding, targets, weights, chunk=self.chunk)

    def _sharded(self) -> bool:
        """Whether the parameters are sharded, so that only their owner may run a backward pass."""
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
    def forward(ctx, heads, run, norm, targets, weights, hidden, unembedding, *parameters):
        trunk = hidden.detach().requires_grad_()
        total = {id(p): torch.zeros_like(p) for p in norm.parameters() if p.requires_grad}
        total[id(trunk)] = torch.zeros_like(trunk)
        grad_unembedding = accumulator(unembedding) if ctx.needs_input_grad[6] else None
        matrix, terms = product_type(unembedding), []
        for i, block in enumerate(heads.blocks):
            with torch.enable_grad():
                out = norm(run(i, trunk))  # (B, T, D)
            grad_out = torch.empty_like(out)
            terms.append(
                chunked_nll(
                    out.detach().flatten(0, 1),
                    matrix,
                    targets[i].flatten(),
                    rows=weights[i].flatten(),
                    chunk=heads.chunk,
                    grad_hidden=grad_out.view(-1, out.shape[-1]),
                    grad_weight=grad_unembedding,
                ).view(targets[i].shape)
            )
            wanted = [trunk, *(p for m in (norm, block) for p in m.parameters() if p.requires_grad)]
            for p, g in zip(wanted, torch.autograd.grad(out, wanted, grad_out)):
                total[id(p)] = total[id(p)].add_(g) if id(p) in total else g
        nll = torch.stack(terms)  # (n, B, T)
        ctx.gradients = [total[id(trunk)], grad_unembedding, *(total[id(p)] for p in parameters)]
        ctx.types = [hidden.dtype, unembedding.dtype, *(p.dtype for p in parameters)]
        ctx.mark_non_differentiable(nll)
        return (nll * weights).sum(), nll

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_loss, _):
        return None, None, None, None, None, *scaled(ctx, grad_loss)
