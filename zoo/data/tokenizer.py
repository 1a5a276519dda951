"""Tokenizers: raw bytes, byte-level BPE (trained here, or GPT-2's), and any other tokenizer.json (Llama's 32k and its like).

All have the same face: `vocab` (number of ids, end token included), `eos`, `fingerprint` (of what they do, not of where they
were found), `encode`, `encode_batch`, `decode`, `token_bytes`, `save`. None of them ever reads a marker such as "<|endoftext|>"
inside a document as the end token: text is text. Byte-level BPE is trained by `tokenizers` and encoded by `tiktoken`, which
gives the same ids several times faster.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import numpy as np

from zoo.explain import Told

END = "<|endoftext|>"
END_NAMES = (END, "</s>", "<|end_of_text|>", "<eos>", "<|im_end|>")  # GPT-2; Llama 1 and 2; Llama 3; Gemma; Qwen chat
# GPT-2's split into words, with possessive quantifiers (same matches, less backtracking); in `tokenizers` it is `ByteLevel`.
GPT2_WORDS = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""


class Bytes:
    """Raw bytes: ids 0-255 are the utf-8 bytes of the text, 256 ends a document."""

    vocab, eos = 257, 256
    fingerprint = hashlib.sha256(b"utf-8 bytes, end token 256").hexdigest()

    def __init__(self):
        self.token_bytes = np.ones(257, np.int64)  # (vocab,) utf-8 bytes each id stands for
        self.token_bytes[256] = 0

    def encode(self, text: str) -> list[int]:
        return list(text.encode(errors="replace"))

    def encode_batch(self, texts: list[str]) -> list[np.ndarray]:
        """One array of ids per text (uint8: a document holds no end token)."""
        return [np.frombuffer(text.encode(errors="replace"), np.uint8) for text in texts]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of the ids; the end token is left out, broken utf-8 becomes U+FFFD."""
        return bytes(i for i in map(int, ids) if i < 256).decode(errors="replace")

    def save(self, folder: str | os.PathLike) -> None:
        """Write tokenizer.json and tokenizer_config.json, enough for `load_tokenizer(folder)`."""
        _save(folder, json.dumps({"model": {"type": "bytes"}}), END)


