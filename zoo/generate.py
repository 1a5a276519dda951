"""Decoding for every token net: ragged prompts, sampling, stop tokens, streaming; and the verb `zoo generate`."""

import argparse
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from zoo.nn.cache import Cache
from zoo.sampling import GREEDY, Sampling


@dataclass
class Generation:
    """What `generate` returns; lists have one item per prompt.

    tokens: the new ones only, without the stop token. stopped: ended by a stop token or by `until`, not by the limit.
    forwards: forward passes of the batch after the prompt's. steps: those of them that a row took part in.
    accepted: [j] = in how many of all rows' steps at least j + 1 drafts were accepted (and emitted), j = 0 .. k - 2.
    """

    tokens: list[list[int]]
    stopped: list[bool]
    forwards: int
    steps: list[int]
    accepted: list[int]

    @property
    def tokens_per_forward(self) -> float:
        """Mean over rows and steps of the tokens a forward pass yields; the prompt's pass and its token do not count."""
        return 1 + sum(self.accepted) / sum(self.steps) if sum(self.steps) else float("nan")


@torch.inference_mode()
def generate(
    net: nn.Module,
    prompts: Sequence[Sequence[int]] | Tensor,
    limit: int,
    sampling: Sampling = GREEDY,
    *,
    heads: int = 1,
    draft: nn.Module | None = None,
    stop: Collection[int] = (),
    until: Callable[[list[int]], bool] | None = None,
    stream: Callable[[int, list[int]], None] | None = None,
    generator: torch.Generator | None = None,
) -> Generation:
    """Continue each prompt by up to `limit` tokens.

    A text may outgrow the net's context: see `window_start`.

    Args:
        net: a token net in any mode (dropout is off meanwhile).
        prompts: token ids, at least one per prompt; lengths may differ.
        limit: new tokens per row at most.
        sampling: how a token is chosen, default greedy.
        stop: token ids that end a row; they are not part of its result.
        until: asked after each new token with all new tokens of a row; True ends the row.
        stream: called with a row's number and its new tokens, as they become final.
        generator: source of randomness, on the net's device.
    """
    if heads != 1 or draft is not None:
        raise ValueError("Speculation is not built yet: leave out heads and draft.")
    rows = [Row(index, list(map(int, prompt))) for index, prompt in enumerate(prompts)]
    if any(not row.text for row in rows):
        raise ValueError("A prompt is empty: give at least one token, the end token for instance.")
    was_training = net.training
    net.eval()
    try:
        forwards = _Decoding(net, limit, sampling, frozenset(stop), until, stream, generator).run(rows)
    finally:
        net.train(was_training)
    return Generation([r.new for r in rows], [r.stopped for r in rows], forwards, [r.steps for r in rows], [])


@dataclass(eq=False)
class Row:
    """One text that grows: `text` is the prompt and the `new` tokens."""

    index: int
    text: list[int]
    new: list[int] = field(default_factory=list)
    begin: int = 0  # where the window in the cache begins
    stopped: bool = False
    done: bool = False
    steps: int = 0


