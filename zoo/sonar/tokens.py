"""NLLB's tokenizer over a SentencePiece model: the ids that fairseq2's NLLB loader gives, with `sentencepiece` alone.

The SentencePiece model holds unk, bos and eos at 0, 1, 2 and no pad. NLLB puts the pad before all of it, so every id moves up by
one, and appends a `__lang__` per language and three markers of its training data: vocab = pieces + languages + 4.
"""

import hashlib
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from zoo.files import put

PAD, UNK, BOS, EOS = range(4)
MARKERS = ("<MINED_DATA>", "<MMT_BT_DATA>", "<SMT_BT_DATA>")
MODEL, LANGUAGES = "sentencepiece.model", "languages.json"  # in the folder that a run leaves beside its net
SENTENCES = 2_000_000  # that a trainer holds at most; of more, a random choice with a fixed seed


class Tokenizer:
    """Texts <-> token ids of a SentencePiece model and a list of languages.

    model: a file, or its bytes. langs: in the order of the net's rows. default: the language where none is named, else the first.
    vocab: number of ids, which the net's table has as rows. fingerprint: of model and languages.

    Raises FileNotFoundError or ValueError, in a sentence, for a model that is missing, damaged, or has other control symbols.
    """

    pad, unk, bos, eos = PAD, UNK, BOS, EOS

    def __init__(self, model: str | Path | bytes, langs: Sequence[str] = ("eng_Latn",), default: str | None = None):
        from sentencepiece import SentencePieceProcessor

        name = "The SentencePiece model" if isinstance(model, bytes) else f"The SentencePiece model {model}"
        if not isinstance(model, bytes):
            if not Path(model).is_file():
                raise FileNotFoundError(f"There is no SentencePiece model {model}: give the file that the net was trained with.")
            model = Path(model).read_bytes()
        if not langs or len(set(langs)) < len(langs):
            raise ValueError(f"A tokenizer needs its languages, each once: {list(langs)} is no such list.")
        self.model, self.langs, self.pieces = model, tuple(langs), SentencePieceProcessor()
        self.default = self.langs[0] if default is None else default
        try:
            self.pieces.load_from_serialized_proto(model)
        except RuntimeError:
            raise ValueError(f"{name} cannot be read: it is damaged or another kind of file.") from None
        special = tuple(getattr(self.pieces, f"{kind}_id")() for kind in ("unk", "bos", "eos", "pad"))
        if special != (0, 1, 2, -1):
            raise ValueError(
                f"{name} has unk, bos, eos, pad at {special}, and NLLB's loader expects (0, 1, 2, -1): train one with "
                "zoo.sonar.tokens.train_sentencepiece."
            )
        self._first = len(self.pieces) + 1  # id of the first language
        self.vocab = self._first + len(self.langs) + len(MARKERS)
        self.fingerprint = hashlib.sha256(model + " ".join(self.langs).encode()).hexdigest()

    @classmethod
    def opened(cls, folder: str | Path) -> "Tokenizer":
        """What `save_to` wrote; that of a folder of a run, or of a space.

        Raises FileNotFoundError or ValueError, in a sentence, for a folder that is not such a one.
        """
        places = [Path(folder) / LANGUAGES, Path(folder) / "tokenizer" / LANGUAGES, Path(folder) / "config.json"]
        path = next((path for path in places if path.is_file()), None)
        if path is None:
            raise FileNotFoundError(
                f"{places[0]} is missing: give the folder of a space, or the `tokenizer` beside a trained one."
            )
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
            langs, default = (told, None) if isinstance(told, list) else (told["langs"], told["default"])
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"{path} is damaged: save the tokenizer again.") from None
        found = cls(path.parent / MODEL, langs, default)
        if isinstance(told, dict) and told.get("tokenizer") != found.fingerprint:
            raise ValueError(f"{path.parent / MODEL} is not the model that this space was saved with: copy the whole folder.")
        return found

    def __reduce__(self):
        return Tokenizer, (self.model, self.langs, self.default)

    def lang_id(self, lang: str | None = None) -> int:
        """Id of a language's symbol. Raises ValueError for a language that the tokenizer does not have."""
        lang = lang or self.default
        if lang not in self.langs:
            shown = ", ".join(self.langs[:6]) + (", …" if len(self.langs) > 6 else "")
            raise ValueError(f"This tokenizer has no language {lang!r}; it has {shown}.")
        return self._first + self.langs.index(lang)

    def prefix(self, lang: str | None = None, mode: str = "source") -> list[int]:
        """What stands before a text: [lang] of a source, [</s>, lang] of a target."""
        if mode not in ("source", "target"):
            raise ValueError(f"A text is tokenized as 'source' or as 'target', not as {mode!r}.")
        return [self.lang_id(lang)] if mode == "source" else [EOS, self.lang_id(lang)]

    def encode(self, texts: Sequence[str], lang: str | None = None, mode: str = "source") -> list[list[int]]:
        """Ids of each text: [lang] … [</s>] as source, [</s>] [lang] … [</s>] as target."""
        prefix = self.prefix(lang, mode)
        valid = [text.encode(errors="replace").decode() for text in texts]  # lone surrogates have no utf-8
        found = self.pieces.encode(valid, num_threads=1)
        return [prefix + [i + 1 for i in ids] + [EOS] for ids in found]

    def decode(self, ids: Iterable[Iterable[int]]) -> list[str]:
        """Text of each sequence; pad, bos, eos, languages and markers are left out, unk is " ⁇ "."""
        known = [[int(i) - 1 for i in row if i == UNK or EOS < i < self._first] for row in ids]
        return [self.pieces.decode(row) for row in known]

    def save(self, path: str | Path) -> None:
        """Write the SentencePiece model, which appears whole."""
        put(Path(path), lambda place: place.write_bytes(self.model))

    def save_to(self, folder: str | Path) -> None:
        """Write model and languages."""
        self.save(Path(folder) / MODEL)
        put(Path(folder) / LANGUAGES, lambda place: place.write_text(json.dumps(self.langs), encoding="utf-8"))


def train_sentencepiece(
    sentences: Iterable[str],
    pieces: int,
    *,
    kind: str = "unigram",
    coverage: float = 0.9995,
    normalization: str = "nmt_nfkc",
    byte_fallback: bool = False,
    seed: int = 1,
    threads: int = 8,
) -> bytes:
    """Train a SentencePiece model without a pad, which is what `Tokenizer` and NLLB's loader take; returns the model's bytes.

    pieces: size of the model, unk, bos and eos counted; a net's `vocab` is that + 4 + its languages.
    kind: unigram (SONAR's) | bpe | char. coverage: share of the characters that must have pieces. byte_fallback: 256 pieces that
    spell any other character. The same sentences, seed and threads give the same bytes.

    Raises ValueError, in a sentence, where the sentences are too few for so many pieces.
    """
    import sentencepiece

    out = io.BytesIO()
    sentencepiece.set_random_generator_seed(seed)
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences),
            model_writer=out,
            vocab_size=pieces,
            model_type=kind,
            character_coverage=coverage,
            normalization_rule_name=normalization,
            byte_fallback=byte_fallback,
            input_sentence_size=SENTENCES,
            shuffle_input_sentence=True,
            num_threads=threads,
            unk_id=0,
            bos_id=1,
            eos_id=2,
            pad_id=-1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise ValueError(
            f"No SentencePiece model of {pieces} pieces can be trained on these sentences: give more of them, or ask for fewer "
            f"pieces ({str(error).strip().splitlines()[-1][-200:]})."
        ) from None
    return out.getvalue()
