"""Going on from prompts, stop rules, drafts and their edits, and the two verbs."""

import hashlib
import json
import shutil
from types import SimpleNamespace

import pytest
import torch

from tests.zoo.lcm.arms import ARMS, CONTEXT, WIDTH, arm, parts
from zoo.__main__ import main
from zoo.lcm import Base, TwoTower, generate
from zoo.lcm.generate import chosen, ending, fits, longest, opened
from zoo.lcm.quant import Chosen
from zoo.lcm.writing import END, Draft, Stop, continued
from zoo.nn.diffusion import Sampler
from zoo.pretrained import save_pretrained
from zoo.sonar.cards import write_space
from zoo.sonar.encoder import SpaceEncoder
from zoo.sonar.net import TextDecoder, TextEncoder
from zoo.sonar.tokens import PAD, Tokenizer, train_sentencepiece

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return parts(tmp_path_factory.mktemp("space"))


class Scripted(torch.nn.Module):
    """Says the vectors of a script, one after the other, whatever it has read; beside `Memory`, it counts rows."""

    vocab = 3

    def __init__(self, *script):
        super().__init__()
        self.script, self.unembedding = torch.tensor(script), torch.zeros(1)
        self.trunk = SimpleNamespace(unembedding=self.unembedding, positions=100, fits=lambda length: None)

    def memory(self, rows, capacity):
        self.rows, self.step = list(range(rows)), 0
        return self

    def select(self, places):
        self.rows = [self.rows[place] for place in places]

    def read(self, vectors, memory, lengths=None):
        assert len(vectors) == len(self.rows)

    def next_vector(self, memory, noise, fresh):
        said = self.script[self.step, self.rows].float()
        self.step += 1
        return said


def told(net, prompts, stop, **settings):
    """What `continued` yields: for every prompt its vectors."""
    found = [[] for _ in prompts]
    for rows, new in continued(net, prompts, stop, **settings):
        for row, vector in zip(rows, new):
            found[row].append(vector)
    return found


def test_a_document_ends_at_the_end_marker_at_a_repetition_and_at_the_limit():
    x, y, z, end = [1.0, 0, 0], [0, 1.0, 0], [0, 0.4, 1.0], [0.1, 0, -5.0]
    script = [[y, y, y], [end, x, x], [x, [0.9, 0.1, 0], y], [z, z, x], [z, z, z]]
    found = told(Scripted(*script), [torch.tensor([x])] * 3, Stop(torch.tensor([0, 0, -1.0]), limit=4))
    assert [len(each) for each in found] == [1, 2, 4]  # over at once; said x twice; had no reason to stop
    assert found[0][0].tolist() == y and found[1][1].tolist() == x
    never = told(Scripted(*script), [torch.tensor([x])] * 3, Stop(torch.tensor([0, 0, -1.0]), 1.1, 1.1, 5))
    assert [len(each) for each in never] == [5, 5, 5]
    assert [len(each) for each in told(Scripted(*script), [torch.tensor([y]), torch.tensor([x])], Stop(limit=1))] == [0, 1]


@pytest.mark.parametrize("name", ARMS)
def test_documents_side_by_side_are_those_written_alone(name, folder):
    net = arm(name, folder)
    generator = torch.Generator().manual_seed(2)
    prompts = [torch.randn(n, WIDTH, generator=generator) for n in (3, 1, 4)]
    stop = Stop(torch.randn(WIDTH, generator=generator), 0.6, 0.97, 6)  # of which some are over before others
    together = told(net, prompts, stop, seeds=[5, 6, 7])
    alone = [told(net, [prompt], stop, seed=seed)[0] for prompt, seed in zip(prompts, (5, 6, 7))]
    assert [len(each) for each in together] == [len(each) for each in alone]
    for a, b in zip(together, alone):
        for one, other in zip(a, b):
            torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ARMS)
def test_each_document_goes_on_to_the_last_position(name, folder):
    net = arm(name, folder, positions=10)
    generator = torch.Generator().manual_seed(3)
    prompts, stop = [torch.randn(n, WIDTH, generator=generator) for n in (3, 9, 8)], Stop(similar=2, repeated=2, limit=5)
    together = told(net, prompts, stop, seeds=[5, 6, 7])
    assert [len(each) for each in together] == [5, 1, 2]
    for prompt, seed, found in zip(prompts, (5, 6, 7), together):
        alone = told(net, [prompt], stop, seed=seed)[0]
        torch.testing.assert_close(torch.stack(found), torch.stack(alone), atol=1e-4, rtol=1e-4)


