"""Next lines, syntax, reference solutions: places that no tokenizer moves, verdicts on known code, bits against a slow count."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from zoo.data.sources import Files
from zoo.data.store import TokenStore, build
from zoo.data.tokenizer import Bytes, train_bpe
from zoo.evals import code_text
from zoo.evals.code_text import CodeText, References, conditional_bits, solution
from zoo.evals.places import accepts, body_end, function_heads, held_out, line_starts
from zoo.evals.problems import Problem
from zoo.generate import Generation
from zoo.mtp import MTP
from zoo.ntp.net import NextToken

ROOT = Path(__file__).parents[3]
TEXTS = [path.read_text() for path in sorted((ROOT / "zoo").rglob("*.py"))]


@pytest.fixture(scope="module")
def words():
    return train_bpe(TEXTS, 600)


def test_stores_of_all_tokenizers_give_the_same_texts(tmp_path, words):
    source = Files([str(ROOT / "zoo/data/*.py")], test=1.0, validation=0.0)
    found = []
    for i, tokenizer in enumerate((Bytes(), words)):
        build(source, tokenizer, tmp_path / str(i), workers=1, progress=False)
        found.append(held_out(TokenStore(tmp_path / str(i), "test"), tokenizer, 5))
    # the lowest hashes of a corpus so small go to the other splits
    assert found[0] == found[1] == [d.text for d in source.documents("test")][:5] and len(found[0]) == 5


def test_lines_are_spread_and_depend_on_text_and_seed_alone():
    places = line_starts(TEXTS, 20, 100, 60)
    assert places == line_starts(TEXTS[::-1], 20, 100, 60) != line_starts(TEXTS, 20, 100, 60, seed=1)
    homes = [next(i for i, text in enumerate(TEXTS) if prompt + following in text) for prompt, following in places]
    assert len(set(homes)) >= 18 and all(len(place.prompt) == 100 for place in places)
    for prompt, following in line_starts(TEXTS, 500, 100, 60):
        assert any(prompt + following + "\n" in text for text in TEXTS)
        assert "\n" not in following and following.strip() and prompt.split("\n")[-1].strip() == ""


def test_a_tokenizer_cuts_where_the_prompt_ends(words):
    """Else a net would meet a sequence at the seam that it has never seen in training."""
    for prompt, following in line_starts(TEXTS, 300, 100, 60):
        assert words.encode(prompt + following) == words.encode(prompt) + words.encode(following)


def test_heads_of_functions():
    text = '''
@decorated
def plain(a,
          b):
    # a remark
    return a

def told(x):
    """Says
    so."""

    @inner
    def f(): ...
    return f

def short(x): return x

def nothing():
    """Only words."""

class A:
    def method(self):
        return 1
'''
    found = dict(function_heads([text], 9, 100))
    plain, told = "def plain(a,\n          b):\n    # a remark", 'def told(x):\n    """Says\n    so."""'
    assert found == {plain: "\n    return a", told: "\n\n    @inner\n    def f(): ...\n    return f"}
    assert function_heads([text], 9, 30) == [] and function_heads(["def broken(:\n"], 9, 100) == []
    for place in function_heads(TEXTS, 60, 160):
        assert accepts(*place, finished=True) and body_end(place.following + "\n\n\nx = 1") is not None


@pytest.mark.parametrize(
    "body, finished, good",
    [
        ("\n    return x", True, True),
        ("\n    return (x", True, False),
        ("\n    pass", True, False),
        ("\n    ...", True, False),
        ('\n    """Words alone."""', True, False),
        ("", True, False),
        ("\n\n", True, False),
        ("\n    # a remark", True, False),
        ("\n    y = \0", True, False),
        (" return x", True, True),
        ("\n    y = 1\n    retu", False, True),  # what is cut in the middle of a line is judged without it
        ("\n    y = (1,\n         2,\n    ", False, False),  # nothing whole has been said yet
        ("\n    z = 0\n    y = (1,\n         2,\n    ", False, True),
        ("\n    z = 0\n    y = = 2\n    retu", False, False),
        ("\n    z = 0\n  y = 2\n    retu", False, False),
        ("\n    z = 0\n    if z:\n        retu", False, True),
        ("\n    pass\n    retu", False, False),
        ("\n    retu", False, False),
        ("", False, False),
    ],
)
@pytest.mark.parametrize("head", ["def f(x):", 'def f(x):\n    """Says\n    so."""'])
def test_what_counts_as_syntax(head, body, finished, good):
    if body.startswith(" ") and "so." in head:  # nothing may follow a docstring in its line
        good = False
    assert accepts(head, body, finished) is good


def test_bodies_end_at_the_margin():
    assert body_end("\n    x\n\n\ndef g():") == len("\n    x\n\n")
    assert body_end("\n    x = [\n]\n    y\n") is None and body_end("\n    x\n\n    y") is None
    assert body_end("\n    x\n# remark") == len("\n    x")


def spoken(monkeypatch, answer):
    """CodeText's words are `answer(prompt)`, token by token, as `generate` would end them."""

    def fake(net, prompts, limit, sampling, *, heads, stop, until, generator):
        rows, stopped = [], []
        for prompt in prompts:
            new = []
            for token in Bytes().encode(answer(Bytes().decode(prompt))) + [Bytes.eos]:
                if token in stop or len(new) == limit:
                    break
                new.append(token)
                if until(new):
                    break
            rows.append(new)
            stopped.append(token in stop or until(new))
        return Generation(rows, stopped, 0, [0] * len(rows), [])

    monkeypatch.setattr(code_text, "generate", fake)
    return torch.nn.Linear(1, 1)


