"""How much of a net's loss hangs on a choice, counted on the loss itself (arXiv 2404.19737, sec. 5.1, Fig. 9 and S17)."""

import lightning as L
import torch
from torch import nn

from zoo.mtp.why import SURE, fork, hinging_gains


class Emphasis(L.Callback):
    """At test: counts the terms of the net's loss that hinge on a transition, in two small worlds where that is known exactly.

    In one the transition is a choice point: all that follows depends on it and cannot be told before it. In the other it is as
    uncertain, but has no consequences. The terms are those that the net's own `forward` counts; what hinges on what is found
    by enumeration (`zoo.mtp.why`). Weights and data play no part, so a net that was never trained will do.

    Args:
        ways: equally probable ways that the transition can take.

    Logs terms_choice and terms_other, how many terms hinge on the transition in either world; emphasis, the nats of loss that do
    so in the first world over those in the second; and emphasis_formula, the paper's (n + 1) / 2 for this net's n heads.
    """

    def __init__(self, ways: int = 2):
        self.ways = ways

    def on_test_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        n = getattr(module.net, "n", 1)
        choice, other = (weigh(module.net, self.ways, consequential) for consequential in (True, False))
        module.log("test/terms_choice", float(len(choice)))
        module.log("test/terms_other", float(len(other)))
        module.log("test/emphasis", sum(choice.values()) / sum(other.values()))
        module.log("test/emphasis_formula", (n + 1) / 2)


def weigh(net: nn.Module, ways: int = 2, consequential: bool = True) -> dict[tuple[int, int], float]:
    """The terms (t, i) of the net's loss, x_{t+i} given x_{<=t}, that hinge on one uncertain transition, and the nats of each."""
    n = getattr(net, "n", 1)
    world = fork(2 * n + 2, n, ways, consequential)
    held = loss_terms(net, world.length)
    gains = hinging_gains(world, n, n)
    return {place: nats for place, nats in gains.items() if nats > SURE and place in held}


@torch.no_grad()
def loss_terms(net: nn.Module, length: int) -> set[tuple[int, int]]:
    """The terms (t, i) that the net's loss has on a text of `length` tokens: asked of `forward`, one target at a time.

    Raises ValueError where the text is longer than the net's context allows.
    """
    if length > net.context + net.ahead:
        raise ValueError(f"A text of {length} tokens is longer than the net's context of {net.context}: give it a longer one.")
    device = next(net.parameters()).device
    tokens = torch.zeros(1, length, dtype=torch.long, device=device)
    found = set()
    for target in range(length):
        mask = torch.zeros(1, length, dtype=torch.bool, device=device)
        mask[0, target] = True
        parts = net({"tokens": tokens, "doc": torch.zeros_like(tokens), "mask": mask})["parts"]
        counts = [int(count) for _, count in parts.values()]  # head 1, head 2, ...
        found |= {(target - i, i) for i, count in enumerate(counts, 1) if count}
    return found