def test_some_are_over_before_others(folder):
    """Else the test above would not see rows leave."""
    generator = torch.Generator().manual_seed(2)
    prompts = [torch.randn(n, WIDTH, generator=generator) for n in (3, 1, 4)]
    stop = Stop(torch.randn(WIDTH, generator=generator), 0.6, 0.97, 6)
    assert len({len(each) for name in ARMS for each in told(arm(name, folder), prompts, stop, seeds=[5, 6, 7])}) > 2


@pytest.mark.parametrize("name", ["one", "discrete", "continuous"])
def test_no_place_is_written_at_that_was_never_learnt(name, folder):
    """Places are learnt, so a document ends where training's chunks do, unless the net is told of more."""
    net, endless = arm(name, folder, positions=None), Stop(similar=2, repeated=2)
    assert net.trunk.positions == len(net.tower.places.weight) == CONTEXT
    assert len(told(net, [torch.zeros(3, WIDTH)], endless)[0]) == CONTEXT - 3
    assert len(list(Draft(net, Hashed(), ["A man."] * 3, stop=endless).write())) == CONTEXT - 3
    with pytest.raises(ValueError, match=f"The net reads {CONTEXT - 1} sentences, and it has 8: give the last 7"):
        fits(net, ["A man."] * CONTEXT, "it")


def test_prompts_that_cannot_be_continued(folder):
    net = arm("two", folder, positions=10)
    with pytest.raises(ValueError, match="11 sentences were asked of a net that has 10 positions"):
        next(continued(net, [torch.zeros(10, WIDTH)], Stop(limit=10)))
    for name in ARMS:  # all go on to their last position, and no further
        short = arm(name, folder, positions=10)
        assert len(list(continued(short, [torch.zeros(7, WIDTH)], Stop(similar=2, repeated=2)))) == 3
        assert len(list(Draft(short, Hashed(), ["A man."] * 8, stop=Stop(similar=2, repeated=2)).write())) == 2
    net.post.bias.data[0] = torch.nan
    with pytest.raises(ValueError, match="NaN or infinite numbers: its weights diverged"):
        next(continued(net, [torch.zeros(2, WIDTH)], Stop(limit=10)))
    net = arm("two", folder, positions=10)
    with pytest.raises(ValueError, match="continue the empty ones apart"):
        next(continued(net, [torch.zeros(2, WIDTH), torch.zeros(0, WIDTH)], Stop(limit=2)))
    assert len(list(continued(net, [torch.zeros(0, WIDTH)], Stop(repeated=2, limit=2)))) == 2  # it begins documents
    with pytest.raises(ValueError, match="begins no document"):
        next(continued(arm("base", folder), [torch.zeros(0, WIDTH)], Stop(limit=2)))
    assert list(continued(net, [], Stop())) == []


class Hashed:
    """A space whose vectors are hashes of texts; what is decoded is the vector's first digits."""

    width = WIDTH

    def encode(self, texts, lang):
        rows = [hashlib.sha256(f"{lang} {text}".encode()).digest()[:WIDTH] for text in texts]
        return torch.tensor([list(row) for row in rows], dtype=torch.float32).view(-1, WIDTH) / 64 - 2

    def decode(self, vectors, lang, beam):
        return [f"{lang} {' '.join(f'{x:.2f}' for x in row[:3].tolist())}" for row in vectors]


