"""Writing with a Large Concept Model: sentences go on from prompts, and a draft can be edited (LCM paper, sec. 2.3.1)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from zoo.lcm.memory import Memory
from zoo.nn.packed import packed
from zoo.sonar.space import Space

END = "End of text."  # what ends documents in training


@dataclass(frozen=True)
class Stop:
    """When a document is over: its next sentence is like the end marker, or like the one before, by cosine (sec. 2.3.1; the
    released code has both off unless asked for); or there are `limit` new sentences. What ended it is left out.

    end: the end marker's vector (E,); None writes on. similar, repeated: cosines from which on it is over; above 1 is never.
    """

    end: Tensor | None = None
    similar: float = 0.9
    repeated: float = 0.9
    limit: int = 200

    def over(self, new: Tensor, before: Tensor | None) -> Tensor:
        """Of new sentences (B, E) and those before them (B, E): (B,) bool."""
        over = torch.zeros(len(new), dtype=torch.bool, device=new.device)
        if self.end is not None:
            over |= torch.cosine_similarity(new, self.end.to(new)[None], dim=-1) >= self.similar
        if before is not None:
            over |= torch.cosine_similarity(new, before.to(new), dim=-1) >= self.repeated
        return over


@torch.no_grad()  # as a decorator it lets go between the sentences
def continued(
    net: nn.Module, prompts: Sequence[Tensor], stop: Stop, seed: int = 0, seeds: Sequence[int] | None = None
) -> Iterator[tuple[list[int], Tensor]]:
    """New sentences, one of each document at a time: which prompts are still being written (R,), and their vectors (R, E).

    prompts: vectors (n, E) of each document's sentences, which may differ in number. A document does not depend on the others
    beside it: its noise comes from `seeds`, which are seed, seed + 1, … unless given, and it ends, if with nothing else, where it
    fills the net's positions. Sentences are made with `net.sampler`; `net.writing` is what the paper writes documents with. The
    net must not be trained between two sentences.
    Raises ValueError, in a sentence, where a prompt is empty and the net cannot begin, where it has too few positions for the
    prompts, or says what is no number.
    """
    if not prompts:
        return
    lengths, device = [len(prompt) for prompt in prompts], net.trunk.unembedding.device
    net.eval().trunk.fits(max(lengths) + 1)
    limits = [min(stop.limit, net.trunk.positions - length) for length in lengths]
    memory = net.memory(len(prompts), max(length + limit for length, limit in zip(lengths, limits)))
    if max(lengths):
        padded = nn.utils.rnn.pad_sequence([prompt.float() for prompt in prompts], batch_first=True).to(device)
        if min(lengths) == 0:  # an empty row is read as one zero sentence and forgotten
            raise ValueError(
                "Prompts of no sentence and of some cannot be continued side by side: continue the empty ones apart."
            )
        net.read(padded, memory, lengths)
    before = torch.stack([prompt[-1].float() for prompt in prompts]).to(device) if max(lengths) else None
    given = list(seeds) if seeds is not None else [seed + row for row in range(len(prompts))]
    generators = [torch.Generator().manual_seed(each % 2**63) for each in given]
    rows = list(range(len(prompts)))
    with packed(net):  # a sentence takes forty passes through the same weights
        for step in range(1, max(limits) + 1):
            noise = partial(_noise, net.vocab, [generators[row] for row in rows], device)
            new = net.next_vector(memory, noise(), noise).float()  # (R, E)
            lost, *over = torch.cat((~new.isfinite().all()[None], stop.over(new, before))).tolist()  # the one wait for the device
            if lost:
                raise ValueError("The net says NaN or infinite numbers: its weights diverged, take an earlier checkpoint.")
            rows, new = _kept([place for place, ended in enumerate(over) if not ended], rows, new, memory)
            if rows:
                yield rows, new
            rows, new = _kept([place for place, row in enumerate(rows) if step < limits[row]], rows, new, memory)
            if not rows:
                return
            net.read(new[:, None], memory)
            before = new


def fits_space(net: nn.Module, space: Space) -> None:
    """Raise ValueError, in a sentence, where the net's vectors are none of the space."""
    if net.vocab != space.width:
        raise ValueError(
            f"The net says vectors of {net.vocab} numbers and the space has {space.width}: give the one it was trained in."
        )


