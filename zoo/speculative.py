"""Speculative decoding: later heads or a small net draft tokens, one forward pass verifies them all (MTP, sec. 3.2).

The text is the plain one: in greedy decoding the same tokens, in sampling the same distribution (arXiv 2211.17192, Theorem 3.5).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from zoo.reading import Reading, Row, window_start
from zoo.sampling import Sampling, draw


class Drafts(NamedTuple):
    """Tokens (B, d) that may follow each row's newest one, and the distributions (B, d, V) that they were drawn from.

    Without distributions the drafts are not random: each is a fixed choice, whatever it was chosen by.
    """

    tokens: Tensor
    proposals: Tensor | None = None

    def first(self, count: int) -> "Drafts":
        return Drafts(self.tokens[:, :count], None if self.proposals is None else self.proposals[:, :count])


def verify(
    sampling: Sampling, logits: Tensor, drafts: Drafts, usable: Tensor, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Tokens (B, d + 1) and how many drafts (B,) are accepted; a row's next tokens are the first accepted + 1.

    logits (B, d + 1, V): the net's, after the newest token and after each of the d drafts. usable (B,): how many of the drafts
    may be accepted at all.

    A draft x from proposal q is accepted with probability min(1, p(x) / q(x)), else a token from the positive part of p - q
    takes its place: together exactly p. A fixed draft is the case q(x) = 1, in which one draw from p does both: it is accepted
    if it is the draft, and takes its place if not. So greedy decoding needs no case of its own.
    """
    tokens, proposals = drafts
    every, count = torch.arange(len(logits), device=logits.device), tokens.shape[1]
    may = torch.arange(count, device=logits.device) < usable[:, None]
    if proposals is None:
        drawn = sampling.choose(logits, generator)  # (B, d + 1)
        return drawn, ((drawn[:, :-1] == tokens) & may).cumprod(1).sum(1)
    p = sampling.probabilities(logits)  # (B, d + 1, V)
    likely = p[:, :-1].gather(2, tokens[..., None])[..., 0]
    proposed = proposals.gather(2, tokens[..., None])[..., 0]
    uniform = torch.rand(tokens.shape, device=logits.device, generator=generator)
    accepted = ((uniform * proposed <= likely) & (likely > 0) & may).cumprod(1).sum(1)
    q = torch.cat((proposals, torch.zeros_like(p[:, :1])), 1)[every, accepted]
    p = p[every, accepted]  # (B, V): where the first draft was rejected, or after the last one
    rest = (p - q * (accepted < usable)[:, None]).clamp(min=0)
    rest = torch.where(rest.sum(-1, keepdim=True) > 0, rest, p)  # p = q up to rounding
    drawn = torch.cat((tokens, tokens.new_zeros(len(tokens), 1)), 1)
    drawn[every, accepted] = draw(rest, generator)
    return drawn, accepted


class HeadDrafts:
    """Heads 2 .. count + 1 draft at the last accepted position, each for a token further ahead (self-speculation).

    All heads' states exist after a pass, but logits are dear: a product with the unembedding reads all its bytes. So one
    product makes head 1's logits at all positions and the other heads' at the position where the row's last step ended; where
    this step ends elsewhere, a second product follows. Heads with unembeddings of their own wait for the position.

    In greedy decoding the drafts are each head's most likely token, in sampling drawn from its distribution: as good as the most
    likely token at low temperatures, and accepted much more often at high ones.
    """

    def __init__(self, net: nn.Module, count: int, sampling: Sampling, generator: torch.Generator | None = None):
        self.net, self.count, self.sampling, self.generator = net, count, sampling, generator
        self.together = count > 0 and net.config.get("unembeddings", "shared") == "shared"
        self.guess: list[int] = []

    def logits(self, states: Tensor) -> Tensor:
        """Head 1's logits (B, t, V) of a step's states (B, t, heads, D)."""
        self.states, width = states, states.shape[1]
        if not self.together:
            return self.net.logits(states[:, :, 0])
        if not self.guess:
            self._expect([0] * len(states))
        self.guess = [min(place, width - 1) for place in self.guess]
        rows, places = self.expected
        later = states[rows, places.clamp(max=width - 1), 1 : self.count + 1]  # (B, count, D)
        logits = self.net.logits(torch.cat((states[:, :, 0], later), 1))
        self.later = logits[:, width:]  # (B, count, V)
        return logits[:, :width]

    def propose(self, rows: list[Row], kept: list[int], ends: list[int]) -> Drafts:
        """Drafts for `rows`, which were number `kept` in the last step; `ends` are the positions at which these ended there."""
        device = self.states.device
        if not self.count:
            return Drafts(torch.zeros(len(rows), 0, dtype=torch.int64, device=device))
        if self.together:
            logits = self.later[kept]  # (B, count, V)
            wrong = [i for i, (row, end) in enumerate(zip(kept, ends)) if self.guess[row] != end]
            if wrong:
                index = torch.tensor(wrong, device=device)
                logits[index] = self.net.logits(self._at([kept[i] for i in wrong], [ends[i] for i in wrong]))
            self._expect(ends)
        else:
            later = self._at(kept, ends)  # (B, count, D)
            logits = torch.stack([self.net.logits(later[:, i], i + 1) for i in range(self.count)], 1)
        if self.sampling.greedy:
            return Drafts(logits.argmax(-1))
        proposals = self.sampling.probabilities(logits)
        return Drafts(draw(proposals, self.generator), proposals)

    def _expect(self, ends: list[int]) -> None:
        """That the next step ends where this one did; told to the device before the step is asked for."""
        self.guess = list(ends)
        self.expected = torch.tensor([list(range(len(ends))), ends], device=next(self.net.parameters()).device)

    def _at(self, rows: Sequence[int], places: Sequence[int]) -> Tensor:
        """The drafting heads' states (B, count, D) at one position of each of these rows."""
        index = torch.tensor([list(rows), list(places)], device=self.states.device)
        return self.states[index[0], index[1], 1 : self.count + 1]