@pytest.mark.parametrize("name", ARMS)
class TestDraft:
    def test_an_edited_draft_is_one_that_was_given_so(self, name, folder):
        space, texts = Hashed(), ["A man.", "A dog.", "A walk.", "Rain."]
        draft = Draft(arm(name, folder), space, texts, into="deu_Latn", capacity=9, stop=Stop(limit=2))
        first = list(draft.write())
        assert len(first) <= 2 and all(text.startswith("deu_Latn") for text in first) and draft.texts == texts + first
        edits = [
            (lambda: draft.replace(2, "A swim."), ["A man.", "A dog.", "A swim."]),
            (lambda: draft.insert(1, "A cat."), ["A man.", "A cat."]),
            (lambda: draft.delete(1), ["A man."]),
        ]
        for edit, expected in edits:
            read = draft.read
            edit()
            assert draft.texts == expected and draft.read - read <= 2  # the new one, and at most one before it again
            again = Draft(arm(name, folder), space, expected, capacity=9, stop=Stop(limit=2))
            draft.random.manual_seed(4), again.random.manual_seed(4)
            assert torch.equal(draft.vectors, again.vectors) and draft.memory.held == again.memory.held
            draft.into = again.into
            assert list(draft.write()) == list(again.write())

    def test_says_what_is_not_there_and_when_it_is_full(self, name, folder):
        draft = Draft(arm(name, folder), Hashed(), ["A man.", "A dog."], capacity=3, stop=Stop(limit=5, repeated=2, similar=2))
        with pytest.raises(ValueError, match="There is no sentence 2: the draft has 2, counted from 0"):
            draft.replace(2, "No.")
        with pytest.raises(ValueError, match="There is no sentence 2"):
            draft.delete(2)
        draft.insert(2, "Rain.")
        assert list(draft.write()) == []
        with pytest.raises(ValueError, match="room for 3 sentences"):
            draft._put(["More."], torch.zeros(1, WIDTH))


def test_the_end_marker_is_that_of_the_space(folder):
    draft = Draft(arm("two", folder), Hashed(), ["A man."], capacity=4)
    assert torch.equal(draft.stop.end, Hashed().encode([END], "eng_Latn")[0]) and draft.stop.similar == 0.9
    draft = Draft(arm("two", folder), Hashed(), [], capacity=4, stop=Stop(limit=1, similar=2))
    assert len(list(draft.write())) == 1
    with pytest.raises(ValueError, match="the space has 6: give the one"):
        Draft(Base(7, CONTEXT, 16, 1, 2), Hashed(), ["A man."])


