"""How much faster a net decodes with its extra heads, a draft tree or a draft net than with head 1 alone (MTP, sec. 3.2)."""

import math
import time
from collections.abc import Callable
from typing import Literal

import lightning as L
import numpy as np
import torch

from zoo.data.loader import spread
from zoo.generate import Generation, generate
from zoo.meter import busy_seconds
from zoo.nn.packed import packed
from zoo.sampling import Sampling
from zoo.tree import Tree, acceptance


class Decoding(L.Callback):
    """At test: continues held-out prompts with k heads, for each k, and logs the gain over plain cached decoding.

    Prompts are the first tokens of windows spread evenly over the test split; every continuation has `tokens` tokens (no stop
    token), as in Table S2. All ways are run in turn, batch by batch, and the fastest of `rounds` counts.

    Args:
        heads: each k to measure: heads that draft and verify; None takes 2 … all that the net has.
        tree: nodes of a draft tree (zoo.tree) instead of one chain of drafts; None: no tree.
        measured: build the tree from what the net's heads get right on the validation split, not from assumed rates.
        accept: rule for the nodes of a tree. Only "greedy" gives the text of plain decoding.
        draft: folder of a saved net that drafts k - 1 tokens instead of the net's own heads.
        judge: folder of a saved net that scores the tree's paths instead of head 1: approximate by design.
        temperature, top_p: of typical and nucleus acceptance, see `Sampling`; 0 and None elsewhere. Plain decoding is greedy.
        prompts, batch: how many, and rows at a time.
        prompt_tokens, tokens: how long a prompt is and how much is added; None is half the net's context each.
        rounds: repetitions of each batch.

    Logs for each k (also of a tree: its depth is k - 1): tokens_per_forward@k; accepted<j>@k, percent of forwards in which at
    least j drafts were accepted; identical@k, percent of rows with plain decoding's text; speedup@k, seconds of plain decoding
    over these; decoded_per_second@k, tokens; and decoded_per_second@1, of plain decoding.
    """

    def __init__(
        self,
        heads: list[int] | None = None,
        tree: int | None = None,
        accept: Literal["greedy", "typical", "nucleus"] = "greedy",
        draft: str | None = None,
        judge: str | None = None,
        temperature: float = 0.0,
        top_p: float | None = None,
        prompts: int = 16,
        batch: int = 1,
        prompt_tokens: int | None = None,
        tokens: int | None = None,
        rounds: int = 2,
        measured: bool = False,
    ):
        if measured and not tree:
            raise ValueError("Decoding: measured says how a tree is built: give `tree` too.")
        if judge and not tree:
            raise ValueError("Decoding: a judge scores the paths of a tree: give `tree` too.")
        if draft and tree:
            raise ValueError("Decoding: a draft net drafts a chain, not a tree: give one of `draft` and `tree`.")
        sampled = bool(temperature) or top_p is not None
        if (sampled or accept != "greedy") and (not tree or judge):
            raise ValueError("Decoding: accept, temperature and top_p are of a tree that no judge scores: leave them out.")
        if sampled and accept == "greedy":
            raise ValueError("Decoding: accept='greedy' is for temperature 0: take 'nucleus', which is exact, or 'typical'.")
        if min(prompts, batch, rounds) < 1:
            raise ValueError(f"Decoding: prompts, batch and rounds must be at least 1, not {prompts}, {batch}, {rounds}.")
        self.heads, self.tree, self.accept, self.draft, self.judge = heads, tree, accept, draft, judge
        self.measured = measured
        self.sampling = Sampling(temperature, top_p=top_p)
        self.prompts, self.batch, self.rounds = prompts, batch, rounds
        self.prompt_tokens, self.tokens = prompt_tokens, tokens

    def on_test_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if trainer.world_size > 1:
            raise ValueError("Decoding measures one process: test the saved net with --trainer.devices=1.")
        net = module.net
        length, count = self.prompt_tokens or net.context // 2, self.tokens or net.context // 2
        if length + count > net.trunk.positions:
            raise ValueError(
                f"Decoding: {length} + {count} tokens are more than the net's {net.trunk.positions} positions: "
                "make prompt_tokens or tokens smaller."
            )
        self._fits(trainer.datamodule)
        ways = {1: lambda rows: generate(net, rows, count)}
        rates = None
        if self.measured:
            rates = acceptance(net, self._prompts(trainer.datamodule, length, "validation"), count).tolist()
        ways |= {k: self._way(net, k, count, rates) for k in self.heads or range(2, getattr(net, "n", 1) + 1) if k != 1}
        prompts = self._prompts(trainer.datamodule, length, "test")
        machine, own, began = *busy_seconds(), time.perf_counter()
        batches = [prompts[i : i + self.batch] for i in range(0, len(prompts), self.batch)]
        with torch.inference_mode(), packed(net):  # once: packing anew for every batch would count as decoding
            totals = race(ways, batches, self.rounds, module.device)
        others = busy_seconds()[0] - machine - (busy_seconds()[1] - own)
        seen = max(others, 0.0) / (time.perf_counter() - began)  # in this order, nan stays nan
        module.measured = measured = getattr(module, "measured", {})  # of Meter, where the net was trained in this process
        measured["crowd"] = None if math.isnan(seen) else max(seen, measured.get("crowd") or 0.0)
        for k, total in totals.items():
            module.log(f"test/decoded_per_second@{k}", total.emitted / total.seconds)
            if k == 1 and 1 not in (self.heads or ()):
                continue
            module.log(f"test/speedup@{k}", totals[1].seconds / total.seconds)
            module.log(f"test/tokens_per_forward@{k}", 1 + sum(total.accepted) / max(1, total.steps))
            module.log(f"test/identical@{k}", 100.0 * np.mean([a == b for a, b in zip(total.texts, totals[1].texts)]))
            for j, often in enumerate(total.accepted, 1):
                module.log(f"test/accepted{j}@{k}", 100.0 * often / max(1, total.steps))

    def _prompts(self, data, length: int, split: str) -> list[list[int]]:
        count = data.windows(split)
        chosen = spread(np.arange(min(self.prompts, count)), count, min(self.prompts, count))
        return data.stores[split].windows(chosen * data.context, length).tolist()

    def _fits(self, data) -> None:
        """Raise ValueError where the other net has another tokenizer, whose ids mean something else."""
        from zoo.data.tokenizer import load_tokenizer

        for folder in filter(None, (self.draft, self.judge)):
            if load_tokenizer(f"{folder}/tokenizer").fingerprint != data.tokenizer.fingerprint:
                raise ValueError(f"Decoding: the net in {folder} has another tokenizer than the data: train it on these data.")

    def _way(self, net, k: int, count: int, rates: list[list[float]] | None = None) -> Callable[[list[list[int]]], Generation]:
        """Prompts -> what this callback's way of decoding makes of them. rates: of each head's guesses, see `Tree.likeliest`."""
        from zoo.pretrained import from_pretrained

        device = next(net.parameters()).device
        if self.draft:
            other = from_pretrained(self.draft).to(device)
            return lambda rows: generate(net, rows, count, heads=k, draft=other)
        if not self.tree:
            return lambda rows: generate(net, rows, count, heads=k)
        from zoo.medusa import medusa, scored_by

        tree = Tree.likeliest(rates[: k - 1], self.tree) if rates else Tree.default(k, self.tree)
        if self.judge:
            other = from_pretrained(self.judge).to(device)
            return lambda rows: scored_by(net, other, rows, count, tree=tree)

        def way(rows: list[list[int]]) -> Generation:
            draws = torch.Generator(device).manual_seed(0)  # anew: all rounds of a batch time the same text
            return medusa(net, rows, count, self.sampling, tree=tree, accept=self.accept, generator=draws)

        return way