def test_lines_by_hand(monkeypatch):
    places = {place.prompt: place.following for place in line_starts(TEXTS, 8, 60, 40)}
    text = CodeText(lines=8, characters=60, longest=40)
    net = spoken(monkeypatch, lambda prompt: places[prompt] + "  \nmore")
    assert text.next_lines(net, Bytes(), TEXTS) == {"line_exact": 100.0, "line_similarity": 100.0}
    net = spoken(monkeypatch, lambda prompt: "\n" + places[prompt])  # a blank line is not the line
    assert text.next_lines(net, Bytes(), TEXTS) == {"line_exact": 0.0, "line_similarity": 0.0}
    net = spoken(monkeypatch, lambda prompt: places[prompt][:-1] + "\N{SNOWMAN}\n")
    found, lengths = text.next_lines(net, Bytes(), TEXTS), [len(line.strip()) for line in places.values()]
    assert found["line_exact"] == 0.0
    assert found["line_similarity"] == pytest.approx(100 * sum(1 - 1 / n for n in lengths) / 8)


class Prefixed(Bytes):
    """As SentencePiece does it: a space goes before every text, and comes off again when a text is decoded."""

    def encode(self, text: str) -> list[int]:
        return super().encode(" " + text)

    def decode(self, ids) -> str:
        return super().decode(ids).removeprefix(" ")


def test_a_line_keeps_the_space_that_it_begins_with(monkeypatch):
    places = {place.prompt: place.following for place in line_starts(TEXTS, 8, 60, 40)}
    assert any(following.startswith(" ") for following in places.values())
    net = spoken(monkeypatch, lambda prompt: places[prompt.removeprefix(" ")] + "\n")
    text = CodeText(lines=8, characters=60, longest=40)
    assert text.next_lines(net, Prefixed(), TEXTS) == {"line_exact": 100.0, "line_similarity": 100.0}


def test_syntax_by_hand(monkeypatch):
    bodies = [f'def f{i}(x):\n    """Adds {i}."""\n    y = {i}\n    return x + y\n' for i in range(9)]
    texts = ["\n\n".join(bodies[:5]), "\n\n".join(bodies[5:])]
    places = dict(function_heads(texts, 6, 120))
    assert len(places) == 6
    text = CodeText(functions=6, characters=120, body=300)
    for answer, expected in [
        (lambda prompt: places[prompt] + "\n\n\nclass Next:", (100.0, 0.0, 100.0)),
        (lambda prompt: places[prompt], (100.0, 0.0, 100.0)),  # the end token ends it too
        (lambda prompt: places[prompt] + " (\ndef", (0.0, 0.0, 0.0)),
        (lambda prompt: "", (0.0, 0.0, 0.0)),
        (lambda prompt: "\nx = 1", (0.0, 0.0, 0.0)),
    ]:
        found = text.syntax(spoken(monkeypatch, answer), Bytes(), texts)
        assert tuple(found.values()) == expected and list(found) == ["syntax", "syntax_open", "syntax_finished"]
    endless = lambda prompt: "\n    y = 1" * 60
    assert text.syntax(spoken(monkeypatch, endless), Bytes(), texts) == {"syntax": 100.0, "syntax_open": 100.0}


def test_a_real_net_writes_the_same_twice(words):
    torch.manual_seed(0)
    net = NextToken(words.vocab, 64, dim=16, layers=1, heads=2).eval()
    text = CodeText(lines=3, functions=3, characters=80, longest=30, body=60, batch=2)
    once = text.next_lines(net, words, TEXTS) | text.syntax(net, words, TEXTS)
    assert once == text.next_lines(net, words, TEXTS) | text.syntax(net, words, TEXTS)
    assert set(once) >= {"line_exact", "line_similarity", "syntax", "syntax_open"}


