import errno
import hashlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))  # workers get it too
from random_words import Words

from zoo.data import shards, store
from zoo.data.store import Prepared, TokenStore, build
from zoo.data.tokenizer import Bytes, train_bpe


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if not path.name.startswith(".")}


def expected(source, tokenizer, split: str) -> list[int]:
    return [token for document in source.documents(split) for token in [*tokenizer.encode(document.text), tokenizer.eos]]


@pytest.fixture
def words(tmp_path):
    """A finished store of bytes: (source, folder)."""
    build(Words(), Bytes(), tmp_path / "words", workers=1, progress=False)
    return Words(), tmp_path / "words"


def test_a_store_holds_every_document_and_an_end_token_after_it(words):
    source, folder = words
    for split in ("train", "validation"):
        tokens = TokenStore(folder, split)
        assert tokens.windows(np.array([0]), len(tokens))[0].tolist() == expected(source, Bytes(), split)
        counts = tokens.manifest["splits"][split]
        documents = list(source.documents(split))
        assert counts == {
            "tokens": len(tokens),
            "documents": len(documents),
            "bytes": sum(len(d.text.encode()) for d in documents),
        }
    assert len(TokenStore(folder, "test")) == 0


def test_a_store_spells_its_documents(words, tmp_path):
    source, folder = words
    Bytes().save(folder)
    for split in ("train", "validation", "test", None):
        made = Prepared(folder).documents(split)
        assert sorted((d.text, d.split) for d in made) == sorted((d.text, d.split) for d in source.documents(split))


def test_the_manifest_tells_what_is_there(words):
    source, folder = words
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["source"], manifest["description"]) == (source.fingerprint, source.description)
    assert (manifest["tokenizer"], manifest["vocab"], manifest["eos"], manifest["dtype"]) == (Bytes.fingerprint, 257, 256, "<u2")
    shards = {name: data for name, data in contents(folder).items() if name.endswith(".bin")}
    assert {entry["file"] for entry in manifest["shards"]} == set(shards) and len(shards) == 5 + 2
    for entry in manifest["shards"]:
        assert entry["sha256"] == hashlib.sha256(shards[entry["file"]]).hexdigest()
        assert entry["tokens"] * 2 == len(shards[entry["file"]])


@pytest.mark.parametrize("count", [1, 6])
def test_bytes_on_disk_are_the_same_for_any_number_of_workers(tmp_path, count):
    tokenizer = train_bpe((document.text for document in Words().documents()), 300)
    for workers in (1, 2, 4):
        log = tmp_path / f"log {workers}"
        log.mkdir()
        build(
            Words(count, pause=0.01 if workers > 1 else 0, log=log), tokenizer, tmp_path / str(workers), workers, progress=False
        )
    assert contents(tmp_path / "1") == contents(tmp_path / "2") == contents(tmp_path / "4")
    assert len(contents(tmp_path / "1")) >= count * 2 + 2
    assert len(list((tmp_path / "log 2").iterdir())) == min(2, count)  # both have worked


def test_many_parts_share_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "SHARDS", 4)
    build(Words(9), Bytes(), tmp_path, workers=1, progress=False)
    assert len(list(tmp_path.glob("train-*.bin"))) == 3
    tokens = TokenStore(tmp_path, "train")
    assert tokens.windows(np.array([0]), len(tokens))[0].tolist() == expected(Words(9), Bytes(), "train")


def test_large_vocabularies_take_four_bytes(tmp_path):
    class Wide(Bytes):
        vocab, eos, fingerprint = 70_000, 69_999, "wide"

    build(Words(2), Wide(), tmp_path, workers=1, progress=False)
    tokens = TokenStore(tmp_path, "train")
    assert tokens.manifest["dtype"] == "<u4"
    assert tokens.windows(np.array([0]), len(tokens))[0].tolist() == expected(Words(2), Wide(), "train")


def test_windows_cross_shards(words):
    tokens = TokenStore(words[1], "train")
    flat = tokens.windows(np.array([0]), len(tokens))[0]
    largest = max(entry["tokens"] for entry in tokens.manifest["shards"])
    for length in (1, 17, largest + 5, len(flat)):
        starts = np.random.default_rng(length).integers(0, len(flat) - length + 1, 200)
        windows = tokens.windows(starts, length)
        assert windows.dtype == np.int64 and windows.shape == (200, length)
        assert (windows == flat[starts[:, None] + np.arange(length)]).all()
    assert tokens.windows(np.array([], np.int64), 3).shape == (0, 3)
    for start in (-1, len(flat) - 2):
        with pytest.raises(ValueError, match="reach beyond"):
            tokens.windows(np.array([0, start]), 3)


