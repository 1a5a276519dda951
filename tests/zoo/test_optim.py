import copy
import math

import pytest
import torch
from torch import nn

from zoo.ntp import NextToken
from zoo.optim import AdamW, Muon, gradient_norm, schedule, warmup_cosine


def small() -> NextToken:
    torch.manual_seed(0)
    return NextToken(17, 8, dim=16, layers=2, heads=2)


def train(net: nn.Module, optimizer, steps: int, seed: int = 1) -> list[float]:
    random, losses = torch.Generator().manual_seed(seed), []
    for _ in range(steps):
        batch = {"tokens": torch.randint(0, 17, (2, 9), generator=random), "mask": torch.ones(2, 9, dtype=torch.bool)}
        loss = net(batch)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def test_schedule_is_linear_then_cosine_to_the_floor():
    assert [warmup_cosine(s, 4, 100, 0.1) for s in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert warmup_cosine(4, 4, 100, 0.1) == 1.0
    assert warmup_cosine(52, 4, 100, 0.1) == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 2)))
    assert warmup_cosine(100, 4, 100, 0.1) == pytest.approx(0.1) == warmup_cosine(150, 4, 100, 0.1)
    assert warmup_cosine(0, 0, 0, 0.1) > 0  # no warm-up, no division by zero


@pytest.mark.parametrize("make", [AdamW, Muon])
def test_every_parameter_is_in_one_group_and_norms_do_not_decay(make):
    net = small()
    groups = make(net).param_groups
    held = [p for g in groups for p in g["params"]]
    assert len(held) == len({id(p) for p in held}) == len(list(net.parameters()))
    for group in groups:
        assert all((p.ndim >= 2) == (group["weight_decay"] > 0) for p in group["params"])


def test_decay_all_decays_norms_too():
    assert [g["weight_decay"] for g in AdamW(small(), weight_decay=0.1, decay_all=True).param_groups] == [0.1]


def test_muon_takes_hidden_matrices_only():
    net = small()
    hidden = {id(p) for p in Muon(net).param_groups[0]["params"]}
    expected = {id(m.weight) for layer in net.trunk.layers for m in layer.modules() if isinstance(m, nn.Linear)}
    assert hidden == expected


@pytest.mark.parametrize("make", [AdamW, Muon])
def test_saved_optimizer_goes_on_as_if_nothing_happened(make):
    net = small()
    optimizer = make(net)
    train(net, optimizer, 3)
    twin = small()
    twin.load_state_dict(net.state_dict())
    other = make(twin)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))  # it refers to the live tensors
    assert train(net, optimizer, 3, seed=2) == train(twin, other, 3, seed=2)


def test_learning_rate_of_every_part_follows_the_schedule():
    net = small()
    optimizer = Muon(net, lr=0.02, adamw_lr=0.003)
    curve = schedule(optimizer, warmup=2, total=10, floor=0.5)["lr_scheduler"]["scheduler"]
    assert [g["lr"] for g in optimizer.param_groups] == [0.01, 0.0015, 0.0015]
    before = net.trunk.layers[0].mlp.up.weight.clone()
    train(net, optimizer, 1)
    curve.step()
    assert [g["lr"] for g in optimizer.param_groups] == [0.02, 0.003, 0.003]
    assert not torch.equal(before, net.trunk.layers[0].mlp.up.weight)


def test_gradient_norm():
    p = nn.Parameter(torch.zeros(2))
    p.grad = torch.tensor([3.0, 4.0])
    assert gradient_norm([p, nn.Parameter(torch.zeros(1))]).item() == pytest.approx(5.0)
