"""`zoo prepare space`: makes a folder of its own of a trained space, with normalizer and sonar-space's cards, and measures it."""

import argparse
import json
from pathlib import Path

import torch

from zoo.evals.autobleu import AutoBLEU
from zoo.nn.normalizer import Normalizer
from zoo.sonar.cards import write_space
from zoo.sonar.space import Space, with_data

ABOUT = "about.json"


def main(words: list[str]) -> dict[str, float]:
    """Returns what was measured on held-out sentences, as `zoo.evals.autobleu.AutoBLEU` names it, less "test/"."""
    rest = "All other words are of `zoo prepare`: the recipe, overlays and settings of the run."
    parser = argparse.ArgumentParser("zoo prepare space", description=__doc__.split(": ", 1)[1], epilog=rest)
    parser.add_argument("--run", required=True, help="what a run of recipes/sonar left: runs/<name>/<version>/pretrained")
    parser.add_argument("--out", required=True, help="folder of the space")
    parser.add_argument("--name", default="small_zoo", help="of its cards, NAME_encoder and NAME_decoder (default: %(default)s)")
    parser.add_argument(
        "--sentences",
        type=int,
        default=50_000,
        help="of the training split, that the normalizer is fitted on (default: %(default)s)",
    )
    parser.add_argument(
        "--normalizer",
        choices=("robust", "released"),
        default="robust",
        help="quartiles, as the paper's text says, or the percentiles 0.25 and 0.75 that the released code fits by mistake",
    )
    parser.add_argument("--scored", type=int, default=300, help="held-out sentences per length that are measured (default: 300)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given, rest = parser.parse_known_args(words)
    (space, data), out = with_data(given.run, rest, given.device), Path(given.out)
    fit = Normalizer.fitted if given.normalizer == "robust" else Normalizer.as_released
    normalizer = fit(data.vectors(space.encoder, given.sentences))
    write_space(out, space.encoder, space.decoder, space.tokenizer, given.name, normalizer=normalizer)
    shipped = Space.opened(out, device=given.device)  # as it is read from now on, in half precision
    score = AutoBLEU(sentences=given.scored)
    found = score.measured(shipped, data.sentences("test"), prefix="")
    each = {name: score.measured(shipped, texts, prefix="") for name, texts in data.by_source("test").items()}
    beam5 = AutoBLEU(sentences=given.scored, beam=5, noise=()).measured(shipped, data.sentences("test"), prefix="")
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file() and path.name != ABOUT)
    about = {
        "text": data.description,
        "parameters": sum(p.numel() for n in (space.encoder, space.decoder) for p in n.parameters()),
        "bytes": size,
        "measured": found,
        "beam5": beam5,
        "by_source": each,
    }
    (out / ABOUT).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    print(f"space: {out}, {size / 1e6:.1f} MB, trained on {data.description}")
    for name, scores in ({"all": found, "all, beam 5": beam5} | each).items():
        print(f"  {name}:  " + "  ".join(f"{key} {value:.1f}" for key, value in scores.items()))
    return found
