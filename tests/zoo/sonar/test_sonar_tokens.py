import io
import pickle
import random

import pytest
import sentencepiece

from zoo.sonar.tokens import MARKERS, Tokenizer, train_sentencepiece


@pytest.fixture(scope="module")
def model():
    return train_sentencepiece(texts(), 60)


def texts():
    draw = random.Random(0)
    return ["".join(draw.choices("abcdef ", k=40)) for _ in range(400)]


def test_ids_are_the_models_moved_up_by_the_pad(model):
    tokenizer = Tokenizer(model, ["x", "y"])
    inner = [i + 1 for i in tokenizer.pieces.encode("abc def")]
    assert tokenizer.encode(["abc def"], "y") == [[62, *inner, 3]]
    assert tokenizer.encode(["abc def"], mode="target") == [[3, 61, *inner, 3]]
    assert tokenizer.vocab == 60 + 1 + 2 + len(MARKERS)
    assert Tokenizer(model, ["x", "y"], "y").encode([""]) == [[62, 3]]


def test_texts_come_back(model):
    tokenizer = Tokenizer(model)
    said = ["abc def fed", "cab", ""]
    assert tokenizer.decode(tokenizer.encode(said, mode="target")) == said
    assert tokenizer.decode([[0, 2, tokenizer.vocab - 1, 61], []]) == ["", ""]


def test_training_is_deterministic_and_has_no_pad(model):
    assert train_sentencepiece(iter(texts()), 60) == model
    pieces = Tokenizer(model).pieces
    assert (pieces.unk_id(), pieces.bos_id(), pieces.eos_id(), pieces.pad_id(), len(pieces)) == (0, 1, 2, -1, 60)


def test_it_travels(model, tmp_path):
    tokenizer = Tokenizer(model, ["x", "y"], "y")
    other = pickle.loads(pickle.dumps(tokenizer))
    assert other.fingerprint == tokenizer.fingerprint and other.encode(["abc"]) == tokenizer.encode(["abc"])
    tokenizer.save(tmp_path / "m")
    assert Tokenizer(tmp_path / "m", ["x", "y"], "y").fingerprint == tokenizer.fingerprint
    assert Tokenizer(model, ["x"]).fingerprint != tokenizer.fingerprint


def test_text_that_is_no_unicode(model):
    assert Tokenizer(model).encode(["ab\ud800"])[0][-1] == 3


def test_sentences_for_bad_input(model, tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no SentencePiece model"):
        Tokenizer(tmp_path / "none")
    (tmp_path / "m").write_bytes(model[:50])
    with pytest.raises(ValueError, match="damaged or another kind of file"):
        Tokenizer(tmp_path / "m")
    with pytest.raises(ValueError, match="each once"):
        Tokenizer(model, ["x", "x"])
    with pytest.raises(ValueError, match="no language 'z'; it has x"):
        Tokenizer(model, ["x"]).encode(["a"], "z")
    with pytest.raises(ValueError, match="'source' or as 'target'"):
        Tokenizer(model).encode(["a"], mode="both")
    with pytest.raises(ValueError, match="give more of them, or ask for fewer"):
        train_sentencepiece(["ab"], 5000)
    given = {"sentence_iterator": iter(texts()), "vocab_size": 60, "pad_id": 3, "minloglevel": 2}
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(model_writer=out, **given)
    with pytest.raises(ValueError, match=r"expects \(0, 1, 2, -1\)"):
        Tokenizer(out.getvalue())
