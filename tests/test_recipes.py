"""Every recipe at every scale parses, layers, and gives a net that builds and trains on the meta device."""

import importlib
from pathlib import Path

import pytest
import torch
import yaml

from zoo.cli import main
from zoo.meter import training_flops

ROOT = Path(__file__).parents[1]
RECIPES = sorted(p for p in (ROOT / "recipes").glob("*/*.yaml") if p.parent.name != "scales")
SCALES = sorted((ROOT / "recipes/scales").glob("*.yaml"))


def resolved(capsys, *files: Path) -> dict:
    with pytest.raises(SystemExit) as stop:
        main(["fit", *(word for f in files for word in ("-c", str(f))), "--print_config"])
    assert stop.value.code == 0
    return yaml.safe_load(capsys.readouterr().out)


@pytest.mark.parametrize("scale", SCALES, ids=lambda p: p.stem)
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda p: f"{p.parent.name}-{p.stem}")
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
    parameters = sum(p.numel() for p in net.parameters())
    # 6 FLOPs a parameter and token, less the embedding's look-up, plus attention and (n − 1) unembeddings
    assert training_flops(make, batch) > 0.5 * 6 * (parameters - vocab * net.trunk.dim) * data["context"]
    assert config["trainer"]["check_val_every_n_epoch"] is None and config["trainer"]["max_steps"] > 0


def test_arms_of_a_comparison_differ_in_the_net_alone(capsys):
    for data in ("code", "openwebtext"):
        arms = [resolved(capsys, ROOT / f"recipes/{arm}/{data}.yaml") for arm in ("mtp", "ntp")]
        for config in arms:
            config["trainer"]["logger"]["init_args"].pop("name")
            net = config["model"]["init_args"]["net"]
            del net["class_path"]
            for own in ("n", "reduction", "within_documents", "backward"):
                net["init_args"].pop(own, None)
        assert arms[0] == arms[1]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_recipe_says_what_it_is(recipe):
    text = recipe.read_text()
    assert len(text.splitlines()) <= 40 and "arXiv" in text
    for word in ("zoo fit", "Hardware:", "Expected:"):
        assert word in text.split("model:")[0]


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_recipe_starts(recipe, tmp_path):
    files = ["-c", str(recipe), "-c", str(ROOT / "recipes/scales/smoke.yaml")]
    where = [f"--data.init_args.root={tmp_path}", f"--trainer.logger.init_args.save_dir={tmp_path}"]
    assert main(["fit", *files, *where]).trainer.global_step == 4
