"""The bench of the two towers, at its smallest: everything that it times runs once, and rows compare what they name."""

import pytest
import torch

from benchmarks import bench_lcm

torch.set_num_threads(1)


@pytest.fixture
def once(monkeypatch):
    """In place of `times`: each step runs once and is said to take a second, what is released ten."""
    taken = []

    def times(steps, rounds):
        assert rounds == 1
        for step in steps.values():
            step()
        taken.extend(steps)
        return {name: [(10.0 if name.startswith("released") else 1.0, 1.0)] for name in steps}

    monkeypatch.setattr(bench_lcm, "times", times)
    return taken


def test_quick_rows(once):
    rows = {row["name"]: row for row in bench_lcm.main(quick=True)}
    assert len(rows) == 9 and once[:3] == ["released", "ours", "bf16"]
    assert {"released 16", "released 128", "ours 16", "ours 128", "ours 512", "bf16 512"} <= set(once)
    faster = [row for name, row in rows.items() if "bf16" not in name and "512" not in name]
    assert len(faster) == 4 and all(row["ratio"] == 10 and row["ok"] for row in faster)
    assert rows["two towers, a sentence at 512 of context against 16"]["ok"]
    assert not any(row["ok"] for name, row in rows.items() if "bf16" in name)
