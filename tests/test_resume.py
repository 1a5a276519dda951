"""A run that is killed goes on exactly where it was: same batches, same dropout, same losses to the last digit."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.zoo.cocomix.tiny_runs import LAYER, made, overlay
from zoo.cli import main

ROOT = Path(__file__).parents[1]


def fit_arguments(folder: Path, *more: str) -> list[str]:
    return [
        "fit", "-c", str(ROOT / "recipes/mtp/code.yaml"), "-c", str(ROOT / "recipes/scales/smoke.yaml"),
        "--data.init_args.source=files", f"--data.init_args.files=['{ROOT}/zoo/**/*.py']", f"--data.init_args.root={folder}/data",
        "--data.init_args.prepare_workers=1", "--model.init_args.net.init_args.dropout=0.1",
        "--trainer.accumulate_grad_batches=2", "--trainer.val_check_interval=10",
        "--trainer.max_steps=40", "--trainer.log_every_n_steps=1",
        "--last.every_n_train_steps=3", f"--trainer.logger.init_args.save_dir={folder}/runs", *more,
    ]  # fmt: skip


def losses(run: Path) -> dict[int, float]:
    events = EventAccumulator(str(run))
    events.Reload()
    return {e.step: e.value for e in events.Scalars("train/loss")}


def killed_and_resumed(folder: Path, *choice: str) -> tuple[dict, dict]:
    """Weights of a whole run, and of one that was killed and went on; their losses are equal."""
    whole = main(fit_arguments(folder, "--trainer.logger.init_args.version=whole", *choice))
    command = [sys.executable, "-m", "zoo", *fit_arguments(folder, "--trainer.logger.init_args.version=killed", *choice)]
    checkpoint = folder / "runs/mtp-code/killed/checkpoints/last.ckpt"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"}) as process:
        while not checkpoint.exists() and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    step = torch.load(checkpoint, weights_only=True)["global_step"]
    assert 0 < step < 40
    resumed = main(fit_arguments(folder, "--trainer.logger.init_args.version=resumed", *choice, f"--ckpt_path={checkpoint}"))
    expected, found = losses(folder / "runs/mtp-code/whole"), losses(folder / "runs/mtp-code/resumed")
    assert found == {s: v for s, v in expected.items() if s >= step} and len(found) == 40 - step
    return whole.model.net.state_dict(), resumed.model.net.state_dict()


def assert_same(whole: dict, resumed: dict) -> None:
    for name, weight in whole.items():
        assert torch.equal(weight, resumed[name]), name


@pytest.mark.parametrize("optimizer", ["zoo.optim.AdamW", "zoo.optim.Muon"])
def test_killed_run_resumes_exactly(tmp_path, optimizer):
    whole, resumed = killed_and_resumed(tmp_path, f"--model.init_args.optimizer={optimizer}")
    assert whole.keys() == resumed.keys()
    assert_same(whole, resumed)


def test_so_does_one_that_learns_from_a_teacher(tmp_path):
    made(tmp_path)
    teacher = {"net": f"{tmp_path}/net", "sae": f"{tmp_path}/sae", "layer": LAYER, "gives": ["concepts", "logits"]}
    whole, resumed = killed_and_resumed(tmp_path, *overlay(tmp_path, {"n": 2, "kd": 0.1, "dropout": 0.1}, teacher))
    assert whole.keys() == resumed.keys() and any("mixer" in name for name in whole)
    assert_same(whole, resumed)
