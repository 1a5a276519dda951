"""`zoo prepare chains`: fits a residual quantizer to the vectors of the test bed's training documents, for Quant-LCM."""

import argparse
from pathlib import Path

import torch

from zoo.nn.rvq import ResidualQuantizer
from zoo.saved import save
from zoo.sonar.adapted import CODEBOOKS


def main(words: list[str]) -> dict[str, float]:
    """Returns what is left of the vectors' variance, a share: after all codebooks, and after the first."""
    rest = "All other words are of `zoo prepare`: a recipe over zoo.lcm.testbed.CodebookChains, overlays and settings."
    parser = argparse.ArgumentParser("zoo prepare chains", description=__doc__.split(": ", 1)[1], epilog=rest)
    parser.add_argument("--out", required=True, help=f"folder that {CODEBOOKS} is written to")
    parser.add_argument("--books", type=int, default=4, help="codebooks (default: %(default)s)")
    parser.add_argument("--units", type=int, default=16, help="centroids of each (default: %(default)s)")
    parser.add_argument("--documents", type=int, default=2048, help="of the training split (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=20, help="rounds of k-means per codebook (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    given, rest = parser.parse_known_args(words)
    from zoo.cli import main as lightning  # takes seconds, and --help need not wait

    data = lightning(["prepare", *rest]).datamodule
    if not hasattr(data, "some"):
        raise ValueError("`zoo prepare chains` is for the test bed; the codebooks of a space come from `zoo prepare codebooks`.")
    vectors = torch.from_numpy(data.some(given.documents))  # (N, E)
    quantizer = ResidualQuantizer(data.vocab, given.books, given.units)
    left = quantizer.fit(vectors, given.steps, given.seed)
    out = Path(given.out)
    out.mkdir(parents=True, exist_ok=True)
    save(quantizer, out / CODEBOOKS)
    print(f"codebooks: {given.books} of {given.units} centroids, {left[-1]:.2%} of the variance left: {out / CODEBOOKS}")
    return {"variance_left": left[-1], "variance_left_first": left[0]}
