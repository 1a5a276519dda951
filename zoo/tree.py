"""Sparse trees of drafted tokens that one forward pass verifies (Medusa's idea, with the heads of arXiv 2404.19737; sec. 3.2)."""

import heapq
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from zoo.generate import generate


class Tree(NamedTuple):
    """Which of the heads' candidates are tried together.

    A node is the path of ranks that leads to it: (1, 0) is head 3's best token after head 2's second best one. The root () is
    head 1's own token, which needs no trial. Nodes are ordered by depth, so that the first ones are a tree again.

    paths: m node paths. parents (m,) int64: index of each node's parent, the root's is 0. depths (m,) int64: places after the
    root. ranks (m,) int64: last entry of each path, the root's is 0. mask (m, m) bool: True where column is row or an
    ancestor of it, what a node may look at beside the text before the root. routes (m, depth + 1) int64: the nodes from the root
    to each, and 0 for the rest of the row.
    """

    paths: tuple[tuple[int, ...], ...]
    parents: Tensor
    depths: Tensor
    ranks: Tensor
    mask: Tensor
    routes: Tensor

    @classmethod
    def sparse(cls, paths: Iterable[Sequence[int]]) -> "Tree":
        """The tree of these paths and all their beginnings. Raises ValueError for a rank that is not a whole number from 0 on."""
        wanted = {tuple(path) for path in paths}
        wrong = sorted((path for path in wanted if any(type(rank) is not int or rank < 0 for rank in path)), key=str)
        if wrong:
            raise ValueError(f"A path of a draft tree is a list of ranks, whole numbers from 0 on, not {wrong[0]}.")
        closed = {path[:end] for path in wanted for end in range(len(path) + 1)} | {()}
        nodes = sorted(closed, key=lambda path: (len(path), path))
        index = {path: i for i, path in enumerate(nodes)}
        mask = torch.zeros(len(nodes), len(nodes), dtype=torch.bool)
        routes = torch.zeros(len(nodes), len(nodes[-1]) + 1, dtype=torch.int64)
        for i, path in enumerate(nodes):
            route = [index[path[:end]] for end in range(len(path) + 1)]
            mask[i, route] = True
            routes[i, : len(route)] = torch.tensor(route)
        return cls(
            tuple(nodes),
            torch.tensor([index[path[:-1]] for path in nodes]),
            torch.tensor([len(path) for path in nodes]),
            torch.tensor([path[-1] if path else 0 for path in nodes]),
            mask,
            routes,
        )

    @classmethod
    def likeliest(cls, acceptance: Sequence[Sequence[float]], nodes: int) -> "Tree":
        """The tree of at most `nodes` nodes with the most accepted drafts to be expected.

        acceptance[d][r]: how often head d + 2's r-th best token is right, where the tokens before it were; independent of
        which, so that a node is accepted as often as the product along its path says. A child's product is never above its
        parent's: the `nodes` largest products are a tree, and no other tree has a larger sum.
        """
        if nodes < 1:
            raise ValueError(f"A draft tree has at least its root, so nodes is 1 or more, not {nodes}.")
        chosen, frontier = [], [(-1.0, 0, ())]
        while frontier and len(chosen) < nodes:
            value, depth, path = heapq.heappop(frontier)
            chosen.append(path)
            if depth < len(acceptance):
                for rank, share in enumerate(acceptance[depth]):
                    if share > 0:
                        heapq.heappush(frontier, (value * share, depth + 1, (*path, rank)))
        return cls.sparse(chosen)

    @classmethod
    def default(cls, heads: int, nodes: int = 16) -> "Tree":
        """A tree for a net of `heads` heads of which nothing was measured.

        It assumes that the best draft is right 6 times in 10 where the one before was, a fifth less often with each head, and
        that each next rank is right 0.4 times as often. A large tree costs time on a CPU, and beyond about 64 nodes anywhere.
        """
        return cls.likeliest([[0.6 * 0.8**depth * 0.4**rank for rank in range(10)] for depth in range(heads - 1)], nodes)

    @classmethod
    def measure(cls, net: nn.Module, prompts: Sequence[Sequence[int]] | Tensor, nodes: int = 16, *, limit: int = 64) -> "Tree":
        """The tree for `net` by what its heads get right in `limit` greedy tokens after each prompt; see `acceptance`.

        Take prompts from the validation split: a tree chosen on test text would flatter the speed measured there.
        """
        return cls.likeliest(acceptance(net, prompts, limit).tolist(), nodes)

    @property
    def depth(self) -> int:
        """Drafts on the longest path."""
        return len(self.paths[-1])

    def cut(self, depth: int) -> "Tree":
        """The nodes at most `depth` places after the root."""
        if depth >= self.depth:
            return self
        depth = max(depth, 0)
        count = sum(len(path) <= depth for path in self.paths)
        vectors = (x[:count] for x in (self.parents, self.depths, self.ranks))
        return Tree(self.paths[:count], *vectors, self.mask[:count, :count], self.routes[:count, : depth + 1])

    def to(self, device: torch.device | str) -> "Tree":
        """The same tree with its tensors on `device`."""
        return Tree(self.paths, *(x.to(device) for x in self[1:]))

    def tokens(self, root: Tensor, candidates: Tensor) -> Tensor:
        """The nodes' tokens (B, m): the root's (B,), and candidates (B, n - 1, R) of heads 2..n, best first, for the others."""
        width = candidates.shape[2] if self.depth else 0
        drafts = candidates.flatten(1)[:, (self.depths[1:] - 1) * width + self.ranks[1:]]
        return torch.cat((root[:, None], drafts), dim=1)

    def longest(self, accepted: Tensor, likelihood: Tensor) -> Tensor:
        """The end (B,) int64 of each row's longest path whose drafts are all accepted; the root needs no acceptance.

        accepted (B, m) bool per node. likelihood (B, m): log-probability of each node after its parent; of paths that are
        equally long the one with the largest sum is taken, of these the first.
        """
        whole = (accepted[:, None] | ~self.mask | (self.depths == 0)).all(2)  # (B, m): the node and its ancestors
        lengths = self.depths.masked_fill(~whole, -1)
        sums = likelihood.masked_fill(~accepted, 0.0) @ self.mask.T.to(likelihood.dtype)  # not -inf: 0 * -inf would be nan
        return sums.masked_fill(lengths < lengths.amax(1, keepdim=True), -torch.inf).argmax(1)

    def fits(self, net: nn.Module) -> None:
        """Raise ValueError when `net` has too few heads or tokens for this tree."""
        heads = getattr(net, "n", 1)
        if self.depth >= heads:
            raise ValueError(
                f"A draft tree of depth {self.depth} needs {self.depth + 1} heads and this net has {heads}: cut the tree to "
                f"depth {heads - 1} or take a net with more heads."
            )
        widest = int(self.ranks.max()) + 1
        if widest > net.vocab:
            raise ValueError(
                f"A draft tree that tries {widest} tokens in one place does not fit a vocabulary of {net.vocab}: "
                f"keep its ranks below {net.vocab}, with fewer nodes for instance."
            )


