"""The judge of coherence: learns what can be learnt and nothing else, and judges long documents as a naive loop would."""

import json
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
from sentence_vectors import Hashed, Stops

from zoo.__main__ import main
from zoo.data.crawl import CommonCrawlSentences
from zoo.data.sentence_store import SentenceStore
from zoo.data.sources import Files
from zoo.evals import judge as module
from zoo.evals.judge import Judge, pieces, shuffled, train, vectors_of, write_documents

E = 6


def walks(count, ordered=True, seed=0):
    """Documents whose sentences go on from the one before, or have nothing to do with each other."""
    draw = torch.Generator().manual_seed(seed)
    turn = torch.linalg.qr(torch.randn(E, E, generator=draw))[0]
    found = []
    for _ in range(count):
        rows = [torch.randn(E, generator=draw)]
        for _ in range(int(torch.randint(2, 24, (), generator=draw))):
            fresh = torch.randn(E, generator=draw)
            rows.append(turn @ rows[-1] * 0.9 + 0.4 * fresh if ordered else fresh)
        found.append(torch.stack(rows) * 0.01 + 3)
    return found


@pytest.fixture(scope="module")
def taught():
    torch.manual_seed(0)
    judge = Judge(E, 16, 32)
    return judge, train(judge, walks(300), steps=250, lr=5e-3)


def test_it_tells_documents_from_shuffled_ones(taught):
    judge, found = taught
    assert found["held_out"] == 30 and found["accuracy"] > 0.8 and found["pairwise"] > 0.85
    others, draw = walks(400)[300:], torch.Generator().manual_seed(5)
    right, wrong = judge.probability(others), judge.probability([shuffled(each, draw) for each in others])
    assert right.mean() > wrong.mean() + 0.4 and 0 <= wrong.min() and right.max() <= 1


def test_it_learns_nothing_where_there_is_no_order():
    torch.manual_seed(0)
    judge = Judge(E, 16, 32)
    train(judge, walks(200, ordered=False), steps=60, lr=5e-3)
    others, draw = walks(200, ordered=False, seed=1), torch.Generator().manual_seed(5)
    right, wrong = judge.probability(others), judge.probability([shuffled(each, draw) for each in others])
    assert abs(float((right > wrong).double().mean()) - 0.5) < 0.12


def test_long_documents_are_judged_in_pieces(taught):
    judge, documents = taught[0], walks(40, seed=3)
    assert [[len(p) for p in pieces(torch.zeros(n, 1))] for n in (2, 15, 16, 20, 21)] == [[2], [15], [10] * 3, [10] * 3, [10] * 4]
    starts = [int(piece[0]) for piece in pieces(torch.arange(27)[:, None])]
    assert starts == [0, 5, 10, 15, 17]
    found = judge.probability(documents, batch=7)
    for document, value in zip(documents, found.tolist()):
        parts = [document] if len(document) <= 15 else pieces(document)
        alone = [judge(part[None], torch.tensor([len(part)])).sigmoid().item() for part in parts]
        assert value == pytest.approx(sum(alone) / len(alone), abs=1e-6)


def test_a_shuffled_document_is_another_one():
    draw = torch.Generator().manual_seed(0)
    for n in (2, 3, 5):
        for _ in range(20):
            order = shuffled(torch.arange(n)[:, None], draw)[:, 0].tolist()
            assert sorted(order) == list(range(n)) != order


