"""`zoo prepare concepts`: what is kept is what the teacher says of the windows that runs read."""

import numpy as np
import pytest
import torch

from tests.zoo.cocomix.test_sae import D, saved
from zoo.__main__ import main
from zoo.cli import main as lightning
from zoo.cocomix.attribution import ConceptExtractor
from zoo.cocomix.labels import health
from zoo.cocomix.sae import SparseAutoencoder
from zoo.cocomix.teacher import reading_flops
from zoo.data.labels import WindowLabels
from zoo.data.tokenizer import Bytes
from zoo.ntp import NextToken
from zoo.pretrained import from_pretrained, save_pretrained

T = 16


@pytest.fixture
def home(tmp_path, monkeypatch):
    torch.manual_seed(0)
    save_pretrained(NextToken(257, T, dim=D, layers=3, heads=2, hidden=16), tmp_path / "net")
    Bytes().save(tmp_path / "net" / "tokenizer")
    saved(tmp_path / "sae", normalize_activations="layer_norm")
    for i in range(40):
        (tmp_path / f"{i}.txt").write_text(f"text {i} " * 40)
    (tmp_path / "recipe.yaml").write_text(f"""
model: {{class_path: zoo.module.LanguageModel, init_args: {{net: {{class_path: zoo.ntp.NextToken}}}}}}
data: {{class_path: zoo.data.OpenWebText, init_args: {{source: files, files: ["{tmp_path}/*.txt"], tokenizer: bytes, context: {T},
        batch: 4, eval_bytes: 200, root: "{tmp_path}/data", prepare_workers: 1}}}}
trainer: {{max_steps: 5, accumulate_grad_batches: 2, logger: false, accelerator: cpu}}
""")
    return tmp_path


def words(home, *more):
    given = ["--teacher", str(home / "net"), "--sae", str(home / "sae"), "--layer", "2", "--out", str(home / "out")]
    return ["prepare", "concepts", *given, "-c", str(home / "recipe.yaml"), *more]


def test_labels_are_those_of_the_windows_that_a_run_reads(home, capsys):
    first = main(words(home, "--seeds", "0,3"))
    assert "of the labels that places could have are none" in capsys.readouterr().out
    data = lightning(["prepare", "-c", str(home / "recipe.yaml"), "--seed_everything=3"]).datamodule
    data.setup()
    extractor = ConceptExtractor(from_pretrained(home / "net"), SparseAutoencoder.load(home / "sae"), 2)
    loaders = {"train": data.train_dataloader(), "validation": data.val_dataloader(), "test": data.test_dataloader()}
    for split, loader in loaders.items():
        batches = loader.batches
        kept = WindowLabels(home / "out", split, {"corpus": data.fingerprint, "context": T})
        for k in range(10 if split == "train" else -(-batches.scored // 4)):
            position = np.minimum(4 * k + np.arange(4), (batches.scored or 10**9) - 1)
            numbers = batches.window(position)
            assert (kept[numbers] == extractor(batches[k]["tokens"]).numpy()).all()
    before = len(WindowLabels(home / "out", "train").numbers)
    main(words(home, "--seeds", "0"))
    assert "0 windows labelled" in capsys.readouterr().out
    main(words(home))
    kept = WindowLabels(home / "out", "train")
    assert len(kept.numbers) == data.windows("train") >= before
    every = kept[kept.numbers]
    assert kept.counts(48)[0] == (every < 0).sum() and kept.counts(48)[8] == (every == 7).sum()
    assert set(first) == {"without", "used", "frequent", "entropy"} and first["used"] <= 48
    assert kept.about["flops"] == reading_flops(extractor.teacher, extractor, T) > 0


def test_labels_of_something_else_are_not_added_to(home):
    main(words(home, "--seeds", "0"))
    with pytest.raises(SystemExit, match="of score 'attribution', not 'activation'"):
        main(words(home, "--seeds", "0", "--score", "activation"))
    with pytest.raises(SystemExit, match=r"--seeds needs trainer\.max_steps"):
        main(words(home, "--seeds", "0", "--trainer.max_steps=-1"))


def test_a_teacher_that_is_lost_is_said(home):
    net = from_pretrained(home / "net")
    with torch.no_grad():
        net.trunk.norm.weight.fill_(torch.nan)
    save_pretrained(net, home / "lost", home / "net" / "tokenizer")
    with pytest.raises(SystemExit, match=r"No place of .* has a label: the teacher's loss or states are NaN"):
        main(words(home, "--seeds", "0", "--teacher", str(home / "lost")))


def test_health_of_labels():
    found = health(np.array([10, 30, 30, 30, 0]))
    assert found == pytest.approx({"without": 0.1, "used": 3, "frequent": 1 / 3, "entropy": np.log(3)})
