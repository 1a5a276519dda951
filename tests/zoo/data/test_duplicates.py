"""MinHash against exact Jaccard similarity, and what counts as a repetition."""

import json
import pickle
import random

import numpy as np
import pytest

from zoo.data.crawl import CommonCrawlSentences
from zoo.data.duplicates import Distinct, Duplicates, grams, near, signature
from zoo.data.sources import Files

WORDS = [f"w{i}" for i in range(2000)]


def text(seed, length=300):
    return " ".join(random.Random(seed).choices(WORDS, k=length))


def changed(original, count, seed=0):
    words, rng = original.split(), random.Random(seed)
    for _ in range(count):
        words[rng.randrange(len(words))] = rng.choice(WORDS)
    return " ".join(words)


def exact(a, b):
    a, b = ({tuple(words[i : i + 5]) for i in range(len(words) - 4)} for words in (a.split(), b.split()))
    return len(a & b) / len(a | b)


def test_signatures_estimate_the_similarity():
    errors = []
    for seed in range(12):
        a = text(seed)
        b = changed(a, seed * 3, seed)
        assert len(grams(a)) == 296
        errors.append((signature(a) == signature(b)).mean() - exact(a, b))
    assert np.abs(errors).max() < 0.15 and np.abs(np.mean(errors)) < 0.05  # standard error 0.047 at one half


def test_the_first_of_several_is_kept():
    a, b = text(0), text(1)
    seen = Duplicates(0.8)
    wanted = [None, None, "exact duplicate", "exact duplicate", "near duplicate", None, "near duplicate"]
    given = [a, b, a, b.replace(" ", "\n "), changed(a, 3), changed(a, 100), changed(b, 1)]
    assert [seen(each) for each in given] == wanted
    seen = Duplicates(None)
    assert [seen(each) for each in given] == [None, None, "exact duplicate", "exact duplicate", None, None, None]


def test_bands_find_what_all_pairs_find():
    texts = [text(i % 4, 120) if i < 4 else changed(text(i % 4, 120), i % 3, i) for i in range(24)]
    seen, kept, naive = Duplicates(0.85), [], []
    for each in texts:
        mine = signature(each)
        repeats = any((mine == signature(other)).mean() >= 0.85 for other in kept)
        naive.append(repeats)
        if not repeats:
            kept.append(each)
    assert [seen(each) is not None for each in texts] == naive and 4 <= len(kept) < 20


@pytest.mark.parametrize("short", ["", "one", "one two", "。！", "\ud800"])
def test_short_texts_and_any_script(short):
    seen = Duplicates()
    assert seen(short) is None and seen(short) == "exact duplicate"
    chinese = "".join(random.Random(0).choices("今天很好我是学生他说们不会在那里这就要的全部", k=200))
    assert len(grams(chinese)) > 150
    assert seen(chinese) is None and seen(chinese[:-3] + "吗呢吧") == "near duplicate"


def test_a_source_without_its_repetitions(tmp_path):
    texts = [text(i % 20, 60) for i in range(25)] + [changed(text(3, 60), 1), text(90, 60)]
    for name, rows in (("a", texts[:14]), ("b", texts[14:])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    files = Files([f"{tmp_path}/*.jsonl"], validation=0.2, test=0.2)
    files.parts = lambda: [(piece,) for part in Files.parts(files) for piece in part]  # a part each
    made, seen = Distinct(files, 0.8), Duplicates(0.8)
    wanted = [each for each in files.documents() if not seen(each.text)]
    assert list(made.documents()) == wanted and len(wanted) == 21
    assert dict(made.dropped) == {"exact duplicate": 5, "near duplicate": 1}
    assert list(made.documents("test")) == [each for each in wanted if each.split == "test"]
    parts = made.parts()
    del files.parts
    copy = pickle.loads(pickle.dumps(made))
    assert [each for part in reversed(parts) for each in reversed(list(copy.read(part)))] == wanted[::-1]
    assert len({each.fingerprint for each in (made, files, Distinct(files, None), Distinct(files, 0.9))}) == 4


def test_data_of_any_source_can_leave_repetitions_out(tmp_path):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text(i % 8)}) + "\n" for i in range(20)))
    given = {"source": "files", "files": [f"{tmp_path}/a.jsonl"]}
    data = CommonCrawlSentences(**given, similar=0.8)
    assert len(list(data.documents())) == 8 and len(list(CommonCrawlSentences(**given).documents())) == 20
    archives = {"source": "warc", "files": ["a"]}
    assert [CommonCrawlSentences(**archives, similar=each).corpus.similar for each in (None, 0.5)] == [0.8, 0.5]


def test_near_duplicates_among_other_texts_are_those_of_exact_similarity():
    texts = [text(seed, 30) for seed in range(40)] + ["Three words only."]
    others = [changed(each, seed % 4, seed) for seed, each in enumerate(texts[:30])] + [text(99, 30), "three  WORDS only"]
    for similar in (0.3, 0.8):
        wanted = [max(exact(each, other) for other in others[:-1]) >= similar for each in texts[:40]]
        found = near(texts, iter(others), similar).tolist()
        assert found == [*wanted, True] and 5 < sum(wanted) < 40
    assert near([], others).tolist() == [] and not near(texts, []).any()
