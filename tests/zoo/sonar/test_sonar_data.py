"""Sentences for auto-encoding: what is kept, what a batch holds, and an order that is a pure function of the position."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from zoo.data.sources import Files
from zoo.sonar.autoencoder import AutoEncoder, noised
from zoo.sonar.batches import Known, Side
from zoo.sonar.corpus import Cipher, Pieces, Sentences
from zoo.sonar.data import AutoEncoding
from zoo.sonar.net import TextEncoder
from zoo.sonar.tokens import EOS, PAD

WORDS = "the old ship sailed over a wide green sea and nobody saw its white light burn near our small town at night".split()


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """30 documents of made-up sentences; the last one repeats sentences of the others."""
    folder, rng = tmp_path_factory.mktemp("text"), np.random.default_rng(0)
    said = []
    for number in range(30):
        sentences = [" ".join(rng.choice(WORDS, rng.integers(3, 12))).capitalize() + "." for _ in range(30)]
        said += sentences
        if number == 29:
            sentences = said[:40]
        (folder / f"{number:02d}.txt").write_text(" ".join(sentences) + "\n\n3.14 + 2.72 = 5.86.\n")
    return folder


def made(text, root, vocab_size=80, **more):
    data = AutoEncoding("files", [f"{text}/*.txt"], vocab_size=vocab_size, tokens=96, root=str(root), **more)
    data.corpus.corpus.validation = data.corpus.corpus.test = 0.1
    data.prepare_data()
    data.setup()
    return data


@pytest.fixture(scope="module")
def data(text, tmp_path_factory):
    return made(text, tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def two(text, tmp_path_factory):
    return made(text, tmp_path_factory.mktemp("two"), 120, cipher=True)


def test_sentences_of_the_right_length_with_letters_are_kept(text):
    class Cut:
        fingerprint = "cut"

        def __call__(self, text, lang):
            return text.split("|")

    sentences = Sentences(Files(f"{text}/*.txt"), Cut(), shortest=5, longest=12)
    assert list(sentences.of("a b|four  and\nme|1,2;3.4:5,6|far too long for it")) == ["four and me"]


def test_no_sentence_comes_twice_or_in_two_splits(data):
    rows = {split: [data.sides[split][0].row(i).tobytes() for i in data.rows[split]] for split in data.rows}
    every = [row for split in rows.values() for row in split]
    assert len(every) == len(set(every)) and all(len(found) > 10 for found in rows.values())
    stored = sum(len(data.sides[split][0].ends) for split in rows)
    assert len(every) < stored  # the last document's sentences had been said


def test_known_rows_are_those_of_a_set_of_bytes():
    draw = np.random.default_rng(0)
    side = lambda rows: Side(np.concatenate([[*row, EOS] for row in rows]).astype(np.uint16), 3)
    drawn = lambda count: [draw.integers(10, 13, draw.integers(1, 5)) for _ in range(count)]
    known, seen, trained = Known(), set(), set()
    for training in (True, False, False):
        sides = [side(drawn(60)), side(drawn(60))]
        expected = []
        for i in range(60):
            key, first = tuple(s.row(i).tobytes() for s in sides), sides[0].row(i).tobytes()
            if key not in seen and (training or first not in trained):
                expected.append(i)
                seen.add(key)
                if training:
                    trained.add(first)
        found = known.fresh(sides, np.arange(60), training)
        assert found.tolist() == expected and (0 < len(expected) < 60 or training)


def test_vectors_are_of_the_first_language_without_padding(two):
    encoder = TextEncoder(two.vocab, 16, 1, 2, 32, two.context + 2, PAD).eval()
    found, side = two.vectors(encoder, 50), two.sides["train"][0]
    batches, expected = two._batches("train"), []
    for position in range(len(batches)):
        for number in batches._rows(position)[1]:
            line = [two.tokenizer.lang_id(two.langs[0]), *side.row(number).tolist(), EOS]
            expected.append(encoder(torch.tensor([line]))[0])
    assert found.shape == (50, 16)
    torch.testing.assert_close(found, torch.stack(expected[:50]), atol=1e-5, rtol=1e-5)
    whole, half = two.vectors(encoder, 10**9), two.vectors(encoder, 50, torch.float16)
    assert len(whole) == len(expected) and half.equal(found.half()) and not half.is_inference()


def test_a_pass_is_one_epoch(data):
    batches = data._batches("train")
    predicted = sum(batches[k]["tokens"].numel() - len(batches[k]["tokens"]) for k in range(len(batches)))
    assert data.epochs_seen(predicted) == 1


def test_held_out_text_is_what_was_tokenized(data):
    texts, side = data.sentences("test"), data.sides["test"][0]
    assert len(texts) == len(data.rows["test"])
    assert [side.row(i).tolist() for i in data.rows["test"]] == [i.tolist() for i in Pieces(data.tokenizer).encode_batch(texts)]


def test_a_pass_holds_every_sentence_once_in_batches_of_one_length(data):
    batches = data._batches("train")
    found = [batches[k] for k in range(len(batches))]
    assert sorted(torch.cat([batch["sentence"] for batch in found]).tolist()) == sorted(data.rows["train"].tolist())
    for batch in found:
        assert batch["source"].shape[0] * (batch["source"].shape[1]) <= 96 or len(batch["source"]) == 1
        assert torch.equal(batch["source"][:, 1:], batch["tokens"][:, 2:]) and (batch["tokens"][:, -1] == EOS).all()
        assert (batch["source"][:, 0] == data.tokenizer.lang_id()).all() and "source_length" not in batch
        assert batch["mask"].sum(1).eq(batch["tokens"].shape[1] - 1).all() and not batch["mask"][:, 1].any()
    again = data._batches("train")
    order = lambda start: [again[k]["sentence"].tolist() for k in range(start, start + len(again))]
    assert order(0) == [batch["sentence"].tolist() for batch in found] != order(len(again))


def test_processes_share_a_pass_and_count_a_sentence_once(data):
    rows = data.rows["validation"]
    parts = [data._batches("validation", scored=True) for _ in range(2)]
    counted = []
    for rank, part in enumerate(parts):
        part.rank, part.world = rank, 2
        for k in range(-(-len(part) // 2)):
            batch = part[k]
            counted += batch["sentence"][batch["mask"].any(1)].tolist()
    assert sorted(counted) == sorted(rows.tolist())


def test_each_file_of_rows_holds_out_documents_of_its_own(tmp_path):
    draw = np.random.default_rng(3)
    for name, first in (("sea", "Sea"), ("town", "Town")):
        lines = [". ".join(f"{first} {' '.join(draw.choice(WORDS, 6))}" for _ in range(8)) + "." for _ in range(12)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    files = [f"{tmp_path}/sea.jsonl", f"{tmp_path}/town.jsonl"]
    data = AutoEncoding("files", files, vocab_size=50, tokens=96, root=str(tmp_path / "data"))
    data.prepare_data()
    data.setup()
    for split in ("validation", "test"):
        apart = data.by_source(split)
        assert [name.split("/")[-1] for name in apart] == ["sea.jsonl", "town.jsonl"]
        assert all(text.startswith(first) for first, texts in zip(("Sea", "Town"), apart.values()) for text in texts)
        assert all(len(texts) >= 6 for texts in apart.values())
        assert data.sentences(split) == [text for texts in apart.values() for text in texts]


def test_a_share_is_held_out_of_each_file(tmp_path):
    draw = np.random.default_rng(4)
    for name in ("sea.jsonl", "town.jsonl", "plain.txt"):
        lines = [json.dumps({"text": f"{' '.join(draw.choice(WORDS, 9))} {number}"}) for number in range(400)]
        (tmp_path / name).write_text("\n".join(lines))
    files = [f"{tmp_path}/{name}" for name in ("sea.jsonl", "plain.txt", "town.jsonl")]
    held = [(each.validation, each.test) for each in AutoEncoding("files", files, share=0.1).corpus.corpus.sources]
    assert held == [(0.1, 0.1)] * 3
    sea = AutoEncoding("files", files[:1], share=0.1).corpus.corpus
    assert 20 < sum(document.split == "test" for document in sea.documents()) < 60
    assert AutoEncoding("files", files[:1]).corpus.corpus.test == 0.01


def test_a_checkpoint_goes_on_in_its_own_sentences_only(data, text, tmp_path):
    other = AutoEncoding("files", [f"{text}/0*.txt"], vocab_size=80, root=str(tmp_path))
    state = data.state_dict()
    other.load_state_dict(state)  # nothing is trained
    for kind, stops in (("test", False), ("fit", True)):
        data.trainer = other.trainer = SimpleNamespace(state=SimpleNamespace(fn=kind))
        try:
            data.load_state_dict(state)
            if stops:
                with pytest.raises(ValueError, match=r"trained on other sentences.*another run folder"):
                    other.load_state_dict(state)
            else:
                other.load_state_dict(state)
        finally:
            data.trainer = None


def test_stories_are_sentences_too_and_sentences_are_read_from_the_store(data, tmp_path):
    told = AutoEncoding("stories", vocab_size=300, share=0.2).corpus
    assert told.corpus.test == 0.2 and told.corpus.description == "20,000 stories told from templates"
    said = list(data.stored("test"))
    assert len(said) == len(data.rows["test"]) and said == [" ".join(text.split()) for text in data.sentences("test")]


def test_bytes_of_a_sentence_are_its_text(data):
    batches = data._batches("test", scored=True)
    texts = dict(zip(data.rows["test"].tolist(), data.sentences("test")))
    batch = batches[0]
    for number, row in zip(batch["sentence"].tolist(), batch["bytes"]):
        assert row.sum() == len(texts[number].encode()) + 1  # SentencePiece puts a space before the first word


def test_two_languages_are_translated_in_every_direction(two):
    batches, langs = two._batches("train"), [two.tokenizer.lang_id(lang) for lang in two.langs]
    directions = set()
    for k in range(len(batches)):
        batch = batches[k]
        directions.add((batch["source"][0, 0].item(), batch["tokens"][0, 1].item()))
        assert batch["other"][0, 0] != batch["source"][0, 0]
        line = batch["tokens"][0, 1:][batch["mask"][0, 1:]].tolist()
        assert line[-1] == EOS and EOS not in line[:-1]
    assert directions == {(a, b) for a in langs for b in langs}
    english, cipher = two.sides["test"]
    read = lambda side, i: two.tokenizer.decode([side.row(i).tolist()])[0]
    assert all(Cipher()(read(english, i)) == read(cipher, i) for i in range(20))


def test_pairs_in_many_languages_come_beside_the_text(text, tmp_path):
    draw, cipher = np.random.default_rng(1), Cipher()
    lines = [" ".join(draw.choice(WORDS, 5)) for _ in range(200)]
    rows = [{"eng": line, "text": cipher(line), "lang": ["fra", "deu"][i % 2]} for i, line in enumerate(lines)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match="holds 200 aligned sentences"):
        made(text, tmp_path / "few", 120, pairs=[f"{tmp_path}/pairs.jsonl"])
    data = made(text, tmp_path / "data", 120, pairs=[f"{tmp_path}/pairs.jsonl"], fewest=100)
    assert data.langs == ["eng_Latn", "deu", "fra"]
    batches, known, directions = data._batches("train"), {}, set()
    for row in rows:
        known[row["eng"]] = row
    for k in range(len(batches)):
        batch = batches[k]
        if "other" not in batch:
            continue
        for i, number in enumerate(batch["sentence"].tolist()):
            english, other = (data.tokenizer.decode([side.row(number).tolist()])[0] for side in data.groups["train"][1].sides)
            assert known[english]["text"] == other
            langs = {batch[name][i, 0].item() for name in ("source", "other")}
            assert langs == {data.tokenizer.lang_id("eng_Latn"), data.tokenizer.lang_id(known[english]["lang"])}
            directions.add((batch["source"][i, 0].item(), batch["tokens"][i, 1].item()))
    assert len(directions) == 7  # of and into English, each language into itself and English into itself
    (tmp_path / "broken.jsonl").write_text('{"eng": "a"}\n')
    with pytest.raises(ValueError, match="line 1"):
        made(text, tmp_path / "broken", 120, pairs=[f"{tmp_path}/broken.jsonl"], fewest=1)


def test_a_saved_tokenizer_is_taken_instead(data, text, tmp_path):
    data.save_tokenizer(tmp_path / "tokenizer")
    again = made(text, tmp_path / "again", 50, tokenizer=str(tmp_path / "tokenizer"), longest=40)
    assert again.vocab == data.vocab and again.tokenizer.fingerprint == data.tokenizer.fingerprint
    assert max(map(len, again.sentences("test"))) <= 40 and again.fingerprint != data.fingerprint
    with pytest.raises(FileNotFoundError, match="is missing: give the folder"):
        _ = AutoEncoding("files", [f"{text}/*.txt"], tokenizer=str(tmp_path / "again")).vocab
    of_a_run = AutoEncoding("files", [f"{text}/*.txt"], tokenizer=str(tmp_path))  # whose tokenizer lies in a folder of this name
    assert of_a_run.tokenizer.fingerprint == data.tokenizer.fingerprint


def test_cipher_is_one_to_one():
    cipher = Cipher()
    assert cipher("old 3.5 m, ho!") == f"{cipher('old')} 3.5 {cipher('m')}, {cipher('ho')}!"
    assert [cipher("ab"), cipher("Ab")] == [cipher("b") + cipher("a"), (cipher("b") + cipher("a")).capitalize()]
    assert len({cipher(word) for word in WORDS}) == len(set(WORDS)) and not set(cipher("".join(WORDS))) & set("".join(WORDS))
    assert len(set(cipher.letters.values())) == 26


@pytest.mark.parametrize("kind", ["one", "two"])
def test_loss_learns_a_batch_and_sees_no_padding(kind, data, two, request):
    data = data if kind == "one" else two
    torch.manual_seed(0)
    net = AutoEncoder(data.vocab, 64, 32, 1, 1, 2, 64, dropout=0.0, mask=0.0)
    batch = data._batches("train")[1]
    optimizer = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], 1e-2)
    losses = []
    for _ in range(30):
        out = net(batch)
        optimizer.zero_grad()
        out["loss"].backward()
        optimizer.step()
        losses.append(out["parts"]["next"][0].item() / out["parts"]["next"][1].item())
    assert losses[-1] < 0.5 * losses[0]
    nll = (net.nll(batch) * batch["mask"][:, 1:]).sum()
    torch.testing.assert_close(nll, net(batch)["parts"]["next"][0])
    if kind == "two":
        padded = dict(batch)
        for name, fill in (("source", 7), ("other", 7), ("tokens", 7), ("mask", False), ("bytes", 0)):
            more = torch.full((len(batch[name]), 3), fill, dtype=batch[name].dtype)
            padded[name] = torch.cat([batch[name], more], 1)
        torch.testing.assert_close(net(padded)["loss"], net(batch)["loss"])


def test_training_masks_pieces_and_adds_noise_testing_does_neither():
    net = AutoEncoder(50, 16, 16, 1, 1, 2, 32, dropout=0.0, mask=0.5, noise=1.0)
    source, vectors = torch.randint(10, 40, (64, 12)), torch.randn(512, 16) * torch.arange(1, 17)
    masked, length = net.masked(source, torch.full((64,), 9)), 9
    assert torch.equal(masked[:, 0], source[:, 0]) and torch.equal(masked[:, length - 1 :], source[:, length - 1 :])
    share = (masked != source)[:, 1 : length - 1].float().mean()
    assert 0.4 < share < 0.6 and (masked[masked != source] == 1).all()
    moved = (noised(vectors, net.noise) - vectors).std(0) / vectors.std(0)
    assert moved.sub(3**-0.5).abs().max() < 0.1  # strengths from [0, 1]: their mean square is 1/3
    net.eval()
    assert net.masked(source) is source and noised(vectors, 0.0) is vectors
