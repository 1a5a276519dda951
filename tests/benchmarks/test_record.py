"""Records: written whole, never replaced, found again by what they are."""

import hashlib
import json
import os
import random
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import record
from benchmarks.record import Record, finished, load, save
from benchmarks.spec import identity


def made(key="k", date="2024-01-01", **fields):
    data = {"description": "some code", "fingerprint": "f"}
    base = Record("mtp-code", "bpe-n4", "laptop", 0, key, command="zoo fit", status="ok", date=date, data=data)
    return replace(base, **fields)


def shuffled(config):
    items = [(k, shuffled(v) if isinstance(v, dict) else v) for k, v in config.items()]
    random.Random(0).shuffle(items)
    return dict(items)


def test_identity_sees_values_not_order():
    config = {"b": {f"k{i}": i for i in range(9)}, "a": [1, 2], "seed_everything": 0}
    assert identity(config) == identity(shuffled(config))
    for other in ({**config, "seed_everything": 1}, {**config, "a": [2, 1]}, {**config, "b": {**config["b"], "k3": "3"}}):
        assert identity(other) != identity(config)


def test_identity_is_the_same_tomorrow():
    text = b'{"a": 1, "b": [1.5, null, "x"]}'  # the canonical form, so neither process nor machine enters
    assert identity({"b": [1.5, None, "x"], "a": 1}) == hashlib.sha256(text).hexdigest()[:12]


def test_round_trip(tmp_path):
    written = made(metrics={"test/next": 1.25}, tokens=7, config={"model": {"n": 4}})
    path = save(written, tmp_path)
    assert path.parent == tmp_path / "mtp-code" and path.name.startswith("bpe-n4-") and path.name.endswith("-s0.json")
    assert load(tmp_path) == ([written], [])


def test_append_only(tmp_path):
    first = save(made(), tmp_path)
    before = first.read_bytes()
    second, third = save(made(date="2024-01-02"), tmp_path), save(made(date="2024-01-03"), tmp_path)
    assert len({first, second, third}) == 3
    assert first.read_bytes() == before
    assert len(load(tmp_path)[0]) == 3


def test_records_are_kept_without_hard_links(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", lambda *names: (_ for _ in ()).throw(PermissionError("no hard links here")))
    paths = [save(made(date=f"2024-01-0{day}"), tmp_path) for day in (1, 2)]
    assert paths[1].name == f"{paths[0].stem}.2.json" and len(load(tmp_path)[0]) == 2


def test_the_hash_in_the_name_is_of_configuration_and_data(tmp_path):
    names = {
        save(made(key, data={"description": "d", "fingerprint": print_}), tmp_path).name for key in "ab" for print_ in ("1", "2")
    }
    assert len(names) == 4 and not any(name.endswith(".2.json") for name in names)


def test_a_write_that_dies_leaves_nothing(tmp_path, monkeypatch):
    def dies(*_):
        raise OSError("no space left")

    save(made(), tmp_path)
    monkeypatch.setattr(os, "fsync", dies)
    with pytest.raises(OSError, match="no space"):
        save(made(date="2024-01-02"), tmp_path)
    assert len(list((tmp_path / "mtp-code").iterdir())) == 1
    assert [r.date for r in load(tmp_path)[0]] == ["2024-01-01"]


def test_corrupt_files_are_named_and_the_others_load(tmp_path):
    whole = save(made(), tmp_path)
    (tmp_path / "mtp-code/cut.json").write_text(whole.read_text()[:100])
    (tmp_path / "mtp-code/list.json").write_text("[1, 2]")
    (tmp_path / "mtp-code/short.json").write_text(json.dumps({"recipe": "x"}))
    (tmp_path / "mtp-code/binary.json").write_bytes(b"\xff\xfe\x00")
    records, complaints = load(tmp_path)
    assert records == [made()]
    assert len(complaints) == 4 and all("\n" not in line for line in complaints)
    for name in ("cut.json", "list.json", "short.json", "binary.json"):
        assert sum(name in line for line in complaints) == 1


def test_a_field_of_a_later_version_does_not_make_a_record_unreadable(tmp_path):
    path = save(made(), tmp_path)
    path.write_text(json.dumps({**json.loads(path.read_text()), "energy": 3}))
    assert load(tmp_path) == ([made()], [])


def test_the_newest_ok_record_counts():
    old, new = made(date="2024-01-01", tokens=1), made(date="2024-01-02", tokens=2)
    failed = made(date="2024-01-03", status="failed")
    assert finished([new, failed, old]) == {"k": new}
    assert finished([failed]) == {}


def test_value_reads_metrics_and_measured_fields():
    r = made(metrics={"test/next": 1.5}, peak_memory_mib=10.0)
    assert (r.value("test/next"), r.value("peak_memory_mib"), r.value("test/mbpp@1")) == (1.5, 10.0, None)


@pytest.mark.parametrize("crowd, quiet", [(0.0, True), (record.CROWD, True), (0.5, False), (None, False)])
def test_times_of_a_run_that_shared_its_machine_are_no_numbers(crowd, quiet):
    r = made(
        device="a processor, 2 threads", crowd=crowd, step_seconds=2.0, tokens_per_second=5.0, seconds=3.0, allocated_mib=7.0
    )
    times = [r.value(key) for key in ("step_seconds", "tokens_per_second", "seconds")]
    assert times == ([2.0, 5.0, 3.0] if quiet else [None] * 3) and r.value("allocated_mib") == 7.0


def test_what_was_not_measured_is_none():
    assert made(crowd=0.0).value("allocated_mib") is None and made(crowd=0.0).value("step_seconds") is None


def test_own_scales_stay_out_of_git():
    assert "runs" in record.folder("laptop").parts and "runs" in record.folder("smoke").parts
    assert "runs" not in record.folder("desk").relative_to(record.ROOT).parts


def test_provenance_hashes_the_code_that_was_imported():
    import zoo

    found = record.provenance()
    assert found["versions"]["torch"] and found["code"]["zoo/__init__.py"] == record.code_hash(Path(zoo.__file__))
    assert not any(file.startswith("benchmarks") for file in found["code"])
