"""The recipes: they build, they train on a store of sentences, and a killed run goes on exactly."""

import json
import random
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch import Callback

from tests.zoo.lcm.arms import ARMS, parts
from zoo import lcm
from zoo.cli import main
from zoo.meter import training_flops
from zoo.nn.normalizer import Normalizer
from zoo.nn.rvq import ResidualQuantizer
from zoo.pretrained import from_pretrained
from zoo.saved import save

torch.set_num_threads(1)
ROOT = Path(__file__).parents[3]
RECIPES = {"base": "base", "one": "one-tower", "two": "two-tower", "discrete": "quant-d", "continuous": "quant-c"}


class PowerCut(Callback):
    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if trainer.global_step == 5:
            raise RuntimeError("power cut")


class Letters:
    """Stands for a space: a sentence's vector is how often it has each of six letters."""

    fingerprint, width = "abc", 6

    def encode(self, texts: list[str], lang: str):
        return torch.tensor([[text.count(letter) / 4 - 0.5 for letter in "aeiort"] for text in texts], dtype=torch.float32)


@pytest.mark.parametrize("path", sorted((ROOT / "recipes/lcm").glob("*.yaml")), ids=lambda p: p.stem)
def test_recipe_resolves_builds_and_trains_on_meta(path, capsys, tmp_path):
    save(ResidualQuantizer(1024, 2, 4), tmp_path / "quantizer.safetensors")
    with pytest.raises(SystemExit) as stop:
        main(["fit", "-c", str(path), "--print_config"])
    assert stop.value.code == 0
    config = yaml.safe_load(capsys.readouterr().out)
    net, data = config["model"]["init_args"]["net"], config["data"]["init_args"]
    kind = getattr(lcm, net["class_path"].rpartition(".")[2])
    if "quantizer" in net["init_args"]:
        net["init_args"]["quantizer"] = str(tmp_path)
    make = lambda: kind(1024, data["context"], **net["init_args"])
    with torch.device("meta"):
        made = make()
    size = 16
    given = {"vec": torch.zeros(1, size, 1024), "role": torch.full((1, size), 2), "mask": torch.ones(1, dtype=torch.bool)}
    parameters = sum(p.numel() for p in made.parameters())
    assert training_flops(make, given) > 0.8 * 6 * parameters * (size - 1)
    if "7b" not in path.stem:
        assert abs(parameters / 1.6e9 - 1) < 0.06 and data["sentences"] * 32 == 229_376
    assert config["trainer"]["max_steps"] > 0 and config["best"]["monitor"] == "val/loss" and config["board"]["prompts"] == []


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Documents, a normalizer and codebooks."""
    home, draw = parts(tmp_path_factory.mktemp("home")), random.Random(0)
    words = "the sea was calm and a ship sailed slowly to its old town where no man is".split()
    rows = []
    for _ in range(60):
        rows.append(" ".join(" ".join(draw.choices(words, k=6)).capitalize() + "." for _ in range(draw.randrange(3, 20))))
    (home / "a.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    return home


def arguments(home: Path, name: str, version: str, *more: str) -> list[str]:
    net = "--model.init_args.net.init_args."
    extra = [f"{net}quantizer={home}"] if name in ("discrete", "continuous") else []
    extra += [f"{net}denoiser_layers=2"] if name == "two" else []
    return [
        "fit", "-c", str(ROOT / f"recipes/lcm/{RECIPES[name]}.yaml"), "-c", str(ROOT / "recipes/lcm/scales/smoke.yaml"),
        "--data.init_args.source=files", f"--data.init_args.files=['{home}/a.jsonl']", f"--data.init_args.root={home}/data",
        "--data.init_args.encoder=tests.zoo.lcm.test_lcm_training.Letters", f"{net}dropout=0.1",
        "--trainer.log_every_n_steps=1", f"--trainer.logger.init_args.save_dir={home}/runs",
        f"--trainer.logger.init_args.version={version}", *extra, *more,
    ]  # fmt: skip


@pytest.mark.parametrize("name", ARMS)
def test_a_stopped_run_goes_on_exactly(home, name):
    """Steps, noise and dropout are functions of the step: what is trained in two goes is what is trained in one."""
    whole = main(arguments(home, name, f"{name}-whole"))
    assert whole.trainer.global_step == 6 and whole.trainer.callback_metrics["val/loss"].isfinite()
    measured, train = whole.model.measured, whole.datamodule.stores["train"]
    assert measured["tokens"] <= train.sentences and measured["tokens"] > 6 * 4  # sentences, without padding
    with pytest.raises(SystemExit, match="power cut"):
        main(arguments(home, name, f"{name}-cut", "--trainer.limit_val_batches=0"), [PowerCut()])
    checkpoint = home / "runs" / Path(whole.trainer.log_dir).parent.name / f"{name}-cut/checkpoints/last.ckpt"
    assert torch.load(checkpoint, weights_only=True)["global_step"] == 4
    resumed = main(arguments(home, name, f"{name}-on", "--trainer.limit_val_batches=0", f"--ckpt_path={checkpoint}"))
    assert all(torch.equal(a, b) for a, b in zip(resumed.model.net.parameters(), whole.model.net.parameters()))
    saved = from_pretrained(Path(whole.trainer.log_dir) / "pretrained")
    assert torch.equal(saved.normalizer.scale, whole.datamodule.normalizer.scale) and (saved.normalizer.scale != 1).any()
    assert torch.equal(saved.normalizer.scale, whole.model.net.normalizer.scale)
    assert json.loads((Path(whole.trainer.log_dir) / "pretrained/tokenizer/space.json").read_text())["encoder"] == "abc"


def test_the_normalizer_of_the_released_code_is_one_by_name(home):
    words = ["--trainer.callbacks=[{class_path: zoo.lcm.normalizing.StoreNormalizer, init_args: {kind: released}}]"]
    run = main(arguments(home, "base", "released", "--trainer.max_steps=1", "--trainer.limit_val_batches=0", *words))
    vectors = torch.from_numpy(run.datamodule.stores["train"].sample(10**6))
    wanted = Normalizer.fitted(vectors, 0.25, 0.75)
    torch.testing.assert_close(run.model.net.normalizer.scale, wanted.scale)
    assert (wanted.scale != run.datamodule.normalizer.scale).any()
