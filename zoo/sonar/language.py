"""A new language for a sentence space that stays as it is: a decoder of its own on the vectors of a frozen encoder."""

from collections.abc import Iterator
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from zoo.data.sources import Source, digest
from zoo.sonar.autoencoder import OnFrozen, noised
from zoo.sonar.batches import Batches, Known
from zoo.sonar.corpus import Cipher, Pieces, Translated
from zoo.sonar.data import SPLITS, AutoEncoding, thinned
from zoo.sonar.named import open_named, tokenizer_of
from zoo.sonar.net import TextDecoder, TextEncoder
from zoo.sonar.tokens import PAD, Tokenizer


class NewLanguage(OnFrozen):
    """A decoder that learns to write another language from the vectors of a space, whose encoder never changes.

    The modularity that LCMs stand on (LCM paper, sec. 1 and 2.1): whatever reads or writes vectors of the space can take the new
    decoder, and nothing that is there is touched. `Space.opened(SPACE, RUN/pretrained)` puts the two together.

    Args:
        vocab, context: of the new language; the longest sentence in pieces.
        space: folder of the space, of a saved one or of a run, or a card of sonar-space (zoo.sonar.named).
        dim, layers, heads, hidden, dropout: of the decoder; the width of the vectors is the space's.
        noise: as in `zoo.sonar.AutoEncoder`.
        encoder: sizes of the space's encoder, where the weights come from elsewhere (a saved net); then `space` is not read.
    """

    borrowed = True  # the encoder is somebody else's, and is not opened from a run of this net

    def __init__(
        self,
        vocab: int,
        context: int,
        space: str,
        dim: int = 1024,
        layers: int = 24,
        heads: int = 16,
        hidden: int = 8192,
        *,
        dropout: float = 0.1,
        noise: float = 0.0,
        encoder: dict | None = None,
    ):
        config = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        super().__init__()
        if noise < 0:
            raise ValueError(f"noise is {noise}, and a strength is not below 0: give 0 for none.")
        self.vocab, self.context, self.noise = vocab, context, noise
        if encoder is None:
            with torch.device("cpu"):  # also where the rest is only counted
                found = open_named(space).encoder
            if found is None:
                raise ValueError(f"{space} has no encoder: give the folder of a whole space.")
            weights, encoder = found.state_dict(), found.config
            self.encoder = TextEncoder(**encoder)
            if not self.encoder.layer_norm.weight.is_meta:
                self.encoder.load_state_dict(weights)
        else:
            self.encoder = TextEncoder(**encoder)
        self.encoder.requires_grad_(False)
        self.decoder = TextDecoder(vocab, dim, layers, heads, hidden, context + 2, PAD, self.encoder.dim, dropout)
        self.config = config | {"encoder": encoder}

    def moved(self, vectors: Tensor) -> Tensor:
        return noised(vectors, self.noise)


class FromSpace(AutoEncoding):
    """Sentences in the pieces of a space, each beside its translation in pieces of its own: what `NewLanguage` learns from.

    The translations are the cipher's (`zoo.sonar.corpus.Cipher`), unless `pairs` are given; the new language's SentencePiece is
    trained on them alone. Otherwise as `AutoEncoding`.

    Args:
        space: the folder that the net's `space` names.
        kwargs: as in `AutoEncoding`, except cipher and tokenizer. With `pairs` their English is the source, and no other text is
            read.
    """

    def __init__(self, space: str, **kwargs):
        if kwargs.get("cipher") or kwargs.get("tokenizer"):
            raise ValueError(
                "FromSpace makes its own tokenizer, and its cipher where there are no pairs: leave both settings out."
            )
        super().__init__(**kwargs)
        self.space, self.lang, self.cipher = space, self.langs[0], self.aligned is None
        self.langs = [Cipher.lang] if self.cipher else self.aligned.langs
        self.names = ("text", "cipher") if self.cipher else ("eng", "pairs")

    @cached_property
    def source_tokenizer(self) -> Tokenizer:
        """The space's."""
        return tokenizer_of(self.space)

    @cached_property
    def fingerprint(self) -> str:
        return digest("from space", super().fingerprint, self.source_tokenizer.fingerprint)

    def _corpora(self) -> dict[str, Source]:
        sides = (self.corpus, Translated(self.corpus, Cipher())) if self.cipher else (self.aligned, self.aligned.other)
        return dict(zip(self.names, sides))

    def _pieces(self, name: str) -> Pieces:
        return Pieces(self.source_tokenizer if name == self.names[0] else self.tokenizer)

    def _sample(self) -> Iterator[str]:
        if self.cipher:
            yield from map(Cipher(), thinned(sentence.text for sentence in self.corpus.documents("train")))
        else:
            yield from thinned(sentence.text for sentence in self.aligned.other.documents("train"))

    def setup(self, stage: str | None = None) -> None:
        """As `AutoEncoding`'s."""
        self._token_bytes, self.sides, self.rows, self.groups, known = self._pieces("").token_bytes, {}, {}, {}, Known()
        token = self.tokenizer.lang_id
        for split in SPLITS:
            langs = np.array(
                [token(lang) for lang in ([Cipher.lang] if self.cipher else self.aligned.languages(split))], np.int64
            )
            sides = (
                self._side(self.names[0], split, self.source_tokenizer.lang_id(self.lang)),
                self._side(self.names[1], split, langs),
            )
            self._take(split, list(sides), known)

    def references(self, split: str) -> list[str]:
        """What the held-out sentences that count say in the new language."""
        if self.cipher:
            return list(map(Cipher(), self.sentences(split)))
        texts = [sentence.text for sentence in self.aligned.other.documents(split)]
        return [texts[i] for i in self.rows[split]]

    def _batches(self, split: str, scored: bool | None = None) -> Batches:
        module = self.trainer and self.trainer.lightning_module
        if module is not None and module.net.encoder.vocab != self.source_tokenizer.vocab:
            raise ValueError(
                f"data.space, {self.space}, has {self.source_tokenizer.vocab} token ids and the net's encoder "
                f"{module.net.encoder.vocab}: name one space in both."
            )
        batches = super()._batches(split, scored)
        batches.one_way = True
        return batches