def test_a_finished_store_is_left_alone(words, monkeypatch):
    before = contents(words[1])
    monkeypatch.setattr(Words, "parts", lambda self: pytest.fail("a finished store was planned again"))
    build(*words[:1], Bytes(), words[1], progress=False)
    assert contents(words[1]) == before


def test_a_deleted_shard_is_rebuilt_alone(words):
    source, folder = words
    before, times = contents(folder), {path.name: path.stat().st_mtime_ns for path in folder.glob("*.bin")}
    (folder / "train-00003.bin").unlink()
    with pytest.raises(RuntimeError, match=r"train-00003.bin is missing: run the same command again"):
        TokenStore(folder, "train")
    build(source, Bytes(), folder, workers=1, progress=False)
    assert contents(folder) == before
    changed = {path.name for path in folder.glob("*.bin") if path.stat().st_mtime_ns != times[path.name]}
    assert changed == {"train-00003.bin", "validation-00003.bin"}  # the files of one shard are written together


@pytest.mark.parametrize("manifest", [True, False])
def test_a_truncated_shard_is_named_with_the_fix(words, manifest):
    source, folder = words
    before = contents(folder)
    os.truncate(folder / "train-00001.bin", 100)
    if manifest:
        with pytest.raises(RuntimeError, match=r"train-00001.bin is damaged.*delete this file"):
            TokenStore(folder, "train")
    else:
        (folder / "manifest.json").unlink()
        with pytest.raises(RuntimeError, match=r"train-00001.bin is damaged.*delete this file"):
            build(source, Bytes(), folder, workers=1, progress=False)
    (folder / "train-00001.bin").unlink()
    build(source, Bytes(), folder, workers=1, progress=False)
    assert contents(folder) == before


def test_a_store_of_something_else_is_refused(words):
    source, folder = words
    with pytest.raises(ValueError, match="another tokenizer"):
        TokenStore(folder, "train", "0123")
    with pytest.raises(ValueError, match="another tokenizer"):
        build(source, train_bpe(["a"], 300), folder, progress=False)
    with pytest.raises(ValueError, match="another corpus"):
        build(Words(3), Bytes(), folder, progress=False)
    TokenStore(folder, "train", Bytes.fingerprint)


def test_a_missing_or_damaged_manifest_is_told(words, tmp_path):
    with pytest.raises(FileNotFoundError, match="zoo prepare"):
        TokenStore(tmp_path, "train")
    source, folder = words
    before = contents(folder)
    (folder / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match="delete it and run again"):
        build(source, Bytes(), folder, progress=False)
    (folder / "manifest.json").unlink()
    build(source, Bytes(), folder, progress=False)
    assert contents(folder) == before


SCRIPT = """
import sys
sys.path.insert(0, {path!r})
from random_words import Words
from zoo.data.store import build
from zoo.data.tokenizer import Bytes
build(Words(6, 400, {pause}), Bytes(), {folder!r}, workers={workers}, progress=False)
"""  # on purpose without `if __name__ == "__main__"`: workers must not run it again