def test_it_is_saved_whole(taught, tmp_path):
    judge, documents = taught[0], walks(5, seed=4)
    judge.about = {"encoder": "of a test"}
    judge.save(tmp_path / "judge")
    again = Judge.opened(tmp_path / "judge")
    assert again.probability(documents).equal(judge.probability(documents)) and again.about["encoder"] == "of a test"
    assert sorted(path.name for path in (tmp_path / "judge").iterdir()) == ["judge.json", "judge.safetensors"]
    (tmp_path / "judge" / "judge.safetensors").write_bytes(b"cut")
    with pytest.raises(ValueError, match="holds a damaged judge or none"):
        Judge.opened(tmp_path / "judge")
    with pytest.raises(FileNotFoundError, match=r"`zoo prepare judge --out .* -c RECIPE` trains a judge"):
        Judge.opened(tmp_path)
    with pytest.raises(ValueError, match="12 documents of 3 sentences or more are too few"):
        train(Judge(E), [torch.zeros(3, E)] * 12 + [torch.zeros(2, E)] * 90)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A sentence store of 150 documents, four in ten of them held out."""
    home, rng = tmp_path_factory.mktemp("judged"), random.Random(0)
    rows = [" ".join(f"Satz {rng.randrange(500)} of {i}." for _ in range(rng.randint(1, 30))) for i in range(150)]
    (home / "a.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    made = CommonCrawlSentences(
        source="files", files=[f"{home}/a.jsonl"], segmenter=Stops(), encoder=Hashed(), context=4, root=str(home)
    )
    made.corpus = Files([f"{home}/a.jsonl"], validation=0.4, test=0.1)
    made.prepare_data()
    return made


def test_the_verb_reads_the_validation_split_alone(data, tmp_path, monkeypatch, capsys):
    recipe, others = tmp_path / "recipe.yaml", tmp_path / "tokens.yaml"
    model = "model: {class_path: zoo.module.LanguageModel, init_args: {net: {class_path: zoo.ntp.net.NextToken}}}\n"
    given = f"{{source: store, files: ['{data.folder}'], context: 4}}"
    recipe.write_text(f"{model}data: {{class_path: zoo.data.crawl.CommonCrawlSentences, init_args: {given}}}\n")
    given = f"{{source: files, files: ['{data.folder.parent}/a.jsonl'], tokenizer: bytes, context: 4, root: {tmp_path}}}"
    others.write_text(f"{model}data: {{class_path: zoo.data.OpenWebText, init_args: {given}}}\n")
    seen = []
    monkeypatch.setattr(
        module, "train", lambda judge, documents, *rest, **given: seen.extend(documents) or train(judge, documents, 5)
    )
    found = main(["prepare", "judge", "--out", str(tmp_path / "judge"), "--documents", str(tmp_path / "held.jsonl"),
                  "--device", "cpu", "--dim", "8", "-c", str(recipe)])  # fmt: skip
    store = SentenceStore(data.folder, "validation", wrap=10**6)
    assert len(seen) == len(store) > 40 and all(each.shape[1] == E for each in seen)
    assert [len(each) for each in seen] == (store.lengths - 1).tolist()  # whole documents, without the end marker
    judge = Judge.opened(tmp_path / "judge")
    assert judge.about["measured"] == found and judge.about["encoder"] == "hashed" and judge.about["split"] == "validation"
    assert f"judge: {tmp_path / 'judge'}, of {len(store)} documents (validation)" in capsys.readouterr().out
    texts = [json.loads(line)["text"] for line in (tmp_path / "held.jsonl").read_text().splitlines()]
    assert [text.replace("\n", " ") for text in texts] == [" ".join(store.texts(n)[:-1]) for n in range(len(store))]
    lines = sum(text.count("\n") for text in texts) / sum(len(store.texts(n)) - 2 for n in range(len(store)))
    assert 0.15 < lines < 0.25
    count = len(seen)
    main(
        ["prepare", "judge", "--out", str(tmp_path / "all"), "--split", "all", "--device", "cpu", "--dim", "8", "-c", str(recipe)]
    )
    assert len(seen) - count == 150 and Judge.opened(tmp_path / "all").about["split"] == "all"
    with pytest.raises(SystemExit) as ended:
        main(["prepare", "judge", "--out", str(tmp_path / "x"), "-c", str(others)])
    assert "give a recipe whose data have `view: sentences`" in str(ended.value)


def test_documents_are_spread_over_the_split(data, tmp_path):
    store = SentenceStore(data.folder, "validation", wrap=10**6)
    assert [number for number, _ in vectors_of(store, 7)] == [i * len(store) // 7 for i in range(7)]
    number, vectors = list(vectors_of(store, 3))[1]
    assert (vectors.numpy() == store.chunks(np.array([number]))[0][0, :-1]).all()
    assert write_documents([store], tmp_path / "a" / "b.jsonl") == len(store) and len(list((tmp_path / "a").iterdir())) == 1
