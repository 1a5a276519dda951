"""Two CPU processes against one: DDP and FSDP2 give the gradients of a single process, whatever is mixed in."""

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from tests.two_processes import results, work
from zoo.cocomix.net import CoCoMix
from zoo.nn.transformer import Block

torch.set_num_threads(1)
T, V, C = 8, 29, 40
SIZES = {"vocab": V, "context": T, "dim": 16, "layers": 5, "heads": 2, "insert": 1, "concepts": C, "keep": 5, "chunk": 5}
FORMS = {
    "concepts": {},
    "concepts added": {"mixing": "add", "flavour": "llama"},
    "concepts without loss": {"lam": 0.0},
    "pause, kd": {"inserted": "pause", "kd": 0.5},
    "states, recomputed": {"inserted": "states", "teacher_dim": 7, "checkpoint": True},
    "concepts, heads": {"n": 3},
    "concepts, heads, kd": {"n": 3, "kd": 0.5},
}
CASES = [(form, way) for form in FORMS for way in ("ddp", "fsdp")]


def net(form):
    torch.manual_seed(0)
    return CoCoMix(**SIZES, **FORMS[form]).double()


def batches(rank, world, ahead):
    """Two micro-batches of this rank's share of the rows, which have labels in more or fewer places."""
    draw, found = torch.Generator().manual_seed(1), []
    for _ in range(2):
        rows = {"tokens": torch.randint(0, V, (4, T + ahead), generator=draw)}
        rows["concepts"] = torch.randint(0, C, (4, T + ahead, 4), generator=draw)
        rows["concepts"][:, 3, 1:], rows["concepts"][0, 2:6] = -1, -1
        rows |= {name: torch.randn(4, T, 7, generator=draw).double() for name in ("states", "teacher")}
        rows = {name: x[rank * 4 // world : (rank + 1) * 4 // world] for name, x in rows.items()}
        unembedding = torch.randn(V, 7, generator=draw).double()
        found.append(rows | {"mask": torch.ones_like(rows["tokens"], dtype=torch.bool), "unembedding": unembedding})
    return found


def step(model, shares, accumulate=lambda last: None):
    """After two accumulated backward passes: the norm that clipping sees, the gradients, and what validation then measures."""
    for i, share in enumerate(shares):
        accumulate(i == len(shares) - 1)
        (model(share)["loss"] / len(shares)).backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), float("inf"))
    gradients = {name.removeprefix("module."): whole(p.grad) for name, p in model.named_parameters()}
    with torch.no_grad():
        parts = model(shares[0])["parts"]
    return whole(norm), gradients, {name: torch.stack(pair) for name, pair in parts.items()}


def whole(x):
    return x.full_tensor() if hasattr(x, "full_tensor") else x


def trained(form, way, rank, mesh):
    """What `step` gives, of both processes."""
    from torch.distributed.fsdp import fully_shard

    model = net(form)
    shares = batches(rank, 2, model.ahead)
    if way == "ddp":
        wrapped = DistributedDataParallel(model)
        found = step(wrapped, shares, lambda last: setattr(wrapped, "require_backward_grad_sync", last))
    else:
        for block in [m for m in model.modules() if isinstance(m, Block)]:  # as zoo.shard does
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
        found = step(model, shares, model.set_requires_gradient_sync)
    for pair in found[2].values():
        dist.all_reduce(pair)
    return found


def test_two_processes_give_the_gradients_of_one(tmp_path):
    for (form, way), (norm, gradients, parts) in results(__file__, tmp_path).items():
        model = net(form)
        expected, theirs, sums = step(model, batches(0, 1, model.ahead))
        torch.testing.assert_close(norm, expected, atol=1e-10, rtol=0)
        assert expected > 0.1 and gradients.keys() == theirs.keys() and parts.keys() == sums.keys()
        for name, gradient in theirs.items():
            torch.testing.assert_close(gradients[name], gradient, atol=1e-10, rtol=0, msg=f"{form} {way} {name}")
        for name, pair in sums.items():
            torch.testing.assert_close(parts[name], pair, rtol=1e-6, atol=0, msg=f"{form} {way} {name}")


if __name__ == "__main__":
    work(trained, CASES)
