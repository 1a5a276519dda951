"""A run becomes a folder of a space: what it holds, what it says of itself, and when it takes another one's place."""

import json
import re
from pathlib import Path

import pytest
import torch

from tests.zoo.sonar.tiny_space import trained
from zoo.__main__ import main as own
from zoo.nn.normalizer import Normalizer
from zoo.sonar import Space
from zoo.sonar.ship import BARS, GOALS, made_of

SMALL = Path(__file__).parents[3] / "zoo/sonar/small"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(the run's command line object, its folder, and the words of its data)"""
    cli, words = trained(tmp_path_factory.mktemp("run"))
    return cli, Path(cli.trainer.log_dir) / "pretrained", words


def shipped(made, out, *more):
    return own(["prepare", "space", "--run", str(made[1]), "--out", str(out), "--sentences", "120", *more, *made[2]])


def weights(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".safetensors", ".model")}


def test_a_run_becomes_a_space_with_normalizer_and_cards(made, tmp_path, capsys):
    (cli, run, words), found = made, shipped(made, tmp_path / "space")
    space, data = Space.opened(tmp_path / "space"), cli.datamodule
    texts = data.sentences("test")
    assert space.encode(texts).sub(Space.opened(run).encode(texts)).abs().max() < 0.02  # half precision
    batches, rows = data.train_dataloader().batches, []
    for k in range(len(batches)):
        rows.append(cli.model.net.eval().encoder(batches[k]["source"]))
    wanted = Normalizer.fitted(torch.cat(rows)[:120].detach())
    torch.testing.assert_close(space.normalizer.center, wanted.center)
    shipped(made, tmp_path / "as-released", "--normalizer", "released", "--scored", "2")
    released = Space.opened(tmp_path / "as-released").normalizer
    torch.testing.assert_close(released.scale, Normalizer.fitted(torch.cat(rows)[:120].detach(), 0.25, 0.75).scale)
    told = json.loads((tmp_path / "space" / "about.json").read_text())
    assert told["measured"] == found and set(found) >= {"autobleu_30", "exact_60", "autobleu"} and told["bytes"] > 1000
    said = capsys.readouterr().out
    assert (tmp_path / "space" / "cards" / "small_zoo.yaml").exists() and "MB, trained on" in said
    assert "autobleu, greedy: " in said and "the bar is 85, the goal 90: bar missed" in said and "other sentences" not in said
    check_about(told)
    assert told["fingerprint"] == space.fingerprint and told["trained"] == {"steps": 6, "data": data.fingerprint, "seed": 0}
    assert told["data"]["sentences"]["test"] == len(texts) and sum(told["scored"]["all"].values()) == len(texts) < 900
    assert told["text"].endswith("files: *.txt") and list(told["scored"]) == ["all", *told["by_source"]]
    with pytest.raises(SystemExit, match="has another tokenizer than these data"):
        own(["prepare", "space", "--run", str(run), "--out", str(tmp_path / "no"), *words, "--data.init_args.vocab_size=50"])


def check_about(told):
    """What about.json of any space says, and no place on a machine."""
    assert set(told) >= {"fingerprint", "data", "trained", "measured", "beam5", "by_source", "scored", "near_duplicates"}
    assert told["bars"]["decoder"].startswith("greedy") and 8 < told["longest"] <= 250
    for name, wanted in BARS.items():
        if name in told["measured"]:
            bar = told["bars"][name]
            met = told["measured"][name] >= wanted
            assert bar == {"wanted": wanted, "goal": GOALS[name], "measured": told["measured"][name], "met": met}
    assert not re.search(r"(?<![\w.])/\w+/|~/|[A-Z]:\\\\", json.dumps(told))


def test_the_same_run_makes_the_same_weights_and_may_be_measured_again(made, tmp_path):
    first, out = shipped(made, tmp_path / "one", "--scored", "4"), tmp_path / "two"
    shipped(made, out, "--scored", "4")
    before = weights(out)
    assert weights(tmp_path / "one") == before and made_of(out) == made_of(tmp_path / "one")
    (out / "LOG.md").write_text("what helped")
    (out.with_name("two.part")).mkdir()  # a run that was killed left these
    out.rename(out.with_name("two.old"))
    assert shipped(made, out, "--scored", "4") == first and weights(out) == before
    assert (out / "LOG.md").read_text() == "what helped"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]


def test_another_space_stays_unless_it_is_to_be_replaced(made, tmp_path):
    out = tmp_path / "space"
    shipped(made, out, "--scored", "2")
    config = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps(config | {"encoder": config["encoder"] | {"dropout": 0.5}}))
    other = made_of(out)
    for words in ([], ["--replace=false"]):
        with pytest.raises(SystemExit, match="holds another space, which others may stand on: add --replace"):
            shipped(made, out, "--scored", "2", *words)
        assert made_of(out) == other
    shipped(made, out, "--scored", "2", "--replace")
    assert made_of(out) != other
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "letter.txt").write_text("not to be lost")
    with pytest.raises(SystemExit, match="holds something else than a space: give a new folder"):
        shipped(made, tmp_path / "else", "--replace")
    with pytest.raises(SystemExit, match=r"more than --limit 0\.01: train a smaller net"):
        shipped(made, tmp_path / "large", "--limit", "0.01")
    assert not (tmp_path / "large").exists() and (tmp_path / "else" / "letter.txt").exists()


@pytest.mark.skipif(not (SMALL / "config.json").is_file(), reason="zoo/sonar/small is not there yet: make space")
def test_the_space_of_this_repository():
    assert sum(path.stat().st_size for path in SMALL.rglob("*") if path.is_file()) <= 12e6
    told, space = json.loads((SMALL / "about.json").read_text()), Space.opened("zoo/sonar/small")
    check_about(told)
    assert all(told["bars"][name]["met"] for name in BARS)
    assert told["fingerprint"] == space.fingerprint and space.normalizer is not None
    for card in (SMALL / "cards").glob("*.yaml"):
        assert all((card.parent / place).exists() for place in re.findall(r"\.\./[\w.]+", card.read_text()))
    texts = ["The sea was calm."]
    assert space.encode(texts).isfinite().all() and isinstance(space.decode(space.encode(texts), beam=1)[0], str)
