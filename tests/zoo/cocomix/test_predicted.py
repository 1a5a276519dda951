"""Concepts beside the text: those that each token was written from, and `zoo generate --concepts`."""

import re

import pytest
import torch

from tests.zoo.cocomix.test_steering import PROMPTS, V, student, teacher
from zoo.__main__ import main as cli
from zoo.cocomix.cards import Card, Cards, Next
from zoo.cocomix.net import CoCoMix
from zoo.cocomix.predicted import behind, table
from zoo.data.tokenizer import Bytes
from zoo.generate import generate
from zoo.ntp import NextToken
from zoo.pretrained import save_pretrained


def test_concepts_are_those_that_the_net_had_when_it_wrote_the_token():
    net = student().net
    for prompt in PROMPTS:
        mixes = []
        hook = net.mixer.register_forward_hook(lambda mixer, given, mixed, mixes=mixes: mixes.append(mixed))
        new = generate(net, [prompt], 30, stop={3}).tokens[0]  # beyond the context of 12
        hook.remove()
        logits, ids = behind(net, prompt, new)
        assert ids.shape == (len(new), 5) and len(new) > 9
        seen = [(mixed.logits[0, -1], mixed.ids[0, -1]) for mixed in mixes]
        at = -1  # every row in its turn; a window that moves is read anew in between, which is no step
        for row, values in zip(ids, logits):
            at = next(i for i in range(at + 1, len(seen)) if seen[i][1].equal(row) and seen[i][0].allclose(values))
        assert at - len(new) < 6


def test_a_net_that_mixes_nothing_in_predicts_too():
    torch.manual_seed(0)
    net = CoCoMix(V, 12, 16, 4, 2, insert=2, concepts=50, keep=5, mixing="none").eval()
    logits, ids = behind(net, [1, 2], [3, 4])
    for i, text in enumerate(([1, 2], [1, 2, 3])):
        h = net.trunk.blocks(net.trunk.embed(torch.tensor([text])), stop=2)
        mixed = net.mixer(h)
        assert ids[i].equal(mixed.ids[0, -1]) and logits[i].allclose(mixed.logits[0, -1])


def test_a_table_has_a_line_for_each_token():
    class Words(Bytes):
        eos = 28

        def decode(self, ids):
            return "".join(f" w{i}" for i in ids)

    net, prompt, new = student().net, [1, 2, 3], [4, 28, 6]
    logits, ids = behind(net, prompt, new)
    lines = table(net, Words(), prompt, new, top=2).splitlines()
    assert lines[0] == f'" w4"  {ids[0, 0]} {logits[0, 0]:.2f}   {ids[0, 1]} {logits[0, 1]:.2f}'
    assert len(lines) == 3 and lines[1].startswith("<end>  ")
    known = int(ids[2, 0])
    card = Card(9, 0.1, [], [], [Next(5, '" w5"', 5, 0.5, 2.0)])
    lines = table(net, Words(), prompt, new, top=1, cards=Cards({}, {known: card})).splitlines()
    assert lines[2] == f'" w6"  {known} {logits[2, 0]:.2f} (" w5")'


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(1)
    Bytes().save(tmp_path / "tokens")
    net = CoCoMix(257, 32, dim=16, layers=3, heads=2, insert=1, concepts=40, keep=5)
    save_pretrained(net, tmp_path / "net", tmp_path / "tokens")
    save_pretrained(NextToken(257, 32, dim=8, layers=1, heads=1), tmp_path / "other", tmp_path / "tokens")
    return tmp_path


def test_the_verb_shows_concepts_beside_the_text_that_it_prints_without(folder, capsys):
    words = ["generate", str(folder / "net"), "--prompt", "ab", "--prompt", "c", "--tokens", "6", "--seed", "3"]
    cli(words)
    plain = capsys.readouterr().out
    cli([*words, "--concepts", "2"])
    told = capsys.readouterr().out
    parts = told.split("\n\n")
    assert "\n".join(parts[::2]).rstrip("\n") == plain.rstrip("\n") and told.startswith("ab")
    assert [len(part.splitlines()) for part in parts[1::2]] == [6, 6]
    pairs = re.compile(r"\d+ -?\d+\.\d\d(?=   |$)")
    assert all(len(pairs.findall(line)) == 2 for line in parts[1].splitlines())
    cli([*words, "--concepts"])
    assert all(len(pairs.findall(line)) == 4 for line in capsys.readouterr().out.split("\n\n")[1].splitlines())
    (folder / "prompt.txt").write_text("from a file")
    cli(["generate", str(folder / "net"), "--concepts=1", "--prompt_file", str(folder / "prompt.txt"), "--tokens", "2"])
    assert capsys.readouterr().out.startswith("from a file")


def test_wrong_words_get_one_sentence(folder):
    for name, more, said in (
        ("other", ["--concepts"], r"\(NextToken\) predicts no concepts"),
        ("net", ["--concepts", "--heads", "2"], "leave out --heads 2"),
        ("net", ["--concepts", "0"], "at least 1"),
        ("net", ["--concepts", "--cards", str(folder)], "there are no cards"),
        ("net", ["--concepts", "--prompt_file", str(folder / "none")], "no UTF-8 text in"),
    ):
        with pytest.raises(SystemExit, match=said):
            cli(["generate", str(folder / name), *more])
    with pytest.raises(ValueError, match="predicts no concepts"):
        table(teacher().extractor.teacher, Bytes(), [1], [2])
