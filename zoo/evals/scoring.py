"""Log-likelihoods of continuations under any token net; a context that several continuations share is read once."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from zoo.nn.cache import Cache

ROWS = 512  # positions whose logits exist at a time


class Score(NamedTuple):
    """logp: log-probability of a continuation in nats. greedy: whether greedy decoding would have written it."""

    logp: float
    greedy: bool


class _Group(NamedTuple):
    """Continuations of one context, and their places in the caller's list."""

    context: list[int]
    continuations: list[list[int]]
    places: list[int]


def fit(context: list[int], continuation: list[int], window: int) -> tuple[list[int], list[int]]:
    """The pair with the context cut on the left, so that all but the last token fit into `window` positions."""
    return context[max(0, len(context) + len(continuation) - 1 - window) :], continuation


def windows(context: list[int], continuation: list[int], window: int) -> list[tuple[list[int], list[int]]]:
    """A pair cut into pairs that fit into `window` positions and together predict the continuation, each token once.

    One pair, if the continuation fits. Otherwise each one predicts up to `window` tokens and is given what room is left before
    them, at least one token.
    """
    text, first = context + continuation, len(context)
    starts = range(first, len(text), window)
    return [fit(text[:start], text[start : start + window], window) for start in starts]


@torch.inference_mode()
def score(net: nn.Module, pairs: Sequence[tuple[list[int], list[int]]], batch: int = 16) -> list[Score]:
    """Score of each (context, continuation): token ids, at least one each, that fit into the net's context but for the last one.

    batch: contexts per forward pass. Raises ValueError for what does not fit, and where the net returns nan.
    """
    for context, continuation in pairs:
        if not context or not continuation:
            raise ValueError("A context and a continuation have at least one token each: begin with the end token.")
        if len(context) + len(continuation) - 1 > net.context:
            raise ValueError(
                f"{len(context)} + {len(continuation)} tokens do not fit into the net's context of {net.context}: cut with fit."
            )
    was_training = net.training
    net.eval()
    try:
        found: list[Score | None] = [None] * len(pairs)
        for groups in _batches(pairs, batch, net.context):
            for place, result in _score_batch(net, groups):
                found[place] = result
    finally:
        net.train(was_training)
    if not all(result.logp == result.logp for result in found):
        raise ValueError("The net's log-likelihoods are not numbers (nan): its weights are damaged or diverged, take other ones.")
    return found


def _batches(pairs: Sequence[tuple[list[int], list[int]]], batch: int, window: int) -> Iterator[list[_Group]]:
    """Groups with a shared context and groups without, each from long to short, up to `batch` groups at a time."""
    places: dict[tuple[int, ...], list[int]] = {}
    for place, (context, _) in enumerate(pairs):
        places.setdefault(tuple(context), []).append(place)
    groups = [_Group(list(context), [pairs[i][1] for i in found], found) for context, found in places.items()]
    alone = [g for g in groups if len(g.places) == 1]
    alone.sort(key=lambda g: -len(g.context) - len(g.continuations[0]))
    yield from (alone[i : i + batch] for i in range(0, len(alone), batch))
    taken: list[_Group] = []
    tail = 0
    for group in sorted((g for g in groups if len(g.places) > 1), key=lambda g: -len(g.context)):
        longest = max(len(c) for c in group.continuations) - 1
        # rows are padded to the longest context, and from there to the longest continuation
        if taken and (len(taken) == batch or len(taken[0].context) + max(tail, longest) > window):
            yield taken
            taken, tail = [], 0
        taken.append(group)
        tail = max(tail, longest)
    if taken:
        yield taken


def _score_batch(net: nn.Module, groups: list[_Group]) -> list[tuple[int, Score]]:
    """(place, score) of every continuation of the groups: contexts first, then the first continuation of each, the second, …"""
    alone = all(len(g.places) == 1 for g in groups)
    stems = [g.context + g.continuations[0][:-1] if alone else g.context for g in groups]
    rounds = 0 if alone else max(len(g.places) for g in groups)
    tail = 0 if alone else max(len(c) - 1 for g in groups for c in g.continuations)
    cache = net.cache(len(groups), max(map(len, stems)) + tail)
    states = _read(net, stems, cache)  # (B, t, D)
    found = []  # states (m, D), targets (m,), place
    for states_of, group in zip(states, groups):
        last = len(group.context) - 1
        for place, continuation in zip(group.places, group.continuations):
            known = continuation if alone else continuation[:1]
            found.append((states_of[last : last + len(known)], known, place))
    lengths = torch.tensor([len(stem) for stem in stems], device=states.device)
    for i in range(rounds):
        tails = [g.continuations[i][:-1] if i < len(g.places) else [] for g in groups]
        if not any(tails):
            continue
        cache.truncate(lengths)
        for states_of, group, read in zip(_read(net, tails, cache), groups, tails):
            if read:
                found.append((states_of[: len(read)], group.continuations[i][1:], group.places[i]))
    return _sum_up(net, found)


def _read(net: nn.Module, texts: list[list[int]], cache: Cache) -> Tensor:
    """States (B, t, D) of texts of any lengths, padded on the right."""
    longest = max(map(len, texts))
    padded = [text + [0] * (longest - len(text)) for text in texts]
    return net.states(torch.tensor(padded, device=cache.lengths.device), cache)[:, :, 0]


def _sum_up(net: nn.Module, found: list[tuple[Tensor, list[int], int]]) -> list[tuple[int, Score]]:
    """Add up, per place, what (states, targets, place) say; logits of a few positions at a time."""
    states = torch.cat([s for s, _, _ in found])  # (N, D)
    targets = torch.tensor([t for _, known, _ in found for t in known], device=states.device)
    logp, hit = [], []
    for rows, wanted in zip(states.split(ROWS), targets.split(ROWS)):
        logits = net.logits(rows).float()  # (N, V)
        logp.append(logits.log_softmax(-1).gather(1, wanted[:, None])[:, 0].double())
        hit.append(logits.argmax(-1) == wanted)
    logp, hit = torch.cat(logp).tolist(), torch.cat(hit).tolist()
    sums: dict[int, Score] = {}
    first = 0
    for _, known, place in found:
        part = slice(first, first + len(known))
        before = sums.get(place, Score(0.0, True))
        sums[place] = Score(before.logp + sum(logp[part]), before.greedy and all(hit[part]))
        first = part.stop
    return list(sums.items())
