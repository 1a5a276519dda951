"""MinHash against exact Jaccard similarity, and what counts as a repetition."""

import random

import numpy as np
import pytest

from zoo.data.duplicates import Duplicates, grams, signature

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
