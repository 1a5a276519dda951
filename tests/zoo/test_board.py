import errno
import os
from types import SimpleNamespace

import pytest
import torch

from zoo.board import BesideIO, Lines


@pytest.mark.parametrize(
    ("metrics", "data", "line"),
    [
        ({"train/next": torch.tensor(1.5)}, SimpleNamespace(), "step 10/10  next-token loss 1.500  2,000 tokens/s"),
        ({"train/mse": torch.tensor(9.0)}, SimpleNamespace(unit="sentences"), "step 10/10  loss 3.000  2,000 sentences/s"),
    ],
)
def test_a_line_names_its_loss_and_what_it_counts(metrics, data, line, capsys):
    trainer = SimpleNamespace(global_step=0, max_steps=10, accumulate_grad_batches=1, log_every_n_steps=5)
    trainer.callback_metrics, trainer.datamodule = metrics, data
    lines, module = Lines(), SimpleNamespace(measured={"tokens_per_second": 2000.0})
    lines.on_train_start(trainer, module)
    trainer.global_step = 10
    lines.on_train_batch_end(trainer, module, {"loss": torch.tensor(3.0)}, {}, 9)
    assert capsys.readouterr().out.startswith(line)


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(tmp_path, monkeypatch):
    path = tmp_path / "last.ckpt"
    BesideIO().save_checkpoint({"step": 1}, path)

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="could not be written"):
        BesideIO().save_checkpoint({"step": 2}, path)
    assert torch.load(path, weights_only=True) == {"step": 1} and os.listdir(tmp_path) == ["last.ckpt"]
