"""What is written after each prompt: tokens until a stop, until the caller has enough, or up to the limit."""

from collections.abc import Callable, Collection

from zoo.reading import Row


class Writing:
    """The ends of rows, and the count of accepted drafts; limit, stop, until and stream as in `generate`.

    accepted: [j] = in how many of all rows' steps at least j + 1 drafts were accepted and used, j = 0 .. drafts - 1.
    """

    def __init__(
        self,
        limit: int,
        stop: Collection[int] = (),
        until: Callable[[list[int]], bool] | None = None,
        stream: Callable[[int, list[int]], None] | None = None,
        drafts: int = 0,
    ):
        self.limit, self.stop, self.until, self.stream = limit, frozenset(stop), until, stream
        self.accepted = [0] * drafts

    def give(self, rows: list[Row], blocks: list[list[int]], step: bool = True) -> list[int]:
        """Give each row its block of tokens; the numbers of the rows that go on. step: whether this was one, not the prompt.

        All tokens of a block but the last are accepted drafts. What comes after the end of a row is dropped.
        """
        for row, block in zip(rows, blocks):
            used = self._extend(row, block)
            row.steps += step
            for place in range(used - 1):
                self.accepted[place] += 1
        return [i for i, row in enumerate(rows) if not row.done]

    def _extend(self, row: Row, block: list[int]) -> int:
        """Add tokens until one ends the row; how many were used, a stop token included."""
        used, before = 0, len(row.new)
        for token in block:
            used += 1
            if token in self.stop:
                row.stopped = True
            else:
                row.text.append(token)
                row.new.append(token)
                row.stopped = bool(self.until and self.until(row.new))
            row.done = row.stopped or len(row.new) == self.limit
            if row.done:
                break
        if self.stream and len(row.new) > before:
            self.stream(row.index, row.new[before:])
        return used
