"""The runner, with a made-up `zoo` in its child processes: what it records, skips, survives and prints."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import child, jobs, record, report, run
from benchmarks import spec as spec_module

REPOSITORY = Path(__file__).resolve().parents[2]
SPEC = """
title: made up
source: {arxiv: "0000.00000", item: Table 9}
recipe: recipes/made/up.yaml
runs:
  one: {label: one, overrides: {model.n: 1}}
  two: {label: two, overrides: {model.n: 2}}
  three: {label: three, overrides: {model.n: 3}}
metrics: [{keys: [test/a], label: a, direction: lower, digits: 2}]
claims: []
scales: {laptop: {seeds: [0]}}
"""
CLI = """
import json, os, sys, time
from types import SimpleNamespace as NS

def main(args, callbacks):
    n = int(next(a for a in args if a.startswith("--model.n=")).partition("=")[2])
    folder = args[-1].partition("=")[2]
    print("training", n, flush=True)
    print("step 5/10  next-token loss 1.0", flush=True)
    given = [os.environ.get(name) for name in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")]
    with open("order.txt", "a") as file: print(n, *given, *args[1:], file=file)
    what = json.load(open("behaviour.json")).get(str(n))
    if what == "raise": raise ValueError("heads must be fewer than layers: lower n")
    if what == "exit": print("zoo: unknown key", file=sys.stderr); sys.exit(2)
    if what == "kill": os.kill(os.getpid(), 9)
    if what == "sleep":
        open("child.draft", "w").write(str(os.getpid()))
        os.replace("child.draft", "child.pid")
        time.sleep(120)
    if what == "wait": time.sleep(2.0)
    if "s0" in folder: os.makedirs(f"runs/made-up/{folder}/pretrained")
    value = float("nan") if what == "nan" else n / 2
    if what == "vanish": sys.exit(0)
    trainer = NS(max_steps=-1, test=lambda *a, **k: None, callback_metrics={"test/a": value}, is_global_zero=True,
                 strategy=NS(root_device=NS(type="cpu")))
    measured = dict(tokens=10, seconds=1.0, tokens_per_second=10.0, flops=5.0, peak_memory_mib=3.0, parameters=n, crowd=0.0)
    return NS(trainer=trainer, model=NS(measured=measured), config_dump={"n": n, "args": args},
              datamodule=NS(description="made-up data", fingerprint="f0"))
"""


@pytest.fixture
def house(tmp_path, monkeypatch):
    """A repository with a spec, a recipe and a `zoo` that only pretends; `behave({n: what})` says how its runs go."""
    for module in (spec_module, record, run, child, report, jobs):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(spec_module, "SPECS", tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.setattr(run, "_fingerprint", lambda data: "f0")
    files = {
        "table-made-1.yaml": SPEC,
        "recipes/made/up.yaml": "model: {n: 0}\ndata: {}\n",
        "recipes/scales/laptop.yaml": "data: {}\n",
        "zoo/__init__.py": "",
        "zoo/cli.py": CLI,
        "zoo/files.py": (REPOSITORY / "zoo/files.py").read_text(),  # which writes the records
        "torch.py": "def get_num_threads(): return 1",
        "lightning.py": "class Callback: pass",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    before = signal.getsignal(signal.SIGTERM)

    def behave(how=None):
        (tmp_path / "behaviour.json").write_text(json.dumps(how or {}))
        return tmp_path

    behave()
    yield behave
    signal.signal(signal.SIGTERM, before)


def records(root):
    found, complaints = record.load(root / "runs/records")
    assert complaints == []
    return {(r.run, r.status): r for r in found}


def test_a_sweep_records_prints_and_ends_with_its_page(house, capfd):
    root = house()
    assert run.main(["table-made-1", "--scale", "laptop"]) == 0
    done = records(root)
    assert set(done) == {("one", "ok"), ("two", "ok"), ("three", "ok")}
    two = done["two", "ok"]
    assert two.metrics == {"test/a": 1.0} and two.tokens == 10 and two.config["n"] == 2
    assert two.data == {"description": "made-up data", "fingerprint": "f0"}
    assert "zoo/cli.py" in " ".join(two.code) and two.device.endswith("1 threads")
    out = capfd.readouterr().out
    assert two.command in out and "--model.n=2" in two.command and "  | training 2" in out
    assert "[2/3] two, seed 0" in out and "left)" in out
    assert out.rstrip().endswith("page: runs/pages/table-made-1-laptop.md")
    assert "| 1.00 |" in (root / "runs/pages/table-made-1-laptop.md").read_text() and "1.00" in out.split("new records")[1]
    assert {path.name for path in root.iterdir()} == {
        "table-made-1.yaml", "recipes", "zoo", "torch.py", "lightning.py", "behaviour.json", "order.txt", "runs",
    }  # nothing was dropped in the working folder  # fmt: skip


def test_what_is_recorded_is_skipped_until_asked_again(house, capfd):
    root = house()
    assert run.main(["table-made-1", "--only", "one"]) == 0
    house({1: "raise"})  # would fail if it ran
    assert run.main(["table-made-1", "--only", "one"]) == 0
    assert "1 of them recorded before" in capfd.readouterr().out
    assert run.main(["table-made-1", "--only", "one", "--again"]) == 1
    assert set(records(root)) == {("one", "ok"), ("one", "failed")}


def test_single_seeds_of_a_spec(house, capfd):
    root = house()
    (root / "table-made-1.yaml").write_text(SPEC.replace("seeds: [0]", "seeds: [0, 1, 2]"))
    assert run.main(["table-made-1", "--only", "one", "--seed", "2", "--seed", "0"]) == 0
    assert sorted(r.seed for r in record.load(root / "runs/records")[0]) == [0, 2]
    assert run.main(["table-made-1", "--seed", "3"]) == 2
    assert "table-made-1 has no run of seed 3 at scale laptop" in capfd.readouterr().err


def test_other_data_or_another_recipe_is_not_skipped(house, monkeypatch, capfd):
    root = house()
    run.main(["table-made-1", "--only", "one"])
    monkeypatch.setattr(run, "_fingerprint", lambda data: "f1")
    run.main(["table-made-1", "--only", "one"])
    assert "the data have changed" in capfd.readouterr().out
    monkeypatch.setattr(run, "_fingerprint", lambda data: "f0")
    (root / "recipes/made/up.yaml").write_text("model: {n: 0, width: 2}\ndata: {}\n")
    run.main(["table-made-1", "--only", "one"])
    assert len(record.load(root / "runs/records")[0]) == 3


def test_data_that_cannot_be_checked_do_not_stop_the_sweep(house, monkeypatch, capfd):
    root = house()
    run.main(["table-made-1", "--only", "one"])

    def broken(data):
        raise FileNotFoundError("no such corpus")

    monkeypatch.setattr(run, "_fingerprint", broken)
    assert run.main(["table-made-1", "--only", "one"]) == 0
    assert "no such corpus" in capfd.readouterr().out and len(record.load(root / "runs/records")[0]) == 2


@pytest.mark.parametrize(
    "what, sentence",
    [
        ("raise", "ValueError: heads must be fewer than layers: lower n"),
        ("exit", "zoo: unknown key"),
        ("kill", "killed by signal 9"),
        ("nan", "FloatingPointError: test/a is nan"),
        ("vanish", "it ended without a record"),
    ],
)
def test_a_failing_run_is_recorded_and_the_others_go_on(house, capfd, what, sentence):
    root = house({2: what})
    assert run.main(["table-made-1"]) == 1
    done = records(root)
    assert set(done) == {("one", "ok"), ("two", "failed"), ("three", "ok")}
    assert done["two", "failed"].error.startswith(sentence)
    assert "failed: 1" in capfd.readouterr().out
    assert sentence in (root / "runs/pages/table-made-1-laptop.md").read_text()
    house()
    assert run.main(["table-made-1"]) == 0
    assert ("two", "ok") in records(root)


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_interruption_keeps_what_is_done_and_ends_the_child(house, capfd, kind):
    root = house({2: "sleep"})

    def interrupt():
        wait_for(lambda: (root / "child.pid").exists())
        os.kill(os.getpid(), kind)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs start with it ignored
    threading.Thread(target=interrupt).start()
    try:
        assert run.main(["table-made-1"]) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert set(records(root)) == {("one", "ok")}
    assert "the same command continues" in capfd.readouterr().out
    with pytest.raises(ProcessLookupError):
        os.kill(int((root / "child.pid").read_text()), 0)
    house()
    assert run.main(["table-made-1"]) == 0
    assert len(records(root)) == 3


def test_a_killed_sweep_takes_its_runs_with_it(house):
    root = house({2: "sleep"})
    code = "import sys; from pathlib import Path; from benchmarks import jobs, record, run, spec\n"
    code += f"for m in (jobs, record, run, spec): m.ROOT = Path({str(root)!r})\n"
    code += "spec.SPECS = m.ROOT; run._fingerprint = lambda data: 'f0'; sys.exit(run.main(['table-made-1']))"
    sweep = subprocess.Popen([sys.executable, "-c", code], cwd=root, stdout=subprocess.DEVNULL)
    wait_for(lambda: (root / "child.pid").exists())
    sweep.kill()
    sweep.wait()
    process = int((root / "child.pid").read_text())
    wait_for(lambda: not alive(process))
    assert set(records(root)) == {("one", "ok")}


def wait_for(event, seconds=60):
    end = time.monotonic() + seconds
    while not event():
        assert time.monotonic() < end
        time.sleep(0.1)


def alive(process: int) -> bool:
    state = Path(f"/proc/{process}/stat")
    if not state.exists():
        return False
    try:
        return state.read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_wrong_names_are_one_sentence(house, capfd):
    for args, words in (
        (["table-made-2"], "did you mean 'table-made-1'"),
        (["table-made-1", "--only", "thre"], "did you mean 'three'"),
        (["table-made-1", "--scale", "desk"], "no scale 'desk'"),
    ):
        assert run.main(args) == 2
        said = capfd.readouterr().err
        assert words in said and said.count("\n") == 1


NEEDY = """
title: made up
source: {arxiv: "0000.00000", item: Table 9}
recipe: recipes/made/up.yaml
needs:
  teacher: {recipe: recipes/made/up.yaml, overrides: {model.n: 7, model.of: "${needs.seed}"}}
  seed: {recipe: recipes/made/up.yaml, overrides: {model.n: 8}, seed: 0}
runs:
  plain: {label: plain, overrides: {model.n: 1}}
  taught: {label: taught, overrides: {model.n: 2, model.teacher: "${needs.teacher}"}}
metrics: [{keys: [test/a], label: a, direction: lower, digits: 2}]
claims: []
scales: {laptop: {seeds: [0]}}
"""


def ran(root):
    """What the made-up zoo was started with, in the order of the starts: n, threads, GPU, words."""
    path = root / "order.txt"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def test_needs_run_first_and_hand_their_folder_on(house, capfd):
    root = house()
    (root / "table-made-2.yaml").write_text(NEEDY)
    assert run.main(["table-made-2"]) == 0
    assert [words[0] for words in ran(root)] == ["1", "8", "7", "2"] and "2 more that they need" in capfd.readouterr().out
    done = records(root)
    folder = done["teacher", "ok"].folder.relative_to(root).as_posix() + "/pretrained"
    assert f"--model.teacher={folder}" in ran(root)[3] and (root / folder).is_dir()
    assert done["taught", "ok"].needs == [done["teacher", "ok"].key]
    (root / "order.txt").unlink()
    assert run.main(["table-made-2"]) == 0 and ran(root) == []  # all of it is cached
    run.main(["table-made-2", "--again", "--only", "taught"])
    assert [words[0] for words in ran(root)] == ["2"]  # again, from the same teacher


def test_what_a_scale_is_given_has_to_be_there(house, capfd):
    root = house()
    given = "scales: {laptop: {seeds: [0], given: {teacher: zoo/shipped}}}"
    (root / "table-made-2.yaml").write_text(NEEDY.replace("scales: {laptop: {seeds: [0]}}", given))
    assert run.main(["table-made-2"]) == 2 and ran(root) == []
    said = capfd.readouterr().err
    assert "table-made-2 is given zoo/shipped for teacher at scale laptop, and there is no such place here: put it there" in said
    (root / "zoo/shipped").mkdir()
    assert run.main(["table-made-2"]) == 0 and [words[0] for words in ran(root)] == ["1", "2"]
    assert "--model.teacher=zoo/shipped" in ran(root)[1]
    (root / "table-made-2.yaml").write_text(NEEDY.replace("scales: {laptop: {seeds: [0]}}", given.replace("zoo/", "of-the-hub/")))
    assert run.main(["table-made-2", "--only", "taught"]) == 0


def test_a_need_without_its_saved_net_runs_again_only_where_it_is_wanted(house):
    root = house()
    (root / "table-made-2.yaml").write_text(NEEDY)
    run.main(["table-made-2"])
    for path in (root / "runs/made-up").glob("*/pretrained"):
        path.rmdir()  # as in a fresh clone, which has the records only
    (root / "order.txt").unlink()
    assert run.main(["table-made-2"]) == 0 and ran(root) == []
    for path in (root / "runs/records").rglob("taught-*.json"):
        path.unlink()
    run.main(["table-made-2"])
    assert [words[0] for words in ran(root)] == ["8", "7", "2"]


def test_in_a_bundle_a_need_that_came_along_does_not_run(house, monkeypatch):
    """Its text need not be there, so its fingerprint is not asked for."""
    root = house()
    (root / "table-made-2.yaml").write_text(NEEDY)
    run.main(["table-made-2"])
    done = records(root)
    for path in (root / "runs/records").rglob("taught-*.json"):
        path.unlink()
    (root / "order.txt").unlink()
    monkeypatch.setattr(run, "_fingerprint", lambda data: "of the cut text")
    (root / "bundle.json").write_text(
        json.dumps({"stores": {}, "needs": [done["teacher", "ok"].key], "commit": "c", "dirty": False})
    )
    run.main(["table-made-2", "--only", "taught"])
    assert [words[0] for words in ran(root)] == ["2"]


VERB = """
title: made up
source: {arxiv: "0000.00000", item: Table 9}
recipe: recipes/made/up.yaml
needs:
  labels: {recipe: recipes/made/labels.yaml, verb: prepare made, seed: 0, overrides: {of: x, out: "${out}"}}
runs:
  taught: {label: taught, overrides: {model.n: 2, model.labels: "${needs.labels}"}}
metrics: [{keys: [test/a], label: a, direction: lower, digits: 2}]
claims: []
scales: {laptop: {seeds: [0]}}
"""
MAIN = """
import os
def main(words):
    folder = next(word for word in words if word.startswith("--out=")).partition("=")[2]
    with open("order.txt", "a") as file: print("prepare", *words, os.path.isdir(folder), file=file)
    os.makedirs(folder, exist_ok=True)
    if not os.path.exists(os.path.join(folder, "half")):
        open(os.path.join(folder, "half"), "w").close()
        raise ValueError("stopped half-way")
    return {"made": 3}
"""


def test_a_need_of_another_verb_is_prepared_goes_on_and_is_recorded(house):
    root = house()
    (root / "table-made-2.yaml").write_text(VERB)
    (root / "recipes/made/labels.yaml").write_text("data: {class_path: zoo.made.Made, init_args: {}}\n")
    (root / "zoo/__main__.py").write_text(MAIN)
    (root / "torch.py").write_text(
        "from types import SimpleNamespace as NS\ncuda = NS(is_available=lambda: False)\n"
        "device = lambda kind: NS(type=kind)\nget_num_threads = lambda: 1\n"
    )
    (root / "lightning/pytorch").mkdir(parents=True)
    (root / "lightning/__init__.py").write_text((root / "lightning.py").read_text())
    (root / "lightning/pytorch/__init__.py").write_text("class LightningDataModule: pass")
    (root / "zoo/made.py").write_text(
        "from lightning.pytorch import LightningDataModule\n"
        "class Made(LightningDataModule):\n"
        "    description, fingerprint = 'made-up data', 'f0'\n"
        "    def prepare_data(self): pass\n"
    )
    assert run.main(["table-made-2"]) == 1 and ("labels", "failed") in records(root)
    assert run.main(["table-made-2"]) == 0  # what it had made was kept
    done = records(root)["labels", "ok"]
    assert done.metrics == {"test/made": 3.0} and done.data["fingerprint"] == "f0" and done.seconds > 0
    assert done.config["of"] == "x" and done.config["data"]["class_path"] == "zoo.made.Made"
    folder = f"{done.folder.relative_to(root).as_posix()}/pretrained"
    words = ran(root)
    assert [line[0] for line in words] == ["prepare", "prepare", "2"] and [line[-1] for line in words[:2]] == ["False", "True"]
    assert f"--out={folder}" in words[0] and f"--model.labels={folder}" in words[2]


def test_another_need_is_another_run(house):
    root = house()
    (root / "table-made-2.yaml").write_text(NEEDY)
    first = {r.row: r.key for r in spec_module.expand(spec_module.load(root / "table-made-2.yaml"), "laptop")}
    (root / "table-made-2.yaml").write_text(NEEDY.replace("model.n: 8", "model.n: 9"))
    second = {r.row: r.key for r in spec_module.expand(spec_module.load(root / "table-made-2.yaml"), "laptop")}
    assert first["plain"] == second["plain"] and first["taught"] != second["taught"]


def test_what_needs_a_failed_run_fails_with_its_reason(house):
    root = house({7: "raise"})
    (root / "table-made-2.yaml").write_text(NEEDY)
    assert run.main(["table-made-2"]) == 1
    done = records(root)
    assert ("plain", "ok") in done and done["taught", "failed"].error.startswith("it needs teacher, seed 0, which failed: Value")
    assert "2" not in [words[0] for words in ran(root)]


def test_specs_that_ask_for_the_same_run_share_its_record(house, capfd):
    root = house()
    run.main(["table-made-1"])
    (root / "table-made-3.yaml").write_text(SPEC.replace("one: {label: one,", "uno: {label: one,"))
    capfd.readouterr()
    assert run.main(["table-made-3"]) == 0
    assert "3 of them recorded before" in capfd.readouterr().out and len(ran(root)) == 3


def test_jobs_run_side_by_side_with_one_thread_each(house, capfd, monkeypatch):
    root = house({1: "wait", 2: "wait", 3: "wait"})
    monkeypatch.setattr(jobs.View.__init__, "__defaults__", (0.3,))
    assert run.main(["table-made-1", "--jobs", "3"]) == 0
    out = capfd.readouterr().out
    assert "50% · " in out and "three, seed 0 50%" in out and "  | training" not in out
    assert "left]" in out and "two, seed 0: done in" in out
    assert {words[1] for words in ran(root)} == {"1"} and len(records(root)) == 3


def test_one_job_keeps_its_threads_and_alone_means_alone(house, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    root = house()
    (root / "table-made-4.yaml").write_text(SPEC + "alone: true\n")
    assert run.main(["table-made-4", "--jobs", "3", "--only", "one"]) == 0
    assert ran(root)[0][1] == "None"


def test_with_gpus_each_job_gets_one(house, monkeypatch):
    root = house({1: "wait", 2: "wait"})
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-5")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert run.main(["table-made-1"]) == 0
    assert {words[2] for words in ran(root)[:2]} == {"4", "GPU-5"} and ran(root)[0][1] != "1"


def test_one_job_on_a_node_of_many_gpus_has_one(house, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    root = house()
    assert run.main(["table-made-1", "--jobs", "1", "--only", "one"]) == 0
    assert ran(root)[0][2] == "0"


def test_sentences_are_counted_in_steps():
    """Their batches differ in length, so no number of tokens can be asked for."""
    trainer = SimpleNamespace(max_steps=6, global_step=6, world_size=1)
    cli = SimpleNamespace(trainer=trainer, datamodule=SimpleNamespace(context=8))
    child._refuse_another_budget(cli, 1)
    for change, devices in (({"global_step": 5}, 1), ({"world_size": 2}, 1), ({}, 2)):
        cut = SimpleNamespace(**{**vars(cli), "trainer": SimpleNamespace(**{**vars(trainer), **change})})
        with pytest.raises(ValueError, match=r"it took \d steps on \d device\(s\) instead of 6 on"):
            child._refuse_another_budget(cut, devices)


def test_another_budget_is_refused():
    data, trainer = SimpleNamespace(batch=4, context=8), SimpleNamespace(max_steps=3, accumulate_grad_batches=2)
    cli = SimpleNamespace(trainer=trainer, datamodule=data, model=SimpleNamespace(measured={"tokens": 3 * 2 * 4 * 8}))
    child._refuse_another_budget(cli, 1)
    with pytest.raises(ValueError, match="192 tokens instead of 1,536: its batch is meant for 8"):
        child._refuse_another_budget(cli, 8)


def test_a_stale_need_makes_its_run_run_again(house, monkeypatch, capfd):
    root = house()
    (root / "table-made-2.yaml").write_text(NEEDY)
    run.main(["table-made-2"])
    (root / "order.txt").unlink()
    monkeypatch.setattr(record, "changed", lambda r: ["zoo/x.py"] if r.run == "seed" else [])
    run.main(["table-made-2"])
    assert [words[0] for words in ran(root)] == ["8", "7", "2"]


def test_a_sweep_of_many_survives_a_failure_side_by_side(house, capfd):
    root = house({1: "kill", 3: "nan"})
    assert run.main(["table-made-1", "--jobs", "2"]) == 1
    assert set(records(root)) == {("one", "failed"), ("two", "ok"), ("three", "failed")}
    assert "one, seed 0: failed: killed by signal 9" in capfd.readouterr().out


def test_changed_code_runs_again_and_says_which(house, monkeypatch, capfd):
    root = house()
    monkeypatch.setattr(record, "CHECKOUT", root)
    path = root / "runs/records/made-up"
    run.main(["table-made-1", "--only", "one"])
    for file in path.glob("*.json"):  # the made-up zoo is imported from here, not from the checkout
        content = json.loads(file.read_text())
        content["code"] = {"zoo/cli.py": record.code_hash(root / "zoo/cli.py")}
        file.write_text(json.dumps(content))
    assert run.main(["table-made-1", "--only", "one"]) == 0 and len(ran(root)) == 1
    (root / "zoo/cli.py").write_text("# words only\n" + CLI)
    record.code_hash.cache_clear()
    assert run.main(["table-made-1", "--only", "one"]) == 0 and len(ran(root)) == 1
    (root / "zoo/cli.py").write_text(CLI + "\nx = 1\n")
    record.code_hash.cache_clear()
    capfd.readouterr()
    assert run.main(["table-made-1", "--only", "one"]) == 0 and len(ran(root)) == 2
    assert "one, seed 0: zoo/cli.py changed since its record" in capfd.readouterr().out


def test_a_corrupt_record_is_named_and_its_run_repeated(house, capfd):
    root = house()
    run.main(["table-made-1", "--only", "one"])
    [file] = (root / "runs/records/made-up").glob("one-*.json")
    file.write_text(file.read_text()[:40])
    assert run.main(["table-made-1", "--only", "one"]) == 0
    out = capfd.readouterr().out
    assert f"{file.relative_to(root)} is not a readable record" in out and len(ran(root)) == 2


def test_progress_bars_are_thinned_and_other_lines_are_not():
    lines = jobs.Lines()
    assert lines.feed(b"".join(b"%d%%\r" % i for i in range(50)) + b"done\n\x1b[31mValueError: the cau") == ["0%", "done"]
    assert lines.feed(b"se\x1b[0m\r\nnext\r\n\xff\n") == ["ValueError: the cause", "next", "\ufffd"]
    assert lines.feed(b"last") == [] and lines.feed(b"\n") == ["last"]


def test_time_left_counts_weights_shares_and_places():
    a, b, c = (jobs.Job(name, [], Path(name), weight=w) for name, w in (("a", 1), ("b", 2), ("c", 1)))
    assert jobs.remaining([a, b, c], 1, 0.0) is None  # nothing is known yet
    a.code, a.seconds, a.started = 0, 10.0, 1.0
    assert jobs.remaining([a, b, c], 1, 11.0) == pytest.approx(30.0)
    b.started, b.done = 11.0, 0.5
    assert jobs.remaining([a, b, c], 1, 41.0) == pytest.approx(30.0 + 70 / 3)  # 70 s for a weight of 3
    assert jobs.remaining([a, b, c], 2, 41.0) == pytest.approx(30.0)  # not less than the longest


@pytest.mark.parametrize("seconds, text", [(5, "0:05"), (65.9, "1:05"), (3600, "1:00:00"), (7384, "2:03:04")])
def test_clock(seconds, text):
    assert jobs.clock(seconds) == text


def test_arguments_of_a_class_below_are_left_out():
    """A scale that names another segmenter leaves the arguments of the recipe's one behind."""
    capped = {"class_path": "zoo.data.segment.Sentencex", "init_args": {"characters": 256, "segmenter": {"class_path": "x.Y"}}}
    data = {"class_path": "zoo.data.crawl.CommonCrawlSentences", "init_args": {"source": "stories", "segmenter": capped}}
    kept = child._accepted({"class_path": "zoo.data.segment.Cleaned", "init_args": {"segmenter": capped, "lines": False}})
    assert kept["init_args"] == {"segmenter": {"class_path": "zoo.data.segment.Sentencex", "init_args": {}}, "lines": False}
    made = child.datamodule(data)
    assert type(made.segmenter).__name__ == "Sentencex" and made.description.endswith("stories told from templates")


def test_a_space_that_a_sweep_makes_takes_the_place_of_its_earlier_one(tmp_path):
    runs = spec_module.expand(spec_module.load("figure-lcm-14"), "smoke")
    need = next(need for each in runs for need in each.needs if need.verb == "prepare space")
    job = run._made({need.key: (need, [])}, [], tmp_path, 1)[need.key]
    assert "--replace=true" in json.loads(job.command[-1])["arguments"] and "--replace=true" not in need.command
