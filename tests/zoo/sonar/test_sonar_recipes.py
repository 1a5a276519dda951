"""The recipes of sentence spaces: they resolve and build, and one is trained, tested and opened again."""

import shutil
from pathlib import Path

import lightning as L
import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.zoo.sonar.tiny_space import settings, trained
from zoo.cli import main
from zoo.meter import training_flops
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


class Killed(L.Callback):
    """Ends a run in its seventh step, when its last checkpoint is of the sixth."""

    def on_before_optimizer_step(self, trainer, module, optimizer):
        if trainer.global_step == 6:
            raise RuntimeError("killed")


def test_a_killed_run_goes_on_to_the_same_losses_and_none_goes_on_in_other_sentences(tmp_path):
    words = [
        "fit",
        *settings(tmp_path),
        "--trainer.max_steps=10",
        "--trainer.val_check_interval=10",
        "--last.every_n_train_steps=3",
    ]
    words += ["--trainer.log_every_n_steps=1", "--model.init_args.net.init_args.dropout=0.1", "--trainer.callbacks=[]"]
    version = lambda name: f"--trainer.logger.init_args.version={name}"
    whole = main([*words, version("whole")])
    with pytest.raises(SystemExit):
        main([*words, version("killed")], [Killed()])
    checkpoint = tmp_path / "sonar-small/killed/checkpoints/last.ckpt"
    resumed = main([*words, version("resumed"), f"--ckpt_path={checkpoint}"])
    expected, found = (scalars(cli.trainer.log_dir, "train/loss") for cli in (whole, resumed))
    assert found == {step: value for step, value in expected.items() if step >= 6} and len(expected) == 10
    done = Path(resumed.trainer.log_dir)
    shutil.rmtree(done / "pretrained")
    main([*words, version("resumed"), f"--ckpt_path={done}/checkpoints/last.ckpt"])  # a net to leave, and no step to train
    assert (done / "pretrained" / "config.json").is_file()
    with pytest.raises(SystemExit, match="trained on other sentences"):
        main([*words, version("resumed"), f"--ckpt_path={checkpoint}", "--data.init_args.longest=40"])


def test_round_trips_are_scored_and_shown_while_it_trains(tmp_path, capsys):
    asked = "--trainer.callbacks=[{class_path: zoo.evals.autobleu.AutoBLEU, init_args: {validation: 4, edges: [20, 60]}}]"
    cli = main(["fit", *settings(tmp_path), "--trainer.num_sanity_val_steps=1", "--trainer.val_check_interval=3", asked])
    for name in ("val/autobleu_20", "val/autobleu_60", "val/exact_60", "val/autobleu"):
        found = scalars(cli.trainer.log_dir, name)
        assert list(found) == [3, 6] and all(0 <= value <= 100 for value in found.values())
    (shown,) = [tag for tag in events(cli.trainer.log_dir).Tags()["tensors"] if tag.startswith("round trips")]
    text = events(cli.trainer.log_dir).Tensors(shown)[0].tensor_proto.string_val[0].decode()
    assert sum(sentence in text for sentence in cli.datamodule.sentences("validation")) == 4
    assert capsys.readouterr().out.count("val/autobleu_20 ") == 2 and cli.model.net.training


def events(folder):
    found = EventAccumulator(str(folder))
    found.Reload()
    return found


def scalars(folder, name):
    return {event.step: event.value for event in events(folder).Scalars(name)}
