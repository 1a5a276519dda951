"""Sources: what is read never depends on who reads it, splits are decided once, and bad input is named."""

import gzip
import json
import pickle
import random
import shutil
import tracemalloc
from collections import Counter

import pyarrow
import pyarrow.parquet
import pytest

from zoo.data import pieces, sources
from zoo.data.sources import Files, Hub, split_of


def sentences(count, seed=0):
    rng = random.Random(seed)
    return [
        " ".join(rng.choice("the cat saw a dog under some tree é 漢".split()) for _ in range(rng.randint(3, 60))) + f" {i}."
        for i in range(count)
    ]


def write_lines(path, texts, column="text"):
    data = "".join(json.dumps({"id": i, column: text}) + "\n" for i, text in enumerate(texts)).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return str(path)


def texts(source, split=None):
    return [document.text for document in source.documents(split)]


def test_forms_give_the_same_texts(tmp_path):
    wanted = sentences(300)
    for name in ("a.jsonl", "a.jsonl.gz", "a.json", "a.json.gz"):
        assert texts(Files(write_lines(tmp_path / name, wanted))) == wanted, name
        assert texts(Files(write_lines(tmp_path / name, wanted, "body"), column="body")) == wanted, name
    table = pyarrow.table({"n": list(range(300)), "content": wanted})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet", row_group_size=70)
    assert texts(Files(str(tmp_path / "a.parquet"))) == wanted
    folder = tmp_path / "deep" / "er"
    folder.mkdir(parents=True)
    for i, text in enumerate(wanted[:40]):
        path = folder / f"{i:03}.{('txt', 'md', 'py')[i % 3]}"
        path.write_text(text, encoding="utf-8")
    (folder / "040.txt.gz").write_bytes(gzip.compress(wanted[40].encode()))
    (folder / "041.txt").write_text(" \n")  # blank: no document
    assert texts(Files(f"{tmp_path}/deep/**")) == wanted[:41]
    overlapping = Files([f"{tmp_path}/deep/**/*.py", f"{tmp_path}/deep/**/*.[pt]?*"])
    assert texts(overlapping) == [text for i, text in enumerate(wanted[:41]) if i % 3 != 1 or i == 40]


@pytest.mark.parametrize("part", [100, 700, 5_000])
def test_parts_of_json_lines_are_the_whole_file(tmp_path, monkeypatch, part):
    wanted = sentences(200) + ["x" * 3000] + sentences(100, seed=1)  # one line longer than several parts
    path = write_lines(tmp_path / "a.jsonl", wanted)
    whole = list(Files(path).documents())
    monkeypatch.setattr(pieces, "PART", part)
    monkeypatch.setattr(sources, "PART", part)
    source = Files(path, longest=50)
    assert len(source.parts()) > 3 and [document.text for document in whole] == wanted
    assert list(source.documents()) == whole
    backwards = [document for part in reversed(source.parts()) for document in reversed(list(source.read(part)))]
    assert backwards[::-1] == whole
    elsewhere = pickle.loads(pickle.dumps(source))
    assert [document for part in source.parts() for document in elsewhere.read(part)] == whole


