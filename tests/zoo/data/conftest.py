"""A small corpus and prepared DataModules of it, for the tests of modules and loaders."""

import random
from types import SimpleNamespace

import pytest
import torch

import zoo.data

T = 16


@pytest.fixture
def files(tmp_path):
    """Sixty small documents in JSON lines and a text file."""
    draw = random.Random(0)
    words = ["größe", "= 1\\n", *("".join(draw.choices("abcdefgh", k=draw.randrange(1, 9))) for _ in range(300))]
    rows = [" ".join(draw.choices(words, k=draw.randrange(80, 120))) for _ in range(60)]
    (tmp_path / "a.jsonl").write_text("".join(f'{{"text": "{row}"}}\n' for row in rows))
    (tmp_path / "b.py").write_text("\n".join(f"import {name}" for name in words[2:]))
    return [str(tmp_path / "a.jsonl"), str(tmp_path / "b.py")]


@pytest.fixture
def data(files, tmp_path):
    """Makes a prepared DataModule of these files; arguments override the defaults."""

    def make(kind=None, **arguments):
        arguments = {"tokenizer": "bytes", "context": T, "batch": 4, "prepare_workers": 1} | arguments
        made = (kind or zoo.data.Code)(source="files", files=files, root=str(tmp_path / "data"), **arguments)
        made.prepare_data()
        made.setup()
        return made

    return make


@pytest.fixture
def attach():
    return _attach


def _attach(made, rank=0, world=1, ahead=1, max_steps=10, accumulate=1):
    """Stand-in for a Trainer, to see what one of several processes would read."""
    progress = SimpleNamespace(batch_progress=SimpleNamespace(total=SimpleNamespace(processed=0)))
    cpu = SimpleNamespace(root_device=torch.device("cpu"))
    made.trainer = SimpleNamespace(
        distributed_sampler_kwargs={"num_replicas": world, "rank": rank} if world > 1 else None,
        lightning_module=SimpleNamespace(net=SimpleNamespace(ahead=ahead)), max_steps=max_steps, overfit_batches=0, strategy=cpu,
        accumulate_grad_batches=accumulate, is_global_zero=rank == 0, fit_loop=SimpleNamespace(epoch_loop=progress),
    )  # fmt: skip
    return made
