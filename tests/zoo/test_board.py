import errno
import os

import pytest
import torch

from zoo.board import BesideIO
from zoo.meter import training_flops
from zoo.mtp import MTP

VOCAB, CONTEXT, DIM = 97, 8, 16


def flops(n: int, layers: int = 6) -> int:
    batch = {"tokens": torch.zeros(1, CONTEXT + n, dtype=torch.long), "mask": torch.ones(1, CONTEXT + n, dtype=torch.bool)}
    return training_flops(lambda: MTP(VOCAB, CONTEXT, n=n, dim=DIM, layers=layers, heads=2, hidden=32), batch)


def test_a_head_costs_one_more_unembedding_and_a_layer_its_products():
    """Six FLOPs per weight and token (sheet 2.4: parameter-matched is not FLOP-matched), attention over all pairs."""
    assert flops(2) - flops(1) == 6 * VOCAB * DIM * CONTEXT
    weights = 4 * DIM * DIM + 3 * 32 * DIM
    attention = 3 * 2 * 2 * CONTEXT * CONTEXT * DIM
    assert flops(1, layers=7) - flops(1) == 6 * weights * CONTEXT + attention


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(tmp_path, monkeypatch):
    path = tmp_path / "last.ckpt"
    BesideIO().save_checkpoint({"step": 1}, path)

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="could not be written"):
        BesideIO().save_checkpoint({"step": 2}, path)
    assert torch.load(path, weights_only=True) == {"step": 1} and os.listdir(tmp_path) == ["last.ckpt"]
