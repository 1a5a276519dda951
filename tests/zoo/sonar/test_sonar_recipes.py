"""The recipes of sentence spaces: they resolve and build, and one is trained, tested and opened again."""

import json
import random
from pathlib import Path

import pytest
import torch
import yaml

from zoo.__main__ import main as own
from zoo.cli import main
from zoo.meter import training_flops
from zoo.nn.normalizer import Normalizer
from zoo.pretrained import from_pretrained
from zoo.sonar import AutoEncoder, Space

ROOT = Path(__file__).parents[3]
RECIPES = sorted(
    path for path in (ROOT / "recipes/sonar").glob("*.yaml") if path.stem in ("basic", "small")
)  # the others start from a space


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda p: p.stem)
def test_recipe_resolves_builds_and_trains_on_meta(recipe, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["fit", "-c", str(recipe), "--print_config"])
    assert stop.value.code == 0
    config = yaml.safe_load(capsys.readouterr().out)
    model, data = config["model"]["init_args"], config["data"]["init_args"]
    make = lambda: AutoEncoder(data["vocab_size"], data["context"], **model["net"]["init_args"])
    with torch.device("meta"):
        net = make()
    length = data["context"]
    batch = {"source": torch.zeros(1, length + 2, dtype=torch.long), "tokens": torch.zeros(1, length + 3, dtype=torch.long)}
    batch["mask"] = torch.ones(1, length + 3, dtype=torch.bool)
    trained = sum(p.numel() for p in net.parameters() if p.requires_grad) - 2 * data["vocab_size"] * net.encoder.dim
    assert training_flops(make, batch) > 0.8 * 6 * trained * length
    assert config["trainer"]["check_val_every_n_epoch"] is None and config["trainer"]["max_steps"] > 0


def trained(tmp_path):
    """The run of a small space on made-up sentences, and the words of its data."""
    words = "the sea was calm and a ship sailed slowly to its old town".split()
    draw = random.Random(0)
    for i in range(20):
        lines = [" ".join(draw.choices(words, k=draw.randrange(3, 9))).capitalize() + "." for _ in range(20)]
        (tmp_path / f"{i}.txt").write_text("\n".join(lines))
    small = {"dim": 32, "encoder_layers": 1, "decoder_layers": 1, "heads": 2, "hidden": 64}
    arguments = [f"--model.init_args.net.init_args.{name}={value}" for name, value in small.items()]
    arguments += [
        "--data.init_args.source=files",
        f"--data.init_args.files=['{tmp_path}/*.txt']",
        "--data.init_args.vocab_size=56",
    ]
    arguments += [f"--data.init_args.root={tmp_path}/data", "--trainer.max_steps=6", "--trainer.val_check_interval=6"]
    arguments += [f"--trainer.logger.init_args.save_dir={tmp_path}", "--trainer.precision=32", "--data.init_args.tokens=128"]
    words = ["-c", str(ROOT / "recipes/sonar/small.yaml"), *arguments]
    return main(["fit", *words]), words


def test_a_small_space_is_trained_tested_and_opened_again(tmp_path):
    cli, _ = trained(tmp_path)
    assert cli.trainer.global_step == 6
    found = cli.trainer.test(cli.model, datamodule=cli.datamodule, verbose=False)[0]
    assert found["test/bits_per_byte"] > 0 and 0 <= found["test/autobleu_30"] <= 100 and "test/autobleu_30@0.1" in found
    again = from_pretrained(Path(cli.trainer.log_dir) / "pretrained")
    tokens = torch.randint(10, 50, (3, 7))
    torch.testing.assert_close(again.encoder(tokens), cli.model.net.eval().encoder(tokens))
    space, net = Space.opened(Path(cli.trainer.log_dir) / "pretrained"), cli.model.net
    here, texts = Space(net.encoder, net.decoder, cli.datamodule.tokenizer), cli.datamodule.sentences("test")[:5]
    torch.testing.assert_close(space.encode(texts), here.encode(texts))
    assert space.fingerprint == here.fingerprint
    with torch.no_grad():
        net.encoder.layer_norm.weight[0] += 1e-3
    assert Space(net.encoder, None, cli.datamodule.tokenizer).fingerprint != space.fingerprint


def test_a_run_becomes_a_space_with_normalizer_and_cards(tmp_path, capsys):
    cli, words = trained(tmp_path)
    run = Path(cli.trainer.log_dir) / "pretrained"
    found = own(["prepare", "space", "--run", str(run), "--out", str(tmp_path / "space"), "--sentences", "120", *words])
    space, data = Space.opened(tmp_path / "space"), cli.datamodule
    texts = data.sentences("test")
    assert space.encode(texts).sub(Space.opened(run).encode(texts)).abs().max() < 0.02  # half precision
    batches, rows = data.train_dataloader().batches, []
    for k in range(len(batches)):
        rows.append(cli.model.net.eval().encoder(batches[k]["source"]))
    wanted = Normalizer.fitted(torch.cat(rows)[:120].detach())
    torch.testing.assert_close(space.normalizer.center, wanted.center)
    given = ["--run", str(run), "--out", str(tmp_path / "as-released"), "--sentences", "120", "--normalizer", "released"]
    own(["prepare", "space", *given, "--scored", "2", *words])
    released = Space.opened(tmp_path / "as-released").normalizer
    torch.testing.assert_close(released.scale, Normalizer.fitted(torch.cat(rows)[:120].detach(), 0.25, 0.75).scale)
    told = json.loads((tmp_path / "space" / "about.json").read_text())
    assert told["measured"] == found and set(found) >= {"autobleu_30", "exact_60", "autobleu"} and told["bytes"] > 1000
    assert (tmp_path / "space" / "cards" / "small_zoo.yaml").exists() and "MB, trained on" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="has another tokenizer than these data"):
        own(["prepare", "space", "--run", str(run), "--out", str(tmp_path / "no"), *words, "--data.init_args.vocab_size=50"])
