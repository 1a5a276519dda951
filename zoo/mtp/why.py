"""Why predicting several tokens should help, as exact computations on small worlds (arXiv 2404.19737, sec. 5 and App. L).

Everything is fp64 and in nats, by enumeration: nothing is sampled or fitted.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

SURE = 1e-12  # nats: below it, a term is certain


@dataclass(frozen=True)
class World:
    """All texts there are, and how probable each is: tokens (S, T) int64, probabilities (S,) fp64 that add up to 1.

    Raises ValueError for probabilities that are none.
    """

    tokens: Tensor
    probabilities: Tensor

    def __post_init__(self):
        p = self.probabilities
        if self.tokens.ndim != 2 or p.shape != self.tokens.shape[:1] or p.dtype != torch.float64:
            raise ValueError("A world is tokens (S, T) and their probabilities (S,) in fp64.")
        if bool((p < 0).any()) or abs(float(p.sum()) - 1) > 1e-9:
            raise ValueError("The probabilities of a world are at least 0 and add up to 1.")

    @property
    def length(self) -> int:
        return self.tokens.shape[1]


def fork(length: int, at: int, ways: int = 2, consequential: bool = True) -> World:
    """Texts of `length` tokens that differ from token `at` on, in one of `ways` equally probable ways; all else is certain.

    consequential: every later token depends on which way was taken, as in Fig. 9 (5 -> A -> B ...). Otherwise the ways
    differ in token `at` alone, like two spellings, and the text goes on as if nothing had happened.
    """
    if not (1 <= at < length and ways >= 2):
        raise ValueError(f"A fork of {ways} ways at token {at} of {length} is none: at least 2 ways, after the first token.")
    tokens = torch.arange(length).expand(ways, length).clone()
    end = length if consequential else at + 1
    tokens[:, at:end] += length * torch.arange(ways)[:, None]
    return World(tokens, torch.full((ways,), 1 / ways, dtype=torch.float64))


def joined(first: World, second: World) -> World:
    """Texts of the first world, each followed by texts of the second one, whose tokens are made different from the first's."""
    s, t = len(first.tokens), len(second.tokens)
    shifted = second.tokens - second.tokens.min() + first.tokens.max() + 1
    tokens = torch.cat([first.tokens.repeat_interleave(t, 0), shifted.repeat(s, 1)], dim=1)
    return World(tokens, (first.probabilities[:, None] * second.probabilities).flatten())


def uncertainty(world: World, targets: Sequence[int], known: Sequence[int]) -> float:
    """H(tokens at `targets` | tokens at `known`) in nats, by enumeration of the world."""
    both = _marginal(world, sorted({*targets, *known}))
    return float(entropy(both) - entropy(_marginal(world, sorted(known))))


def terms(world: World, n: int) -> dict[tuple[int, int], float]:
    """Every term of the n-token loss and the least it can cost: (t, i) -> H(x_{t+i} | x_{<=t}), i = 1 .. n (eq. 2)."""
    return {(t, i): uncertainty(world, [t + i], range(t + 1)) for t, i in _places(world, n)}


def hinging(world: World, n: int, transition: int) -> list[tuple[int, int]]:
    """The terms (t, i) of the n-token loss that hinge on a transition, the one to token `transition`.

    A term hinges on it where it is predicted without having seen the transition, and seeing it would make it surer:
    I(x_{t+i}; x_transition | x_{<=t}) > 0. For a choice whose consequences cannot be told before it these are n(n+1)/2 terms,
    for one without consequences n (sec. 5.1, App. L.3, Fig. 9 and S17).
    """
    return [place for place, nats in hinging_gains(world, n, transition).items() if nats > SURE]


def emphasis(world: World, n: int, transition: int) -> float:
    """Nats of the n-token loss that hinge on a transition: the sum over all terms of I(x_{t+i}; x_transition | x_{<=t})."""
    return sum(hinging_gains(world, n, transition).values())


def hinging_gains(world: World, n: int, transition: int) -> dict[tuple[int, int], float]:
    """By how many nats seeing a transition makes each term (t, i) cheaper that is to be predicted from before it.

    Raises ValueError for a transition so near an end of the text that terms are missing.
    """
    if not n <= transition <= world.length - n:
        raise ValueError(f"Transition {transition} lies within {n} tokens of an end of the text, where terms are missing.")
    found = {}
    for t, i in _places(world, n):
        if t < transition <= t + i:
            seen = range(t + 1)
            found[t, i] = uncertainty(world, [t + i], seen) - uncertainty(world, [t + i], [*seen, transition])
    return found


