"""DDP = FSDP2 = one process, through the command line, with accumulation and clipping."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from zoo.pretrained import from_pretrained

ROOT = Path(__file__).parents[1]


def fit(folder: Path, version: str, *more: str) -> Path:
    """One smoke run in processes of its own; 4 windows a micro-step over all of them. Returns the run folder."""
    command = [
        sys.executable, "-m", "zoo", "fit", "-c", f"{ROOT}/recipes/mtp/code.yaml", "-c", f"{ROOT}/recipes/scales/smoke.yaml",
        "--data.init_args.source=files", f"--data.init_args.files=['{ROOT}/zoo/**/*.py']", f"--data.init_args.root={folder}/data",
        "--data.init_args.prepare_workers=1", f"--trainer.logger.init_args.save_dir={folder}", "--trainer.precision=32",
        "--trainer.accumulate_grad_batches=2", "--trainer.gradient_clip_val=0.5", "--trainer.accelerator=cpu",
        "--trainer.log_every_n_steps=1", f"--trainer.logger.init_args.version={version}", *more,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "mtp-code" / version


def validation(run: Path) -> dict[str, float]:
    events = EventAccumulator(str(run))
    events.Reload()
    return {tag: events.Scalars(tag)[-1].value for tag in events.Tags()["scalars"] if tag.startswith("val/")}


def test_two_processes_train_what_one_trains(tmp_path):
    one = fit(tmp_path, "one", "--data.init_args.batch=4")
    for strategy in ("ddp", "fsdp2"):
        two = fit(tmp_path, strategy, "--data.init_args.batch=2", "--trainer.devices=2", f"--trainer.strategy={strategy}")
        a, b = from_pretrained(one / "pretrained").state_dict(), from_pretrained(two / "pretrained").state_dict()
        for name in a:
            torch.testing.assert_close(a[name], b[name], rtol=1e-4, atol=2e-5)
        assert validation(two) == pytest.approx(validation(one), rel=1e-4)
        assert (two / "checkpoints/last.ckpt").exists()
