"""The bench of CoCoMix's step: its anchor does the same work as our net, and every arm takes a step."""

import pytest
import torch

from benchmarks import bench_cocomix
from benchmarks.bench_cocomix import ARMS, QUICK, Steps, _rows
from benchmarks.released_cocomix import Extraction, Student


@pytest.fixture
def steps() -> Steps:
    steps = Steps(QUICK)
    with torch.no_grad():
        for p in [*steps.net.parameters(), *steps.extractor.parameters()]:
            p.add_(torch.randn_like(p) * 0.05)
    return steps


def test_the_anchor_finds_our_labels_and_our_losses(steps):
    tokens = steps.tokens(2)[:, :-1]
    labels, attribution = Extraction(steps.extractor)(tokens)
    ours = steps.extractor(tokens)
    known = ours >= 0  # with fewer than four it fills up with latents that are not active
    assert known.float().mean() > 0.5 and labels[:, :-1][known].equal(ours[known])
    assert attribution.shape[-1] == QUICK["concepts"]
    next_token, concept = Student(steps.net).eval()(tokens, labels)
    batch = {"tokens": tokens, "mask": torch.ones_like(tokens, dtype=torch.bool), "concepts": labels}
    total, count = steps.net(batch)["parts"]["next"]
    torch.testing.assert_close(next_token.detach(), total / count)
    below = steps.net.trunk.blocks(steps.net.trunk.embed(tokens), stop=QUICK["student"]["insert"])
    torch.testing.assert_close(concept.detach(), steps.net.mixer(below, labels).terms.mean())


def test_the_anchor_wastes_what_the_released_code_wastes(steps):
    """The backward pass reaches every weight of the teacher, and what it leaves there is never cleared."""
    extraction, tokens = Extraction(steps.extractor), steps.tokens(1)[:, :-1]
    extraction(tokens)
    once = {name: p.grad.clone() for name, p in extraction.named_parameters() if p.grad is not None}
    assert once.keys() == {name for name, _ in extraction.named_parameters()} - {"encoder", "bias", "decoder", "shift"}
    extraction(tokens)
    for name, p in extraction.named_parameters():
        if name in once:
            torch.testing.assert_close(p.grad, 2 * once[name])


@pytest.mark.parametrize("windows", [1, 2])
def test_every_arm_takes_a_step_and_gets_its_row(steps, windows, monkeypatch):
    names = [name for name in ARMS if windows > 1 or name != "next/fp32"]
    made = steps.made(names, windows)
    before = steps.net.trunk.embedding.weight.clone()
    for name, step in made.items():
        step()
        changed = not steps.net.trunk.embedding.weight.equal(before)
        assert changed == (name not in ("released/fp32", "next/fp32"))
        with torch.no_grad():
            steps.net.trunk.embedding.weight.copy_(before)
    needed = bench_cocomix.work(steps, windows)
    assert needed["online/fp32"] > needed["cached/fp32"] > 0
    taken = {name: [(2.0, 1.0)] for name in names} | {"released/fp32": [(4.0, 3.0)]}
    rows = _rows(taken, needed, 80.0, windows * 32, quick=False)
    online = rows[0]
    assert (online["ratio"], online["ours"], online["anchor"], online["target"], online["ok"]) == (2.0, 2.0, 4.0, ">= 1.8", True)
    assert rows[1]["ratio"] == 3.0 and [row["ok"] for row in rows[:5]] == [True, True, False, False, True]
    last = [row["target"] for row in rows if "next-token" in row["name"]]
    assert last == (["<= 1.45"] if windows > 1 else []) and len(rows) == (8 if windows > 1 else 10)
    scaled = [row for row in rows if "scaled" in row["name"]]
    assert [row["anchor"] for row in scaled] == ([8.0] * 3 if windows == 1 else [])
