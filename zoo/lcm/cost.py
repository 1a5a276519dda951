"""What inference costs in floating-point operations: of a Large Concept Model in its sentence space, and of a language model of
tokens (LCM paper, arXiv 2412.08821, sec. 2.5.1 and figure 13, which prints no formula).

A multiply-add is two operations; products of matrices and attention are counted, norms, activations and sums are not. A document
of T tokens in sentences of ℓ has T / ℓ sentences, which need not be a whole number: each is encoded, generated from all before
it, and decoded.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class TokenModel:
    """A decoder-only transformer with SwiGLU and a key-value cache; the defaults are Llama2-7B."""

    layers: int = 32
    dim: int = 4096
    hidden: int = 11008
    vocab: int = 32000

    def document(self, tokens: float) -> float:
        """Operations for a document of so many tokens, prompt and output together: a token attends to half of them on average."""
        each = self.layers * (4 * self.dim**2 + 3 * self.dim * self.hidden) + self.vocab * self.dim
        return 2 * tokens * each + 2 * self.layers * self.dim * tokens**2


@dataclass(frozen=True)
class SentenceSpace:
    """SONAR's text encoder and decoder, of equal depth; the defaults are the released ones.

    beam: hypotheses of the decoder; 1 is greedy. folded: the decoder's cross-attention, whose one key makes it a constant of the
    sentence, is worked out once per sentence and not at each token.
    """

    layers: int = 24
    dim: int = 1024
    hidden: int = 8192
    vocab: int = 256206
    beam: int = 1
    folded: bool = False

    def encode(self, length: float) -> float:
        """Operations for a sentence of so many tokens."""
        each = self.layers * (4 * self.dim**2 + 2 * self.dim * self.hidden)
        return 2 * length * each + 4 * self.layers * self.dim * length**2

    def decode(self, length: float) -> float:
        """Operations for a sentence of so many tokens."""
        cross = 0 if self.folded else 2 * self.dim**2
        each = self.layers * (4 * self.dim**2 + cross + 2 * self.dim * self.hidden) + self.vocab * self.dim
        once = self.layers * 2 * self.dim**2 if self.folded else 0
        return self.beam * (2 * length * each + 2 * self.layers * self.dim * length**2) + 2 * once


@dataclass(frozen=True)
class Sampling:
    """How the next vector is sampled, and what is kept rather than computed again.

    steps: calls of the denoiser. guided: each call also without context. cached: keys and values of the context are kept from
    sentence to sentence; else all are computed at every step, for both halves. lean: what is the same for all sentences, the
    modulation by each step, is a table; the self-attention of a vector that sees itself alone is the map of its value; and
    without context nothing is looked up.
    """

    steps: int = 40
    guided: bool = False
    cached: bool = True
    lean: bool = False


LLAMA2 = TokenModel()  # 7B
SONAR = SentenceSpace()
PAPER = Sampling()  # the reading that comes nearest to figure 13
GUIDED = Sampling(guided=True)
RELEASED = Sampling(steps=50, guided=True, cached=False)  # 40 asked for are 50 done: its list has an integer stride
RELEASED_40 = Sampling(guided=True, cached=False)
OURS = Sampling(guided=True, lean=True)


@dataclass(frozen=True)
class TwoTowerShape:
    """Sizes of a two-tower LCM (sec. 2.4.1 and 3): layers of the contextualizer, denoiser_layers, width of a sentence's vector.

    frequencies: of the sinusoids that a step's embedding starts from.
    """

    dim: int = 2048
    hidden: int = 5632
    layers: int = 5
    denoiser_layers: int = 13
    width: int = 1024
    frequencies: int = 256

    def step(self, context: float, sampling: Sampling) -> float:
        """Operations of one step of the sampler behind so many vectors, both halves of a guided one."""
        d, heard = self.dim, context + 1  # the zero vector stands before every context
        ends = 2 * self.width * d
        mlp, own, query_out, look = 3 * d * self.hidden, 4 * d**2, 2 * d**2, 2 * d * heard
        if sampling.lean:
            half = self.denoiser_layers * (own / 2 + query_out + mlp + look) + ends
            without = self.denoiser_layers * (own / 2 + mlp) + ends
            return 2 * (half + without if sampling.guided else half)
        again = 0 if sampling.cached else self.keys(1) / 2 * heard
        modulation, embedding = self.denoiser_layers * 9 * d**2, (self.frequencies + d) * d
        half = self.denoiser_layers * (own + query_out + mlp + look) + modulation + embedding + ends + again
        return 2 * half * (2 if sampling.guided else 1)

    def keys(self, vectors: float) -> float:
        """Operations for the denoiser's keys and values of so many context vectors."""
        return 2 * vectors * self.denoiser_layers * 2 * self.dim**2

    def read(self, context: float) -> float:
        """Operations of the contextualizer for one more vector behind so many."""
        return 2 * self.layers * (4 * self.dim**2 + 3 * self.dim * self.hidden + 2 * self.dim * context)

    def sentence(self, context: float, sampling: Sampling = PAPER) -> float:
        """Operations to generate the vector that follows so many, and to read it."""
        kept = self.keys(1) if sampling.cached else 0
        return sampling.steps * self.step(context, sampling) + kept + self.read(context)


SMALL = TwoTowerShape()  # 1.6B
LARGE = TwoTowerShape(dim=4096, hidden=11008, denoiser_layers=14)  # 7B


@dataclass(frozen=True)
class ConceptModel:
    """A two-tower LCM in its sentence space, with a way of sampling."""

    shape: TwoTowerShape = SMALL
    sampling: Sampling = PAPER
    space: SentenceSpace = SONAR

    def document(self, tokens: float, length: float, first: float = 0) -> float:
        """Operations for a document of so many tokens in sentences of `length`.

        first: vectors that stand before its first sentence. The cost of a sentence is linear in those before it, so the mean
        sentence tells the sum.
        """
        sentences = tokens / length
        middle = max(0.0, first + (sentences - 1) / 2)
        return sentences * (self.space.encode(length) + self.shape.sentence(middle, self.sampling) + self.space.decode(length))

    def break_even(self, tokens: float, other: TokenModel = LLAMA2, first: float = 0) -> float:
        """Tokens of a sentence above which a document of so many costs less than with the other model; inf where it never does,
        even as one sentence."""
        limit = other.document(tokens)
        if self.document(tokens, tokens, first) >= limit:
            return math.inf
        return crossing(lambda length: self.document(tokens, length, first) - limit, tokens)


def crossing(excess: Callable[[float], float], high: float, low: float = 1e-3) -> float:
    """The greatest x in (low, high) where `excess`, below 0 at `high`, is 0; `low` where it is nowhere.

    A scan from above finds the bracket, bisection the place.
    """
    above = high
    while above > low and excess(above / 1.1) < 0:
        above /= 1.1
    below = above / 1.1
    if above <= low:
        return low
    for _ in range(100):
        middle = math.sqrt(below * above)
        below, above = (middle, above) if excess(middle) >= 0 else (below, middle)
    return above