class Total:
    """What the batches of one way of decoding add up to; seconds: of the fastest round of each batch."""

    def __init__(self) -> None:
        self.seconds, self.steps, self.emitted = 0.0, 0, 0
        self.accepted: list[int] = []
        self.texts: list[list[int]] = []

    def add(self, made: Generation, seconds: float) -> None:
        self.seconds += seconds
        self.steps += sum(made.steps)
        self.emitted += sum(map(len, made.tokens))
        self.accepted = [a + b for a, b in zip(self.accepted or [0] * len(made.accepted), made.accepted)]
        self.texts += made.tokens


def race(
    ways: dict[int, Callable[[list[list[int]]], Generation]], batches: list[list[list[int]]], rounds: int, device: torch.device
) -> dict[int, Total]:
    """Run every way on every batch, in turn and `rounds` times; the first batch once more before, so that all are warm."""
    totals = {name: Total() for name in ways}
    for way in ways.values():
        way(batches[0])
    for batch in batches:
        fastest, made = dict.fromkeys(ways, math.inf), {}
        for _ in range(rounds):
            for name, way in ways.items():
                start = _now(device)
                made[name] = way(batch)
                fastest[name] = min(fastest[name], _now(device) - start)
        for name, total in totals.items():
            total.add(made[name], fastest[name])
    return totals


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