class Pieces:
    """Any tokenizer.json, encoded by the `tokenizers` library: Llama's 32k (BPE with byte fallback) and others.

    A dummy prefix that the tokenizer puts before a text ("▁" of Llama 1 and 2) counts as the one byte that it decodes to.
    """

    def __init__(self, text: str, end: str):
        self._text, self._end, self._tokenizer = text, end, _pieces(text)
        self.eos = self._tokenizer.token_to_id(end)
        pieces = self._tokenizer.get_vocab(with_added_tokens=True)
        self.vocab = max(pieces.values()) + 1
        self.fingerprint = hashlib.sha256(f"{end} {json.dumps(json.loads(text), sort_keys=True)}".encode()).hexdigest()
        special = {i for i, token in self._tokenizer.get_added_tokens_decoder().items() if token.special}
        byte_level = '"ByteLevel"' in json.dumps(json.loads(text).get("decoder"))
        self.token_bytes = np.zeros(self.vocab, np.int64)  # (vocab,) utf-8 bytes each id stands for
        for piece, i in pieces.items():
            if i not in special and i != self.eos:
                self.token_bytes[i] = len(piece) if byte_level else _piece_bytes(piece)

    def encode(self, text: str) -> list[int]:
        valid = text.encode(errors="replace").decode()  # lone surrogates (JSON can hold them) have no utf-8
        return self._tokenizer.encode_batch_fast([valid], add_special_tokens=False)[0].ids

    def encode_batch(self, texts: list[str]) -> list[np.ndarray]:
        """One uint32 array of ids per text; one by one, so that a process keeps to one thread."""
        return [np.array(self.encode(text), np.uint32) for text in texts]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of the ids; special tokens are left out."""
        return self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=True)

    def save(self, folder: str | os.PathLike) -> None:
        """Write tokenizer.json and tokenizer_config.json, enough for `load_tokenizer(folder)`."""
        _save(folder, self._text, self._end)


class BPE:
    """Byte-level BPE in GPT-2's manner (GPT-2's words, every byte an id), encoded by tiktoken.

    text: the tokenizer.json. ranks: bytes -> id; a lower id merges first. end, eos: name and id of the end token.
    """

    def __init__(self, text: str, ranks: dict[bytes, int], end: str, eos: int):
        self._text, self._end, self.eos, self.vocab = text, end, eos, max(eos, *ranks.values()) + 1
        self.token_bytes = np.zeros(self.vocab, np.int64)  # (vocab,) utf-8 bytes each id stands for
        digest = hashlib.sha256(b"byte-level bpe, gpt2 words, end token %d" % eos)
        for token, rank in ranks.items():
            self.token_bytes[rank] = len(token)
        for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
            digest.update(b"\n%d %s" % (rank, token.hex().encode()))
        self.fingerprint = digest.hexdigest()
        try:
            import tiktoken
        except ImportError:  # a bare node: the tokenizers library gives the same ids, three times slower
            self._encoding = None
        else:
            self._encoding = tiktoken.Encoding("zoo", pat_str=GPT2_WORDS, mergeable_ranks=ranks, special_tokens={end: eos})

    def encode(self, text: str) -> list[int]:
        return self._array(text).tolist()

    def encode_batch(self, texts: list[str]) -> list[np.ndarray]:
        """One uint32 array of ids per text, straight from tiktoken's buffer: no Python list of ids, one thread."""
        return [self._array(text) for text in texts]

    def _array(self, text: str) -> np.ndarray:
        if self._encoding is None:
            text = text.encode(errors="replace").decode()
            return np.array(self._slow.encode(text, add_special_tokens=False).ids, np.uint32)
        try:
            return self._encoding.encode_to_numpy(text, disallowed_special=())
        except UnicodeError:  # lone surrogates (JSON can hold them) have no utf-8
            return self._array(text.encode(errors="replace").decode())
        except ValueError:  # a megabyte of white space in one run is too much for tiktoken's regex
            return np.array(self._slow.encode(text, add_special_tokens=False).ids, np.uint32)

    @cached_property
    def _slow(self):
        """The `tokenizers` object of the same ids, read once: a large vocabulary takes it a twentieth of a second."""
        return _pieces(self._text)

    def decode(self, ids: Iterable[int]) -> str:
        """Text of the ids; the end token is left out, broken utf-8 becomes U+FFFD."""
        ids = [i for i in map(int, ids) if i != self.eos]
        return self._encoding.decode(ids) if self._encoding else self._slow.decode(ids)

    def save(self, folder: str | os.PathLike) -> None:
        """Write tokenizer.json and tokenizer_config.json, enough for `load_tokenizer(folder)`."""
        _save(folder, self._text, self._end)


Tokenizer = Bytes | BPE | Pieces


def train_bpe(texts: Iterable[str], vocab_size: int) -> BPE | Pieces:
    """Train byte-level BPE on an iterator of texts; the same texts give the same tokenizer.

    vocab_size counts the end token, the last id. A small corpus may hold fewer merges than asked for; `vocab` then is smaller.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    if vocab_size < 257:
        raise ValueError(f"vocab_size {vocab_size} is too small for byte-level BPE: 256 bytes and the end token need 257.")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size - 1, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([END])  # after training: the end token is the last id, not the first
    text = tokenizer.to_str()
    ranks = _byte_level_ranks(json.loads(text), END)
    return BPE(text, ranks, END, tokenizer.token_to_id(END)) if ranks else Pieces(text, END)


def load_tokenizer(spec: str | os.PathLike) -> Tokenizer:
    """Load "bytes", a local tokenizer.json or its folder (or one with vocab.json and merges.txt), or a hub name such as "gpt2".

    Raises FileNotFoundError, ValueError or RuntimeError in one sentence when a file is missing, damaged, without end token, or
    cannot be fetched.
    """
    if str(spec) == "bytes":
        return Bytes()
    path = Path(spec).expanduser()
    if path.exists():
        files = (path, path.with_name("tokenizer_config.json")) if path.is_file() else _files(path)
    elif path.suffix == ".json" or str(spec).startswith((".", "/", "~")) or str(spec).count("/") > 1:
        raise FileNotFoundError(
            f"tokenizer: there is no file or folder {path}; give the path of a tokenizer.json, a hub name, or bytes."
        )
    else:
        files = _fetch(str(spec))
    return _read(*files)


def _read(path: Path, config: Path | None) -> Tokenizer:
    try:
        text = _from_merges(path) if path.name == "merges.txt" else path.read_text(encoding="utf-8")
        data = json.loads(text)
        model = data["model"]
        if model["type"] == "bytes":
            return Bytes()
        ids = model["vocab"] if isinstance(model["vocab"], dict) else {piece: i for i, (piece, _) in enumerate(model["vocab"])}
        ids = ids | {token["content"]: token["id"] for token in data.get("added_tokens", [])}
        named = _end_name(config)
        end = next((name for name in ([named] if named else END_NAMES) if name in ids), None)
        ranks = _byte_level_ranks(data, end) if end else None
        if end:
            return BPE(text, ranks, end, ids[end]) if ranks else Pieces(text, end)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"tokenizer: {path} is missing; give the path of a tokenizer.json, a hub name, or bytes."
        ) from None
    except Exception as error:  # a damaged file fails in many ways; `tokenizers` raises bare Exception
        raise ValueError(f"tokenizer: {path} is no readable tokenizer.json ({error}); fetch or save it again.") from None
    names = named or " or ".join(END_NAMES)
    raise ValueError(
        f'tokenizer: {path} has no end token ({names}); name one in a tokenizer_config.json beside it, {{"eos_token": …}}.'
    )


def _end_name(config: Path | None) -> str | None:
    if config is None or not config.exists():
        return None
    end = json.loads(config.read_text(encoding="utf-8")).get("eos_token")
    return end["content"] if isinstance(end, dict) else end


def _files(folder: Path) -> tuple[Path, Path]:
    older = folder / "merges.txt"
    path = older if older.exists() and not (folder / "tokenizer.json").exists() else folder / "tokenizer.json"
    return path, folder / "tokenizer_config.json"


def _from_merges(path: Path) -> str:
    """The tokenizer.json of GPT-2's older pair of files, vocab.json and merges.txt."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    tokenizer = Tokenizer(models.BPE.from_file(str(path.with_name("vocab.json")), str(path)))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer.add_special_tokens([END])
    return tokenizer.to_str()


