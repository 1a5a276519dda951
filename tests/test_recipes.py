"""Every recipe at every scale parses, layers, and gives a net that builds and trains on the meta device."""

import importlib
import inspect
import re
from pathlib import Path

import pytest
import torch
import yaml

from zoo.cli import main
from zoo.meter import training_flops
from zoo.mtp import MTP
from zoo.ntp import NextToken

ROOT = Path(__file__).parents[1]
RECIPES = sorted(p for p in (ROOT / "recipes").glob("*/*.yaml") if p.parent.name != "scales")
SENTENCES = [r for r in RECIPES if r.parent.name in ("sonar", "sentences", "lcm")]  # theirs are tests of their own
SCALES = sorted((ROOT / "recipes/scales").glob("*.yaml"))
SIZES = sorted((ROOT / "recipes/mtp/sizes").glob("*.yaml"))
# A scale meets every kind of net and data in the recipes that are run at scales; the others differ from these in numbers.
TOKENS = [r for r in RECIPES if r not in SENTENCES]
CASES = [(r, s) for r in TOKENS for s in SCALES if r.stem in ("code", "openwebtext", "bytes") or s.stem == "paper"]


def resolved(capsys, *files: Path) -> dict:
    with pytest.raises(SystemExit) as stop:
        main(["fit", *(word for f in files for word in ("-c", str(f))), "--print_config"])
    assert stop.value.code == 0
    return yaml.safe_load(capsys.readouterr().out)


