"""Two CPU processes against one: DDP and FSDP2 give the gradients of a single process."""

import tempfile
from pathlib import Path

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from tests.two_processes import results, work
from tests.zoo.lcm.arms import ARMS, arm, batch, fixed, parts
from zoo.lcm.batch import shared
from zoo.lcm.net import Layer
from zoo.lcm.two_tower import DenoiserLayer
from zoo.shard import shard

torch.set_num_threads(1)
KINDS = {name: {} for name in ARMS} | {"two weighted": {"snr": [0.0, 5.0], "snr_mean": True}}
WAYS = ("ddp", "fsdp", "fsdp recomputed")
CASES = [(name, way) for name in KINDS for way in WAYS if way != "fsdp" or name in ("one", "two")]
STAGES = {"discrete": 3, "continuous": 3}
LENGTHS = [5, 5, 4, 5, 1, 2, 3, 1]  # 19 sentences in the first half and 7 in the second


def net_of(name, folder, checkpoint=False):
    return arm(name.split()[0], folder, checkpoint=checkpoint, **KINDS[name]).double().train()


def share(name, rank, world):
    """This rank's half of eight documents of unequal lengths, with their steps and noise."""
    given = fixed(batch(rows=8), stages=STAGES.get(name, 100))
    behind = torch.arange(5) >= torch.tensor(LENGTHS)[:, None]
    given |= {"role": given["role"].masked_fill(behind, 0), "vec": given["vec"].masked_fill(behind[..., None], 0)}
    given = {key: value.double() if value.is_floating_point() else value for key, value in given.items()}
    return {key: value[rank * 8 // world : (rank + 1) * 8 // world] for key, value in given.items()}


def trained(name, way, rank, mesh):
    """Gradients after one backward pass."""
    from torch.distributed.fsdp import FSDPModule

    with tempfile.TemporaryDirectory() as folder:
        model = net_of(name, parts(Path(folder)), way == "fsdp recomputed")
    if way == "ddp":
        wrapped = DistributedDataParallel(model)  # kept alive: it adds the gradients up
        wrapped(share(name, rank, 2))["loss"].backward()
    else:
        shard(model, {"data_parallel": mesh})
        model(share(name, rank, 2))["loss"].backward()
        layers = sum(isinstance(module, Layer | DenoiserLayer) for module in model.modules())
        assert sum(isinstance(module, FSDPModule) for module in model.modules()) == layers + 1 > 1
        assert all(hasattr(p, "full_tensor") for p in model.parameters())
    return ({key: p.grad.full_tensor() if hasattr(p.grad, "full_tensor") else p.grad for key, p in model.named_parameters()},)


def test_two_processes_give_the_gradients_of_one(tmp_path):
    found = results(__file__, tmp_path)
    assert set(found) == set(CASES)
    for (name, way), (gradients,) in found.items():
        model = net_of(name, parts(tmp_path))
        model(share(name, 0, 1))["loss"].backward()
        for key, parameter in model.named_parameters():
            torch.testing.assert_close(gradients[key], parameter.grad, atol=1e-9, rtol=1e-7, msg=f"{name} {way} {key}")


def test_others_are_asked_for_gradients_of_real_documents_alone(monkeypatch):
    def asked(tensor):
        raise RuntimeError("asked")

    for word, answer in (("is_initialized", lambda: True), ("get_world_size", lambda: 2), ("all_reduce", asked)):
        monkeypatch.setattr(torch.distributed, word, answer)
    with torch.no_grad():
        assert shared(torch.tensor(3))[0] == 3
    assert shared(torch.tensor(3, device="meta"))[0].is_meta
    with pytest.raises(RuntimeError, match="asked"):
        shared(torch.tensor(3))


if __name__ == "__main__":
    work(trained, CASES)