def choice(world: World, values: Tensor, prefix: Sequence[int]) -> float:
    """sigma_pi(x_{t:1}): how much hangs on the token after `prefix` (App. L.3).

    values (S,) fp64: what each text of the world is worth. Returns the standard deviation, over the token that comes next, of the
    value that is then to be expected. Raises ValueError for a prefix that the world does not hold.
    """
    step = len(prefix)
    alive = (world.tokens[:, :step] == torch.tensor(list(prefix), dtype=torch.long)).all(1)
    mass = world.probabilities * alive
    if float(mass.sum()) == 0:
        raise ValueError(f"No text of this world begins with {list(prefix)}.")
    mass = mass / mass.sum()
    _, way = world.tokens[:, step].unique(return_inverse=True)
    share = torch.zeros(int(way.max()) + 1, dtype=torch.float64).index_add_(0, way, mass)
    worth = torch.zeros_like(share).index_add_(0, way, mass * values)
    possible = share > 0
    share, worth = share[possible], worth[possible] / share[possible]
    mean = (share * worth).sum()
    return math.sqrt(float((share * (worth - mean) ** 2).sum()))


def _places(world: World, n: int) -> list[tuple[int, int]]:
    return [(t, i) for t in range(world.length) for i in range(1, n + 1) if t + i < world.length]


def _marginal(world: World, places: Sequence[int]) -> Tensor:
    """Probabilities of all that can stand at these places."""
    if not places:
        return torch.ones(1, dtype=torch.float64)
    kinds, which = world.tokens[:, list(places)].unique(dim=0, return_inverse=True)
    return torch.zeros(len(kinds), dtype=torch.float64).index_add_(0, which, world.probabilities)


# -- the information in two tokens (sec. 5.2, App. L.2); p and q are joint distributions (X, Y) of next and second next token ----
@dataclass(frozen=True)
class Parts:
    """What a two-token loss consists of, in nats: x_given_y + 2 shared + y_given_x = H(X) + H(Y).

    Relative to a model q the three are cross-entropies and I_{p||q}, and add up to H(p_X, q_X) + H(p_Y, q_Y).
    """

    x_given_y: float
    shared: float
    y_given_x: float

    @property
    def total(self) -> float:
        return self.x_given_y + 2 * self.shared + self.y_given_x


def entropy(p: Tensor) -> Tensor:
    """H(p) of probabilities of any shape."""
    return -torch.xlogy(p, p).sum()


def cross_entropy(p: Tensor, q: Tensor) -> Tensor:
    """H(p, q) = -E_p log q, of two distributions of one shape; infinite where q rules out what p holds possible."""
    return -torch.xlogy(p, q).sum()


def two_tokens(p: Tensor) -> Parts:
    """H(X|Y), I(X;Y), H(Y|X) of p (X, Y), each by its own definition."""
    _distribution(p)
    x, y = p.sum(1, keepdim=True), p.sum(0, keepdim=True)
    shared = (torch.xlogy(p, p) - torch.xlogy(p, x) - torch.xlogy(p, y)).sum()
    return Parts(float(_given(p, p, 0)), float(shared), float(_given(p, p, 1)))


def relative_parts(p: Tensor, q: Tensor) -> Parts:
    """H(p_{X|Y}, q_{X|Y}), I_{p||q}(X;Y), H(p_{Y|X}, q_{Y|X}) of data p (X, Y) and a model's joint q (X, Y), by definition.

    I_{p||q} = D(p || q_X x q_Y) - D(p || q); it may be negative, and is I_p where q = p. (An MTP net gives q_X and q_Y alone: its
    joint is a thought.)
    """
    _distribution(p)
    _distribution(q)
    apart = q.sum(1, keepdim=True) * q.sum(0, keepdim=True)
    divergence = lambda other: (torch.xlogy(p, p) - torch.xlogy(p, other)).sum()
    if torch.isinf(divergence(apart)):
        raise ValueError("A marginal of q is 0 where that of p is not, so that I_{p||q} is inf - inf: give q more than 0 there.")
    return Parts(float(_given(p, q, 0)), float(divergence(apart) - divergence(q)), float(_given(p, q, 1)))


def _given(p: Tensor, q: Tensor, axis: int) -> Tensor:
    """E over the other variable under p of the cross-entropy of p's and q's conditionals along `axis`."""
    weight, total = p.sum(axis, keepdim=True), q.sum(axis, keepdim=True)
    ours, theirs = torch.where(weight > 0, p / weight, 0.0), torch.where(total > 0, q / total, 1.0)
    return (weight * -torch.xlogy(ours, theirs)).sum()


def _distribution(p: Tensor) -> None:
    if p.ndim != 2 or p.dtype != torch.float64 or bool((p < 0).any()) or abs(float(p.sum()) - 1) > 1e-9:
        raise ValueError("A joint distribution is (X, Y) in fp64, at least 0, and adds up to 1.")