@pytest.mark.parametrize("recipe, scale", CASES, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_recipe_resolves_builds_and_trains_on_meta(recipe, scale, capsys):
    config = resolved(capsys, recipe, scale)
    model, data = config["model"]["init_args"], config["data"]["init_args"]
    module, _, name = model["net"]["class_path"].rpartition(".")
    vocab = {"bytes": 257, "bpe": data["vocab_size"], "gpt2": 50257}.get(data["tokenizer"], 32000)
    make = lambda: getattr(importlib.import_module(module), name)(vocab, data["context"], **model["net"]["init_args"])
    with torch.device("meta"):
        net = make()
    shape = (1, data["context"] + net.ahead)
    batch = {"tokens": torch.zeros(shape, dtype=torch.long), "mask": torch.ones(shape, dtype=torch.bool)}
    batch |= getattr(net, "guides", lambda windows: {})(1)  # of a teacher
    parameters = sum(p.numel() for name, p in net.named_parameters() if not name.startswith("mixer."))
    # 6 FLOPs a parameter and token, less the embedding's look-up, plus attention, (n − 1) unembeddings and what is mixed in
    assert training_flops(make, batch) > 0.5 * 6 * (parameters - vocab * net.trunk.dim) * data["context"]
    assert config["trainer"]["check_val_every_n_epoch"] is None and config["trainer"]["max_steps"] > 0


def test_arms_of_a_comparison_differ_in_the_net_alone(capsys):
    for data in ("code", "openwebtext"):
        arms = [resolved(capsys, ROOT / f"recipes/{arm}/{data}.yaml") for arm in ("mtp", "ntp")]
        for config in arms:
            config["trainer"]["logger"]["init_args"].pop("name")
            net = config["model"]["init_args"]["net"]
            del net["class_path"]
            for own in inspect.signature(MTP).parameters.keys() - inspect.signature(NextToken).parameters.keys():
                net["init_args"].pop(own, None)
        assert arms[0] == arms[1]


# Tables S13 and S14: tokens a step, steps, 10^9 tokens, warm-up, context, final over peak rate, 10^9 parameters.
STEP = 2**20
PAPER = {
    "code-scaling": (8 * STEP, 10850, 91.0, 1000, 4096, 0.03, 0.292),
    "code": (8 * STEP, 25000, 209.7, 2000, 4096, 0.03, 6.70),
    "code-13b": (8 * STEP, 25000, 209.7, 1000, 4096, 0.03, 12.9),
    "code-500b": (7 * STEP, 68570, 503.3, 2000, 4096, 0.03, 6.70),
    "code-1t": (7 * STEP, 136240, 1000.0, 2000, 4096, 0.03, 6.70),
    "bytes": (12 * STEP, 25000, 314.6, 2000, 8192, 0.03, 6.45),  # 12 L d^2 and nine tables of 257
    "language": (8 * STEP, 25000, 209.7, 2000, 4096, 0.1, 6.70),
    "language-500b": (8 * STEP, 60000, 503.3, 2000, 4096, 0.1, 6.70),
}


@pytest.mark.parametrize("name", PAPER)
def test_recipe_is_the_row_of_the_paper(name):
    text = (ROOT / f"recipes/mtp/{name}.yaml").read_text()
    config = yaml.safe_load(text)
    model, data, trainer = config["model"]["init_args"], config["data"]["init_args"], config["trainer"]
    devices = 1
    for word in ("devices", "num_nodes"):
        devices *= int(re.search(rf"zoo fit .*--trainer.{word}=(\d+)", text)[1])
    tokens = devices * data["batch"] * trainer["accumulate_grad_batches"] * data["context"]
    vocab = 257 if data["tokenizer"] == "bytes" else 32000
    with torch.device("meta"):
        parameters = sum(p.numel() for p in MTP(vocab, data["context"], **model["net"]["init_args"]).parameters())
    step, steps, total, warmup, context, floor, billions = PAPER[name]
    assert (tokens, trainer["max_steps"], data["context"]) == (step, steps, context)
    assert tokens * steps / 1e9 == pytest.approx(total, abs=0.5)
    assert (model["warmup"], model["floor"], trainer["gradient_clip_val"]) == (warmup, floor, 1.0)
    optimizer = {"lr": 3e-4, "betas": [0.9, 0.95], "weight_decay": 0.1}
    assert model["optimizer"] == {"class_path": "zoo.optim.AdamW", "init_args": optimizer}
    assert parameters / 1e9 == pytest.approx(billions, rel=0.02)
    assert trainer["val_check_interval"] == 1000 * trainer["accumulate_grad_batches"]


def test_the_sizes_are_those_of_the_paper():
    """Table S14: names in M, and 1B, count 12 L d^2, the others the two tables as well; Llama's rounding adds up to 3 %."""
    found = {}
    for path in SIZES:
        net = yaml.safe_load(path.read_text())["model"]["init_args"]["net"]["init_args"]
        with torch.device("meta"):
            count = sum(p.numel() for p in MTP(32000, 2048, 2, **net).parameters())
        found[path.stem] = count - (2 * 32000 * net["dim"] if "hidden" in net else 0)
    expected = {"1M": 0.98e6, "3M": 3.1e6, "10M": 10.6e6, "30M": 31.5e6, "100M": 99e6, "300M": 315e6, "1B": 1.02e9}
    expected |= {"0.3B": 292e6, "0.6B": 613e6, "1.3B": 1.34e9, "3B": 3.0e9, "6.7B": 6.70e9, "13B": 12.9e9}
    assert found == pytest.approx(expected, rel=0.03)


def test_a_size_lies_over_a_recipe_and_a_scale(capsys):
    files = [ROOT / f"recipes/{name}.yaml" for name in ("mtp/code-scaling", "scales/laptop", "mtp/sizes/1.3B")]
    net = resolved(capsys, *files)["model"]["init_args"]["net"]["init_args"]
    assert (net["n"], net["dim"], net["layers"], net["heads"], net["hidden"]) == (4, 2048, 24, 16, None)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_recipe_says_what_it_is(recipe):
    text = recipe.read_text()
    assert len(text.splitlines()) <= 40 and "arXiv" in text
    for word in ("zoo fit", "Hardware:", "Expected:"):
        assert word in text.split("model:")[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    "recipe", [r for r in TOKENS if "Teacher" not in r.read_text()], ids=lambda p: f"{p.parent.name}-{p.stem}"
)
def test_recipe_starts(recipe, tmp_path):
    files = ["-c", str(recipe), "-c", str(ROOT / "recipes/scales/smoke.yaml")]
    where = [f"--data.init_args.root={tmp_path}", f"--trainer.logger.init_args.save_dir={tmp_path}"]
    assert main(["fit", *files, *where]).trainer.global_step == 4
