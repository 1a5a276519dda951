"""DDP = FSDP2 = one process, through the command line, with accumulation and clipping."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.zoo.cocomix.tiny_runs import LAYER, made, overlay
from zoo.__main__ import main
from zoo.pretrained import from_pretrained

ROOT = Path(__file__).parents[1]


def settings(folder: Path) -> list[str]:
    """Recipe, scale and data of a smoke run."""
    return [
        "-c", f"{ROOT}/recipes/mtp/code.yaml", "-c", f"{ROOT}/recipes/scales/smoke.yaml",
        "--data.init_args.source=files", f"--data.init_args.files=['{ROOT}/zoo/**/*.py']", f"--data.init_args.root={folder}/data",
        "--data.init_args.prepare_workers=1", "--trainer.accumulate_grad_batches=2", "--trainer.accelerator=cpu",
    ]  # fmt: skip


def fit(folder: Path, version: str, *more: str) -> Path:
    """One smoke run, in processes of its own if they are several; 4 windows a micro-step over all of them. Returns its folder."""
    words = [
        "fit", *settings(folder), "--trainer.precision=32", "--trainer.gradient_clip_val=0.5", "--trainer.log_every_n_steps=1",
        f"--trainer.logger.init_args.save_dir={folder}", f"--trainer.logger.init_args.version={version}", *more,
    ]  # fmt: skip
    if any(word.startswith("--trainer.devices") for word in words):
        command = [sys.executable, "-m", "zoo", *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, env={**os.environ, "OMP_NUM_THREADS": "1"})
        assert done.returncode == 0, done.stdout + done.stderr
    else:
        main(words)
    return folder / "mtp-code" / version


def validation(run: Path) -> dict[str, float]:
    events = EventAccumulator(str(run))
    events.Reload()
    return {tag: events.Scalars(tag)[-1].value for tag in events.Tags()["scalars"] if tag.startswith("val/")}


def compare(folder: Path, strategies: list[str], *more: str) -> dict[str, float]:
    """Train in one process and in two: equal weights, equal validation. Returns the latter."""
    one = fit(folder, "one", "--data.init_args.batch=4", *more)
    for strategy in strategies:
        two = fit(folder, strategy, "--data.init_args.batch=2", "--trainer.devices=2", f"--trainer.strategy={strategy}", *more)
        a, b = from_pretrained(one / "pretrained").state_dict(), from_pretrained(two / "pretrained").state_dict()
        for name in a:
            torch.testing.assert_close(a[name], b[name], rtol=1e-4, atol=2e-5)
        assert validation(two) == pytest.approx(validation(one), rel=1e-4)
        assert (two / "checkpoints/last.ckpt").exists()
    return validation(one)


def test_two_processes_train_what_one_trains(tmp_path):
    measured = compare(tmp_path, ["ddp", "fsdp2"])
    heads = [measured[f"val/{name}"] for name in ("next", "head2", "head3", "head4")]
    assert measured["val/loss"] == pytest.approx(sum(heads))


# One way each, for time: the gradients of both ways are compared in tests/zoo/cocomix/test_cocomix_distributed.py.
def test_so_do_they_with_concepts_from_a_cache_of_labels(tmp_path):
    made(tmp_path)
    arm = overlay(tmp_path, {"n": 2}, {"net": None, "gives": ["concepts"], "cached": f"{tmp_path}/labels"})
    # By activation every place has labels, so that the mean of two processes' means is the mean of all.
    choice = ["--teacher", f"{tmp_path}/net", "--sae", f"{tmp_path}/sae", "--layer", str(LAYER), "--score", "activation"]
    main(["prepare", "concepts", *choice, "--out", f"{tmp_path}/labels", *settings(tmp_path), *arm])
    measured = compare(tmp_path, ["ddp"], *arm)
    assert measured["val/loss"] == pytest.approx(measured["val/next"] + measured["val/head2"] + 0.1 * measured["val/concept"])


def test_so_do_they_with_pauses_and_a_teacher(tmp_path):
    made(tmp_path)
    arm = overlay(tmp_path, {"n": 1, "inserted": "pause", "kd": 0.5}, {"net": f"{tmp_path}/net", "gives": ["logits"]})
    measured = compare(tmp_path, ["fsdp2"], *arm)
    assert measured["val/loss"] == pytest.approx(measured["val/next"] + 0.5 * measured["val/kd"])
