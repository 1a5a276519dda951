"""Medusa decoding (arXiv 2401.10774) with the heads of multi-token prediction (arXiv 2404.19737, sec. 3.2)."""

from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from zoo.generate import PACK_FROM, Generation
from zoo.nn.packed import packed
from zoo.reading import Reading, Row
from zoo.sampling import GREEDY, Sampling
from zoo.tree import Tree
from zoo.writing import Writing


@torch.inference_mode()
def medusa(
    net: nn.Module,
    prompts: Sequence[Sequence[int]] | Tensor,
    limit: int,
    sampling: Sampling = GREEDY,
    *,
    tree: Tree,
    accept: str = "greedy",
    eps: float = 0.09,
    delta: float = 0.3,
    stop: Collection[int] = (),
    until: Callable[[list[int]], bool] | None = None,
    stream: Callable[[int, list[int]], None] | None = None,
    generator: torch.Generator | None = None,
) -> Generation:
    """Continue each prompt by up to `limit` tokens: heads 2, 3, … draft a tree of candidates, head 1 verifies it in one pass.

    accept says which drafts are kept:
    "greedy" (temperature 0): those that head 1 would write. The text is that of plain greedy decoding for any weights and any
    tree, up to rounding where two logits are as good as equal (see `first_divergence`).
    "nucleus": those that equal a token drawn from head 1's distribution under `sampling`, one draw per position; where no draft
    equals it the drawn token itself is the next one. So every token is drawn from that distribution, and the text is sampled
    exactly as plain decoding samples it. (Medusa's mode of this name has top_p = 0.8.)
    "typical": those with p(x) > min(eps, delta exp(-H(p))), p head 1's distribution under `sampling` and H its entropy in nats.
    APPROXIMATE: likely drafts crowd out others, so at a temperature above 0 the text is not distributed as plain sampling's.
    The path with the most kept drafts wins; if several are equally long, which only "typical" allows, the likeliest of them.

    tree: what is tried; its depth is below the net's number of heads. eps, delta: of "typical".
    The other arguments, the result and texts longer than the context: as in `generate`; `accepted` counts per draft depth.
    Raises ValueError where the tree does not fit the net, or `accept` not the sampling.
    """
    if accept not in ("greedy", "typical", "nucleus"):
        raise ValueError(f"accept is 'greedy', 'typical' or 'nucleus', not {accept!r}.")
    if accept == "greedy" and not sampling.greedy:
        raise ValueError(
            f"accept='greedy' is for temperature 0, not {sampling.temperature}: take 'nucleus', which is exact, or 'typical'."
        )
    chosen = (eps, delta) if accept == "typical" else None
    writing = Writing(limit, stop, until, stream, tree.depth)
    return _Decoding(net, None, tree, sampling, chosen, writing, generator).run(prompts)


@torch.inference_mode()
def scored_by(
    net: nn.Module,
    judge: nn.Module,
    prompts: Sequence[Sequence[int]] | Tensor,
    limit: int,
    sampling: Sampling = GREEDY,
    *,
    tree: Tree,
    eps: float = 0.09,
    delta: float = 0.3,
    stop: Collection[int] = (),
    until: Callable[[list[int]], bool] | None = None,
    stream: Callable[[int, list[int]], None] | None = None,
    generator: torch.Generator | None = None,
) -> Generation:
    """APPROXIMATE Medusa: a separate, smaller net scores the heads' candidates, and the longest path that it accepts is kept.

    The judge reads the whole tree in one pass and accepts a draft as `medusa` does with accept="typical", under its own
    distribution; at temperature 0 that is its argmax. The net then reads the kept tokens only and adds one of its own. The text
    is therefore not the net's own, not at temperature 0 either: it is the heads' drafts as far as the judge lets them pass.

    judge: a token net of the same vocabulary. `forwards` and `steps` of the result count the net's passes, and the judge makes
    as many. The other arguments: as in `medusa`.
    """
    if judge.vocab != net.vocab:
        raise ValueError(
            f"The judge has a vocabulary of {judge.vocab} tokens and the net one of {net.vocab}: both need the same tokenizer."
        )
    writing = Writing(limit, stop, until, stream, tree.depth)
    return _Decoding(net, judge, tree, sampling, (eps, delta), writing, generator).run(prompts)


def typical(p: Tensor, eps: float, delta: float) -> Tensor:
    """How likely a token must be to be accepted, min(eps, delta exp(-H(p))) for each distribution p (..., V), H in nats.

    The most likely token always is, if delta < 1: its probability is exp(-H) or more.
    """
    return (delta * (-torch.special.entr(p).sum(-1)).exp()).clamp(max=eps)


