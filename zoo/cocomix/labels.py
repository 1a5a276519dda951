"""`zoo prepare concepts`: runs a teacher once over the windows that training runs will read, and keeps the labels beside them."""

import argparse
import hashlib
import json
import time
from pathlib import Path
from typing import get_args

import numpy as np
import torch

from zoo.cocomix.attribution import NONE, ConceptExtractor, Score
from zoo.cocomix.teacher import about, opened_sae, opened_teacher, reading_flops, windows
from zoo.data import labels

NAN = "the teacher's loss or states are NaN or all alike; give another one."


def main(words: list[str]) -> dict[str, float]:
    rest = "All other words are of `zoo prepare`: recipe, overlays and settings of the runs that will read the labels."
    parser = argparse.ArgumentParser("zoo prepare concepts", description=__doc__.split(": ", 1)[1], epilog=rest)
    parser.add_argument(
        "--teacher", required=True, help="folder of a saved net (ours, or transformers' GPT-2 or Llama), or a hub name"
    )
    parser.add_argument("--sae", required=True, help="folder that sae-lens saved, or one of its releases: RELEASE/ID")
    parser.add_argument("--layer", type=int, default=6, help="blocks below the states (default: %(default)s)")
    parser.add_argument("--labels", type=int, default=4, help="K_attr, per position (default: %(default)s)")
    parser.add_argument("--score", choices=get_args(Score), default="attribution")
    parser.add_argument("--candidates", choices=["active", "all"], default="active")
    parser.add_argument("--seeds", help="of the runs, 0,1,2: label what they read; default: the whole training split")
    parser.add_argument("--out", help="folder of the labels; default: one beside the tokens, named after what the labels are of")
    parser.add_argument("--rows", type=int, default=8, help="windows at a time (default: %(default)s)")
    parser.add_argument("--bf16", action="store_true", help="products in bfloat16")
    given, rest = parser.parse_known_args(words)
    if given.rows < 1 or not all(seed.strip().isdigit() for seed in (given.seeds or "0").split(",")):
        parser.error("--rows is at least 1, and --seeds are numbers: 0,1,2")
    from zoo.cli import main as lightning  # takes seconds, and --help need not wait

    cli = lightning(["prepare", *rest])
    data, trainer = cli.datamodule, cli.trainer
    data.setup()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    teacher = opened_teacher(given.teacher, data)
    sae = opened_sae(given.sae, given.layer, teacher)
    if sae.latents >= labels.NONE:
        raise ValueError(
            f"The autoencoder has {sae.latents} latents and labels are 16 bits wide: take one of fewer than {labels.NONE}."
        )
    extractor = ConceptExtractor(teacher.net, sae, given.layer, given.labels, given.score, given.candidates).to(device)
    of = about(data, teacher, extractor, given.bf16)
    name = hashlib.sha256(json.dumps(of, sort_keys=True).encode()).hexdigest()[:8]
    folder = Path(given.out) if given.out else data.folder / f"concepts-{name}"
    seeds = None if given.seeds is None else [int(seed) for seed in given.seeds.split(",")]
    if seeds is not None and trainer.max_steps < 1:
        raise ValueError("--seeds needs trainer.max_steps, which says how far the runs read: set it, or leave --seeds out.")
    wanted = windows(data, seeds, trainer.max_steps * trainer.accumulate_grad_batches * trainer.world_size)

    def make(split: str, numbers: np.ndarray) -> np.ndarray:
        found = []
        for first in range(0, len(numbers), given.rows):
            starts = numbers[first : first + given.rows] * data.context
            tokens = torch.from_numpy(data.stores[split].windows(starts, data.context + 1)).to(device)
            with torch.autocast(device, torch.bfloat16, enabled=given.bf16):
                found.append(extractor(tokens).cpu().numpy())
            if first == 0 and (found[0] == NONE).all():  # said before anything is written
                raise ValueError(f"No place of {len(tokens)} windows has a label: {NAN}")
        return np.concatenate(found)

    began = time.monotonic()
    of["flops"] = reading_flops(teacher.net, extractor, data.context)  # of a window
    count = labels.write(folder, of, wanted, make, lambda line: print(line, flush=True))
    print(f"labels: {folder}: {count:,} windows labelled in {time.monotonic() - began:.0f} s, the others were there")
    found = health(labels.WindowLabels(folder, "train").counts(sae.latents))
    print(
        f"  training split: {found['without']:.1%} of the labels that places could have are none; {found['used']:,.0f} of "
        f"{sae.latents:,} concepts occur, the most frequent 1 % of all are {found['frequent']:.0%} of the labels; entropy "
        f"of a label {found['entropy']:.2f} nats"
    )
    if found["without"] == 1:
        raise ValueError(f"No place of {folder} has a label: {NAN}")
    return found


def health(counts: np.ndarray) -> dict[str, float]:
    """What labels are like, from how often each of (none, concept 0, concept 1, …) was given: (C + 1,).

    without: share of the labels that places could have (K_attr each) and have not; used: concepts that occur; frequent: what
    share of the labels the most frequent 1 % of all concepts are; entropy of a label, in nats.
    """
    none, counts = counts[0], counts[1:]
    shares = np.sort(counts)[::-1] / max(counts.sum(), 1)
    return {
        "without": none / max(none + counts.sum(), 1),
        "used": float((counts > 0).sum()),
        "frequent": shares[: max(1, len(shares) // 100)].sum(),
        "entropy": -(shares[shares > 0] * np.log(shares[shares > 0])).sum(),
    }
