"""`zoo prepare fragility`: trains a model that tells from a sentence's vector how fragile it is (LCM paper, sec. 2.4.4)."""

import argparse
from pathlib import Path

import torch

from zoo.evals.autobleu import spread
from zoo.evals.fragility import CharacterNgrams, fragility
from zoo.nn.fragility import FragilityModel
from zoo.saved import save
from zoo.sonar.space import with_data

FRAGILITY = "fragility.safetensors"


def main(words: list[str]) -> dict[str, float]:
    """Learns from the validation split, whose text is kept; returns R² and mean fragility, in [0, 1], of the test split."""
    rest = "All other words are of `zoo prepare`: the recipe, overlays and settings of the space's data."
    parser = argparse.ArgumentParser("zoo prepare fragility", description=__doc__.split(": ", 1)[1], epilog=rest)
    parser.add_argument("--space", required=True, help="folder of the space, with a normalizer")
    parser.add_argument("--out", required=True, help=f"folder that {FRAGILITY} is written to")
    parser.add_argument(
        "--sentences", type=int, default=10_000, help="that are learnt from, at most (default: %(default)s; the paper: 50M)"
    )
    parser.add_argument("--held_out", type=int, default=1000, help="of the test split, at most (default: %(default)s)")
    parser.add_argument("--hidden", type=int, default=256, help="units of the two inner layers (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=2000, help="of training (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given, rest = parser.parse_known_args(words)
    space, data = with_data(given.space, rest, given.device)
    if space.normalizer is None:
        raise ValueError(f"{given.space} has no normalizer, which scales the noise: `zoo prepare space` makes a folder with one.")
    normalizer = space.normalizer.to(given.device)
    parts = []
    for split, count in (("validation", given.sentences), ("test", given.held_out)):
        texts = spread(data.sentences(split), count)
        scores = fragility(space, normalizer, texts, CharacterNgrams(texts), seed=given.seed)
        parts.append((normalizer.normalize(space.encode(texts)).cpu(), 1 + scores.of("bleu")))  # 1 less what is left
        print(
            f"fragility: {len(texts):,} sentences of {split}, {float(parts[-1][1].mean()):.3f} of BLEU lost on average",
            flush=True,
        )
    (vectors, lost), (others, theirs) = parts
    torch.manual_seed(given.seed)
    model = FragilityModel(space.width, given.hidden)
    with torch.inference_mode(False):
        model.fit(vectors.clone(), lost.clone(), steps=given.steps, seed=given.seed)
    told = model.told(others, theirs)
    Path(given.out).mkdir(parents=True, exist_ok=True)
    save(model, Path(given.out) / FRAGILITY)
    print(f"fragility: {Path(given.out) / FRAGILITY}, R² {'—' if told is None else f'{told:.3f}'} of held-out sentences")
    return {"fragility": float(theirs.mean())} | ({} if told is None else {"fragility_r2": told})
