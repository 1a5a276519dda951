"""Two CPU processes against one: DDP and FSDP2 give the gradients of a single process."""

import logging

import torch
from torch.nn.parallel import DistributedDataParallel

from tests.two_processes import results, work
from zoo.mtp import MTP
from zoo.nn.transformer import Block

torch.set_num_threads(1)
SIZES = {"vocab": 29, "context": 8, "n": 3, "dim": 16, "layers": 5, "heads": 2, "chunk": 5}
FORMS = {
    "gpt2": {"flavour": "gpt2"},
    "llama": {},
    "anticausal": {"arrangement": "anticausal"},
    "linear": {"head": "linear"},
    "replicated": {"unembeddings": "replicated", "flavour": "gpt2"},
}
CASES = [(form, way) for form in FORMS for way in ("ddp", "fsdp", "fsdp root only")]


def net(form):
    torch.manual_seed(0)
    return MTP(**SIZES, **FORMS[form]).double()


def batches(rank, world):
    """Two micro-batches of this rank's share of the rows."""
    g = torch.Generator().manual_seed(1)
    rows = torch.randint(0, 29, (2, 4, 11), generator=g)[:, rank * 4 // world : (rank + 1) * 4 // world]
    return [{"tokens": r, "mask": torch.ones_like(r, dtype=torch.bool)} for r in rows]


def step(model, shares, accumulate=lambda last: None):
    for i, b in enumerate(shares):
        accumulate(i == len(shares) - 1)
        (model(b)["loss"] / len(shares)).backward()
    return torch.nn.utils.clip_grad_norm_(model.parameters(), float("inf"))  # the norm that clipping sees


def whole(x):
    return x.full_tensor() if hasattr(x, "full_tensor") else x


def trained(form, way, rank, mesh):
    """Norm and gradients after two accumulated backward passes, what was logged, and the kind of backward pass taken."""
    from torch.distributed.fsdp import fully_shard

    model, handler, said = net(form), logging.Handler(), []
    handler.emit = said.append
    logging.getLogger("zoo.nn.heads").addHandler(handler)
    if way == "ddp":
        wrapped = DistributedDataParallel(model)
        norm = step(wrapped, batches(rank, 2), lambda last: setattr(wrapped, "require_backward_grad_sync", last))
    else:
        for block in [m for m in model.modules() if isinstance(m, Block)] if way == "fsdp" else []:  # as zoo.shard does
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
        norm = step(model, batches(rank, 2), model.set_requires_gradient_sync)
    logging.getLogger("zoo.nn.heads").removeHandler(handler)
    return whole(norm), {k: whole(p.grad) for k, p in model.named_parameters()}, len(said), model.heads.backward


def test_two_processes_give_the_gradients_of_one(tmp_path):
    for (form, way), (norm, gradients, said, backward) in results(__file__, tmp_path).items():
        model = net(form)
        expected = step(model, batches(0, 1))
        torch.testing.assert_close(norm, expected, atol=1e-10, rtol=0)
        assert expected > 0.1
        for name, p in model.named_parameters():
            torch.testing.assert_close(gradients[name], p.grad, atol=1e-10, rtol=0, msg=f"{form} {way} {name}")
        sharded = way == "fsdp" and any(isinstance(m, Block) for m in model.heads.modules())  # else the root owns the heads
        assert (backward, said) == (("joint", 1) if sharded else ("head-by-head", 0)), way


if __name__ == "__main__":
    work(trained, CASES)