def _fetch(name: str) -> tuple[Path, Path | None]:
    """tokenizer.json and, if there is one, tokenizer_config.json of a hub name, from the cache where they are in it."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()  # it reports each of its five attempts
    try:
        path = Path(hf_hub_download(name, "tokenizer.json"))
    except Exception as error:  # no network, no such name, gated: one sentence for all
        lines = [line.strip(" .") for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        reason = "no connection to it" if isinstance(error, LocalEntryNotFoundError) else lines[0]
        raise Told(
            f"tokenizer: {name!r} cannot be had from the hub ({reason}): check the name and the network, or use tokenizer "
            "bytes, bpe, or the path of a tokenizer.json, which need none"
        ) from None
    try:
        return path, Path(hf_hub_download(name, "tokenizer_config.json"))
    except Exception:  # optional: the usual names of end tokens are tried without it
        return path, None


def _pieces(text: str):
    """The `tokenizers` object of a tokenizer.json, told to read markers inside a document as text and to leave lengths alone."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(text)
    tokenizer.encode_special_tokens = True
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _byte_level_ranks(data: dict, end: str) -> dict[bytes, int] | None:
    """bytes -> rank if tiktoken encodes this tokenizer.json to the same ids, else None.

    It does for GPT-2's words, all 256 bytes, and merges that make one new token each, in the order of their ids.
    """
    model, words = data["model"], data.get("pre_tokenizer") or {}
    gpt2 = words.get("type") == "ByteLevel" and words.get("use_regex", True) and not words.get("add_prefix_space")
    if model["type"] != "BPE" or not gpt2 or data.get("normalizer") or model.get("dropout") or model.get("ignore_merges"):
        return None
    if any(token["content"] != end for token in data.get("added_tokens", [])):
        return None
    merges = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in model["merges"]]
    merged = [model["vocab"][left + right] for left, right in merges]
    vocab = {piece: i for piece, i in model["vocab"].items() if piece != end}
    if merged != sorted(set(merged)) or len(vocab) != 256 + len(merged):
        return None
    letter = _byte_letters()
    return {bytes(letter[c] for c in piece): i for piece, i in vocab.items()}


def _byte_letters() -> dict[str, int]:
    """The letter that stands for each byte in byte-level vocabularies: its own where that prints, else U+0100 and on."""
    shown = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(0x100 + i): byte for i, byte in enumerate(hidden)}


def _piece_bytes(piece: str) -> int:
    """utf-8 bytes of a SentencePiece-like piece: <0x0A> is one byte, the marker U+2581 a space."""
    if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
        return 1
    return len(piece.replace("\u2581", " ").encode())


def _save(folder: str | os.PathLike, text: str, end: str) -> None:
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in (("tokenizer_config.json", json.dumps({"eos_token": end})), ("tokenizer.json", text)):
        temporary = folder / f"{name}.tmp"
        temporary.write_text(content, encoding="utf-8")
        os.replace(temporary, folder / name)