@pytest.mark.parametrize("longest", [64, 100, 1000])
def test_long_text_is_cut_at_line_ends_whatever_the_parts(tmp_path, monkeypatch, longest):
    lines = [text + "\n" for text in sentences(150) + ["y" * 700] + sentences(50, seed=1)]
    (tmp_path / "a.txt").write_text("".join(lines), encoding="utf-8")
    reference, position, target = [""], 0, longest
    for line in lines:  # naive: a document ends with the line that reaches the next multiple
        reference[-1] += line
        position += len(line.encode())
        if position >= target:
            reference.append("")
            target = (position // longest + 1) * longest
    assert texts(Files(str(tmp_path / "a.txt"), longest=longest)) == [text for text in reference if text]
    monkeypatch.setattr(pieces, "PART", 3 * longest)
    monkeypatch.setattr(sources, "PART", 3 * longest)
    source = Files(str(tmp_path / "a.txt"), longest=longest)
    assert len(source.parts()) > 3 and texts(source) == [text for text in reference if text]


def test_splits_are_disjoint_shares_decided_by_the_text(tmp_path):
    wanted = sentences(4000)
    source = Files(write_lines(tmp_path / "a.jsonl", wanted), validation=0.1, test=0.2)
    count = Counter(document.split for document in source.documents())
    assert abs(count["validation"] - 400) < 5 * 19 and abs(count["test"] - 800) < 5 * 26  # 5 standard deviations
    ids = {split: {document.id for document in source.documents(split)} for split in count}
    assert sum(map(len, ids.values())) == len(set.union(*ids.values())) == len(wanted)
    shuffled = write_lines(tmp_path / "b.jsonl.gz", wanted[::-1] + wanted[:9])  # another order, and copies
    again = Files(shuffled, validation=0.1, test=0.2)
    assert {document.id: document.split for document in again.documents()} == {id: split for split in ids for id in ids[split]}
    assert split_of("0" * 32, 0.0005, 0.0005) == "validation" and split_of("f" * 32, 0.0005, 0.0005) == "train"


@pytest.mark.parametrize("count", [3, 5, 100])
def test_small_corpus_fills_every_split(tmp_path, monkeypatch, count):
    wanted = sentences(count)
    source = Files(write_lines(tmp_path / "a.jsonl", wanted), validation=1e-6, test=1e-6)
    split = {document.id: document.split for document in source.documents()}
    assert Counter(split.values()) == {"train": count - 2, "validation": 1, "test": 1}
    for i, text in enumerate(reversed(wanted)):
        (tmp_path / f"{i}.txt").write_text(text, encoding="utf-8")
    monkeypatch.setattr(sources, "PART", 10)
    again = Files(f"{tmp_path}/*.txt", validation=1e-6, test=1e-6)
    assert {document.id: document.split for document in again.documents()} == split
    everything = Files(f"{tmp_path}/*.txt", validation=1.0)
    assert {document.split for document in everything.documents()} == {"train", "validation", "test"}


def test_too_few_documents_are_refused(tmp_path):
    (tmp_path / "a.txt").write_text("one\ntwo\nthree\n")
    with pytest.raises(ValueError, match=r"1 different document\(s\), too few for train, validation, test.*`longest`"):
        Files(str(tmp_path / "a.txt")).parts()
    assert texts(Files(str(tmp_path / "a.txt"), validation=0, test=0)) == ["one\ntwo\nthree\n"]
    assert len(texts(Files(str(tmp_path / "a.txt"), longest=4))) == 3


def test_memory_does_not_grow_with_the_file(tmp_path):
    line = json.dumps({"text": "some words of a document " * 40}).encode()
    with gzip.open(tmp_path / "a.jsonl.gz", "wb", compresslevel=1) as file:
        for i in range(12_000):  # 12 MB
            file.write(line.replace(b"some", b"%d" % i) + b"\n")
    source = Files(str(tmp_path / "a.jsonl.gz"))
    (part,) = source.parts()
    tracemalloc.start()
    assert sum(1 for _ in source.read(part)) == 12_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


def test_fingerprint_follows_content_and_options(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", sentences(50))
    (tmp_path / "other").mkdir()
    moved = shutil.copy(path, tmp_path / "other" / "b.jsonl")
    assert Files(path).fingerprint == Files(str(moved)).fingerprint
    edited = write_lines(tmp_path / "a2.jsonl", sentences(50, seed=1))
    different = [
        Files(path),
        Files(edited),
        Files([path, moved]),
        Files(path, column="id"),
        Files(path, validation=0.1),
        Files(path, test=0.1),
        Files(path, longest=9),
    ]
    assert len({source.fingerprint for source in different}) == 7
    big = tmp_path / "big.txt"
    big.write_bytes(b"a" * 5_000_000)
    before = Files(str(big)).fingerprint
    big.write_bytes(b"a" * 5_000_001)
    assert Files(str(big)).fingerprint != before


def broken(tmp_path):
    good = b"".join(b'{"text": "line %d"}\n' % i for i in range(5))
    packed = gzip.compress(random.Random(0).randbytes(5000).hex().encode())
    return {
        "cut.jsonl.gz": (packed[:-100], r"cut\.jsonl\.gz is truncated or damaged .*fetch it again"),
        "plain.txt.gz": (b"not packed", r"plain\.txt\.gz is truncated or damaged"),
        "bits.txt.gz": (packed[:2000] + b"\xff" * 100 + packed[2100:], r"bits\.txt\.gz is truncated or damaged"),
        "bad.jsonl": (good + b"\n{bad}\n" + good, r"bad\.jsonl, line 7, is no JSON \(.*one JSON object per line"),
        "list.json": (b'[\n{"text": "a"}\n]', r"list\.json, line 1, is no JSON"),
        "value.jsonl": (good + b"3\n", r"value\.jsonl, line 6, is JSON of type int: the file needs one JSON object"),
        "field.jsonl": (good + b'{"title": "a", "body": "b"}\n', r"line 6, has no text in text or content, but title \(str\)"),
        "type.jsonl": (
            good + b'{"text": ["a", 3]}\n',
            r"line 6, has no text in text or content, but text \(list\): name",
        ),
        "latin.txt": ("a\nb\ncafé".encode("latin-1"), r"latin\.txt, line 3, is not UTF-8: convert"),
        "bad.parquet": (b"PAR1 not really", r"bad\.parquet is no parquet file"),
    }


@pytest.mark.parametrize("name", sorted(broken(None)))
def test_bad_files_are_named(tmp_path, name):
    data, message = broken(tmp_path)[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=message) as error:
        list(Files(str(tmp_path / name), validation=0, test=0).documents())
    assert "\n" not in str(error.value)


@pytest.mark.filterwarnings("ignore:.*fetch it again")
@pytest.mark.parametrize("name", sorted(broken(None)))
def test_forgiven_files_lose_only_what_cannot_be_read(tmp_path, name):
    (tmp_path / name).write_bytes(broken(tmp_path)[name][0])
    write_lines(tmp_path / "whole.jsonl", sentences(9))
    source = Files([str(tmp_path / name), str(tmp_path / "whole.jsonl")])
    source.forgiving = True
    found = [document.text for part in pickle.loads(pickle.dumps(source.parts())) for document in source.read(part)]
    assert set(sentences(9)) <= set(found) and source.lost.total() == (2 if name == "list.json" else 1)
    whole = {"bad.jsonl": 10, "value.jsonl": 5, "field.jsonl": 5, "type.jsonl": 5, "list.json": 1}
    if name in whole:
        assert len(found) == whole[name] + 9 and "damaged" not in str(source.lost)
    elif name != "latin.txt":
        assert list(source.lost) == ["damaged files or parts of files"]


def test_forgiven_parquet_loses_texts_that_are_none_and_no_others(tmp_path):
    values = [f"text {i}".encode() for i in range(3000)]
    values[1500] = b"caf\xe9"
    column = pyarrow.array(values, pyarrow.binary()).view(pyarrow.string())
    pyarrow.parquet.write_table(pyarrow.table({"text": column}), tmp_path / "a.parquet")
    source = Files(str(tmp_path / "a.parquet"), validation=0, test=0)
    with pytest.raises(ValueError, match=r"a\.parquet holds texts that are not UTF-8: write it anew"):
        texts(source)
    source.forgiving = True
    assert texts(source) == [f"text {i}" for i in range(3000) if i != 1500] and source.lost == {"texts that are not UTF-8": 1}


@pytest.mark.filterwarnings("ignore:.*fetch it again")
def test_no_damage_to_parquet_ends_a_forgiving_build(tmp_path):
    pyarrow.parquet.write_table(pyarrow.table({"text": sentences(40)}), tmp_path / "a.parquet", row_group_size=10)
    whole, rng = (tmp_path / "a.parquet").read_bytes(), random.Random(0)
    for trial in range(150):
        damaged = bytearray(whole)
        for _ in range(rng.randint(1, 3)):
            damaged[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        (tmp_path / f"{trial}.parquet").write_bytes(damaged)
    write_lines(tmp_path / "b.jsonl", ["the last one"])
    source = Files([f"{tmp_path}/[0-9]*.parquet", f"{tmp_path}/b.jsonl"], validation=0, test=0)
    source.forgiving = True
    assert "the last one" in texts(source)
    assert source.lost["damaged files or parts of files"] > 20


def test_what_is_no_fault_of_a_file_ends_a_forgiving_build(tmp_path, monkeypatch):
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a"]}), tmp_path / "a.parquet")
    source = Files(str(tmp_path / "a.parquet"), validation=0, test=0)
    source.forgiving = True

    def full(self, path):
        raise pyarrow.lib.ArrowMemoryError("malloc of size 9 failed")

    monkeypatch.setattr(pyarrow.parquet.ParquetFile, "__init__", full)
    with pytest.raises(MemoryError):
        texts(source)
    assert not source.lost


def test_a_list_of_strings_is_a_text_of_as_many_lines(tmp_path):
    rows = [["One.", "Two."], "plain", [], ["Three.", None, "Four\nfive."], None]
    wanted = ["One.\nTwo.", "plain", "Three.\n\nFour\nfive."]
    sources = [Files(write_lines(tmp_path / "a.jsonl", rows, "sentences"), "sentences", 0, 0)]
    sources += [Files(write_lines(tmp_path / "b.jsonl.gz", rows), validation=0, test=0)]
    lists = [row if isinstance(row, list | None) else [row] for row in rows]
    for name, kind in (("list", pyarrow.list_), ("large", pyarrow.large_list)):
        table = pyarrow.table({"text": pyarrow.array(lists, kind(pyarrow.string()))})
        pyarrow.parquet.write_table(table, tmp_path / f"{name}.parquet")
        sources += [Files(str(tmp_path / f"{name}.parquet"), validation=0, test=0)]
    sources += [Hub("json", data_files=[write_lines(tmp_path / "c.jsonl", lists[:-1])], validation=0, test=0)]
    assert [texts(source) for source in sources] == [wanted] * 5
    raw = pyarrow.array([b"a", b"caf\xe9", b"c"], pyarrow.binary()).view(pyarrow.string())
    broken = pyarrow.ListArray.from_arrays(pyarrow.array([0, 2, 3], pyarrow.int32()), raw)
    pyarrow.parquet.write_table(pyarrow.table({"text": broken}), tmp_path / "broken.parquet")
    source = Files(str(tmp_path / "broken.parquet"), validation=0, test=0)
    source.forgiving = True
    assert texts(source) == ["c"] and source.lost == {"texts that are not UTF-8": 1}


def test_a_file_of_other_columns_counts_once_and_is_named(tmp_path):
    for name, column in (("other", "n"), ("lists", "text")):
        table = pyarrow.table({column: [[3]] * 9 if column == "text" else list(range(9))})
        pyarrow.parquet.write_table(table, tmp_path / f"{name}.parquet", row_group_size=3)
    write_lines(tmp_path / "whole.jsonl", sentences(3))
    source = Files(f"{tmp_path}/*", validation=0, test=0)
    source.forgiving = True
    with pytest.warns(UserWarning, match="(other|lists).parquet has no text in text or content, but"):
        assert texts(source) == sentences(3)
    assert source.lost == {"rows or files without a text": 2}


def test_empty_texts_are_counted(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"text": null}\n{"text": " "}\n{"text": ""}\n')
    (tmp_path / "blank.txt").write_text("\n\n")
    source = Files([str(tmp_path / "a.jsonl"), str(tmp_path / "blank.txt")], validation=0, test=0)
    source.forgiving = True
    assert texts(source) == ["a"] and source.lost == {"empty texts": 4}


def test_what_is_forgiven_does_not_change_what_a_corpus_is(tmp_path):
    source, forgiving = (Files(write_lines(tmp_path / "a.jsonl", sentences(9))) for _ in range(2))
    forgiving.forgiving = True
    assert forgiving.fingerprint == source.fingerprint and texts(forgiving) == texts(source) and not forgiving.lost
    (tmp_path / "none.jsonl").write_text('{"title": "a"}\n{bad}\n')
    empty = Files(str(tmp_path / "none.jsonl"))
    empty.forgiving = True
    with pytest.raises(
        ValueError, match=r"0 different document.*left out: 1 rows or files without a text, 1 lines that are no JSON"
    ):
        empty.parts()


def test_missing_files_and_columns_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file matches '.*nothing/\*\.txt'.*correct the pattern"):
        Files([write_lines(tmp_path / "a.jsonl", sentences(9)), f"{tmp_path}/nothing/*.txt"]).parts()
    pyarrow.parquet.write_table(pyarrow.table({"n": [1, 2], "text": ["a", None]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a\.parquet has no text in n, but n \(int64\), text \(string\)"):
        Files(str(tmp_path / "a.parquet"), column="n").parts()
    assert texts(Files(str(tmp_path / "a.parquet"), validation=0, test=0)) == ["a"]


def test_lone_surrogates_become_writable(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a \\ud83d b"}\n')
    (document,) = Files(str(tmp_path / "a.jsonl"), validation=0, test=0).documents()
    assert document.text.encode() == b"a ? b"


@pytest.fixture
def shards(tmp_path):
    return [write_lines(tmp_path / f"{i}.jsonl", sentences(100, seed=i)) for i in range(4)]


def test_hub_reads_every_shard_once(shards):
    source = Hub("json", data_files=shards, validation=0.1, test=0.1)
    assert len(source.parts()) == 4
    wanted = [text for seed in range(4) for text in sentences(100, seed=seed)]
    assert texts(source) == wanted and {document.split for document in source.documents()} == {"train", "validation", "test"}
    elsewhere = pickle.loads(pickle.dumps(source))
    assert list(elsewhere.read(source.parts()[2])) == list(source.read(source.parts()[2]))
    assert elsewhere.fingerprint == source.fingerprint != Hub("json", data_files=shards, revision="a").fingerprint


def test_hub_cap_takes_equal_shares(shards, tmp_path):
    source = Hub("json", data_files=shards, megabytes=0.02)
    sizes = [sum(len(document.text.encode()) for document in source.read(part)) for part in source.parts()]
    assert all(4_500 < size <= 5_000 for size in sizes) and len(sizes) == 4
    rows = ["\n" * 5, "abcde", "fghij"]
    capped = Hub("json", data_files=[write_lines(tmp_path / "blank.jsonl", rows)], megabytes=1e-5, validation=0, test=0)
    assert texts(capped) == ["abcde"]
    capped.forgiving = True
    assert texts(capped) == ["abcde"] and capped.lost == {"empty texts": 1}
    assert (source.validation, Hub("x").validation, Hub("x", megabytes=100).test) == (0.05, 0.0005, 0.01)


def test_hub_errors_name_the_fix(shards, monkeypatch, tmp_path):
    with pytest.raises(ValueError, match=r"hub: json has no text in body, but id \(int\), text \(str\): name the field"):
        texts(Hub("json", data_files=shards, column="body"))
    (tmp_path / "gap.jsonl").write_text('{"text": "a"}\n{"text": null}\n{"text": "b"}\n')
    gap = Hub("json", data_files=[str(tmp_path / "gap.jsonl")], validation=0, test=0)
    with pytest.raises(ValueError, match=r"has no text in text, but text \(NoneType\)"):
        texts(gap)
    gap.forgiving = True
    assert texts(gap) == ["a", "b"] and gap.lost == {"empty texts": 1}
    (tmp_path / "bad.jsonl").write_text('{"text": "a"}\n{bad\n')
    with pytest.raises(RuntimeError, match="'json' could not be read"):
        texts(Hub("json", data_files=[str(tmp_path / "bad.jsonl")]))
    import datasets

    def offline(*args, **kwargs):
        raise ConnectionError("Couldn't reach 'some/set' on the Hub\nand more")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    message = "'some/set' could not be read while HF_HUB_OFFLINE is set .*source: installed"
    with pytest.raises(RuntimeError, match=message) as error:
        Hub("some/set").parts()
    assert "\n" not in str(error.value)
