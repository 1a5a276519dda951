"""The encoder of a space as settings: what a store of sentences names in a recipe and sends to other machines."""

import hashlib
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from zoo.sonar.folder import CONFIG
from zoo.sonar.named import found_at, sources
from zoo.sonar.space import Space

DTYPES = ("float32", "bfloat16")


class SpaceEncoder:
    """Turns sentences into a space's vectors. The space is opened where and when it is first needed: an encoder that is sent to
    another process or machine is its settings, and takes the devices that are there.

    Args:
        space: its folder, or the card of sonar-space that holds the encoder (the paper's: "text_sonar_basic_encoder"), or several
            sources joined by "+" (zoo.sonar.named).
        device: "auto" is a GPU where the process has one.
        dtype: of weights and products; vectors are float32.
        lang: that every text is read as, whatever the language of the store, by whose rules it was cut; None: the store's. With
            it a space of a few languages reads text of others, as well as its pieces allow.
    """

    def __init__(
        self, space: str, device: str = "auto", dtype: Literal["float32", "bfloat16"] = "float32", lang: str | None = None
    ):
        self.space, self.device, self.dtype, self.lang = space, device, dtype, lang

    def __getstate__(self) -> dict:
        return {"space": self.space, "device": self.device, "dtype": self.dtype, "lang": self.lang}

    @cached_property
    def opened(self) -> Space:
        """Raises what `Space.opened` raises, in a sentence."""
        device = self.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        return Space.opened(self.space, device=device, dtype=getattr(torch, self.dtype))

    @cached_property
    def fingerprint(self) -> str:
        """Hex digest of what decides a vector: of a folder its encoder's files, which are hashed and not opened; of a card its
        name. Raises FileNotFoundError, in a sentence, of a path where no space is."""
        return _read_as(_decided(sources(self.space), self.dtype), self.lang)

    @property
    def width(self) -> int:
        return self.opened.width

    @property
    def truncated(self) -> int:
        """Texts so far that were too long for it."""
        return self.opened.truncated if "opened" in self.__dict__ else 0

    @property
    def unknown(self) -> int:
        """Texts so far that are mostly of letters its tokenizer does not know."""
        return self.opened.unknown if "opened" in self.__dict__ else 0

    def encode(self, texts: list[str], lang: str) -> Tensor:
        """(N, E) float32. Raises ValueError, in a sentence, for a language that the space does not have."""
        return self.opened.encode(texts, self.lang or lang)


def fingerprints(spaces: Iterable[str], langs: Iterable[str] = ()) -> set[str]:
    """Those that a `SpaceEncoder` of these spaces may have: of either dtype, with any of `langs` as its `lang` or none, and of
    any of their sources that stand side by side, as the others may bring but a decoder."""
    parts = [source for space in spaces for source in sources(space)]
    runs = [parts[first : last + 1] for first in range(len(parts)) for last in range(first, len(parts))]
    decided = [_decided(run, dtype) for run in runs for dtype in DTYPES]
    return {_read_as(told, lang) for told in decided for lang in (None, *langs)}


def _decided(parts: Iterable[str], dtype: str):
    told = hashlib.sha256(f"{dtype} ".encode())
    for source in parts:
        folder = found_at(source)
        if folder is None:
            told.update(f"card {source} ".encode())
        elif folder.is_dir():
            _add_files(told, folder)
    return told


def _read_as(told, lang: str | None) -> str:
    told = told.copy()
    if lang is not None:
        told.update(f"lang {lang}".encode())
    return told.hexdigest()[:32]


def _add_files(told, folder: Path) -> None:
    if not (folder / CONFIG).is_file():
        raise FileNotFoundError(f"{folder / CONFIG} is missing: give the folder of a space.")
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and _decides(path.relative_to(folder))):
        told.update(str(path.relative_to(folder)).encode())
        with open(path, "rb") as file:
            told.update(hashlib.file_digest(file, "sha256").digest() if hasattr(hashlib, "file_digest") else file.read())


def _decides(path: Path) -> bool:
    """Whether a file of a space's folder decides vectors: neither decoder and normalizer, nor what is told about it, do."""
    return path.suffix != ".md" and not path.parts[0].startswith(("decoder", "normalizer", "about", "cards", "."))
