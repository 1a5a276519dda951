"""`zoo prepare codebooks`: fits a residual quantizer to the vectors of a space's training sentences (LCM paper, sec. 2.3.5)."""

import argparse
from pathlib import Path

import torch

from zoo.nn.rvq import ResidualQuantizer
from zoo.saved import save
from zoo.sonar.adapted import CODEBOOKS
from zoo.sonar.space import with_data

MANY = 4_000_000  # more sentences than this are kept in half precision, as a store has them, and in the host's memory


def main(words: list[str]) -> dict[str, float]:
    """Returns what is left of the vectors' variance, a share: after all codebooks, after half of them, after the first."""
    rest = "All other words are of `zoo prepare`: the recipe, overlays and settings of the space's data."
    parser = argparse.ArgumentParser("zoo prepare codebooks", description=__doc__.split(": ", 1)[1], epilog=rest)
    parser.add_argument("--space", required=True, help="folder of the space")
    parser.add_argument("--out", required=True, help=f"folder that {CODEBOOKS} is written to")
    parser.add_argument("--books", type=int, default=64, help="codebooks (default: %(default)s, the paper's)")
    parser.add_argument("--units", type=int, default=8192, help="centroids of each (default: %(default)s, the paper's)")
    parser.add_argument("--sentences", type=int, default=15_000_000, help="of the training split, at most (default: 15M)")
    parser.add_argument("--steps", type=int, default=20, help="rounds of k-means per codebook (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given, rest = parser.parse_known_args(words)
    (space, data), out = with_data(given.space, rest, given.device), Path(given.out)
    dtype = torch.float16 if given.sentences > MANY else torch.float32
    vectors = data.vectors(space.encoder, given.sentences, dtype)  # (N, E)
    vectors = vectors.to(given.device) if dtype == torch.float32 else vectors
    quantizer = ResidualQuantizer(space.width, given.books, given.units).to(given.device)
    print(f"codebooks: {given.books} of {given.units:,} centroids, fitted to {len(vectors):,} vectors", flush=True)
    tell = lambda book, share: print(f"  {book + 1}: {share:.2%} of the variance left", flush=True)
    left = quantizer.fit(vectors, given.steps, given.seed, tell, in_place=True)
    out.mkdir(parents=True, exist_ok=True)
    save(quantizer, out / CODEBOOKS)
    print(f"codebooks: {out / CODEBOOKS}")
    return {"variance_left": left[-1], "variance_left_half": left[max(0, len(left) // 2 - 1)], "variance_left_first": left[0]}