def _kept(places: list[int], rows: list[int], new: Tensor, memory: Memory) -> tuple[list[int], Tensor]:
    """Of documents and their new sentences (R, E) those in these places; the memory forgets the others, if any are left."""
    if 0 < len(places) < len(rows):
        memory.select(places)
    return [rows[place] for place in places], new[places]


def _noise(width: int, generators: Sequence[torch.Generator], device: torch.device) -> Tensor:
    """Standard normal noise (R, E), a row of each generator."""
    return torch.stack([torch.randn(width, generator=each) for each in generators]).to(device)


class Draft:
    """A document in the making: its sentences as texts and vectors, and what a net holds of them, which an edit does not read
    again.

    space: whose sentences the net has learnt. lang: of the texts that are given; into: of those that are written. capacity:
    sentences, at most (default: 512, or as many as the net has positions). stop: without `end`, that of the end marker is taken.
    beam: of the decoder.
    """

    def __init__(
        self,
        net: nn.Module,
        space: Space,
        texts: Sequence[str],
        lang: str = "eng_Latn",
        into: str | None = None,
        capacity: int | None = None,
        stop: Stop | None = None,
        beam: int = 5,
        seed: int = 0,
    ):
        fits_space(net, space)
        self.net, self.space, self.lang, self.into, self.beam = net.eval(), space, lang, into or lang, beam
        stop = stop or Stop()
        self.stop = Stop(space.encode([END], lang)[0], stop.similar, stop.repeated, stop.limit) if stop.end is None else stop
        capacity = min(512, net.trunk.positions) if capacity is None else capacity
        net.trunk.fits(capacity)
        self.capacity, self.memory = capacity, net.memory(1, capacity)
        self.random = torch.Generator().manual_seed(seed)
        self.texts: list[str] = []
        self.vectors = torch.zeros(0, space.width)
        self.read = 0  # sentences that the net has read so far, those read again counted
        self._put(list(texts), space.encode(list(texts), lang).cpu() if texts else self.vectors)

    def _put(self, texts: list[str], vectors: Tensor) -> None:
        if len(self.texts) + len(texts) > self.capacity:
            raise ValueError(f"The draft has room for {self.capacity} sentences: give it a larger capacity.")
        self.texts, self.vectors = [*self.texts, *texts], torch.cat((self.vectors, vectors.cpu()))
        if texts:
            self.net.read(vectors[None].to(self.net.trunk.unembedding.device), self.memory)
            self.read += len(texts)

    def _cut(self, index: int) -> None:
        """Forget sentence `index` and all behind it. The last one that stays is read again: nets hold what they make of it."""
        if not 0 <= index <= len(self.texts):
            raise ValueError(f"There is no sentence {index}: the draft has {len(self.texts)}, counted from 0.")
        first = max(0, index - 1)
        kept, self.texts = self.texts[first:index], self.texts[:first]
        vectors, self.vectors = self.vectors[first:index], self.vectors[:first]
        self.memory.forget(self.memory.held[0] - first)
        self._put(kept, vectors)

    def replace(self, index: int, text: str) -> None:
        """Say sentence `index` in other words; those behind it are dropped, to be written anew."""
        if index >= len(self.texts):
            raise ValueError(f"There is no sentence {index}: the draft has {len(self.texts)}, counted from 0.")
        self.insert(index, text)

    def insert(self, index: int, text: str) -> None:
        """Put a sentence before sentence `index`; those from there on are dropped, to be written anew."""
        self._cut(index)
        self._put([text], self.space.encode([text], self.lang))

    def delete(self, index: int) -> None:
        """Take sentence `index` out; those behind it are dropped, to be written anew."""
        if index >= len(self.texts):
            raise ValueError(f"There is no sentence {index}: the draft has {len(self.texts)}, counted from 0.")
        self._cut(index)

    @torch.no_grad()
    def write(self, limit: int | None = None) -> Iterator[str]:
        """New sentences, one by one, until the document is over, has `limit` more (default: the stop's) or is full."""
        with packed(self.net):
            for _ in range(min(self.stop.limit if limit is None else limit, self.capacity - len(self.texts))):
                noise = partial(_noise, self.net.vocab, [self.random], self.net.trunk.unembedding.device)
                new = self.net.next_vector(self.memory, noise(), noise).float()
                before = self.vectors[-1:].to(new) if len(self.vectors) else None
                if bool(self.stop.over(new, before)):
                    return
                text = self.space.decode(new, self.into, beam=self.beam)[0]
                self._put([text], new)
                yield text
