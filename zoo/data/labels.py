"""Labels beside the tokens of a store: some ids at every position of its windows, made once and read by every run.

A folder holds `labels.json`, which says what they are, and for each split shards of windows: `train-00000.windows` (int64 numbers
of windows) and `train-00000.ids` (little-endian uint16, (windows, T, K)), both written whole. Which windows there are grows with
what is asked for: labelling the windows of another seed adds those that are new.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from zoo.data.shards import write_json
from zoo.data.store import FULL, locked
from zoo.explain import Told
from zoo.files import put

ABOUT = "labels.json"
NONE = 0xFFFF  # on disk; -1 in memory
SHARD = 1024  # windows
ADDS = "run `zoo prepare concepts` with this run's seed, batch, devices, max_steps and eval_bytes, which adds what is missing"


def write(
    folder: str | os.PathLike,
    about: dict,
    windows: dict[str, np.ndarray],
    make: Callable[[str, np.ndarray], np.ndarray],
    tell: Callable[[str], None] = print,
) -> int:
    """Label the windows that the folder lacks; the number of them.

    about: what the labels are, plain values; "context" (T) and "labels" (K) are among them. windows: split -> numbers.
    make: (split, numbers (n,)) -> ids (n, T, K), below 0 where there is none. tell: hears a line per shard.
    Raises ValueError where the folder holds other labels, RuntimeError where the disk is full; finished shards are kept.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / ".lock"):
            if (folder / ABOUT).exists():
                same = {key: value for key, value in about.items() if key != "flops"}  # which says what they cost
                belongs(folder, same, "give --out another folder, or delete this one")
            else:
                write_json(folder / ABOUT, about)
            return sum(_write_split(folder, about, split, wanted, make, tell) for split, wanted in windows.items())
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise Told(
            f"the disk of {folder} is full; free some space and run the same command again: finished shards are kept"
        ) from None


def _write_split(folder: Path, about: dict, split: str, wanted: np.ndarray, make: Callable, tell: Callable) -> int:
    there = WindowLabels(folder, split)
    missing = np.setdiff1d(np.asarray(wanted, np.int64), there.numbers)
    first = there.shards
    for start in range(0, len(missing), SHARD):
        numbers = missing[start : start + SHARD]
        ids = make(split, numbers)
        if ids.shape != (len(numbers), about["context"], about["labels"]) or ids.max() >= NONE:
            wanted = (len(numbers), about["context"], about["labels"])
            raise ValueError(f"ids of shape {ids.shape} up to {ids.max()} are no labels: make them {wanted}, below {NONE}.")
        stem = folder / f"{split}-{first + start // SHARD:05d}"
        _whole(stem.with_suffix(".windows"), numbers.astype("<i8").tobytes())
        _whole(stem.with_suffix(".ids"), np.where(ids < 0, NONE, ids).astype("<u2").tobytes())  # last: now the shard counts
        tell(f"{folder.name}: {min(start + SHARD, len(missing)):,} of {len(missing):,} windows of the {split} split")
    return len(missing)


def _whole(path: Path, content: bytes) -> None:
    put(path, lambda draft: draft.write_bytes(content))


def read_about(folder: Path) -> dict:
    """What the labels in a folder are. Raises FileNotFoundError or ValueError in a sentence."""
    try:
        found = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        return found | {"context": int(found["context"]), "labels": int(found["labels"])}
    except FileNotFoundError:
        raise FileNotFoundError(f"there are no labels in {folder}: `zoo prepare concepts` writes them") from None
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{folder / ABOUT} is damaged: delete the folder and run `zoo prepare concepts` again") from None


def belongs(folder: Path, expected: dict, remedy: str = "prepare labels for what you train on, or train on theirs") -> None:
    """Raise ValueError, naming every difference, where the labels in a folder are not what is expected of them."""
    if wrong := differences(read_about(folder), expected):
        raise ValueError(f"the labels in {folder} are of {wrong}: {remedy}")


