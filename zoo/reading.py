"""What a net has read of growing texts: each text's window in a cache, which moves when the text outgrows it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from zoo.nn.cache import Cache


@dataclass(eq=False)
class Row:
    """One text that grows: `text` is the prompt and the `new` tokens."""

    index: int
    text: list[int]
    new: list[int] = field(default_factory=list)
    stopped: bool = False
    done: bool = False
    steps: int = 0


def rows_of(prompts: Sequence[Sequence[int]] | Tensor, vocab: int) -> list[Row]:
    """One row per prompt. Raises ValueError for a prompt without tokens, or with ids that a net of `vocab` ids does not have."""
    lists = prompts.tolist() if isinstance(prompts, Tensor) else prompts  # at once: a number of its own would wait for the device
    rows = [Row(index, list(map(int, prompt))) for index, prompt in enumerate(lists)]
    for row in rows:
        if not row.text:
            raise ValueError("A prompt is empty: give at least one token, the end token for instance.")
        if not 0 <= min(row.text) <= max(row.text) < vocab:
            wrong = next(token for token in row.text if not 0 <= token < vocab)
            raise ValueError(
                f"A prompt has the token id {wrong} and the net only 0 .. {vocab - 1}: take the net's own tokenizer."
            )
    return rows


def window_start(length: int, window: int) -> int:
    """Where the window begins from which the token after the first `length` ones is predicted.

    0 while the text fits; then it jumps ahead so that half a window is left, whenever the window is full. It depends on nothing
    but the length: decoding in larger steps or in another batch sees the same windows.
    """
    jump = window + 1 - max(1, window // 2)
    return max(0, -(-(length - window) // jump)) * jump


class Reading:
    """The windows of all rows in one net's cache: all their tokens but the newest `behind`.

    heads: of the net, that run. limit: new tokens per row at most. spare: tokens beyond the text that a step may try.
    """

    def __init__(self, net: nn.Module, rows: list[Row], limit: int, heads: int = 1, spare: int = 0, behind: int = 1):
        self.net, self.heads, self.window, self.behind = net, heads, net.context, behind
        self.begins = [window_start(len(row.text), self.window) for row in rows]
        longest = max(len(row.text) - begin for row, begin in zip(rows, self.begins))
        self.cache = self._empty(len(rows), min(self.window, longest + limit) + spare)

    def start(self, rows: list[Row]) -> Tensor:
        """Read the prompts, newest tokens included; the states (B, heads, D) of their last tokens."""
        return self._read([row.text[begin:] for row, begin in zip(rows, self.begins)], self.cache)

    def go_on(self, rows: list[Row], kept: list[int]) -> None:
        """Go on with `rows`, which were number `kept` before: those whose window has moved are read anew, the others cut back."""
        if len(kept) < len(self.begins):
            self.cache.select(kept)
        begins = [window_start(len(row.text), self.window) for row in rows]
        moved = [i for i, (begin, old) in enumerate(zip(begins, kept)) if begin != self.begins[old]]
        self.begins = begins
        if moved:
            texts = [rows[i].text[begins[i] : begins[i] + self._held(rows[i], begins[i])] for i in moved]
            fresh = self._empty(len(moved), max(1, *map(len, texts)))
            if any(texts):
                self._read(texts, fresh)
            self.cache.put(moved, fresh)
        self.cache.truncate([self._held(row, begin) for row, begin in zip(rows, begins)])

    def room(self, rows: list[Row]) -> list[int]:
        """How many tokens from each row's newest on can be predicted before its window moves; at least 1."""
        return [self.window + 1 - (len(row.text) - begin) for row, begin in zip(rows, self.begins)]

    def step(self, tokens: Tensor, depths: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Read tokens (B, t) that follow what is held: their states (B, t, heads, D).

        depths (t,): how many places after the first each of them stands, default one after the other; mask (t, t): who sees whom.
        """
        count, positions = tokens.shape[1], None
        if depths is not None:
            positions = self.cache.lengths[:, None] + depths
        elif self.cache.longest + count > self.window:
            positions = self.cache.positions(count)
        if positions is not None:  # drafts beyond the window are never kept: any position will do for them
            positions = positions.clamp(max=self.window - 1)
        return self.net.states(tokens, self.cache, positions, mask, self.heads)

    def _held(self, row: Row, begin: int) -> int:
        return max(0, len(row.text) - self.behind - begin)

    def _read(self, texts: list[list[int]], cache: Cache) -> Tensor:
        """Send texts of any lengths through the net; the states (B, heads, D) of their last tokens."""
        lengths = [len(text) for text in texts]
        padded = [text + [0] * (max(lengths) - len(text)) for text in texts]
        states = self.net.states(torch.tensor(padded, device=cache.keys.device), cache, heads=self.heads)
        cache.truncate(lengths)
        last = torch.tensor(lengths, device=states.device)
        return states[torch.arange(len(texts), device=states.device), last - 1]

    def _empty(self, rows: int, capacity: int) -> Cache:
        """Not `net.cache(rows, capacity)`: drafts may need more slots than there are positions."""
        return self.net.cache(1, 1).empty(rows, capacity)
