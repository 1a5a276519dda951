"""Batches of token windows, and the loader that Lightning iterates: exact on resume, shared among processes without a sampler."""

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from zoo.data.labels import WindowLabels
from zoo.data.store import TokenStore
from zoo.data.tokenizer import Tokenizer


class Numbered(Dataset):
    """Batch k of one process, a pure function of k: rows at global positions offset + (k·world + rank)·batch + 0 … batch − 1.

    window: (batch,) positions -> (batch,) numbers of windows or chunks. Rows at positions from `scored` on repeat the last one
    and do not count, so that every process has as many batches and sums stay exact.
    """

    def __init__(
        self, batch: int, window: Callable[[np.ndarray], np.ndarray], scored: int | None = None, rank: int = 0, world: int = 1
    ):
        self.batch, self.window, self.scored = batch, window, scored
        self.rank, self.world, self.offset = rank, world, 0

    def numbers(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """What `window` says (B,) of batch k, and whether each of its positions counts (batch,) bool."""
        position = self.offset + (k * self.world + self.rank) * self.batch + np.arange(self.batch)
        counted = np.ones(self.batch, bool)
        if self.scored is not None:
            counted, position = position < self.scored, np.minimum(position, self.scored - 1)
        return self.window(position), counted


class Batches(Numbered):
    """Windows of tokens.

    sidecars: by their name in a batch, what else belongs to windows: numbers (B,) -> ids (B, T, K); (B, T + ahead, K) in a batch,
        -1 where there is none.
    """

    def __init__(
        self,
        store: TokenStore,
        tokenizer: Tokenizer,
        context: int,
        ahead: int,
        batch: int,
        window: Callable[[np.ndarray], np.ndarray],
        scored: int | None = None,
        rank: int = 0,
        world: int = 1,
        sidecars: Mapping[str, WindowLabels] | None = None,
    ):
        super().__init__(batch, window, scored, rank, world)
        self.sidecars = sidecars or {}
        self.store, self.eos, self.token_bytes = store, tokenizer.eos, tokenizer.token_bytes
        self.context, self.width = context, context + ahead

    def __getitem__(self, k: int) -> dict[str, Tensor]:
        numbers, counted = self.numbers(k)  # (B,)
        tokens = self.store.windows(numbers * self.context, self.width)  # (B, T + ahead)
        ends = tokens == self.eos
        if tokens.max(initial=0) >= len(self.token_bytes):
            raise ValueError(
                f"The token store in {self.store.folder} is damaged, or of another tokenizer: it holds id {tokens.max()} and the "
                f"tokenizer has {len(self.token_bytes)}; delete its shards and run the same command again, they are built anew."
            )
        arrays = {
            "tokens": tokens,
            "doc": ends.cumsum(1) - ends,
            "mask": counted[:, None].repeat(self.width, 1),
            "bytes": self.token_bytes[tokens],
            "window": numbers,
        }
        for name, labels in self.sidecars.items():
            beyond = (0, 0), (0, self.width - self.context), (0, 0)
            arrays[name] = np.pad(labels[numbers], beyond, constant_values=-1)  # (B, T + ahead, K)
        return {name: torch.from_numpy(array) for name, array in arrays.items()}


class Loader:
    """What Lightning iterates. It is no DataLoader, so Lightning injects no sampler of its own.

    Where to go on is counted in windows that the Trainer has *trained on* (its own progress, which is in every checkpoint), so
    batches that workers have fetched ahead are never lost, and a resumed run may have another batch size or number of
    processes.
    """

    def __init__(self, batches: Batches, length: int, workers: int = 0, pin: bool = False, trainer=None, fingerprint: str = ""):
        self.batches, self.length, self.workers, self.pin = batches, length, workers, pin
        self.trainer, self.fingerprint = trainer, fingerprint

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        training = self.batches.scored is None and self.trainer is not None and not self.trainer.overfit_batches
        first = self._trained() if training else 0
        # a generator of its own: DataLoader would draw from the global one, and dropout would depend on the number of loaders
        loader = DataLoader(self.batches, batch_size=None, sampler=range(first, first + self.length), num_workers=self.workers,
                            pin_memory=self.pin, generator=torch.Generator())  # fmt: skip
        yield from loader

    def _trained(self) -> int:
        """Micro-batches that the Trainer has finished in all epochs."""
        return self.trainer.fit_loop.epoch_loop.batch_progress.total.processed

    def state_dict(self) -> dict:
        """Lightning puts it into each checkpoint."""
        windows = self.batches.offset + self._trained() * self.batches.world * self.batches.batch
        return {"windows": windows, "fingerprint": self.fingerprint}

    def load_state_dict(self, state: dict) -> None:
        """Go on where the checkpoint was; the Trainer has loaded its progress by now."""
        trained = self._trained()
        self.batches.offset = state["windows"] - trained * self.batches.world * self.batches.batch
        if state["fingerprint"] != self.fingerprint:
            rank_zero_warn(
                "The checkpoint was trained on another corpus or tokenizer than this run reads: it goes on in other text."
            )
        if trained % self.trainer.accumulate_grad_batches:
            rank_zero_warn(
                "The checkpoint was saved between two micro-steps of one optimizer step, whose gradients are lost: save at "
                f"multiples of accumulate_grad_batches ({self.trainer.accumulate_grad_batches}) for an exact resume."
            )


def spread(position: np.ndarray, count: int, scored: int) -> np.ndarray:
    """`scored` of `count` windows, evenly spread, in order. (B,) positions below `scored` -> (B,) window numbers."""
    return position * count // scored
