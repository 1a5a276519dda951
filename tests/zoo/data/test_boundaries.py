"""The byte-level classifier: it learns, reads any script, and says where its labels come from."""

import json
import pickle
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from zoo.data import boundaries
from zoo.data.boundaries import PAD, Boundaries, ByteNet, agreement, joined, train
from zoo.data.segment import Capped, cut


def documents(count, seed=0):
    """Sentences that end in a full stop or an ideographic one, with numbers that hold full stops too."""
    rng = random.Random(seed)
    words = ["the", "größe", "saw", "3.5", "tree", "漢字"]
    draw = lambda: " ".join(rng.choices(words, k=rng.randint(2, 9))).capitalize() + rng.choice([".", "。"])
    return [[draw() for _ in range(rng.randint(2, 9))] for _ in range(count)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(7)
    folder = tmp_path_factory.mktemp("boundaries") / "made"
    train(documents(200), folder, "sentences made up by the test", steps=60, batch=4, lr=1e-2, corrupt=0.0, channels=16)
    return str(folder)


def test_it_learns_and_says_from_what(folder):
    made = Boundaries(folder)
    found = agreement(made, documents(20, seed=1))
    assert found["f1"] > 0.97 and agreement(cut_nothing, documents(20))["recall"] == 0
    assert made.about["labels"] == "sentences made up by the test" and made.about["f1"] > 0.97
    assert made("The tree saw 3.5 of. The größe 漢字 tree。The saw.") == [
        "The tree saw 3.5 of.",
        "The größe 漢字 tree。",
        "The saw.",
    ]


def cut_nothing(text, lang="eng_Latn"):
    return [text]


def test_the_paper_sized_net_is_small():
    assert sum(p.numel() for p in ByteNet().parameters()) < 500_000


def test_characters_get_the_probability_of_their_last_byte(folder):
    made, text = Boundaries(folder), "aé漢🙂\ud800. B"
    data = text.encode(errors="replace")
    net, edge = made._loaded(), [PAD] * made._loaded().reach
    with torch.inference_mode():
        whole = net(torch.tensor([[*edge, *data, *edge]]))[0].sigmoid().numpy()[len(edge) : -len(edge)]
    last = np.cumsum([len(character.encode(errors="replace")) for character in text]) - 1
    assert np.allclose(made.probabilities(text), whole[last], atol=1e-6)
    assert len(made.probabilities("")) == 0 and made("") == [] and made(" \n") == []


def test_blocks_are_the_whole_text(folder, monkeypatch):
    made = Boundaries(folder)
    text = " ".join(sentence for document in documents(6, seed=3) for sentence in document)
    whole = made.probabilities(text)
    monkeypatch.setattr(boundaries, "BLOCK", 50)
    assert np.allclose(made.probabilities(text), whole, atol=1e-6)
    assert "".join("".join(made(text)).split()) == "".join(text.split())
    assert all(len(piece) <= 20 for piece in Capped(made, 20)(text))
    assert made(text) == cut(text, whole > made.threshold)


def test_copies_and_thresholds(folder):
    made = Boundaries(folder)
    made("Load it.")
    copy = pickle.loads(pickle.dumps(made))
    assert copy._net is None and copy.fingerprint == made.fingerprint != Boundaries(folder, threshold=0.9).fingerprint
    assert copy("The tree. The saw.") == made("The tree. The saw.")


def test_joining_marks_the_last_byte_of_each_sentence():
    for seed in range(20):
        data, ends = joined(["Größe da.", "漢字。", "Hi"], random.Random(seed), 0.0)
        assert len(data) == len(ends) and ends.sum() == 3
        stops = (np.flatnonzero(ends) + 1).tolist()
        assert [data[a:b].decode().strip() for a, b in zip([0, *stops], stops)] == ["Größe da.", "漢字。", "Hi"]
        assert "漢字。Hi" in data.decode() or "漢字。\nHi" in data.decode()
    data, ends = joined(["Größe, da!", "..."], random.Random(0), 1.0)
    assert data.decode().strip() == "größe da" and ends.sum() == 1


def test_the_command_takes_files_or_the_text_of_a_recipe(tmp_path, capsys):
    rows = [json.dumps({"text": "\n".join(sentences)}) for sentences in documents(80)]
    (tmp_path / "texts.jsonl").write_text("\n".join(rows))
    files, words = str(tmp_path / "texts.jsonl"), ["--out", str(tmp_path / "made"), "--steps", "2"]
    found = boundaries.main(["--files", files, "--lines", *words])
    told = json.loads(capsys.readouterr().out)
    assert told["labels"].startswith("lines of files: ") and told["steps"] == 2 and told["parameters"] < 500_000
    assert set(found) == {"precision", "recall", "f1"} and all(found[name] == told[name] for name in found)
    assert Boundaries(str(tmp_path / "made")).about == told
    given = ["--data.init_args.source=files", f"--data.init_args.files=['{files}']", "--data.init_args.vocab_size=36"]
    given += [f"--data.init_args.root={tmp_path}/data"]
    boundaries.main([*words, "-c", str(Path(__file__).parents[3] / "recipes/sonar/small.yaml"), *given])
    said = capsys.readouterr().out
    again = json.loads(said[said.index("{") :])
    assert again["labels"].startswith("sentencex's boundaries in files: ") and again["bytes"] < told["bytes"]  # two are held out
    for wrong in (words, [*words, "--files", files, *given]):
        with pytest.raises(SystemExit):
            boundaries.main(wrong)
        assert "and not both" in capsys.readouterr().err


def test_mistakes_are_named(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="no boundary classifier in nowhere"):
        Boundaries("nowhere")("a")
    with pytest.raises(ValueError, match="30 documents are too few"):
        train(documents(30), tmp_path, "none")
    (tmp_path / "boundaries.json").write_text(json.dumps(Boundaries(folder).about))
    (tmp_path / "boundaries.safetensors").write_bytes(b"junk")
    with pytest.raises(ValueError, match="holds no such classifier"):
        Boundaries(str(tmp_path))("a")
    (tmp_path / "boundaries.json").write_text("{")
    with pytest.raises(ValueError, match=r"boundaries.json is damaged"):
        Boundaries(str(tmp_path))("a")
