"""`zoo prepare sae`: what is trained explains the states, goes on after a kill, and is read by sae-lens and by us."""

import json
from types import SimpleNamespace

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from zoo.__main__ import main
from zoo.cocomix import training
from zoo.cocomix.sae import SparseAutoencoder
from zoo.data.tokenizer import Bytes
from zoo.ntp import NextToken
from zoo.pretrained import save_pretrained

T, D = 16, 12


@pytest.fixture
def home(tmp_path):
    torch.manual_seed(0)
    save_pretrained(NextToken(257, T, dim=D, layers=3, heads=2, hidden=16), tmp_path / "net")
    Bytes().save(tmp_path / "net" / "tokenizer")
    for i in range(60):
        (tmp_path / f"{i}.txt").write_text(f"{i} lines of text, the {i * i}th\n" * 20)
    (tmp_path / "recipe.yaml").write_text(f"""
sae: {{teacher: "{tmp_path}/net", out: "{tmp_path}/sae", layer: 2, latents: 64, keep: 4, tokens: 3072, batch: 64,
       lr: 0.005, warmup: 4, validate_every: 24, save_every: 16}}
data: {{class_path: zoo.data.OpenWebText, init_args: {{source: files, files: ["{tmp_path}/*.txt"], tokenizer: bytes, context: 64,
        batch: 4, eval_bytes: 2000, root: "{tmp_path}/data", prepare_workers: 1}}}}
""")
    (tmp_path / "scale.yaml").write_text(f"data: {{init_args: {{context: {T}}}}}\nmodel: {{left: alone}}\n")
    return tmp_path


def words(home, *more):
    return ["prepare", "sae", "-c", str(home / "recipe.yaml"), "--config", str(home / "scale.yaml"), *more]


def test_it_learns_goes_on_after_a_kill_and_is_left_alone_when_finished(home, monkeypatch, capsys):
    from sae_lens import SAE

    main(words(home, f"--sae.out={home}/whole"))
    about = json.loads((home / "whole" / "settings.json").read_text())["measured"]
    assert about["explained_variance"] > 0.3 and 0 < about["l0"] <= 4 and 0 <= about["dead"] < 1
    assert not list((home / "whole").glob("autoencoder-at-*"))  # its checkpoints are gone
    board = EventAccumulator(str(home / "whole")).Reload()
    assert {"train/loss", "train/dead", *(f"val/{name}" for name in about)} <= set(board.Tags()["scalars"])
    assert board.Tags()["images"] == ["explained variance by position"]
    assert board.Scalars("val/explained_variance")[-1].value == pytest.approx(about["explained_variance"])
    steps, kept = [0], training.SparseAutoencoder.load(home / "whole")

    def dying(*args):
        steps[0] += 1
        if steps[0] == 2:
            raise KeyboardInterrupt
        return save(*args)

    save = training._checkpoint
    monkeypatch.setattr(training, "_checkpoint", dying)
    with pytest.raises(KeyboardInterrupt):
        main(words(home))
    assert [place.name for place in (home / "sae").glob("autoencoder-at-*")] == ["autoencoder-at-00000016"]
    monkeypatch.setattr(training, "_checkpoint", save)
    with pytest.raises(SystemExit, match=r"is of latents 64, not 32; lr 0\.005, not 0\.1: give sae\.out another folder"):
        main(words(home, "--sae.latents=32", "--sae.lr=0.1"))
    capsys.readouterr()
    main(words(home))
    assert "going on after step 16 of 48" in capsys.readouterr().out
    again = SparseAutoencoder.load(home / "sae")
    for ours, theirs in zip(again.parameters(), kept.parameters()):
        assert ours.equal(theirs)  # the killed run ended where the whole one did
    main(words(home))
    assert "is trained already" in capsys.readouterr().out
    x = torch.randn(50, D) * 3 + 1
    torch.testing.assert_close(again.decode(again.encode(x)), SAE.load_from_disk(home / "sae")(x), rtol=1e-4, atol=1e-4)


def test_what_is_measured_is_what_a_plain_count_gives(home):
    main(words(home))
    sae, batches = SparseAutoencoder.load(home / "sae"), [torch.randn(n, T, D) * 2 + 0.5 for n in (3, 4)]
    measured, curve = training.measure(sae, SimpleNamespace(held_out=lambda: batches, device="cpu"))
    x = torch.cat(batches)  # (7, T, D)
    back, active = torch.zeros_like(x), torch.zeros(7, T, 64, dtype=torch.bool)
    for n in range(7):
        for t in range(T):
            found = sae.encode(x[n, t][None])
            back[n, t] = ((sae.decode(found) - found.mean) / found.std)[0]
            active[n, t, found.ids[0, found.values[0] > 0]] = True
    error, spread = (back - x).square().sum((0, 2)), (x - x.mean((0, 1))).square().sum((0, 2))  # (T,)
    torch.testing.assert_close(curve.float(), 1 - error / spread, atol=1e-4, rtol=1e-4)
    expected = {
        "explained_variance": 1 - error.sum() / spread.sum(), "explained_variance_first": curve[0],
        "explained_variance_last": curve[-1], "l0": active.sum(-1).float().mean(), "dead": (~active.any(0).any(0)).float().mean(),
    }  # fmt: skip
    assert measured == pytest.approx({name: float(value) for name, value in expected.items()}, abs=1e-4)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("--sae.batch=63", r"8 batches must be whole windows of 16 states"),
        ("--sae.tokens=60", "at least sae.batch"),
        ("--sae.warmup=40", "of 48 steps, of which the last 9 decay: make it shorter"),
        ("--sae.layer=4", "choose 1 to 3"),
        ("--sae.teacher=nowhere/at/all", "there is no folder nowhere"),
    ],
)
def test_what_cannot_work_is_said(home, wrong, said):
    with pytest.raises(SystemExit, match=said):
        main(words(home, wrong))


def test_a_recipe_that_is_not_there_is_said(tmp_path):
    with pytest.raises(SystemExit, match=r"there is no recipe nothing\.yaml"):
        main(["prepare", "sae", "-c", "nothing.yaml"])


def test_an_autoencoder_that_is_nan_is_neither_kept_nor_counted_as_trained(home):
    with pytest.raises(SystemExit, match=r"the autoencoder is NaN or infinite at step \d+: give sae.lr a lower value"):
        main(words(home, "--sae.lr=1e30"))
    (home / "sae" / "checkpoint-7").mkdir()  # somebody else's
    assert not (home / "sae" / "cfg.json").exists()
    main(words(home))  # nothing of the lost run is in the way
    assert (home / "sae" / "cfg.json").exists() and (home / "sae" / "checkpoint-7").exists()
