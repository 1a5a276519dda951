"""A model of fragility that a verb makes of a space, and what nets do with it."""

from pathlib import Path

import pytest
import torch

from zoo.__main__ import main as own
from zoo.lcm import OneTower, TwoTower
from zoo.nn.diffusion import fragility_weights
from zoo.nn.fragility import FragilityModel
from zoo.nn.normalizer import Normalizer
from zoo.pretrained import from_pretrained, save_pretrained
from zoo.saved import opened
from zoo.sonar.folder import write_folder

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def home(tmp_path_factory, harbour):
    home = tmp_path_factory.mktemp("fragile")
    _, parts = harbour(home)
    write_folder(home / "space", *parts, normalizer=Normalizer.fitted(torch.randn(200, 32)))
    return home


def made(home, *more):
    words = ["--space", str(home / "space"), "--out", str(home / "model"), "--sentences", "30", "--steps", "20", "--hidden", "8"]
    data = {"tokenizer": home / "space", "source": "files", "files": f"['{home}/*.txt']", "root": home / "data", "tokens": 128}
    data = [f"--data.init_args.{name}={value}" for name, value in data.items()]
    return own(["prepare", "fragility", *words, *more, "-c", str(ROOT / "recipes/sonar/small.yaml"), *data])


@pytest.mark.filterwarnings("ignore:.*reached the limit of tokens")
def test_the_verb_leaves_a_model_that_weighs_sentences(home, capsys):
    found = made(home)
    assert 0 <= found["fragility"] <= 1 and "of BLEU lost on average" in capsys.readouterr().out
    model = opened(FragilityModel, home / "model" / "fragility.safetensors")
    assert model.config == {"width": 32, "hidden": 8}
    batch = {"vec": torch.randn(3, 4, 32), "role": torch.full((3, 4), 2), "mask": torch.ones(3, dtype=torch.bool)}
    batch |= {"step": torch.full((3, 4), 50), "noise": torch.randn(3, 4, 32), "dropped": torch.zeros(3, 4, dtype=torch.bool)}
    for kind in (OneTower, TwoTower):
        torch.manual_seed(0)
        net = kind(32, 8, 16, 1, heads=2, dropout=0.0, fragility=str(home / "model"))
        plain = kind(32, 8, 16, 1, heads=2, dropout=0.0)
        plain.load_state_dict(net.state_dict())  # the model is no part of the net
        with torch.no_grad():
            weights = fragility_weights(model(batch["vec"]).clamp(0, 1))
        assert torch.equal(net(batch)["loss"], plain(batch | {"weight": weights})["loss"]) and weights.std() > 0
        assert net(batch)["parts"] == plain(batch)["parts"]  # errors are told as they are
        save_pretrained(net, home / kind.__name__)
        assert from_pretrained(home / kind.__name__).config["fragility"] is None
    with pytest.raises(ValueError, match="for vectors of 32 numbers, and the data have 33"):
        TwoTower(33, 8, 16, 1, 1, 2, fragility=str(home / "model"))
    with pytest.raises(FileNotFoundError, match="there is no FragilityModel"):
        TwoTower(32, 8, 16, 1, 1, 2, fragility=str(home / "space"))
