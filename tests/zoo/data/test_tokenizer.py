import json
import random
import subprocess
import sys

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from zoo.data.tokenizer import BPE, END, Bytes, Pieces, load_tokenizer, train_bpe

CORPUS = [
    "def add(a, b):\n    return a + b  # the sum\n" * 20,
    "The cat's hat isn't there; they'll say \"it's\" 1234 times, don't they?\r\n\r\nÜber naïve façades — 東京 🙂\n" * 20,
    "\t\tif x:\n\t\t\tpass\n\n\n" + " " * 300 + "end\n",
]
NASTY = [
    "",
    " ",
    END,
    f"before {END}after{END}",
    "<s>[INST] </s><unk><0x0A><0xFF>",
    "line\r\nline\r\n\r\n\tx\r",
    " " * 5000 + "x" + "\n" * 5000 + "\t \n" * 500 + " ",
    "=" * 3000 + "#" * 3000 + "aaaaaaab" * 900,
    "e\u0301 é ﬁ \u200b\u200d🇩🇪👩‍👩‍👧 \u00a0\u3000\u2028 мир 東京 العربية \U0010ffff \x00\x7f",
    "I'LL 'll 's'S DON'T it's 12345 3.14e-10 __init__ a1b2 ½ ² ٣",
    "\ufeffbom and \u2581 the marker \u2581\u2581",
]


def scrambled(count: int) -> list[str]:
    """Texts drawn from letters that tokenizers stumble over."""
    draw = random.Random(0)
    letters = [
        "a",
        "the",
        " ",
        "  ",
        "\n",
        "\r\n",
        "\t",
        "'",
        "'s",
        "'ll",
        "9",
        "é",
        "e\u0301",
        "東",
        "🙂",
        "_",
        "...",
        END,
        "<s>",
        "\u2581",
        "\x00",
        "\u00a0",
    ]
    return ["".join(draw.choices(letters, k=draw.randrange(1, 60))) for _ in range(count)]


def llama(end: str | None = "</s>") -> tokenizers.Tokenizer:
    """A small tokenizer of Llama's make: BPE over characters, spaces as U+2581, a dummy prefix, unknown characters as bytes."""
    marked = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    learner = tokenizers.Tokenizer(models.BPE())
    learner.normalizer, learner.pre_tokenizer = marked, pre_tokenizers.Split("\u2581", "merged_with_next")
    learner.train_from_iterator(CORPUS[:1] * 3, trainers.BpeTrainer(vocab_size=90, show_progress=False))
    learned = json.loads(learner.to_str())["model"]
    first = ["<unk>", "<s>", *([end] if end else []), *(f"<0x{byte:02X}>" for byte in range(256))]
    vocab = {piece: i for i, piece in enumerate([*first, *sorted(learned["vocab"], key=learned["vocab"].get)])}
    merges = [tuple(merge) for merge in learned["merges"]]
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = marked
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(["<unk>", "<s>", *([end] if end else [])])
    return tokenizer


@pytest.fixture(scope="module")
def bpe() -> BPE:
    return train_bpe(iter(CORPUS), 350)


@pytest.fixture
def pieces(tmp_path) -> Pieces:
    llama().save(str(tmp_path / "tokenizer.json"))
    return load_tokenizer(tmp_path / "tokenizer.json")


@pytest.mark.parametrize("text", NASTY + scrambled(5))
def test_bytes_and_bpe_keep_every_byte(bpe, text):
    for tokenizer in (Bytes(), bpe):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert tokenizer.eos not in ids
        assert tokenizer.token_bytes[ids].sum() == len(text.encode())
        assert tokenizer.encode_batch([text, "x"])[0].tolist() == ids


def test_bytes_are_bytes():
    assert Bytes().encode("é") == [0xC3, 0xA9] and Bytes().vocab == 257 and Bytes().eos == 256
    assert Bytes().decode([0xC3, 0xA9, 256, 0xC3]) == "é\ufffd"


def test_tiktoken_gives_the_ids_of_tokenizers(bpe):
    reference = tokenizers.Tokenizer.from_str(bpe._text)
    reference.encode_special_tokens = True
    for text in CORPUS + NASTY + scrambled(2000):
        assert bpe.encode(text) == reference.encode(text).ids, text