def start(folder: Path, workers: int, pause: float) -> subprocess.Popen:
    code = SCRIPT.format(path=str(Path(__file__).parent), folder=str(folder), workers=workers, pause=pause)
    (folder.parent / "script.py").write_text(code)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen([sys.executable, str(folder.parent / "script.py")], env=environment)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid: int) -> bool:
    try:
        return (
            Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        )  # a container may lack an init that reaps
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="asks the kernel for child processes")
@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_build_goes_on_where_it_was(tmp_path, workers):
    folder = tmp_path / "store"
    process = start(folder, workers, pause=0.0005)
    deadline = time.monotonic() + 60
    while (len(list(folder.glob("0*.json"))) < 2 or not list(folder.glob("*.bin.*.tmp"))) and time.monotonic() < deadline:
        time.sleep(0.01)
    orphans = children(process.pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = {path.stem: path.stat().st_mtime_ns for path in folder.glob("0*.json")}
    assert 2 <= len(finished) < 6 and not (folder / "manifest.json").exists()
    assert len(list(folder.glob("*.tmp"))) >= 1  # it was in the middle of a shard
    while any(map(alive, orphans)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(orphans) >= workers - 1 and not any(map(alive, orphans))  # workers end with their parent
    finished |= {path.stem: path.stat().st_mtime_ns for path in folder.glob("0*.json")}
    build(Words(6, 400), Bytes(), folder, workers=workers, progress=False)
    assert all((folder / f"{name}.json").stat().st_mtime_ns == when for name, when in finished.items())
    build(Words(6, 400), Bytes(), tmp_path / "straight", workers=1, progress=False)
    assert contents(folder) == contents(tmp_path / "straight")


def test_two_processes_that_want_the_same_store_take_turns(tmp_path):
    processes = [start(tmp_path / "store", 1, pause=0.0) for _ in range(2)]
    assert [process.wait(60) for process in processes] == [0, 0]
    build(Words(6, 400), Bytes(), tmp_path / "straight", workers=1, progress=False)
    assert contents(tmp_path / "store") == contents(tmp_path / "straight")


@pytest.mark.parametrize("fault, error, text", [
    ("error", ValueError, "line 7 is no JSON"),
    ("exit", RuntimeError, "exit code 9.*fewer data.prepare_workers"),
    ("bug", RuntimeError, "KeyError: 'oops'"),
])  # fmt: skip
def test_what_goes_wrong_in_a_worker_is_told_here(tmp_path, fault, error, text):
    with pytest.raises(error, match=f"(?s){text}"):
        build(Words(5, 40, pause=0.02, fault=fault), Bytes(), tmp_path, workers=2, progress=False)
    assert not multiprocessing.active_children() and not list(tmp_path.glob("manifest.json")) and not list(tmp_path.glob("*.tmp"))
    build(Words(5), Bytes(), tmp_path, workers=1, progress=False)
    assert len(TokenStore(tmp_path, "train")) == len(expected(Words(5), Bytes(), "train"))


FULL_DISK = """
import resource, sys
sys.path.insert(0, {path!r})
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))  # a file may not grow further, as on a full disk
from random_words import Words
from zoo.data.store import build
from zoo.data.tokenizer import Bytes
try:
    build(Words(4), Bytes(), {folder!r}, workers={workers}, progress=False)
except RuntimeError as error:
    print(error)
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_is_one_sentence_and_leaves_no_rubbish(tmp_path, workers):
    code = FULL_DISK.format(path=str(Path(__file__).parent), folder=str(tmp_path), workers=workers)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )
    assert "is full; free some space" in done.stdout and done.stdout.count("\n") == 1, done.stderr
    assert not list(tmp_path.glob("*.tmp"))
    build(Words(4), Bytes(), tmp_path, workers=1, progress=False)
    assert not list(tmp_path.glob("*.tmp"))
    assert len(TokenStore(tmp_path, "train")) == len(expected(Words(4), Bytes(), "train"))


def test_other_troubles_of_the_disk_pass_through(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda fd: (_ for _ in ()).throw(OSError(errno.EIO, "broken")))
    with pytest.raises(OSError, match="broken"):
        build(Words(1), Bytes(), tmp_path, workers=1, progress=False)
    assert not list(tmp_path.glob("*.tmp")) and not list(tmp_path.glob("0*.json"))


def test_progress_is_told_where_there_is_no_terminal(tmp_path, capsys, monkeypatch):
    clock = iter(range(0, 10**6, 3))
    monkeypatch.setattr(shards.time, "monotonic", lambda: next(clock))
    build(Words(4), Bytes(), tmp_path, workers=1)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) >= 2 and all("of 4" in line and "MB/s" in line for line in lines) and "s to go" in lines[-1]


def test_a_worker_imports_neither_torch_nor_lightning():
    code = "import sys; import zoo.data.store, zoo.data.sources; print({'torch', 'lightning', 'datasets'} & {*sys.modules})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_a_store_can_be_handed_to_a_process(words):
    import pickle

    tokens = TokenStore(words[1], "train")
    data = pickle.dumps(tokens)
    assert len(data) < 1000
    assert (pickle.loads(data).windows(np.array([5]), 50) == tokens.windows(np.array([5]), 50)).all()
