"""From a sentence vector to tokens: incremental decoding with a cache, greedy and beam search as fairseq2 does it.

The beam search gives fairseq2's results (its defaults: beam 5, scores divided by length, end token counted among the best `beam`
candidates only, a sentence is finished with `beam` hypotheses); the two tokens of the prefix count into score and length there,
so they do here. All sentences of a batch step together without a loop over them, and those that are finished leave it.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.nn.attention import attention
from zoo.sonar.net import Attention, TextDecoder
from zoo.sonar.tokens import EOS, PAD


class Found(NamedTuple):
    """What a search found, a row per sentence."""

    tokens: list[list[int]]  # without the prefix; the end token included
    scores: Tensor  # (B,) fp32: log-probability, divided by length for a beam
    cut: Tensor  # (B,) bool: the limit of tokens was reached before the end token


class Decoding:
    """Sentences half written: keys and values of their tokens, and what a step needs of the decoder, folded.

    The cross-attention to `vectors` (B, E) is computed here once: one add per layer and step. fuse: make one product of the
    projections to queries, keys and values; default where starting a product costs more than its numbers, so not on a CPU.
    """

    @torch.no_grad()
    def __init__(self, decoder: TextDecoder, vectors: Tensor, limit: int, fuse: bool | None = None):
        layers, size = decoder.decoder.layers, decoder.dim // decoder.heads
        self.decoder, self.limit, self.length = decoder, limit, 0
        self.seen = torch.stack([layer.encoder_decoder_attn(vectors) for layer in layers])  # (L, B, D)
        fuse = vectors.device.type != "cpu" if fuse is None else fuse
        self.projections = [_fused(layer.self_attn) if fuse else _apart(layer.self_attn) for layer in layers]
        self.store = vectors.new_empty(len(layers), 2, len(vectors), decoder.heads, min(limit, 32), size)

    @torch.no_grad()
    def step(self, tokens: Tensor) -> Tensor:
        """The next tokens of every row (B, T), several only at the start -> normed vectors (B, T, D), for `decoder.unembed`."""
        decoder, start, count = self.decoder, self.length, tokens.shape[1]
        self._fits(start + count)
        x = decoder.decoder_frontend(tokens, start)
        for layer, projected, seen, store in zip(decoder.decoder.layers, self.projections, self.seen, self.store):
            parts = projected(layer.self_attn_layer_norm(x))  # (B, T, D) each
            q, k, v = (part.unflatten(-1, (decoder.heads, -1)).transpose(1, 2) for part in parts)  # (B, H, T, D/H) each
            keys, values = store[:, :, :, : start + count]
            keys[:, :, start:], values[:, :, start:] = k, v
            y = attention(q, keys, values, causal=count > 1)
            x = x + layer.self_attn.output_proj(y.transpose(1, 2).flatten(2)) + seen[:, None]
            x = x + layer.ffn(layer.ffn_layer_norm(x))
        self.length += count
        return decoder.decoder.layer_norm(x)

    def choose(self, rows: Tensor) -> None:
        """Go on with these rows (N,) of the batch, in this order; a row may be chosen more than once."""
        self.seen = self.seen[:, rows]
        count, held = len(rows), self.length
        if count > self.store.shape[2]:
            grown = self.store.new_empty(*self.store.shape[:2], count, *self.store.shape[3:])
            grown[:, :, :, :, :held] = self.store[:, :, rows, :, :held]
            self.store = grown
        else:
            for layer in self.store:  # one at a time: the right side is a copy
                layer[:, :count, :, :held] = layer[:, rows, :, :held]
            self.store = self.store[:, :, :count]

    def _fits(self, length: int) -> None:
        """Make room for `length` tokens."""
        capacity = self.store.shape[4]
        if length > capacity:
            room = min(self.limit, max(2 * capacity, length)) - capacity
            self.store = F.pad(self.store, (0, 0, 0, room))


def _fused(attention: Attention) -> Callable[[Tensor], Sequence[Tensor]]:
    parts = attention.q_proj, attention.k_proj, attention.v_proj
    weight, bias = torch.cat([part.weight for part in parts]), torch.cat([part.bias for part in parts])
    return lambda x: F.linear(x, weight, bias).chunk(3, -1)


def _apart(attention: Attention) -> Callable[[Tensor], Sequence[Tensor]]:
    return lambda x: (attention.q_proj(x), attention.k_proj(x), attention.v_proj(x))


def _limit(decoder: TextDecoder, prefix: Sequence[int], limit: int | None) -> int:
    """Tokens of the longest target, prefix included."""
    limit = decoder.positions if limit is None else min(limit, decoder.positions)
    if limit <= len(prefix):
        raise ValueError(f"A limit of {limit} tokens leaves none behind the {len(prefix)} of the prefix: give a larger one.")
    return limit


@torch.inference_mode()
def greedy(decoder: TextDecoder, vectors: Tensor, prefix: Sequence[int], limit: int | None = None) -> Found:
    """The most probable token at every step, until the end token.

    vectors (B, E); prefix: what every target starts with, [</s>, language]; limit: tokens of a target, prefix and end included,
    default the decoder's positions; the last of them is the end token, come what may.
    """
    limit, count, device = _limit(decoder, prefix, limit), len(vectors), vectors.device
    found = torch.full((count, limit - len(prefix)), EOS, device=device)
    scores, cut = torch.zeros(count, device=device), torch.zeros(count, dtype=torch.bool, device=device)
    if not count:
        return Found([], scores, cut)
    state = Decoding(decoder, vectors, limit)
    rows = torch.arange(count, device=device)  # of `found`: the sentences still written
    tokens = torch.tensor(prefix, device=device).expand(count, -1)
    for place in range(found.shape[1]):
        logits = decoder.unembed(state.step(tokens)[:, -1]).float()  # (N, V)
        logits[:, PAD] = -torch.inf
        chosen = logits.argmax(1) if place < found.shape[1] - 1 else torch.full_like(rows, EOS)
        scores[rows] += logits.gather(1, chosen[:, None])[:, 0] - logits.logsumexp(1)
        found[rows, place] = chosen
        going = chosen != EOS
        if place == found.shape[1] - 1:
            cut[rows] = logits.argmax(1) != EOS
            break
        kept = going.nonzero()[:, 0]
        if not len(kept):
            break
        if len(kept) < len(rows):
            rows = rows[kept]
            state.choose(kept)
        tokens = chosen[kept, None]
    return Found([_until_end(row) for row in found.tolist()], scores, cut)


@torch.inference_mode()
def beam_search(
    decoder: TextDecoder,
    vectors: Tensor,
    prefix: Sequence[int],
    beam: int = 5,
    limit: int | None = None,
    length_penalty: float = 1.0,
) -> Found:
    """The best of the hypotheses that a beam finds, by log-probability over (length - 1) ** length_penalty.

    vectors (B, E); prefix, limit: as for `greedy`; length counts prefix and end token. Equal to fairseq2's
    BeamSearchSeq2SeqGenerator, whose default limit may be smaller: 128 + E tokens.
    """
    limit, device = _limit(decoder, prefix, limit), vectors.device
    if beam < 1 or decoder.vocab <= 2 * beam:
        raise ValueError(f"A beam of {beam} does not suit a vocabulary of {decoder.vocab}: it is at least 1 and less than half.")
    best = _Best(len(vectors), limit, beam, length_penalty, device)
    if not len(vectors):
        return best.found(len(prefix))
    state = Decoding(decoder, vectors, limit)
    sentences, width = torch.arange(len(vectors), device=device), 1  # those still searched, and rows of each
    tokens = torch.tensor(prefix, device=device).expand(len(vectors), -1)  # (P * width, t)
    logits = decoder.unembed(state.step(tokens)).float()  # (P, t, V)
    known = logits[:, :-1].log_softmax(-1).gather(2, tokens[:, 1:, None])
    scores, logits = known.sum((1, 2))[:, None], logits[:, -1]  # (P, width)
    for length in range(len(prefix), limit):
        totals = logits.logsumexp(1)
        logits[:, PAD] = -torch.inf
        if length == limit - 1:
            best.forced(sentences, tokens.view(len(sentences), width, -1), scores + (logits[:, EOS] - totals).view(-1, width))
            break
        top, ids = logits.topk(2 * beam)  # (P * width, 2 beam): no more of one row can be among the best of its sentence
        sums = (scores.view(-1, 1) + (top - totals[:, None])).view(len(sentences), -1)
        sums, order = sums.topk(2 * beam)  # (P, 2 beam)
        parents, ids = order // (2 * beam), ids.view(len(sentences), -1).gather(1, order)
        ends = ids == EOS
        history = tokens.view(len(sentences), width, -1)
        going = ~best.finished(sentences, history, parents, ends[:, :beam], sums[:, :beam])
        # The best `beam` that do not end go on. A stable sort by "ends" puts them first, in their order.
        kept = ends[going].to(torch.uint8).argsort(dim=1, stable=True)[:, :beam]
        left = going.nonzero()[:, 0]
        if not len(left):
            break
        parents, ids, scores = (x[left].gather(1, kept) for x in (parents, ids, sums))  # (P', beam) each
        rows = (left[:, None] * width + parents).view(-1)
        sentences, width = sentences[left], beam
        tokens = torch.cat((tokens[rows], ids.view(-1, 1)), 1)
        state.choose(rows)
        logits = decoder.unembed(state.step(tokens[:, -1:])[:, -1]).float()
    return best.found(len(prefix))


class _Best:
    """The best finished hypothesis of every sentence, and how many it has."""

    def __init__(self, count: int, limit: int, beam: int, length_penalty: float, device: torch.device):
        self.beam, self.length_penalty = beam, length_penalty
        self.score = torch.full((count,), -torch.inf, device=device)
        self.tokens = torch.full((count, limit), EOS, device=device)
        self.number = torch.zeros(count, dtype=torch.int64, device=device)
        self.cut = torch.zeros(count, dtype=torch.bool, device=device)

    def finished(self, sentences: Tensor, history: Tensor, parents: Tensor, ends: Tensor, sums: Tensor) -> Tensor:
        """Count the candidates that end; which sentences are done (P,).

        sentences (P,), history (P, width, t), parents, ends, sums (P, beam) of the best candidates, in their order.
        """
        number = self.number[sentences, None] + ends.cumsum(1)
        self._improve(sentences, history, parents[:, : ends.shape[1]], sums.masked_fill(~ends | (number > self.beam), -torch.inf))
        self.number[sentences] = number[:, -1]
        return number[:, -1] >= self.beam

    def forced(self, sentences: Tensor, history: Tensor, sums: Tensor) -> None:
        """End everything that is still going; sums (P, width), the end token counted."""
        sums, order = sums.sort(dim=1, descending=True, stable=True)
        place = torch.arange(sums.shape[1], device=sums.device)
        full = self.number[sentences, None] + place >= self.beam
        self.cut[self._improve(sentences, history, order, sums.masked_fill(full, -torch.inf))] = True

    def _improve(self, sentences: Tensor, history: Tensor, parents: Tensor, sums: Tensor) -> Tensor:
        """Take what beats the best so far; returns the sentences where something did."""
        length = history.shape[2]  # the end token makes it one more, the first token is not scored
        score, place = (sums / length**self.length_penalty).max(1)
        better = (score > self.score[sentences]).nonzero()[:, 0]
        rows = sentences[better]
        self.score[rows] = score[better]
        self.tokens[rows, :length] = history[better, parents[better, place[better]]]
        self.tokens[rows, length:] = EOS
        return rows

    def found(self, skip: int) -> Found:
        return Found([_until_end(row) for row in self.tokens[:, skip:].tolist()], self.score, self.cut)


def _until_end(row: list[int]) -> list[int]:
    return row[: row.index(EOS) + 1]
