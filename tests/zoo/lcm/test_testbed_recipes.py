"""The recipes of the test bed: they train, their samplers are set, and codebooks are fitted by a verb."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from zoo.__main__ import main as zoo
from zoo.cli import main
from zoo.evals.sentence_scores import set_sampler
from zoo.lcm.chains import Chains
from zoo.lcm.testbed import CodebookChains, TestbedScores
from zoo.nn.diffusion import Sampler
from zoo.nn.rvq import ResidualQuantizer
from zoo.pretrained import from_pretrained
from zoo.saved import opened

torch.set_num_threads(1)
ROOT = Path(__file__).parents[3]
BED = ROOT / "recipes/lcm/testbed"
RECIPES = sorted(BED.glob("*.yaml"))


def files(name: str) -> list[str]:
    return ["-c", str(BED / f"{name}.yaml"), "-c", str(BED / "scales/smoke.yaml")]


@pytest.fixture(scope="module")
def books(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("books")
    told = zoo(["prepare", "chains", "--out", str(out), "--books", "3", "--units", "8", "--documents", "60", *files("base")])
    assert 0 < told["variance_left"] < told["variance_left_first"] < 1
    return out


def test_codebooks_are_those_of_the_vectors(books):
    quantizer = opened(ResidualQuantizer, books / "quantizer.safetensors")
    assert (quantizer.width, quantizer.books, quantizer.units) == (24, 3, 8)
    vectors = torch.from_numpy(CodebookChains(Chains(size=64, contexts=32), documents=400, context=16).some(60))
    left = (vectors - quantizer.decode(quantizer.encode(vectors))).square().sum(1).mean()
    assert float(left) < 0.6 * float((vectors - vectors.mean(0)).square().sum(1).mean())


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_trains_and_leaves_its_net(path, books, tmp_path):
    text = path.read_text()
    assert len(text.splitlines()) <= 50 and "arXiv" in text
    assert all(word in text.split("model:")[0] for word in ("zoo fit", "Hardware:", "Expected:"))
    more = [f"--model.init_args.net.init_args.quantizer={books}"] if "quant" in path.stem else []
    run = main(["fit", *files(path.stem), f"--trainer.logger.init_args.save_dir={tmp_path}", *more])
    assert run.trainer.global_step == 6 and run.model.measured["tokens"] > 6 * 8
    folder = Path(run.trainer.log_dir) / "pretrained"
    saved = from_pretrained(folder)
    assert torch.equal(saved.normalizer.scale, run.datamodule.normalizer.scale) and (saved.normalizer.scale < 0.5).all()
    assert json.loads((folder / "tokenizer/chains.json").read_text())["size"] == 64
    found = run.trainer.test(run.model, run.datamodule, verbose=False)[0]
    assert found["test/l2_optimum"] > 0 and 0 <= found["test/allowed"] <= 100


def test_the_sampler_of_a_saved_net_is_set(books, tmp_path):
    here = f"--trainer.logger.init_args.save_dir={tmp_path}"
    run = main(["fit", *files("two-tower"), here])
    words = json.dumps({"class_path": "zoo.pretrained.Saved", "init_args": {"folder": f"{run.trainer.log_dir}/pretrained"}})
    callbacks = json.dumps(
        [{"class_path": "zoo.lcm.testbed.TestbedScores", "init_args": {"sampler": {"guidance": 2, "taken": 5, "sigma": 1}}}]
    )
    more = [f"--model.init_args.net={words}", f"--trainer.callbacks={callbacks}", here]
    tested = main(["test", *files("two-tower"), *more])
    assert tested.model.net.sampler == Sampler(guidance=2, taken=5, sigma=1)
    assert "test/l2" in tested.trainer.callback_metrics


def test_a_setting_that_a_sampler_lacks_is_refused():
    net = nn.Identity()
    net.sampler = Sampler()
    with pytest.raises(ValueError, match="TestbedScores: the net's sampler has no temperature, but taken, guidance"):
        TestbedScores(sampler={"temperature": 1.0}).on_test_start(None, SimpleNamespace(net=net))
    with pytest.raises(ValueError, match="has no guidance, but nothing"):
        set_sampler(nn.Identity(), {"guidance": 1.0}, "X")
    set_sampler(nn.Identity(), {}, "X")


def test_codebooks_of_other_data_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("zoo.cli.main", lambda words: SimpleNamespace(datamodule=SimpleNamespace()))
    with pytest.raises(SystemExit, match="is for the test bed"):
        zoo(["prepare", "chains", "--out", str(tmp_path)])