def differences(found: dict, expected: dict) -> str:
    """Where values are not what is expected, in words; empty where they are."""
    return "; ".join(f"{key} {found.get(key)!r}, not {value!r}" for key, value in expected.items() if found.get(key) != value)


class WindowLabels:
    """The labels of one split, memory-mapped.

    expected: entries of `about` that must agree. Raises FileNotFoundError, ValueError (other labels) or RuntimeError (a shard of
    the wrong size) in one sentence.
    """

    def __init__(self, folder: str | os.PathLike, split: str, expected: dict | None = None):
        self.folder, self.split = Path(folder), split
        self.about = read_about(self.folder)
        belongs(self.folder, expected or {})
        shape = self.about["context"], self.about["labels"]
        numbers, self._ids = [], []
        for path in sorted(self.folder.glob(f"{split}-*.ids")):
            beside = path.with_suffix(".windows")
            mine = np.fromfile(beside, "<i8") if beside.exists() else np.empty(0, np.int64)
            if not len(mine) or path.stat().st_size != len(mine) * shape[0] * shape[1] * 2:
                raise Told(self._damaged(path))
            numbers.append(mine)
            self._ids.append(np.memmap(path, "<u2", "r", shape=(len(mine), *shape)).view(np.ndarray))
        self.shards = 1 + max((int(path.stem.rsplit("-", 1)[1]) for path in self.folder.glob(f"{split}-*.ids")), default=-1)
        self.numbers = np.concatenate([np.empty(0, np.int64), *numbers])  # (windows,), in the order of the shards
        self._order = np.argsort(self.numbers)
        self._ends = np.cumsum([len(mine) for mine in numbers], dtype=np.int64)

    @staticmethod
    def _damaged(path: Path) -> str:
        return f"{path} is damaged: delete it and run `zoo prepare concepts` again, it alone is made anew"

    def refuse_missing(self, windows: np.ndarray) -> None:
        """ValueError where some of these windows (n,) have no labels."""
        missing = np.setdiff1d(windows, self.numbers)
        if len(missing):
            raise ValueError(
                f"{len(missing):,} of {len(windows):,} windows of the {self.split} split have no labels in {self.folder}, "
                f"{missing[0]} for one: {ADDS}"
            )

    def __reduce__(self):
        return WindowLabels, (self.folder, self.split)  # workers map the files anew

    def counts(self, ids: int) -> np.ndarray:
        """How often there is none, and each of so many ids: (ids + 1,)."""
        found = np.zeros(NONE + 1, np.int64)
        for shard in self._ids:
            found += np.bincount(shard.ravel(), minlength=NONE + 1)
        return np.concatenate([found[NONE:], found[:ids]])

    def __getitem__(self, windows: np.ndarray) -> np.ndarray:
        """Ids (n, T, K) int64 of windows (n,), -1 where there is none. ValueError for a window without labels."""
        windows = np.asarray(windows, np.int64)
        place = np.searchsorted(self.numbers, windows, sorter=self._order).clip(max=max(len(self.numbers) - 1, 0))
        rows = self._order[place] if len(self.numbers) else place
        if not len(self.numbers) or (self.numbers[rows] != windows).any():
            lost = windows[0] if not len(self.numbers) else windows[self.numbers[rows] != windows][0]
            raise ValueError(f"window {lost} of the {self.split} split has no labels in {self.folder}: {ADDS}")
        ids = np.empty((len(rows), self.about["context"], self.about["labels"]), np.int64)
        shards = np.searchsorted(self._ends, rows, side="right")
        for out, row, shard in zip(ids, rows.tolist(), shards.tolist()):
            out[:] = self._ids[shard][row - int(self._ends[shard]) + len(self._ids[shard])]
        ids[ids == NONE] = -1
        if ids.max(initial=-1) >= self.about.get("concepts", NONE):
            wrong = self.folder / f"{self.split}-*.ids"
            raise Told(f"{wrong} hold numbers of no concept: delete {self.folder} and run `zoo prepare concepts` again")
        return ids
