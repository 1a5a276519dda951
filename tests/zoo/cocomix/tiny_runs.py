"""What a tiny CoCoMix run stands on: texts, a random teacher with a random autoencoder, and the overlay that makes it one."""

import json
import random
from pathlib import Path

import torch
import yaml
from safetensors.torch import save_file

from zoo.cocomix.sae import CONFIG, WEIGHTS
from zoo.data.tokenizer import Bytes
from zoo.ntp import NextToken
from zoo.pretrained import save_pretrained

LAYER, LATENTS = 2, 40  # blocks below the teacher's states, latents of its autoencoder


def made(folder: Path, context: int = 64, dim: int = 16) -> None:
    """Write to `folder`: texts/*.txt, net (a teacher of bytes, of 3 blocks) and sae (of its states after `LAYER` blocks)."""
    draw = random.Random(0)
    (folder / "texts").mkdir()
    for i in range(40):  # each long enough to be a split of its own
        words = [f"{draw.choice('abcdefg') * 3}{draw.randrange(30)}" for _ in range(400)]
        (folder / "texts" / f"{i}.txt").write_text(" ".join(words))
    torch.manual_seed(0)
    save_pretrained(NextToken(257, context, dim=dim, layers=3, heads=2, flavour="gpt2"), folder / "net")
    Bytes().save(folder / "net" / "tokenizer")
    sizes = {"W_enc": (dim, LATENTS), "b_enc": (LATENTS,), "W_dec": (LATENTS, dim), "b_dec": (dim,)}
    (folder / "sae").mkdir()
    save_file({name: torch.randn(size) for name, size in sizes.items()}, folder / "sae" / WEIGHTS)
    config = {"architecture": "topk", "k": 6, "normalize_activations": "layer_norm"}
    (folder / "sae" / CONFIG).write_text(json.dumps(config))


def overlay(folder: Path, net: dict, teacher: dict) -> list[str]:
    """Words that lay a small CoCoMix with these settings, a `Teacher` with those, and the texts of `folder` over a recipe."""
    net = {"dim": 32, "layers": 5, "heads": 2, "insert": 1, "concepts": LATENTS, "keep": 5, **net}
    sections = {
        "model": {"init_args": {"net": {"class_path": "zoo.cocomix.CoCoMix", "init_args": net}}},
        "data": {"init_args": {"files": [f"{folder}/texts/*.txt"]}},
        "trainer": {"callbacks": [{"class_path": "zoo.cocomix.teacher.Teacher", "init_args": teacher}]},
    }
    path = folder / "arm.yaml"
    path.write_text(yaml.safe_dump(sections))
    return ["-c", str(path)]