def test_all_heads_write_the_same_lines(words, monkeypatch):
    torch.manual_seed(0)
    net = MTP(words.vocab, 64, n=3, dim=16, layers=4, heads=2).eval()
    written, plain = [], code_text.generate

    def noted(*arguments, **options):
        made = plain(*arguments, **options)
        written.append((options["heads"], made.tokens))
        return made

    monkeypatch.setattr(code_text, "generate", noted)
    found = [CodeText(lines=4, characters=80, longest=30, heads=k).next_lines(net, words, TEXTS) for k in (1, None)]
    (one, alone), (every, together) = written
    assert (one, every) == (1, 3) and alone == together and found[0] == found[1]


def test_texts_without_places_are_refused():
    net = torch.nn.Linear(1, 1)
    with pytest.raises(ValueError, match="no line after 160"):
        CodeText().next_lines(net, Bytes(), ["short\n"])
    with pytest.raises(ValueError, match="no Python function"):
        CodeText().syntax(net, Bytes(), ["some prose\n"])
    for callback in (CodeText(), References()):
        with pytest.raises(ValueError, match="one process"):
            callback.on_test_epoch_end(SimpleNamespace(world_size=2), None)


# -- reference solutions ---------------------------------------------------------------------------------------------------------
PAIRS = [
    ("def f(x):\n    ", "return x + 1\n"),
    ("", "import math\n"),
    ('def g():\n    """Größe"""\n', "    return 'ü' * 30\n" * 4),
]


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("bpe", [False, True])
def test_bits_of_solutions_are_those_of_a_slow_count(n, bpe, words):
    tokenizer, pairs = (words if bpe else Bytes()), PAIRS
    torch.manual_seed(0)
    net = MTP(tokenizer.vocab, 400, n=n, dim=16, layers=n + 1, heads=2).eval()
    bits, size = conditional_bits(net, tokenizer, pairs, batch=2)
    slow = slow_size = 0
    for prompt, text in pairs:
        head = prompt.rstrip()
        tokens = [tokenizer.eos, *tokenizer.encode(prompt + text)]
        before = 1 + len(tokenizer.encode(head))
        assert tokenizer.decode(tokens[:before]) == head  # both tokenizers cut there
        log_p = net.next(torch.tensor([tokens]), net.cache(1, len(tokens)))[0].log_softmax(-1)
        slow -= sum(float(log_p[i - 1, tokens[i]]) for i in range(before, len(tokens))) / math.log(2)
        slow_size += len((prompt + text).encode()) - len(head.encode())
    assert size == slow_size and bits == pytest.approx(slow, rel=1e-5)


@pytest.mark.parametrize("context", [8, 9, 50])
def test_long_solutions_are_scored_once_with_half_a_context_before(context):
    for prompt, following in [*PAIRS, ("x" * 70, "y" * 33)]:
        windows = list(code_text._windows(Bytes(), prompt, following, context))
        text = (prompt + following).encode()
        scored = b"".join(bytes(tokens.astype("uint8")) for _, tokens in windows)
        assert scored == text[len(prompt.rstrip().encode()) :]
        for before, tokens in windows:
            assert len(before) + len(tokens) <= context + 1 and (len(before) >= context // 2 or before[0] == Bytes.eos)


def test_reference_solutions_of_a_file(tmp_path):
    """Averaged over bytes, not over problems; a uniform net pays the same for every token."""
    row = {"task_id": "a/1", "prompt": "def one():\n    ", "entry_point": "one", "test": "", "canonical_solution": "return 1\n"}
    rows = [row, row | {"task_id": "a/2", "prompt": "def two():\n", "canonical_solution": "    return 'ü'\n"}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    net, found = MTP(257, 64, n=2, dim=8, layers=3, heads=2).eval(), {}
    torch.nn.init.zeros_(net.trunk.unembedding)
    module = SimpleNamespace(net=net, log=lambda name, value: found.update({name: value}))
    trainer = SimpleNamespace(world_size=1, datamodule=SimpleNamespace(tokenizer=Bytes()))
    References(files=[str(tmp_path / "a.jsonl")], name="made").on_test_epoch_end(trainer, module)
    assert found == {"test/made_bits_per_byte": pytest.approx(math.log2(257), rel=1e-6)}


@pytest.mark.parametrize(
    "prompt, prefix, canonical, expected",
    [
        ("def f():", "def f():", "def f():\n    return 1", "\n    return 1"),  # HumanEval
        ('"""\nWords.\n"""', "", "def f(): pass", "\ndef f(): pass"),  # MBPP
        ('"""\nWords.\n"""\nclass A:', "class A:", "import b", "\nimport b"),  # APPS, another beginning
        ("x", "x", None, ""),
    ],
)
def test_what_follows_a_prompt(prompt, prefix, canonical, expected):
    assert solution(Problem("1", prompt, prefix, (), canonical=canonical)) == expected