@pytest.mark.parametrize("text", NASTY + scrambled(5))
def test_without_tiktoken_the_ids_are_the_same(bpe, text, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tiktoken", None)  # as on a bare node
    bpe.save(tmp_path)
    bare = load_tokenizer(tmp_path)
    assert bare._encoding is None and bare.fingerprint == bpe.fingerprint
    assert bare.encode(text) == bpe.encode(text) and bare.decode(bpe.encode(text)) == bpe.decode(bpe.encode(text))


def test_the_end_token_is_the_last_id_and_training_repeats_itself(bpe):
    assert (bpe.vocab, bpe.eos) == (350, 349) and bpe.token_bytes[bpe.eos] == 0 and bpe.token_bytes.shape == (350,)
    again = train_bpe(iter(CORPUS), 350)
    assert again.fingerprint == bpe.fingerprint and again._text == bpe._text
    assert train_bpe(iter(CORPUS), 340).fingerprint != bpe.fingerprint
    assert len(bpe.encode("return a + b")) < 10  # it has learned something


def test_a_small_corpus_gives_fewer_ids():
    tokenizer = train_bpe(["ab"], 1000)
    assert tokenizer.vocab == 258 and tokenizer.decode(tokenizer.encode("abc")) == "abc"
    with pytest.raises(ValueError, match="257"):
        train_bpe(["ab"], 256)


def test_runs_of_white_space_that_tiktoken_refuses(bpe):
    text = " " * 1_000_000 + "x"
    with pytest.raises(ValueError):
        bpe._encoding.encode_to_numpy(text, disallowed_special=())
    assert bpe.decode(bpe.encode(text)) == text


def test_lone_surrogates_are_replaced(bpe, pieces):
    for tokenizer in (Bytes(), bpe, pieces):
        assert tokenizer.decode(tokenizer.encode("a\ud800b")) == "a?b"
        assert tokenizer.encode_batch(["a\ud800b"])[0].tolist() == tokenizer.encode("a\ud800b")


@pytest.mark.parametrize("text", NASTY[1:] + scrambled(5))
def test_byte_fallback(pieces, text):
    ids = pieces.encode(text)
    assert pieces.token_bytes[ids].sum() == 1 + len(text.replace("\u2581", " ").encode())  # the dummy prefix is one byte
    assert pieces.decode(ids) == text.replace("\u2581", " ")  # the marker cannot be told from a space
    assert not {0, pieces.eos} & set(ids)  # markers in a document are text
    assert pieces.encode_batch([text])[0].tolist() == ids


def test_byte_fallback_ids_are_the_librarys(pieces):
    reference = llama()
    for text in ["def add(a, b): return a", "東京 🙂"]:
        assert pieces.encode(text) == reference.encode(text, add_special_tokens=False).ids
    assert pieces.eos == 2 and pieces.vocab == reference.get_vocab_size()


def test_saved_tokenizers_come_back(bpe, pieces, tmp_path):
    for tokenizer in (Bytes(), bpe, pieces):
        tokenizer.save(tmp_path / "saved")
        again = load_tokenizer(tmp_path / "saved")
        assert type(again) is type(tokenizer)
        assert (again.vocab, again.eos, again.fingerprint) == (tokenizer.vocab, tokenizer.eos, tokenizer.fingerprint)
        assert np.array_equal(again.token_bytes, tokenizer.token_bytes)
        assert all(again.encode(text) == tokenizer.encode(text) for text in NASTY)


def test_fingerprints_are_of_content_not_of_layout(bpe, tmp_path):
    data = json.loads(bpe._text) | {"truncation": None}
    data["model"]["merges"] = [" ".join(merge) for merge in data["model"]["merges"]]  # the older way to write them
    (tmp_path / "other.json").write_text(json.dumps(data, indent=2))
    other = load_tokenizer(tmp_path / "other.json")
    assert isinstance(other, BPE) and other.fingerprint == bpe.fingerprint


def test_gpt2s_two_files(bpe, tmp_path):
    model = json.loads(bpe._text)["model"]
    (tmp_path / "vocab.json").write_text(json.dumps(model["vocab"]))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(merge) for merge in model["merges"]))
    assert load_tokenizer(tmp_path).fingerprint == bpe.fingerprint


@pytest.mark.parametrize(
    "change",
    [
        {"normalizer": {"type": "NFC"}},
        {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}},
    ],
)
def test_what_tiktoken_cannot_do_the_library_does(bpe, tmp_path, change):
    (tmp_path / "tokenizer.json").write_text(json.dumps(json.loads(bpe._text) | change))
    other = load_tokenizer(tmp_path)
    assert isinstance(other, Pieces) and other.fingerprint != bpe.fingerprint
    assert other.encode("e\u0301 x") != bpe.encode("e\u0301 x")
    assert (other.token_bytes == bpe.token_bytes).all()


def test_the_end_token_is_found(tmp_path):
    llama(end="<stop>").save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ValueError, match=r"no end token.*eos_token"):
        load_tokenizer(tmp_path)
    for eos in ("<stop>", {"content": "<stop>", "special": True}):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": eos}))
        assert load_tokenizer(tmp_path).eos == 2
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>"}))
    with pytest.raises(ValueError, match="no end token"):
        load_tokenizer(tmp_path)


def test_wrong_files_are_told_in_one_sentence(tmp_path):
    for spec in (tmp_path / "none.json", tmp_path / "none", "./none", "~/none", "a/b/c"):
        with pytest.raises(FileNotFoundError, match=r"no file or folder .*none|a/b/c"):
            load_tokenizer(str(spec))
    with pytest.raises(FileNotFoundError, match="missing"):
        load_tokenizer(tmp_path)
    for text in ("{", "{}", '{"model": {"type": "BPE"}}', '["model"]'):
        (tmp_path / "tokenizer.json").write_text(text)
        with pytest.raises(ValueError, match=r"no readable tokenizer.json") as error:
            load_tokenizer(tmp_path)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["gpt2", "hf-internal-testing/llama-tokenizer"])
def test_without_network_a_hub_name_names_what_works_without(name, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(RuntimeError, match="bytes, bpe, or the path") as error:
        load_tokenizer(name)
    assert "\n" not in str(error.value) and name in str(error.value)


def test_loading_imports_neither_torch_nor_transformers():
    use = "from zoo.data.tokenizer import train_bpe; train_bpe(['ab ab'], 300).encode('ab')"
    code = f"import sys; {use}; print({{'torch', 'transformers', 'datasets'}} & {{*sys.modules}})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
