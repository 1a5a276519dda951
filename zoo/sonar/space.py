"""The sentence space: texts to vectors and back (LCM paper, sec. 2.1), whole batches at a time."""

import hashlib
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from functools import cached_property, partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from zoo.nn.normalizer import Normalizer
from zoo.nn.packed import packed
from zoo.sonar.named import open_parts
from zoo.sonar.net import TextDecoder, TextEncoder
from zoo.sonar.search import beam_search, greedy
from zoo.sonar.tokens import EOS, PAD, UNK, Tokenizer

if TYPE_CHECKING:
    from zoo.sonar.data import AutoEncoding

STRANGE = 3  # a text is not known if more than one in so many pieces is not (a run of letters without a piece counts as one)
WORTH = 512  # tokens from which on packing the weights (zoo.nn.packed, on a CPU) costs less than it saves


class Space:
    """An encoder and a decoder (either may be missing) with their tokenizers.

    tokenizer: the encoder's. target: the decoder's, where it is another one. normalizer: of the space's vectors.
    truncated, unknown, cut: texts that were too long for the encoder, texts of which the tokenizer does not know more than a
    third of the pieces, and outputs that reached the limit before their end, so far.

    A sentence's vector does not depend on what else is encoded with it, beyond rounding (1e-6 of its size in fp32).
    """

    def __init__(
        self,
        encoder: TextEncoder | None,
        decoder: TextDecoder | None,
        tokenizer: Tokenizer,
        target: Tokenizer | None = None,
        normalizer: Normalizer | None = None,
    ):
        self.tokenizer, self.target, self.normalizer = tokenizer, target or tokenizer, normalizer
        self.encoder, self.decoder = encoder and encoder.eval(), decoder and decoder.eval()
        self.truncated = self.unknown = self.cut = 0

    @classmethod
    def opened(
        cls, *sources: str | os.PathLike, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> "Space":
        """The space of these sources: a local folder (see zoo.sonar.folder), or asset cards of sonar-space.

        A card brings one half: Space.opened("text_sonar_basic_encoder", "text_sonar_basic_decoder") has both, and so has the one
        name "text_sonar_basic_encoder+text_sonar_basic_decoder" (zoo.sonar.named). A later source takes the place of what an
        earlier one brought: Space.opened(folder, "text_sonar_finetuned_decoder").
        dtype: of the weights and products; vectors are given back in float32 whatever it is.

        Raises FileNotFoundError, ValueError, ImportError or OSError, in a sentence.
        """
        if not sources:
            raise ValueError("Space.opened needs a folder or the names of sonar-space's cards.")
        found = open_parts(*sources, dtype=dtype)
        tokenizer = found.source or found.target
        if tokenizer is None:
            raise ValueError(f"{' and '.join(map(str, sources))} hold no encoder and no decoder: give a folder, or cards.")
        halves = [half if half is None else half.to(device) for half in (found.encoder, found.decoder)]
        space = cls(*halves, tokenizer, found.target, found.normalizer)
        space.fits()
        return space

    def fits(self) -> None:
        """Raise ValueError, in a sentence, where the decoder does not read the encoder's vectors."""
        if self.encoder is not None and self.decoder is not None and self.encoder.dim != self.decoder.memory:
            raise ValueError(
                f"The encoder makes vectors of {self.encoder.dim} numbers and the decoder reads {self.decoder.memory}: "
                "give halves of one space."
            )
        if self.normalizer is not None and self.normalizer.width != self.width:
            raise ValueError(
                f"The normalizer is for vectors of {self.normalizer.width} numbers, and this space's have {self.width}: fit one."
            )

    @property
    def width(self) -> int:
        """Numbers in a vector."""
        return self.decoder.memory if self.encoder is None else self.encoder.dim

    @property
    def device(self) -> torch.device:
        """Where vectors are made."""
        return next((self.decoder if self.encoder is None else self.encoder).parameters()).device

    @cached_property
    def fingerprint(self) -> str:
        """Hex digest of the encoder's weights and tokenizer: of what decides a text's vector. Reads all weights, once."""
        if self.encoder is None:
            raise ValueError("This space has no encoder, so it makes no vectors: open one as well.")
        told = hashlib.sha256(f"{self.tokenizer.fingerprint} {sorted(self.encoder.config.items())}".encode())
        for name, weight in self.encoder.state_dict().items():
            told.update(name.encode())
            told.update(weight.detach().cpu().contiguous().view(torch.uint8).numpy().data)
        return told.hexdigest()[:32]

    def encode(self, texts: Sequence[str], lang: str | None = None, budget: int | None = None) -> Tensor:
        """One vector per text (N, E), float32, in the order of the texts, on the net's device.

        budget: tokens of a batch, padding counted; default 512 on a CPU (more would only be padded more) and 16384 elsewhere.
        A text of more tokens than the encoder has positions loses its end (the end token stays), with a warning and a count; so
        are texts told and counted that are mostly of letters the tokenizer has no pieces for.
        """
        if self.encoder is None:
            raise ValueError("This space has no encoder: open one as well, for instance the card text_sonar_basic_encoder.")
        if isinstance(texts, str):
            raise ValueError("Space.encode takes a list of texts, and a single string is none: put it into brackets.")
        rows = self._fitted(self.tokenizer.encode(texts, lang))
        weight, device = self.encoder.layer_norm.weight, self.device
        out = torch.empty(len(rows), self.width, dtype=weight.dtype, device=device)
        with torch.inference_mode(), packed(self.encoder) if sum(map(len, rows)) > WORTH else nullcontext():
            for chosen, tokens, lengths in batches(rows, budget or (512 if device.type == "cpu" else 16384)):
                lengths = None if lengths is None else lengths.to(device, non_blocking=True)
                out[chosen.to(device, non_blocking=True)] = self.encoder(tokens.to(device, non_blocking=True), lengths)
        return out.float()

    def decode(
        self, vectors: Tensor, lang: str | None = None, beam: int = 5, limit: int | None = None, rows: int = 256
    ) -> list[str]:
        """The text of each vector (N, E), in the language's words.

        beam: 1 is greedy. limit: tokens of a text, its prefix and end counted (default: what the decoder has positions for); a
        text that reaches it before its end is cut there, with a warning and a count. rows: hypotheses that are written side by
        side.
        """
        if self.decoder is None:
            raise ValueError("This space has no decoder: open one as well, for instance the card text_sonar_basic_decoder.")
        if vectors.ndim != 2 or vectors.shape[1] != self.decoder.memory:
            raise ValueError(
                f"Vectors of shape {tuple(vectors.shape)} are not (N, {self.decoder.memory}), which this decoder reads: give "
                "vectors of its own space, one in a row."
            )
        bad = (~vectors.isfinite().all(1)).nonzero()[:, 0]
        if len(bad):
            raise ValueError(
                f"Vector {int(bad[0])} of {len(vectors)} holds NaN or infinite numbers and is no point of the space: leave "
                "it out, or see what made it."
            )
        prefix, weight = self.target.prefix(lang, "target"), self.decoder.unembedding
        search = partial(greedy, limit=limit) if beam == 1 else partial(beam_search, beam=beam, limit=limit)
        texts, cut = [], 0
        with torch.inference_mode(), packed(self.decoder) if len(vectors) * beam > WORTH // 16 else nullcontext():
            for part in vectors.split(max(1, rows // beam)):
                found = search(self.decoder, part.to(weight.device, weight.dtype), prefix)
                texts += self.target.decode(found.tokens)
                cut += int(found.cut.sum())
        if cut:
            self.cut += cut
            warnings.warn(f"{cut} of {len(texts)} decoded texts reached the limit of tokens and end there.", stacklevel=2)
        return texts

    def _fitted(self, rows: list[list[int]]) -> list[list[int]]:
        """Rows of ids, none longer than the encoder's positions."""
        strange = sum(STRANGE * row.count(UNK) > len(row) - 2 for row in rows)  # less the language and the end
        if strange:
            self.unknown += strange
            warnings.warn(
                f"{strange} of {len(rows)} texts are in letters that the space's tokenizer does not know (over a third of their "
                "pieces), so their vectors hardly tell what they say: leave them out, or take a space of their language.",
                stacklevel=3,
            )
        most = self.encoder.positions
        over = sum(len(row) > most for row in rows)
        if over:
            self.truncated += over
            rows = [row if len(row) <= most else [*row[: most - 1], EOS] for row in rows]
            warnings.warn(
                f"{over} of {len(rows)} texts have more than the encoder's {most} tokens and were cut: split them first.",
                stacklevel=3,
            )
        return rows


def batches(rows: Sequence[Sequence[int]], budget: int) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """Rows of ids in batches of at most `budget` tokens, padding counted, longest first; a longer row is a batch of its own.

    Yields which rows (B,) int64, their tokens (B, S) int64 padded on the right, and their lengths (B,), None where all are equal.
    """
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
    start = 0
    while start < len(order):
        longest = len(rows[order[start]])
        chosen = order[start : start + max(1, budget // max(longest, 1))]
        lengths = [len(rows[i]) for i in chosen]
        tokens = torch.tensor([[*rows[i], *[PAD] * (longest - length)] for i, length in zip(chosen, lengths)])
        yield torch.tensor(chosen), tokens, None if lengths[-1] == longest else torch.tensor(lengths)
        start += len(chosen)


def with_data(folder: str, words: list[str], device: str = "cpu") -> tuple[Space, "AutoEncoding"]:
    """A space, and the data that the words of `zoo prepare` name. Raises ValueError where their pieces are not the space's."""
    from zoo.cli import main as lightning  # takes seconds, and --help need not wait

    data = lightning(["prepare", *words]).datamodule
    data.setup()
    space = Space.opened(folder, device=device)
    if space.tokenizer.fingerprint != data.tokenizer.fingerprint:
        raise ValueError(f"{folder} has another tokenizer than these data: give data.tokenizer the same folder.")
    return space, data