def test_samplers_are_set_by_words():
    assert chosen(Sampler(), ["guidance=2", "taken=20", "predicts=v"]) == Sampler(guidance=2.0, taken=20, predicts="v")
    with pytest.raises(ValueError, match="--sampler heat=2 is none of taken="):
        chosen(Sampler(), ["heat=2"])
    with pytest.raises(ValueError, match="'much' is no number"):
        chosen(Sampler(), ["guidance=much"])


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A space and a net on disk, both untrained."""
    home = tmp_path_factory.mktemp("home")
    lines = ["The sea was calm.", "A ship sailed to the old town.", "A man was in the town.", END]
    tokenizer = Tokenizer(train_sentencepiece(lines * 20, 24))
    torch.manual_seed(0)
    sizes = {
        "vocab": tokenizer.vocab,
        "dim": 8,
        "layers": 1,
        "heads": 2,
        "hidden": 16,
        "positions": 64,
        "pad": PAD,
        "dropout": 0.0,
    }
    write_space(home / "space", TextEncoder(**sizes), TextDecoder(**sizes), tokenizer, "calm", dtype=torch.float32)
    save_pretrained(Base(8, CONTEXT, 16, 1, 2), home / "net")
    two = TwoTower(8, CONTEXT, 16, 1, 1, 2)
    for parameter in two.parameters():  # as it is made it says nothing
        torch.nn.init.normal_(parameter, std=0.3)
    save_pretrained(two, home / "two")
    save_pretrained(Base(8, CONTEXT, 16, 1, 2, positions=CONTEXT), home / "short")
    return home


@pytest.mark.filterwarnings("ignore:.*reached the limit of tokens")
@pytest.mark.parametrize("kind", ["net", "two"])
def test_the_verbs_write_and_edit(home, capsys, kind, tmp_path):
    words = [str(home / kind), "--space", str(home / "space"), "--sentences", "2", "--beam", "1", "--device", "cpu"]
    words += ["--similar", "2", "--repeated", "2"]
    short = [str(home / "short"), *words[1:]]
    main(["generate", *words, "--prompt", "The sea was calm. A ship sailed to the old town."])
    alone = capsys.readouterr().out
    assert alone.startswith("The sea was calm. A ship sailed to the old town. |")
    main(
        ["generate", *words, "--prompt", "A man was in the town.", "--prompt", "The sea was calm. A ship sailed to the old town."]
    )
    assert capsys.readouterr().out.splitlines()[1].strip() == alone.strip()
    file = tmp_path / "text.txt"
    file.write_text("The sea was calm. A ship sailed to the old town.")
    main(["edit", *words, "--prompt_file", str(file), "--replace", "1", "A man was in the town."])
    out = capsys.readouterr().out
    assert "   2  A ship sailed to the old town." in out and "\nA man was in the town. |" in out
    for wrong, sentence in [
        (["generate", *words], "give --prompt TEXT"),
        (["generate", *words, "--prompt", "…"], "no sentence in prompt 1"),
        (["generate", *short, "--prompt", "The sea. " * 8], "reads 7 sentences, and prompt 1 has 8: give the last 7"),
        (["edit", *words, "--prompt", "The sea.", "--delete", "0"], "counted from 1"),
        (["edit", *words, "--prompt", "The sea.", "--delete", "2"], "from 1, here to 1: 2 is none"),
        (["edit", *words, "--prompt", "The sea.", "--insert", "3", "A man."], "from 1, here to 2: 3 is none"),
        (["edit", *words, "--prompt", "The sea.", "--insert", "1", " … "], "0 sentences of the space's length: give one"),
        (["edit", *words, "--prompt", "The sea.", "--replace", "1", "A man. A ship."], "2 sentences of the space's length"),
        (["generate", *words, "--prompt", "The sea.", "--into", "fra_Latn"], "no language 'fra_Latn'; it has eng_Latn"),
        (["edit", *short, "--prompt", "The sea. " * 8, "--delete", "1"], "and the text has 8"),
        (["edit", *words, "--delete", "1"], "one text"),
    ]:
        with pytest.raises(SystemExit, match=sentence):
            main(wrong)
        assert capsys.readouterr().out == ""
    main(["generate", *short, "--prompt", "The sea. " * 7, "--sentences", "5"])  # as far as there are positions
    assert capsys.readouterr().out.startswith("The sea. " * 7 + "| ")


@pytest.mark.parametrize("wrong, sentence", [
    (["--beam", "0"], "--beam: 0 is no number from 1 on"),
    (["--sentences", "-5"], "--sentences: -5 is no number from 1 on"),
    (["--sampler", "taken=200"], "a schedule of 100 steps has no 200"),
])  # fmt: skip
def test_settings_that_cannot_be_are_refused_before_anything_is_printed(home, capsys, wrong, sentence):
    words = [str(home / "two"), "--space", str(home / "space"), "--device", "cpu", "--prompt", "The sea."]
    for verb in (["generate", *words], ["edit", *words, "--delete", "1"]):
        with pytest.raises(SystemExit) as raised:
            main([*verb, *wrong])
        printed = capsys.readouterr()
        assert sentence in f"{raised.value} {printed.err}" and printed.out == ""


@pytest.mark.parametrize("name", ["two", "continuous"])
def test_prompts_side_by_side_are_written_on_as_each_alone(name, folder, capsys):
    net, stop, prompts = arm(name, folder), Stop(None, 2.0, 2.0, 3), [["A man."], ["A dog.", "Rain."]]
    given = SimpleNamespace(lang="eng_Latn", into="deu_Latn", beam=1, seed=4, sentences=3)
    for prompt in prompts:
        draft = Draft(net, Hashed(), prompt, given.lang, given.into, *generate.room(net, len(prompt), stop, given))
        generate.show(draft, given)
    alone = capsys.readouterr().out
    generate.together(net, Hashed(), prompts, stop, given)
    assert capsys.readouterr().out == alone


def test_a_sentence_is_given_before_the_next_one_is_made(folder, monkeypatch):
    net, order = arm("two", folder), []
    says = net.next_vector
    monkeypatch.setattr(net, "next_vector", lambda *words: order.append("made") or says(*words))
    for _ in Draft(net, Hashed(), ["A sentence."], stop=Stop(None, 2.0, 2.0, 3), beam=1).write():
        order.append("given")
    assert order == ["made", "given"] * 3


@pytest.mark.filterwarnings("ignore:.*reached the limit of tokens")
def test_true_sentences_beside_predicted_ones(home, capsys):
    words = ["generate", str(home / "net"), "--space", str(home / "space"), "--beam", "1", "--device", "cpu", "--beside"]
    main([*words, "--prompt", "The sea was calm. A ship sailed to the old town. A man was in the town."])
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["The sea was calm.", "A ship sailed to the old town."] and lines[3] == "A man was in the town."
    main([*words, "--prompt", "The sea was calm. A ship sailed to the old town. Rain."])
    again = capsys.readouterr().out.splitlines()
    assert again[2] == lines[2] != lines[4] == again[4] and lines[2].startswith("  → ")  # of the sentences before alone


def test_documents_are_written_with_the_papers_settings(home, folder, monkeypatch):
    monkeypatch.setattr(generate, "Space", SimpleNamespace(opened=lambda *sources, **settings: Hashed()))
    save_pretrained(arm("continuous", folder), home / "quant")
    given = SimpleNamespace(
        folder=home / "quant", space=[str(home / "space")], device="cpu", dtype="float32", sampler=["top_k=2"]
    )
    assert opened(given)[0].sampler == Chosen(1.5, 0.005, 2)
    given.beside = True
    assert opened(given)[0].sampler == Chosen(3.0, 0.0, 2)


@pytest.mark.filterwarnings("ignore:.*reached the limit of tokens")
def test_a_net_writes_in_the_space_that_it_has_learnt(home, tmp_path, capsys):
    net, space, told = home / "net", str(home / "space"), {"lang": "eng_Latn", "end": "The end.", "width": 8}
    shutil.copytree(net, tmp_path / "net")
    (tmp_path / "net/tokenizer").mkdir()
    path = tmp_path / "net/tokenizer/space.json"
    words = ["generate", str(tmp_path / "net"), "--beam", "1", "--device", "cpu", "--sentences", "1", "--prompt", "The sea."]
    shutil.copytree(space, tmp_path / "other")
    with open(tmp_path / "other/config.json", "a") as file:
        file.write(" ")
    for source, dtype in [(space, "float32"), (space, "bfloat16"), (f"{space}+{tmp_path / 'other'}", "float32")]:
        path.write_text(json.dumps(told | {"encoder": SpaceEncoder(source, dtype=dtype).fingerprint}))
        main([*words, "--space", space, "--space", str(tmp_path / "other")])
        assert capsys.readouterr().out.startswith("The sea. |")
    path.write_text(json.dumps(told | {"encoder": SpaceEncoder(space).fingerprint}))
    for wrong in (["generate", *words[1:]], ["edit", *words[1:], "--delete", "1"]):
        with pytest.raises(SystemExit, match=r"has learnt another space than .*other: give --space the one .*space\.json"):
            main([*wrong, "--space", str(tmp_path / "other")])
    path.write_text("{")
    with pytest.raises(SystemExit, match=r"space\.json is damaged"):
        main([*words, "--space", space])
    save_pretrained(Base(7, CONTEXT, 16, 1, 2), tmp_path / "wide")
    for more in ([], ["--beside"], ["--prompt", "Rain."]):
        with pytest.raises(SystemExit, match="of 7 numbers and the space has 8"):
            main(["generate", str(tmp_path / "wide"), *words[2:], "--space", space, *more])


def test_the_end_marker_is_that_of_the_training_documents():
    given, space = SimpleNamespace(lang="deu_Latn", similar=0.9, repeated=0.8, sentences=7), Hashed()
    space.tokenizer = SimpleNamespace(langs=("deu_Latn", "fra_Latn"))
    french, other = {"end": "Fin.", "lang": "fra_Latn"}, {"end": "Fin.", "lang": "hin_Deva"}  # cut as Hindi, read as German
    for told, text, lang in [({}, END, "deu_Latn"), (french, "Fin.", "fra_Latn"), (other, "Fin.", "deu_Latn")]:
        stop = ending(space, told, given)
        assert torch.equal(stop.end, Hashed().encode([text], lang)[0])
        assert (stop.similar, stop.repeated, stop.limit) == (0.9, 0.8, 7)
    none = ending(space, {"end": None, "lang": "fra_Latn"}, given)
    assert none.end is None and none.similar > 1


def test_prompts_are_cut_as_the_spaces_sentences_are(tmp_path):
    assert longest([str(tmp_path), "a_card"]) == 200
    (tmp_path / "about.json").write_text(json.dumps({"longest": 77}))
    assert longest([f"a_card+{tmp_path}"]) == 77