def window_start(length: int, window: int) -> int:
    """Where the window begins from which the token after the first `length` ones is predicted.

    0 while the text fits; then it jumps ahead so that half a window is left, whenever the window is full. It depends on nothing
    but the length: decoding in larger steps or in another batch sees the same windows.
    """
    jump = window + 1 - max(1, window // 2)
    return max(0, -(-(length - window) // jump)) * jump


class _Decoding:
    """Settings of one `generate` call, and its loop."""

    def __init__(self, net, limit, sampling, stop, until, stream, generator):
        self.net, self.limit, self.sampling, self.stop = net, limit, sampling, stop
        self.until, self.stream, self.generator = until, stream, generator
        self.window = net.context
        self.device = next(net.parameters()).device

    def run(self, rows: list[Row]) -> int:
        """Fill all rows; returns the forward passes after the prompt's."""
        if self.limit < 1 or not rows:
            return 0
        for row in rows:
            row.begin = window_start(len(row.text), self.window)
        longest = max(len(row.text) - row.begin for row in rows)
        cache = self.net.cache(len(rows), min(self.window, longest + self.limit))
        states = self._read([row.text[row.begin :] for row in rows], cache)
        newest = self._choose(states)
        rows, forwards = self._deliver(rows, newest, cache), 0
        while rows:
            self._move_windows(rows, cache)
            newest = torch.tensor([[row.text[-1]] for row in rows], device=self.device)
            newest = self._choose(self.net.states(newest, cache)[:, 0])
            forwards += 1
            for row in rows:
                row.steps += 1
            rows = self._deliver(rows, newest, cache)
        return forwards

    def _read(self, texts: list[list[int]], cache: Cache) -> Tensor:
        """Send texts of any lengths through the net; the states (B, 1, D) of their last tokens."""
        lengths = [len(text) for text in texts]
        padded = [text + [0] * (max(lengths) - len(text)) for text in texts]
        states = self.net.states(torch.tensor(padded, device=self.device), cache)
        last = torch.tensor(lengths, device=self.device)
        cache.truncate(last)
        return states[torch.arange(len(texts), device=self.device), last - 1]

    def _choose(self, states: Tensor) -> list[int]:
        return self.sampling.choose(self.net.logits(states[:, 0]), self.generator).tolist()

    def _move_windows(self, rows: list[Row], cache: Cache) -> None:
        """Read the rows anew whose window has moved, all but their newest token."""
        moved = [i for i, row in enumerate(rows) if window_start(len(row.text), self.window) != row.begin]
        if not moved:
            return
        for i in moved:
            rows[i].begin = window_start(len(rows[i].text), self.window)
        texts = [rows[i].text[rows[i].begin : -1] for i in moved]
        fresh = self.net.cache(len(moved), max(1, *map(len, texts)))
        if any(texts):
            self._read(texts, fresh)
        cache.put(moved, fresh)

    def _deliver(self, rows: list[Row], tokens: list[int], cache: Cache) -> list[Row]:
        """Give each row its token; the rows that go on, and the cache cut down to them."""
        for row, token in zip(rows, tokens):
            if token in self.stop:
                row.stopped = row.done = True
                continue
            row.text.append(token)
            row.new.append(token)
            if self.stream:
                self.stream(row.index, [token])
            row.stopped = bool(self.until and self.until(row.new))
            row.done = row.stopped or len(row.new) == self.limit
        kept = [i for i, row in enumerate(rows) if not row.done]
        if len(kept) < len(rows):
            cache.select(kept)
        return [rows[i] for i in kept]


def main(args: list[str]) -> None:
    """`zoo generate FOLDER --prompt …`: continue a prompt with a saved net."""
    parser = argparse.ArgumentParser("zoo generate", description="Continue a prompt with a net saved by save_pretrained.")
    parser.add_argument("folder", help="a folder of save_pretrained: runs/<name>/<version>/pretrained")
    parser.add_argument("--prompt", default="def ", help="text to continue")
    parser.add_argument("--tokens", type=int, default=200, help="tokens to add")
    parser.add_argument("--temperature", type=float, default=0.8, help="0 takes the most likely token")
    parser.add_argument("--top_k", type=int, default=None, help="sample among the k most likely")
    parser.add_argument("--top_p", type=float, default=None, help="sample among the most likely that add up to p")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(args)

    from zoo.data.tokenizer import load_tokenizer
    from zoo.pretrained import from_pretrained

    net = from_pretrained(given.folder)
    tokenizer = load_tokenizer(str(Path(given.folder) / "tokenizer"))
    prompt = tokenizer.encode(given.prompt) or [tokenizer.eos]
    sampling = Sampling(given.temperature, given.top_k, given.top_p)
    random = torch.Generator().manual_seed(given.seed)
    result = generate(net, [prompt], given.tokens, sampling, stop={tokenizer.eos}, generator=random)
    print(tokenizer.decode(prompt + result.tokens[0]))
