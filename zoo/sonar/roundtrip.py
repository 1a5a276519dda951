"""`zoo roundtrip SPACE`: sentences beside what a space's decoder makes of their vectors, new ones or those of a store."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from zoo.data.language import LANG
from zoo.data.segment import Cleaned, Sentencex
from zoo.data.sentence_store import SentenceStore
from zoo.data.shards import SPLITS
from zoo.evals.autobleu import round_trips
from zoo.sonar.encoder import fingerprints
from zoo.sonar.space import Space


def main(words: list[str]) -> None:
    """Prints every sentence and what comes back, and AutoBLEU over all of them."""
    given = _options().parse_args(words)
    sentences, back = _of_store(given) if given.store else _of_text(given)
    for sentence, found in zip(sentences, back):
        print(sentence, f"  = {found}" if found == sentence else f"  → {found}", sep="\n")
    same = sum(a == b for a, b in zip(sentences, back))
    print(f"— {same} of {len(sentences)} come back as they were; AutoBLEU {_bleu(back, sentences):.1f}")


def _bleu(texts: list[str], references: list[str]) -> float:
    """As `zoo.evals.autobleu.bleu`, but texts without four words in a row, which have 0 there, go by shorter runs of words."""
    import sacrebleu

    return sacrebleu.corpus_bleu(texts, [references], use_effective_order=True).score


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("zoo roundtrip", description=__doc__.split(": ", 1)[1])
    parser.add_argument("space", nargs="+", help="folder of the space, or cards of it (zoo.sonar.named)")
    parser.add_argument("--text", action="append", default=[], help="cut into sentences; may be repeated")
    parser.add_argument("--file", action="append", default=[], help="a text file; may be repeated")
    parser.add_argument("--store", help="folder of a sentence store, whose vectors are decoded; end markers are left out")
    parser.add_argument("--first", type=int, default=20, help="so many sentences of the store (default: %(default)s)")
    parser.add_argument("--lang", default=LANG, help="of the text; a store says its own (default: %(default)s)")
    parser.add_argument("--into", help="language to write in, any that the space has (default: that of text or store)")
    parser.add_argument("--noise", type=float, default=0.0, help="of the vectors, in standard deviations of each dimension")
    parser.add_argument("--beam", type=int, default=5, help="of the decoder; 1 is greedy (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the noise")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser


def _of_text(given: argparse.Namespace) -> tuple[list[str], list[str]]:
    """Sentences of the texts and files, and what comes back."""
    texts = given.text + [Path(path).read_text(encoding="utf-8", errors="replace") for path in given.file]
    sentences = [sentence for text in texts for sentence in Cleaned(Sentencex())(text, given.lang)]
    if not sentences:
        raise ValueError("There is no sentence to encode: give --text TEXT, --file FILE or --store FOLDER.")
    _enough(sentences, given.noise)
    space = Space.opened(*given.space, device=given.device)
    return sentences, round_trips(space, sentences, given.beam, given.noise, given.seed, given.lang, given.into)


def _of_store(given: argparse.Namespace) -> tuple[list[str], list[str]]:
    """Sentences of the store's first split that has any, and what comes back of their vectors."""
    if given.text or given.file:
        raise ValueError("--store brings its own sentences: give it without --text and --file.")
    store = next((store for split in SPLITS if (store := SentenceStore(given.store, split)).sentences), None)
    if store is None:
        raise ValueError(f"The store in {given.store} has no sentences: give another one.")
    if given.first < 1:
        raise ValueError(f"--first {given.first} asks for no sentence: give --first 1 or more.")
    space = Space.opened(*given.space, device=given.device)
    _belongs(store, space, given.space)
    sentences, vectors = first(store, given.first)
    _enough(sentences, given.noise)
    lang = store.manifest["lang"]
    into = given.into or (lang if lang in space.target.langs else None)  # sentences may be read as of another language
    return sentences, round_trips(Kept(vectors, space.decode), sentences, given.beam, given.noise, given.seed, None, into)


class Kept(NamedTuple):
    """Vectors that a store has, in the place of a space."""

    vectors: Tensor
    decode: Callable[..., list[str]]

    def encode(self, texts: list[str], lang: str | None = None) -> Tensor:
        """(N, E) of all texts at once."""
        return self.vectors


def first(store: SentenceStore, count: int) -> tuple[list[str], Tensor]:
    """The first `count` sentences of a store, end markers not counted, and their vectors (N, E) float32."""
    sentences: list[str] = []
    vectors: list[np.ndarray] = []
    for number in range(len(store)):
        texts = store.texts(number)
        if texts[-1] == store.end:
            texts = texts[:-1]
        sentences += texts
        vectors.append(store.chunks(np.array([number]))[0][0, : len(texts)])
        if len(sentences) >= count:
            break
    return sentences[:count], torch.from_numpy(np.concatenate(vectors)[:count])


def _belongs(store: SentenceStore, space: Space, names: list[str]) -> None:
    """Raise ValueError where the store's vectors are of another space; of a decoder alone only their width is known."""
    if store.width != space.width:
        raise ValueError(
            f"The store in {store.folder} has vectors of {store.width} numbers, and this space's have {space.width}: give the "
            "space that it was encoded with."
        )
    if space.encoder is None:
        return
    if store.manifest["encoder"] not in {space.fingerprint, *fingerprints(names, space.tokenizer.langs)}:
        raise ValueError(f"The store in {store.folder} was encoded by another space than this: give the space that made it.")


def _enough(sentences: list[str], noise: float) -> None:
    if noise and len(sentences) < 2:
        raise ValueError("--noise is in deviations over the sentences: give two or more of them.")
