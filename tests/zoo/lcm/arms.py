"""The five nets at a size of seconds, their weights drawn so that every part of them matters, and a batch."""

import torch

from zoo.lcm import Base, OneTower, Quant, TwoTower
from zoo.lcm.quant import Chosen
from zoo.nn.normalizer import Normalizer
from zoo.nn.rvq import ResidualQuantizer
from zoo.saved import save

WIDTH, CONTEXT = 6, 8
ARMS = ["base", "one", "two", "discrete", "continuous"]
SIZES = {"dim": 16, "layers": 2, "heads": 2, "hidden": 24}


def parts(folder):
    """A normalizer and codebooks on disk, fitted to vectors of no unit scale."""
    torch.manual_seed(5)
    vectors = torch.randn(400, WIDTH) * torch.linspace(0.2, 2, WIDTH) + 0.3
    quantizer = ResidualQuantizer(WIDTH, 3, 8)
    quantizer.fit(vectors, steps=3)
    save(quantizer, folder / "quantizer.safetensors")
    save(Normalizer.fitted(vectors), folder / "normalizer.safetensors")
    return folder


def arm(name, folder, **settings):
    """A net with dropout off unless asked for, in evaluation mode."""
    torch.manual_seed(1)
    given = {**SIZES, "dropout": 0.0, "normalizer": str(folder), "positions": 128, **settings}
    if name in ("discrete", "continuous"):
        net = Quant(WIDTH, CONTEXT, str(folder), target=name, **given)
    else:
        kinds = {"base": Base, "one": OneTower, "two": TwoTower}
        net = kinds[name](WIDTH, CONTEXT, **({"denoiser_layers": 3} if name == "two" else {}) | given)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    if name in ("discrete", "continuous"):
        net.sampler = Chosen(1.5, 0.5, 5)  # at random, so that chances matter
    return net.eval()


def batch(rows=3, size=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        "vec": torch.randn(rows, size, WIDTH, generator=generator), "role": torch.full((rows, size), 2),
        "mask": torch.ones(rows, dtype=torch.bool), "window": torch.arange(rows) + 10 * seed,
    }  # fmt: skip


def fixed(given, samples=1, seed=3, stages=100):
    """A batch that brings its own steps, noise, and who is dropped."""
    generator = torch.Generator().manual_seed(seed)
    rows, size, width = given["vec"].shape
    shape = (samples * rows, size)
    return given | {
        "step": torch.randint(stages, shape, generator=generator), "noise": torch.randn(*shape, width, generator=generator),
        "dropped": torch.rand(shape, generator=generator) < 0.3,
    }  # fmt: skip
