"""Steering: a concept's value is set by hand, in CoCoMix and in its teacher (CoCoMix, sec. 3.2, Figs. 5 and 10)."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from zoo.cocomix.attribution import ConceptExtractor
from zoo.cocomix.net import CoCoMix
from zoo.cocomix.predicted import concepts_of, predicted
from zoo.cocomix.sae import SparseAutoencoder
from zoo.nn.concepts import Mixed, normalised


class Steering(NamedTuple):
    """What is set, each one number for all rows of a batch, or (B,), one per row.

    concept: its index. value: what takes the place of its own value; 0 takes it out. start: the position from which on.
    """

    concept: int | Tensor
    value: float | Tensor
    start: int | Tensor = 0

    def change(self, values: Tensor, ids: Tensor, table: Tensor, positions: Tensor) -> Tensor:
        """What is added (B, t, D) to a sum of rows of `table` (C, D) that has `values` (B, t, k) of the rows `ids`.

        positions (t,) or (B, t), those of the t. Exactly 0 where the value is what it was, and before `start`.
        """
        concept, start = (torch.as_tensor(x, device=ids.device).reshape(-1, 1) for x in (self.concept, self.start))  # (B or 1, 1)
        value = torch.as_tensor(self.value, dtype=values.dtype, device=ids.device).reshape(-1, 1)
        own = (values * (ids == concept[:, :, None])).sum(-1)  # (B, t); 0 where it is not among them
        change = (value - own) * (positions >= start)
        return change[:, :, None] * table[concept].to(values.dtype)


class SteerableCoCoMix(nn.Module):
    """A CoCoMix net whose mixed-in concepts can be set by hand. Unless steered it is that net to the last digit.

    The paper multiplies a concept's predicted logit by -10 .. 10. That does nothing where the logit is not among the kept ones,
    and the opposite of what is meant where it is negative. Here the concept is one of those that are mixed in whatever was
    predicted, beside the `keep` largest, with the logit that is given.
    """

    def __init__(self, net: CoCoMix):
        super().__init__()
        self.concepts = concepts_of(net)
        if net.mixing == "none":
            raise ValueError("This net mixes no concepts in (mixing 'none'), so they steer nothing: take another one.")
        self.net, self.config, self.vocab, self.context, self.n = net, net.config, net.vocab, net.context, net.n
        self.training = net.training  # whoever restores this mode restores the net's
        self.logits, self.cache = net.logits, net.cache
        self.steering: Steering | None = None

    def states(self, tokens: Tensor, cache, positions: Tensor | None = None, mask: Tensor | None = None, heads: int = 1):
        """As of the net. With `start` above 0 a position must mean the same throughout, so no text may outgrow the context."""
        if self.steering is None:
            return self.net.states(tokens, cache, positions, mask, heads)
        positions = cache.positions(tokens.shape[1]) if positions is None else positions
        hook = self.net.mixer.register_forward_hook(lambda mixer, given, mixed: self._mixed(given[0], mixed, positions))
        try:
            return self.net.states(tokens, cache, positions, mask, heads)
        finally:
            hook.remove()

    def _mixed(self, h: Tensor, mixed: Mixed, positions: Tensor) -> Mixed:
        """What is mixed into states h (B, t, D), with the concept set."""
        _, _, std = normalised(h)
        change = self.steering.change(mixed.logits, mixed.ids, self.net.mixer.compressor.weight, positions) * std
        return mixed._replace(vectors=mixed.vectors + change.to(h.dtype))

    def largest(self, tokens: Tensor) -> Tensor:
        """The largest kept logit, without its sign, at each of tokens (B, T)."""
        return predicted(self.net, tokens)[0].abs().amax(-1)


class SteerableTeacher(nn.Module):
    """A next-token net whose latents, of the states after `layer` blocks, can be set by hand. Unless steered it is that net.

    Only decoder · (new - old) is added to a state, on its scale: what the autoencoder does not explain stays as it was.
    Raises ValueError where net, autoencoder and layer do not fit together.
    """

    def __init__(self, net: nn.Module, sae: SparseAutoencoder, layer: int):
        super().__init__()
        self.extractor = ConceptExtractor(net, sae, layer, labels=1)  # of which it needs the parts, and the refusals
        self.config, self.vocab, self.context, self.n, self.concepts = net.config, net.vocab, net.context, 1, sae.latents
        self.training = net.training
        self.logits, self.cache = net.logits, net.cache
        self.steering: Steering | None = None

    @torch.no_grad()
    def states(self, tokens: Tensor, cache, positions: Tensor | None = None, mask: Tensor | None = None, heads: int = 1):
        """As of the net; see `SteerableCoCoMix.states`."""
        net, layer = self.extractor.teacher, self.extractor.layer
        if self.steering is None:
            return net.states(tokens, cache, positions, mask, heads)
        positions = cache.positions(tokens.shape[1]) if positions is None else positions
        given = {"positions": positions, "mask": mask, "cache": cache}
        h = net.trunk.blocks(net.trunk.embed(tokens, positions), stop=layer, **given)
        h = net.trunk.blocks(self._set(h, positions), start=layer, **given)
        cache.advance(tokens.shape[1])
        return net.trunk.norm(h)[:, :, None]

    def _set(self, h: Tensor, positions: Tensor) -> Tensor:
        """States h (B, t, D) with the latent set."""
        found = self.extractor.sae.encode(h)
        change = self.steering.change(found.values, found.ids, self.extractor.sae.decoder, positions) * found.std
        return h + change.to(h.dtype)

    @torch.no_grad()
    def largest(self, tokens: Tensor) -> Tensor:
        """The largest activation at each of tokens (B, T)."""
        trunk = self.extractor.teacher.trunk
        h = trunk.blocks(trunk.embed(tokens), stop=self.extractor.layer)
        return self.extractor.sae.encode(h).values.amax(-1)


@contextmanager
def steered(
    net: SteerableCoCoMix | SteerableTeacher, concept: int | Tensor, value: float | Tensor, start: int | Tensor = 0
) -> Iterator[None]:
    """Within this context the concept has this value; see `Steering`. Raises ValueError for a concept that there is not."""
    least, most = map(int, torch.as_tensor(concept).aminmax())
    if least < 0 or most >= net.concepts:
        raise ValueError(f"There is no concept {least if least < 0 else most}: choose 0 to {net.concepts - 1}.")
    net.steering = Steering(concept, value, start)
    try:
        yield
    finally:
        net.steering = None


def strength(net: SteerableCoCoMix | SteerableTeacher, prompts: Iterable[Sequence[int]]) -> float:
    """What a strong concept's value is in a net: the median, over all tokens of some prompts, of the largest.

    Values are set in this unit, so that the same factor asks the same of CoCoMix, whose logits have any scale, and of a teacher.
    """
    device = next(net.parameters()).device
    tokens = [torch.tensor([list(prompt)[-net.context :]], device=device) for prompt in prompts]
    return float(torch.cat([net.largest(each)[0] for each in tokens]).median())
