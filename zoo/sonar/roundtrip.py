"""`zoo roundtrip SPACE`: sentences beside what a space's decoder makes of their vectors."""

import argparse
from pathlib import Path

import torch

from zoo.data.language import LANG
from zoo.data.segment import Cleaned, Sentencex
from zoo.evals.autobleu import bleu, round_trips
from zoo.sonar.space import Space


def main(words: list[str]) -> None:
    """Prints every sentence and what comes back, and AutoBLEU over all of them."""
    parser = argparse.ArgumentParser("zoo roundtrip", description=__doc__.split(": ", 1)[1])
    parser.add_argument("space", nargs="+", help="folder of the space, or cards of it (zoo.sonar.named)")
    parser.add_argument("--text", action="append", default=[], help="cut into sentences; may be repeated")
    parser.add_argument("--file", action="append", default=[], help="a text file; may be repeated")
    parser.add_argument("--lang", default=LANG, help="of the text (default: %(default)s)")
    parser.add_argument("--into", help="language to write in, any that the space has (default: that of the text)")
    parser.add_argument("--noise", type=float, default=0.0, help="of the vectors, in standard deviations of each dimension")
    parser.add_argument("--beam", type=int, default=5, help="of the decoder; 1 is greedy (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the noise")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args(words)
    texts = given.text + [Path(path).read_text(encoding="utf-8", errors="replace") for path in given.file]
    sentences = [sentence for text in texts for sentence in Cleaned(Sentencex())(text, given.lang)]
    if not sentences:
        raise ValueError("There is no sentence to encode: give --text TEXT or --file FILE.")
    if given.noise and len(sentences) < 2:
        raise ValueError("--noise is in deviations over the sentences: give two or more of them.")
    space = Space.opened(*given.space, device=given.device)
    back = round_trips(space, sentences, given.beam, given.noise, given.seed, given.lang, given.into)
    for sentence, found in zip(sentences, back):
        print(sentence, f"  = {found}" if found == sentence else f"  → {found}", sep="\n")
    same = sum(a == b for a, b in zip(sentences, back))
    print(f"— {same} of {len(sentences)} come back as they were; AutoBLEU {bleu(back, sentences):.1f}")