@torch.inference_mode()
def acceptance(net: nn.Module, prompts: Sequence[Sequence[int]] | Tensor, limit: int = 64, ranks: int = 10) -> Tensor:
    """How often, in the net's own greedy text, the r-th best guess of head d + 2 is the token that comes: (n - 1, ranks) shares.

    The net continues each prompt by `limit` tokens, and every head's guesses are compared with that continuation: what a tree
    meets in greedy decoding. Raises ValueError where no continuation is long enough to tell.
    """
    prompts = [list(map(int, prompt)) for prompt in prompts]
    heads, ranks, mode = getattr(net, "n", 1), min(ranks, net.vocab), net.training
    right, tried = torch.zeros(heads - 1, ranks, dtype=torch.float64), torch.zeros(heads - 1, 1, dtype=torch.float64)
    written = generate(net, prompts, limit).tokens
    net.eval()
    try:
        for prompt, new in zip(prompts, written):
            for head, places in enumerate(_places(net, prompt, new), 1):
                right[head - 1] += torch.bincount(places[places < ranks], minlength=ranks).cpu()
                tried[head - 1] += len(places)
    finally:
        net.train(mode)
    if not (tried > 0).all():
        raise ValueError(f"The continuations are too short to try {heads} heads: ask for limit={heads} tokens or more.")
    return right / tried


def _places(net: nn.Module, prompt: list[int], new: list[int]) -> list[Tensor]:
    """Of heads 2 .. n, in which place (t,) of each of its guesses the token stands that came; 0 is the best one.

    Guesses are made from the prompt's last token on, as far as the window of the last tokens reaches back.
    """
    text = torch.tensor([prompt + new], device=next(net.parameters()).device)[:, -net.context :]
    first, heads = max(text.shape[1] - len(new) - 1, 0), getattr(net, "n", 1)
    states = net.states(text[:, :-1], net.cache(1, text.shape[1]), heads=heads)[0, first:]  # (t, heads, D)
    found = []
    for head in range(1, heads):
        targets = text[0, first + 1 + head :, None]  # (t - head, 1)
        logits = net.logits(states[: len(targets), head], head)
        found.append((logits > logits.gather(1, targets)).sum(1))
    return found