class _Decoding:
    """Settings of one call, and its loop."""

    def __init__(self, net, judge, tree, sampling, chosen, writing, generator):
        tree.fits(net)
        eps, delta = chosen or (0.5, 0.5)
        if not (0 < eps < 1 and delta > 0):
            raise ValueError(f"eps is a probability between 0 and 1 and delta is above 0, not {eps} and {delta}.")
        self.device = next(net.parameters()).device
        self.net, self.judge, self.tree, self.sampling = net, judge, tree.to(self.device), sampling
        self.chosen, self.writing, self.generator = chosen, writing, generator
        self.width = int(tree.ranks.max()) + 1
        self.together = net.config.get("unembeddings", "shared") == "shared"

    def run(self, prompts: Sequence[Sequence[int]] | Tensor) -> Generation:
        rows = [Row(index, list(map(int, prompt))) for index, prompt in enumerate(prompts)]
        if any(not row.text for row in rows):
            raise ValueError("A prompt is empty: give at least one token, the end token for instance.")
        nets = [net for net in (self.net, self.judge) if net is not None]
        modes = [net.training for net in nets]
        try:
            with ExitStack() as stack:
                for net in nets:
                    net.eval()
                    if self.writing.limit >= PACK_FROM:
                        stack.enter_context(packed(net))
                forwards = self._fill(rows) if rows and self.writing.limit > 0 else 0
        finally:
            for net, mode in zip(nets, modes):
                net.train(mode)
        tokens, stopped, steps = ([getattr(row, name) for row in rows] for name in ("new", "stopped", "steps"))
        return Generation(tokens, stopped, forwards, steps, self.writing.accepted)

    def _fill(self, rows: list[Row]) -> int:
        """Fill all rows; returns the forward passes after the prompt's."""
        limit, spare, forwards = self.writing.limit, len(self.tree.paths), 0
        own = Reading(self.net, rows, limit, self.tree.depth + 1, spare)
        readings = [own] if self.judge is None else [own, Reading(self.judge, rows, limit, 1, spare)]
        after, *_ = [reading.start(rows) for reading in readings]  # (B, heads, D)
        logits = self.net.logits(after[:, 0])
        blocks = self._known(self.sampling.choose(logits, self.generator)[:, None], logits)
        while kept := self.writing.give(rows, blocks, forwards > 0):
            rows, after = [rows[i] for i in kept], after[kept]
            for reading in readings:
                reading.go_on(rows, kept)
            after, blocks = self._step(rows, readings, after)
            forwards += 1
        return forwards

    def _step(self, rows: list[Row], readings: list[Reading], after: Tensor) -> tuple[Tensor, list[list[int]]]:
        """Draft from the states `after` (B, heads, D) of the token before each row's newest, verify, and read what is kept.

        Returns the states (B, heads, D) of the last token kept, and what each row writes.
        """
        own, scorer = readings[0], readings[-1]
        left = [self.writing.limit - len(row.new) for row in rows]
        room = [min(each) - 1 for each in zip(left, *(reading.room(rows) for reading in readings))]
        tree = self.tree.cut(max(room))
        newest, usable = torch.tensor([[row.text[-1] for row in rows], room], device=self.device)
        nodes = tree.tokens(newest, self._candidates(after, tree.depth))  # (B, m)
        states = scorer.step(nodes, tree.depths, tree.mask)  # (B, m, heads, D)
        logits = scorer.net.logits(states[:, :, 0])  # (B, m, V)
        ends, following = self._verify(tree, nodes, logits, tree.depths <= usable[:, None])
        every, routes, drafts = torch.arange(len(rows), device=self.device), tree.routes[ends], tree.depths[ends]
        path = nodes.gather(1, routes)  # (B, depth + 1)
        if scorer is own:
            after = states[every, ends]
        else:
            after = own.step(path)[every, drafts]
            logits = self.net.logits(after[:, 0])
            following = self.sampling.choose(logits, self.generator)
        written = torch.cat((path[:, 1:], following[:, None]), 1)
        written[every, drafts] = following
        blocks = self._known(written, logits, drafts)
        scorer.cache.keep([held - nodes.shape[1] for held in scorer.cache.held], routes)
        return after, blocks

    def _known(self, tokens: Tensor, logits: Tensor, drafts: Tensor | None = None) -> list[list[int]]:
        """Tokens (B, t) as lists, of each row the first drafts (B,) + 1: the only wait for the device."""
        last = torch.zeros_like(tokens[:, 0]) if drafts is None else drafts
        table = torch.cat((logits.isnan().flatten(1).any(1)[:, None], last[:, None], tokens), 1).tolist()
        if any(row[0] for row in table):
            raise ValueError("The net's logits are not numbers: its training diverged, or its weights are damaged.")
        return [row[2 : 3 + row[1]] for row in table]

    def _candidates(self, after: Tensor, depth: int) -> Tensor:
        """The best tokens (B, depth, R) of heads 2 .. depth + 1."""
        if depth == 0:
            return torch.zeros(len(after), 0, self.width, dtype=torch.int64, device=self.device)
        later = after[:, 1 : depth + 1]  # (B, depth, D)
        if self.together:  # one product with the unembedding, which reads all its bytes
            return self.net.logits(later).topk(self.width).indices
        return torch.stack([self.net.logits(later[:, i], i + 1).topk(self.width).indices for i in range(depth)], 1)

    def _verify(self, tree: Tree, nodes: Tensor, logits: Tensor, usable: Tensor) -> tuple[Tensor, Tensor]:
        """Node (B,) at which each row's longest accepted path ends, and the token (B,) that follows it.

        nodes (B, m); logits (B, m, V) of what follows each node; usable (B, m): which nodes may be accepted at all.
        """
        every = torch.arange(len(nodes), device=self.device)
        if self.chosen is None:
            drawn = self.sampling.choose(logits, self.generator)  # (B, m): one draw per position, whatever was drafted there
            ends = tree.longest(drawn[:, tree.parents].eq(nodes) & usable, torch.zeros_like(nodes, dtype=torch.float32))
            return ends, drawn[every, ends]
        p = self.sampling.probabilities(logits)  # (B, m, V)
        likely = p[every[:, None], tree.parents, nodes]
        accepted = likely > typical(p, *self.chosen)[:, tree.parents]
        ends = tree.longest(accepted & usable, likely.log())
        return ends, self.sampling.choose(logits[every, ends], self.generator)
