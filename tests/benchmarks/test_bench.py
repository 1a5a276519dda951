"""The table of `make bench` from made-up measurements."""

import json
import sys
from types import SimpleNamespace

import pytest

import benchmarks
from benchmarks import bench, bench_data, bench_sonar, speed


def test_table_and_file(tmp_path, monkeypatch, capsys):
    def row(**changed):
        base = {
            "name": "trunk",
            "ours": 220.0,
            "anchor": 200.0,
            "ratio": 1.1,
            "target": ">= 1.10",
            "unit": "tokens/s",
            "ok": True,
        }
        return [{**base, **changed}]

    asked = []
    alone = row(name="memory", ours=790.5, anchor=None, ratio=None, target="<= 800", unit="MiB", ok=False)
    alone += row(name="wall", target="")
    found = {
        "bench_nets": row(),
        "bench_cocomix": [],
        "bench_decode": [],
        "bench_data": alone,
        "bench_sonar": [],
        "bench_lcm": [],
    }
    for name, rows in found.items():
        module = SimpleNamespace(main=lambda quick, rows=rows: asked.append(quick) or rows)
        monkeypatch.setitem(sys.modules, f"benchmarks.{name}", module)
        monkeypatch.setattr(benchmarks, name, module, raising=False)
    monkeypatch.setattr(bench, "ROOT", tmp_path)
    monkeypatch.setattr(speed, "ROOT", tmp_path)
    monkeypatch.setattr(speed, "FOLDER", tmp_path / "speed")
    monkeypatch.setattr(sys, "argv", ["bench", "--quick"])
    bench.main()
    assert speed.page() == ""
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines() if line[0] == "|"]
    assert lines[2:] == [
        ["trunk", "220 tokens/s", "200 tokens/s", "1.1", ">= 1.10", "yes"],
        ["memory", "790.5 MiB", "—", "—", "<= 800", "no"],
        ["wall", "220 tokens/s", "200 tokens/s", "1.1", "—", "—"],
    ]
    assert asked == [True] * 6
    assert json.loads((tmp_path / "runs/bench.json").read_text()) == row() + alone
    monkeypatch.setattr(sys, "argv", ["bench", "data", "--keep"])
    bench.main()
    told = json.loads((tmp_path / "speed" / "data.json").read_text())
    assert asked == [True] * 6 + [False] and told["rows"] == alone
    assert told["device"].endswith("threads") and told["versions"]["torch"]
    lines = speed.page().splitlines()
    assert "## data" in lines and "| memory | 790.5 MiB    | —            | —     | <= 800 | no  |" in lines
    assert "threads; 2" in lines[-1] and f"commit {told['commit'][:10]}" in lines[-1]
    monkeypatch.setattr(sys, "argv", ["bench", "datum"])
    with pytest.raises(SystemExit):
        bench.main()
    assert "there is no part datum: choose of nets, cocomix, decode, data, sonar, lcm" in capsys.readouterr().err


def test_a_sentence_store_is_read_fast():
    found = bench_data.sentence_reading(quick=True)
    assert found["ours"] > 0 and found["target"] == ">= 20000" and speed.cells(found)[2] == "—"


def test_training_of_a_space_is_measured():
    wall, cpu = bench_sonar.training(quick=True, rounds=1)
    assert min(wall["ours"], cpu["ours"], wall["anchor"]) > 0 and "wall" in wall["name"] and "CPU" in cpu["name"]
