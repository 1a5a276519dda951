"""Medusa decoding (arXiv 2401.10774) with the heads of multi-token prediction (arXiv 2404.19737, sec. 3.2)."""

from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor, nn

from zoo.generate import Generation, Row, window_start
from zoo.nn.cache import Cache
from zoo.sampling import GREEDY, Sampling
from zoo.tree import Tree


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
    "greedy" (temperature 0): those that head 1 would write. The text equals plain greedy decoding, for any weights and any tree.
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
    return _Decoding(net, None, tree, sampling, chosen, limit, stop, until, stream, generator).run(prompts)


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
    return _Decoding(net, judge, tree, sampling, (eps, delta), limit, stop, until, stream, generator).run(prompts)


def typical(p: Tensor, eps: float, delta: float) -> Tensor:
    """How likely a token must be to be accepted, min(eps, delta exp(-H(p))) for each distribution p (..., V), H in nats.

    The most likely token always is, if delta < 1: its probability is exp(-H) or more.
    """
    return (delta * (-torch.special.entr(p).sum(-1)).exp()).clamp(max=eps)


class _Decoding:
    """Settings of one call, and its loop."""

    def __init__(self, net, judge, tree, sampling, chosen, limit, stop, until, stream, generator):
        tree.fits(net)
        eps, delta = chosen or (0.5, 0.5)
        if not (0 < eps < 1 and delta > 0):
            raise ValueError(f"eps is a probability between 0 and 1 and delta is above 0, not {eps} and {delta}.")
        self.device = next(net.parameters()).device
        self.net, self.judge, self.tree, self.sampling = net, judge, tree.to(self.device), sampling
        self.chosen, self.limit, self.stop = chosen, limit, frozenset(stop)
        self.until, self.stream, self.generator = until, stream, generator
        self.width = int(tree.ranks.max()) + 1
        self.accepted = [0] * tree.depth

    def run(self, prompts: Sequence[Sequence[int]] | Tensor) -> Generation:
        rows = [Row(index, list(map(int, prompt))) for index, prompt in enumerate(prompts)]
        if any(not row.text for row in rows):
            raise ValueError("A prompt is empty: give at least one token, the end token for instance.")
        nets = [net for net in (self.net, self.judge) if net is not None]
        modes = [net.training for net in nets]
        for net in nets:
            net.eval()
        try:
            forwards = self._fill(rows) if rows and self.limit > 0 else 0
        finally:
            for net, mode in zip(nets, modes):
                net.train(mode)
        return Generation([r.new for r in rows], [r.stopped for r in rows], forwards, [r.steps for r in rows], self.accepted)

    def _fill(self, rows: list[Row]) -> int:
        """Fill all rows; returns the forward passes after the prompt's."""
        spare = len(self.tree.paths)
        own = _Reading(self.net, self.tree.depth + 1, rows, self.limit, spare)
        readings = [own] if self.judge is None else [own, _Reading(self.judge, 1, rows, self.limit, spare)]
        after, *_ = [reading.start(rows) for reading in readings]  # (B, heads, D)
        newest = self.sampling.choose(self.net.logits(after[:, 0]), self.generator)
        kept = self._deliver(rows, [[token] for token in newest.tolist()], [0] * len(rows))
        forwards = 0
        while kept:
            rows = [rows[i] for i in kept]
            for reading in readings:
                reading.go_on(rows, kept)
            after, written, drafts = self._step(rows, readings, after[kept])
            forwards += 1
            for row in rows:
                row.steps += 1
            kept = self._deliver(rows, written, drafts)
        return forwards

    def _step(self, rows: list[Row], readings: list["_Reading"], after: Tensor) -> tuple[Tensor, list[list[int]], list[int]]:
        """Draft from the states `after` (B, heads, D) each row's newest token's predecessor, verify, and read what is kept.

        Returns the states (B, heads, D) of the last token kept, what each row has written, and how many of it are drafts.
        """
        left = [self.limit - len(row.new) - 1 for row in rows]  # a token of the verifier's own comes after the drafts
        room = [min(each) for each in zip(left, *(reading.room(rows) for reading in readings))]
        tree = self.tree.cut(max(room))
        newest = torch.tensor([row.text[-1] for row in rows], device=self.device)
        nodes = tree.tokens(newest, self._candidates(after, tree.depth))  # (B, m)
        allowed = tree.depths <= torch.tensor(room, device=self.device)[:, None]
        every = torch.arange(len(rows), device=self.device)
        own, scorer = readings[0], readings[-1]
        states = scorer.read_tree(nodes, tree)  # (B, m, heads, D)
        logits = scorer.net.logits(states[:, :, 0])  # (B, m, V)
        ends, following = self._verify(tree, nodes, logits, allowed)
        routes, drafts = tree.routes[ends], tree.depths[ends]
        scorer.keep(routes, drafts + 1, len(tree.paths))
        if scorer is own:
            after = states[every, ends]
        else:
            after = own.read(nodes.gather(1, routes), drafts + 1)
            following = self.sampling.choose(self.net.logits(after[:, 0]), self.generator)
        table = torch.cat((drafts[:, None], following[:, None], nodes.gather(1, routes)), dim=1).tolist()  # one wait
        return after, [[*row[3 : 3 + row[0]], row[1]] for row in table], [row[0] for row in table]

    def _candidates(self, after: Tensor, depth: int) -> Tensor:
        """The best tokens (B, depth, R) of heads 2 .. depth + 1."""
        logits = [self.net.logits(after[:, head], head) for head in range(1, depth + 1)]
        best = [x.topk(self.width).indices for x in logits]
        return torch.stack(best, dim=1) if best else torch.zeros(len(after), 0, self.width, dtype=torch.int64, device=self.device)

    def _verify(self, tree: Tree, nodes: Tensor, logits: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:
        """Node (B,) at which each row's longest accepted path ends, and the token (B,) that follows it.

        nodes, allowed (B, m); logits (B, m, V) of what follows each node.
        """
        every = torch.arange(len(nodes), device=self.device)
        if self.chosen is None:
            drawn = self.sampling.choose(logits, self.generator)  # (B, m): one draw per position, whatever was drafted there
            ends = tree.longest(drawn[:, tree.parents].eq(nodes) & allowed, torch.zeros_like(nodes, dtype=torch.float32))
            return ends, drawn[every, ends]
        p = self.sampling.probabilities(logits)  # (B, m, V)
        likely = p[every[:, None], tree.parents, nodes]
        accepted = likely > typical(p, *self.chosen)[:, tree.parents]
        ends = tree.longest(accepted & allowed, likely.log())
        return ends, self.sampling.choose(logits[every, ends], self.generator)

    def _deliver(self, rows: list[Row], written: list[list[int]], drafts: list[int]) -> list[int]:
        """Give each row its tokens up to a stop; the indices of the rows that go on."""
        for row, tokens, count in zip(rows, written, drafts):
            given = 0
            for token in tokens:
                if token in self.stop:
                    row.stopped = row.done = True
                    break
                row.text.append(token)
                row.new.append(token)
                given += 1
                row.stopped = bool(self.until and self.until(row.new))
                row.done = row.stopped or len(row.new) == self.limit
                if row.done:
                    break
            if self.stream and given:
                self.stream(row.index, tokens[:given])
            for depth in range(min(count, given)):
                self.accepted[depth] += 1
        return [i for i, row in enumerate(rows) if not row.done]


class _Reading:
    """What one net has read of each row: its window's tokens but the newest, in a cache with room for a tree."""

    def __init__(self, net: nn.Module, heads: int, rows: list[Row], limit: int, spare: int):
        self.net, self.heads, self.window = net, heads, net.context
        self.begins = [window_start(len(row.text), self.window) for row in rows]
        longest = max(len(row.text) - begin for row, begin in zip(rows, self.begins))
        like = net.cache(1, 1).keys
        layers, _, _, *sizes = like.shape
        # Not net.cache: the drafts of a tree lie side by side, in more slots than there are positions.
        self.cache = Cache(layers, len(rows), min(self.window, longest + limit) + spare, *sizes, like.dtype, like.device)

    def start(self, rows: list[Row]) -> Tensor:
        """Read the prompts; the states (B, heads, D) of their last tokens."""
        return self._read_texts([row.text[begin:] for row, begin in zip(rows, self.begins)], self.cache)

    def go_on(self, rows: list[Row], kept: list[int]) -> None:
        """Go on with the rows `kept` of those before, and read those anew whose window has moved."""
        if len(kept) < len(self.begins):
            self.cache.select(kept)
            self.begins = [self.begins[i] for i in kept]
        begins = [window_start(len(row.text), self.window) for row in rows]
        moved = [i for i, begin in enumerate(begins) if begin != self.begins[i]]
        self.begins = begins
        if moved:
            texts = [rows[i].text[begins[i] : -1] for i in moved]
            fresh = self.net.cache(len(moved), max(1, *map(len, texts)))
            if any(texts):
                self._read_texts(texts, fresh)
            self.cache.put(moved, fresh)

    def room(self, rows: list[Row]) -> list[int]:
        """Drafts after each row's newest token that still lie in its window, and whose successors do."""
        return [self.window - len(row.text) + begin for row, begin in zip(rows, self.begins)]

    def read_tree(self, nodes: Tensor, tree: Tree) -> Tensor:
        """Read a tree of tokens (B, m) that begins with each row's newest; their states (B, m, heads, D)."""
        return self._states(nodes, tree.depths, tree.mask)

    def keep(self, routes: Tensor, counts: Tensor, nodes: int) -> None:
        """Of the last tree, of `nodes` nodes, keep the first `counts` (B,) nodes of each row's route (B, depth + 1)."""
        base = self.cache.lengths - nodes
        self.cache.keep(base, routes)
        self.cache.truncate(base + counts)

    def read(self, tokens: Tensor, counts: Tensor) -> Tensor:
        """Read the first `counts` (B,) of tokens (B, t); the states (B, heads, D) of the last one of each row."""
        states = self._states(tokens, torch.arange(tokens.shape[1], device=tokens.device), None)
        self.cache.truncate(self.cache.lengths - tokens.shape[1] + counts)
        return states[torch.arange(len(tokens), device=tokens.device), counts - 1]

    def _states(self, tokens: Tensor, depths: Tensor, mask: Tensor | None) -> Tensor:
        # What lies beyond the window is never kept; any position will do for it.
        positions = (self.cache.lengths[:, None] + depths).clamp(max=self.window - 1)
        return self.net.states(tokens, self.cache, positions, mask, self.heads)

    def _read_texts(self, texts: list[list[int]], cache: Cache) -> Tensor:
        lengths = [len(text) for text in texts]
        padded = torch.tensor([text + [0] * (max(lengths) - len(text)) for text in texts], device=cache.keys.device)
        states = self.net.states(padded, cache, heads=self.heads)
        last = torch.tensor(lengths, device=padded.device)
        cache.truncate(last)
        return states[torch.arange(len(texts), device=padded.device), last - 1]
