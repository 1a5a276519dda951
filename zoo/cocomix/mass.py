"""How well concepts steer: what a concept does to the probability of its own tokens, beside what others do to it."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from zoo.cocomix.cards import Cards
from zoo.cocomix.steering import SteerableCoCoMix, SteerableTeacher, steered, strength


class Picks(NamedTuple):
    """Which concepts are scored, all fixed on the training text: concept -> its tokens, and -> the random ones beside it."""

    tokens: dict[int, list[int]]
    others: dict[int, list[int]]


class Score(NamedTuple):
    """In nats, for each scored concept and prompt (n, P): how much the log of the probability that the next token is one of the
    concept's rises when the concept is set (own), and the mean of that when a random one is set instead (other).

    value: what the concepts were set to.
    """

    own: Tensor
    other: Tensor
    value: float

    @property
    def gains(self) -> Tensor:
        """What the concept does more than others, mean over prompts: (n,)."""
        return (self.own - self.other).mean(1)

    @property
    def mean(self) -> float:
        return float(self.gains.mean())

    @property
    def interval(self) -> float:
        """Half the width of the mean's 95 % interval over concepts (Student's t); nan for one concept."""
        from scipy import stats  # here, so that a node without scipy can do the rest

        count = len(self.gains)
        return float(self.gains.std() / math.sqrt(count) * stats.t.ppf(0.975, count - 1)) if count > 1 else math.nan

    def line(self, name: str) -> str:
        low, high = self.mean - self.interval, self.mean + self.interval
        return (
            f"{name}: {self.mean:+.3f} nats (95 % interval {low:+.3f} to {high:+.3f}, over {self.own.shape[0]} concepts, "
            f"{self.own.shape[1]} prompts each); set to {self.value:.3g}, a concept raises its own tokens by "
            f"{float(self.own.mean()):+.3f}, a random one of its frequency by {float(self.other.mean()):+.3f}"
        )


def picks(cards: Cards, concepts: int = 50, others: int = 20, least: int = 100, seed: int = 0) -> Picks:
    """The rule: of the concepts that are a label in at least `least` places, those whose characteristic tokens together have the
    highest lift; beside each, `others` drawn at random among the three times as many concepts that are closest in frequency.

    Raises ValueError, in a sentence, where there are too few.
    """
    able = [concept for concept, card in cards.cards.items() if card.count >= least and card.lifted]
    if len(able) < concepts or len(cards.cards) <= others:
        raise ValueError(
            f"{concepts} concepts beside {others} others each are to be scored, and of {len(cards.cards)} that occur {len(able)} "
            f"have characteristic tokens and stand in {least} places: make cards of more windows, or score fewer."
        )
    chosen = sorted(able, key=lambda concept: (-cards[concept].lift, concept))[:concepts]
    known = np.array(sorted(cards.cards))
    size = np.log([cards[concept].count for concept in known.tolist()])
    beside = {}
    for concept in chosen:
        distance = np.abs(size - np.log(cards[concept].count))
        closest = known[np.argsort(distance, kind="stable")]
        closest = closest[closest != concept][: 3 * others]
        beside[concept] = np.random.default_rng([seed, concept]).choice(closest, others, replace=False).tolist()
    return Picks({concept: [token.id for token in cards[concept].lifted] for concept in chosen}, beside)


@torch.inference_mode()
def score(
    net: SteerableCoCoMix | SteerableTeacher,
    prompts: Sequence[Sequence[int]],
    picked: Picks,
    factor: float = 4.0,
    everywhere: bool = True,
    rows: int = 64,
) -> Score:
    """Set each concept in turn, and read what the net predicts right after each prompt.

    net: in evaluation mode. prompts: token ids. factor: times what a strong concept's value is at these prompts (`strength`).
    everywhere: set it at every token; else at the prompt's last only. rows: concepts that are set at a time, one in each row.
    A concept that is wanted more than once, as one of the scored or beside several of them, is set once.
    """
    device, value = next(net.parameters()).device, factor * strength(net, prompts)
    chosen, lists = list(picked.tokens), list(picked.tokens.values())
    sets = sorted({*chosen, *(other for others in picked.others.values() for other in others)})
    place = {concept: i for i, concept in enumerate(sets)}
    own = [place[concept] for concept in chosen]
    other = torch.tensor([[place[one] for one in picked.others[concept]] for concept in chosen])  # (n, R)
    gains, others = [], []
    for prompt in prompts:
        start = 0 if everywhere else len(prompt) - 1
        tokens = torch.tensor([list(prompt)], device=device)
        plain = _masses(net, tokens, lists)  # (1, n)
        masses = []
        for part in torch.tensor(sets, device=device).split(rows):
            with steered(net, part, value, start):
                masses.append(_masses(net, tokens.expand(len(part), -1), lists))
        rise = (torch.cat(masses) - plain).cpu()  # (sets, n)
        columns = torch.arange(len(chosen))
        gains.append(rise[own, columns])
        others.append(rise[other, columns[:, None]].mean(1))
    return Score(torch.stack(gains, 1), torch.stack(others, 1), value)


def _masses(net, tokens: Tensor, lists: list[list[int]]) -> Tensor:
    """Log of the probability that what follows tokens (B, T) is one of each list: (B, n), in fp32."""
    width = max(map(len, lists))
    ids = torch.tensor([each + each[:1] * (width - len(each)) for each in lists], device=tokens.device)
    padding = torch.tensor([[i >= len(each) for i in range(width)] for each in lists], device=tokens.device)
    last = net.states(tokens, net.cache(*tokens.shape))[:, -1, 0]
    known = net.logits(last).float().log_softmax(-1)[:, ids]  # (B, n, width)
    return known.masked_fill(padding, -math.inf).logsumexp(-1)
