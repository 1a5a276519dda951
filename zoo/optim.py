"""Optimizers and the per-step schedule shared by every recipe."""

import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def _groups(net: nn.Module, weight_decay: float, decay_all: bool) -> list[dict]:
    """Two parameter groups: decayed, and (norms, biases, other vectors) not decayed unless `decay_all`."""
    params = [p for p in net.parameters() if p.requires_grad]
    decayed = [p for p in params if decay_all or p.ndim >= 2]
    rest = [p for p in params if not (decay_all or p.ndim >= 2)]
    return [{"params": g, "weight_decay": w} for g, w in ((decayed, weight_decay), (rest, 0.0)) if g]


class AdamW(torch.optim.AdamW):
    """AdamW over a net, fused. Defaults are those of MTP (arXiv 2404.19737, Table S13).

    Args:
        net: the network whose parameters are trained.
        lr: peak learning rate.
        betas: decay of the two moment averages.
        weight_decay: decoupled weight decay.
        eps: added to the root of the second moment.
        decay_all: decay norms and biases too, as the released CoCoMix code does.
    """

    def __init__(
        self,
        net: nn.Module,
        lr: float = 3e-4,
        betas: tuple[float, float] = (0.9, 0.95),
        weight_decay: float = 0.1,
        eps: float = 1e-8,
        decay_all: bool = False,
    ):
        super().__init__(_groups(net, weight_decay, decay_all), lr=lr, betas=betas, eps=eps, fused=True)
        # Lightning refuses to clip a fused AdamW under autocast, because it may unscale fp16 gradients by itself; told that it
        # does not, the scaler (where there is one) unscales them before the clipping, as for any other optimizer.
        self._step_supports_amp_scaling = False

    def load_state_dict(self, state_dict: dict) -> None:
        if "parts" in state_dict:
            raise ValueError("The checkpoint was trained with zoo.optim.Muon: resume with that optimizer.")
        super().load_state_dict(state_dict)


class Muon(Optimizer):
    """Muon on the hidden matrices, AdamW on everything else (embeddings, unembedding, norms, biases), as one optimizer.

    One object, because automatic optimization, clipping and the schedule then treat it as any other optimizer.

    Args:
        net: the network whose parameters are trained; `net.trunk.unembedding` is not a hidden matrix.
        lr: peak learning rate of the hidden matrices.
        adamw_lr: peak learning rate of the rest.
        momentum: Nesterov momentum of the hidden matrices.
        betas: AdamW's betas for the rest.
        weight_decay: decoupled weight decay of every matrix.
        ns_steps: Newton-Schulz iterations of the orthogonalisation.
    """

    def __init__(
        self,
        net: nn.Module,
        lr: float = 0.02,
        adamw_lr: float = 3e-3,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.95),
        weight_decay: float = 0.01,
        ns_steps: int = 5,
    ):
        if any(hasattr(p, "full_tensor") for p in net.parameters()):
            raise ValueError("Muon needs whole matrices, and fsdp2 has sharded them: take zoo.optim.AdamW, or the strategy ddp.")
        # The unembedding is a table of rows, not a map between hidden spaces.
        hidden = {m.weight for m in net.modules() if isinstance(m, nn.Linear)} - {net.trunk.unembedding}
        rest = [p for p in net.parameters() if p.requires_grad and p not in hidden]
        matrices = [p for p in net.parameters() if p.requires_grad and p in hidden]
        self._parts = [
            torch.optim.Muon(matrices, lr=lr, momentum=momentum, weight_decay=weight_decay, ns_steps=ns_steps),
            torch.optim.AdamW(
                [
                    {"params": [p for p in rest if p.ndim >= 2], "weight_decay": weight_decay},
                    {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
                ],
                lr=adamw_lr, betas=betas, fused=True,
            ),
        ]  # fmt: skip
        super().__init__([{"params": [p for part in self._parts for g in part.param_groups for p in g["params"]]}], {})
        self._share()

    def _share(self) -> None:
        """Show the parts' own groups and states, so that a schedule or a clip acts on what the parts use."""
        self.param_groups = [g for part in self._parts for g in part.param_groups]
        self.state.clear()
        for part in self._parts:
            self.state.update(part.state)

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self._parts:
            part.step()
        self._share()
        return loss

    def state_dict(self) -> dict:
        return {"parts": [part.state_dict() for part in self._parts]}

    def load_state_dict(self, state_dict: dict) -> None:
        if "parts" not in state_dict:
            raise ValueError("The checkpoint was trained with another optimizer than zoo.optim.Muon: resume with the one it had.")
        for part, state in zip(self._parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self._share()


def warmup_cosine(step: int, warmup: int, total: int, floor: float) -> float:
    """Factor on the peak learning rate: linear to 1 over `warmup` steps, then cosine down to `floor` at `total`."""
    if step < warmup:
        return (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))


def schedule(optimizer: Optimizer, warmup: int, total: int, floor: float) -> dict:
    """Lightning's configuration of a per-step linear warm-up and cosine decay (MTP sheet 4, CoCoMix sheet 3)."""
    curve = LambdaLR(optimizer, lambda step: warmup_cosine(step, warmup, total, floor))
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": curve, "interval": "step"}}


def gradient_norm(parameters: Sequence[nn.Parameter]) -> torch.Tensor:
    """L2 norm of all gradients, a scalar."""
    grads = [p.grad for p in parameters if p.grad is not None]
    return torch.nn.utils.get_total_norm(grads)
