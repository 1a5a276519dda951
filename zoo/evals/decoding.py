"""How much faster a net decodes with its extra heads, a draft tree or a draft net than with head 1 alone (MTP, sec. 3.2)."""

import math
import time
from collections.abc import Callable
from typing import Literal

import lightning as L
import torch

from zoo.data.loader import spread
from zoo.generate import Generation, generate
from zoo.meter import busy_seconds
from zoo.sampling import Sampling

TREES = ("greedy", "typical", "nucleus")


class Decoding(L.Callback):
    """At test: continues held-out prompts, races that against plain cached decoding of the same net, and logs what it gains.

    Prompts are the first tokens of windows spread evenly over the test split; every continuation has `tokens` tokens (no stop
    token), as in Table S2. Both ways are run in turn, batch by batch, and the fastest of `rounds` counts.

    Args:
        heads: heads that draft and verify (k of Table S2); None takes all that the net has, 1 is plain decoding.
        tree: nodes of a Medusa tree (sheet of Cai et al. 2024) instead of one chain of drafts; None: no tree.
        accept: rule for the nodes of a tree. Only "greedy" gives the text of plain decoding.
        draft: folder of a saved net that drafts `heads` - 1 tokens instead of the net's own heads.
        judge: folder of a saved net that scores the tree's paths instead of head 1: approximate by design.
        temperature: of typical and nucleus acceptance; 0 elsewhere.
        prompts, prompt_tokens, tokens, batch: how many, how long, how much is added, rows at a time; None is half the net's context.
        rounds: repetitions of each batch; 0 measures no times.

    Logs tokens_per_forward; accepted1 … (percent of forwards in which at least so many drafts were accepted); identical (percent
    of rows whose text is plain decoding's); speedup (seconds of plain decoding over these) and decoded_per_second (tokens).
    """

    def __init__(
        self,
        heads: int | None = None,
        tree: int | None = None,
        accept: Literal["greedy", "typical", "nucleus"] = "greedy",
        draft: str | None = None,
        judge: str | None = None,
        temperature: float = 0.0,
        prompts: int = 16,
        prompt_tokens: int | None = None,
        tokens: int | None = None,
        batch: int = 1,
        rounds: int = 2,
    ):
        if judge and not tree:
            raise ValueError("Decoding: a judge scores the paths of a tree: give `tree` too.")
        if draft and (tree or not heads):
            raise ValueError("Decoding: with `draft`, `heads` - 1 tokens are drafted by that net: give `heads`, and no `tree`.")
        self.heads, self.tree, self.accept, self.draft, self.judge = heads, tree, accept, draft, judge
        self.temperature, self.prompts, self.prompt_tokens, self.tokens = temperature, prompts, prompt_tokens, tokens
        self.batch, self.rounds = batch, rounds

    def on_test_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if trainer.world_size > 1:
            raise ValueError("Decoding measures one process: test the saved net with --trainer.devices=1.")
        net, data = module.net, trainer.datamodule
        length, count = self.prompt_tokens or net.context // 2, self.tokens or net.context // 2
        if length + count > net.trunk.positions:
            raise ValueError(
                f"Decoding: {length} + {count} tokens are more than the net's {net.trunk.positions} positions: "
                "make prompt_tokens or tokens smaller."
            )
        prompts = self._prompts(data, length)
        ours, plain = self._way(net, count), lambda rows: generate(net, rows, count)
        total, times, same = _Sum(), [0.0, 0.0], 0
        machine, own, began = *busy_seconds(), time.perf_counter()
        generate(net, prompts[: self.batch], min(8, count))  # what is allocated or packed once is no decoding
        for first in range(0, len(prompts), self.batch):
            rows = prompts[first : first + self.batch]
            best, made = [math.inf, math.inf], [None, None]
            for _ in range(max(1, self.rounds)):
                for i, way in enumerate((plain, ours)):
                    start = _now(module.device)
                    made[i] = way(rows)
                    best[i] = min(best[i], _now(module.device) - start)
            times = [a + b for a, b in zip(times, best)]
            total.add(made[1])
            same += sum(a == b for a, b in zip(made[0].tokens, made[1].tokens))
        if self.rounds:
            crowd = [(now - then) for now, then in zip(busy_seconds(), (machine, own))]
            seen = max(0.0, crowd[0] - crowd[1]) / (time.perf_counter() - began)
            known = module.measured.get("crowd")
            module.measured["crowd"] = None if math.isnan(seen) else max(seen, known or 0.0)
            module.log("test/speedup", times[0] / times[1])
            module.log("test/decoded_per_second", total.emitted / times[1])
        module.log("test/tokens_per_forward", total.tokens_per_forward)
        module.log("test/identical", 100.0 * same / len(prompts))
        for j, often in enumerate(total.accepted, 1):
            module.log(f"test/accepted{j}", 100.0 * often / total.steps)

    def _prompts(self, data, length: int) -> list[list[int]]:
        store, count = data.stores["test"], data.windows("test")
        chosen = spread(torch.arange(min(self.prompts, count)).numpy(), count, min(self.prompts, count))
        return store.windows(chosen * data.context, length).tolist()

    def _way(self, net, count: int) -> Callable[[list[list[int]]], Generation]:
        """Prompts -> what this callback's way of decoding makes of them."""
        from zoo.pretrained import from_pretrained

        device = next(net.parameters()).device
        heads = self.heads or getattr(net, "n", 1)
        if self.draft:
            other = from_pretrained(self.draft).to(device)
            return lambda rows: generate(net, rows, count, heads=heads, draft=other)
        if not self.tree:
            return lambda rows: generate(net, rows, count, heads=heads)
        from zoo.medusa import medusa, scored_by
        from zoo.tree import Tree

        tree, sampling = Tree.default(heads, self.tree), Sampling(self.temperature)
        draws = torch.Generator(device).manual_seed(0)
        if self.judge:
            other = from_pretrained(self.judge).to(device)
            return lambda rows: scored_by(net, other, rows, count, tree=tree)
        return lambda rows: medusa(net, rows, count, sampling, tree=tree, accept=self.accept, generator=draws)


class _Sum:
    """What several generations add up to."""

    def __init__(self) -> None:
        self.steps, self.emitted, self.accepted = 0, 0, []

    def add(self, made: Generation) -> None:
        self.steps += sum(made.steps)
        self.emitted += sum(map(len, made.tokens))
        self.accepted = [a + b for a, b in zip(self.accepted or [0] * len(made.accepted), made.accepted)]

    @property
    def tokens_per_forward(self) -> float:
        return 1 + sum(self.accepted) / self.steps


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