class NetDrafts:
    """A separate, smaller net drafts `count` tokens one after the other, from its own reading of the rows."""

    def __init__(self, net: nn.Module, draft: nn.Module, rows: list[Row], limit: int, count: int, sampling: Sampling, generator):
        self.net, self.draft, self.count, self.sampling, self.generator = net, draft, count, sampling, generator
        # The newest two: an accepted last draft is the only token that the draft net wrote and has not read.
        self.reading = Reading(draft, rows, limit, spare=count, behind=2)
        self.reading.start(rows)

    def logits(self, states: Tensor) -> Tensor:
        """The verifying net's logits (B, t, V) of a step's states (B, t, 1, D)."""
        return self.net.logits(states[:, :, 0])

    def propose(self, rows: list[Row], kept: list[int], ends: list[int]) -> Drafts:
        """Drafts for `rows`, which were number `kept` in the last step."""
        self.reading.go_on(rows, kept)
        tokens, proposals = [torch.tensor([row.text[-2:] for row in rows], device=self.reading.cache.keys.device)], []
        for _ in range(self.count):
            logits = self.draft.logits(self.reading.step(tokens[-1])[:, -1, 0])  # (B, V)
            if self.sampling.greedy:
                tokens.append(logits.argmax(-1, keepdim=True))
            else:
                proposals.append(self.sampling.probabilities(logits))
                tokens.append(draw(proposals[-1], self.generator)[:, None])
        return Drafts(torch.cat(tokens[1:], 1), torch.stack(proposals, 1) if proposals else None)


class Divergence(NamedTuple):
    """The first place where two texts differ, and by how much the plain text's token led there, in logits."""

    index: int
    gap: float


@torch.inference_mode()
def first_divergence(
    plain: Sequence[int], other: Sequence[int], net: nn.Module, prompt: Sequence[int], end: int | None = None
) -> Divergence | None:
    """Where `other`, decoded greedily after `prompt`, first differs from `plain`, decoded token by token; None where it does not.

    The gap is the difference of the two tokens' logits in one pass over the whole window, without speculation: the smaller, the
    less the two ways of computing need to differ to choose differently. Negative: this pass sides with `other`. end: the stop
    token, for texts one of which ended earlier.
    """
    index = next((i for i, (a, b) in enumerate(zip(plain, other)) if a != b), min(len(plain), len(other)))
    if index == len(plain) == len(other):
        return None
    pair = [text[index] if index < len(text) else end for text in (plain, other)]
    if None in pair:
        raise ValueError("One text ends where the other goes on: name the stop token with end.")
    text = [*prompt, *plain[:index]]
    text = text[window_start(len(text), net.context) :]
    device = next(net.parameters()).device
    logits = net.next(torch.tensor([text], device=device), net.cache(1, len(text)))[0, -1].float()
    return Divergence(index, float(logits[pair[0]] - logits[pair[1]]))
