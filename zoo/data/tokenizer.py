"""Tokenizers: raw bytes, byte-level BPE (trained here, or GPT-2's), and any other tokenizer.json (Llama's 32k and its like).

All three have the same face: `vocab` (number of ids, end token included), `eos`, `fingerprint` (of what they do, not of where they were found),
`encode`, `encode_batch`, `decode`, `token_bytes` and `save`. None of them ever reads a marker such as "<|endoftext|>" inside a document as
the end token: text is text. Byte-level BPE is trained by `tokenizers` and encoded by `tiktoken`, which gives the same ids about three times faster.
"""
import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

END = "<|endoftext|>"
END_NAMES = (END, "</s>", "<|end_of_text|>", "<eos>", "<|im_end|>")  # GPT-2, Llama 1 and 2, Llama 3, Gemma, Qwen
# GPT-2's split into words, with possessive quantifiers (same matches, no backtracking); `tokenizers` has the same built into `ByteLevel`.
GPT2_WORDS = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""


class Bytes:
    """Raw bytes: ids 0-255 are the utf-8 bytes of the text, 256 ends a document."""

    vocab, eos = 257, 256
    fingerprint = hashlib.sha256(b"bytes, end 256").hexdigest()

    def __init__(self):
        self.token_bytes = np.ones(257, np.int64)  # (vocab,) utf-8 bytes each id stands for
        self.token_bytes[256] = 0

    def encode(self, text: str) -> list[int]:
        return list(valid(text).encode())

    def encode_batch(self, texts: list[str]) -> list[np.ndarray]:
        """One array of ids per text; uint8 here, as no end token is added."""
        return [np.frombuffer(valid(text).encode(), np.uint8) for text in texts]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of the ids; the end token is left out, broken utf-8 becomes U+FFFD."""
        return bytes(i for i in map(int, ids) if i < 256).decode(errors="replace")

    def save(self, folder: str | os.PathLike) -> None:
        _write(folder, json.dumps({"model": {"type": "bytes"}}), END)


class BPE:
    """Byte-level BPE in GPT-2's manner, encoded by tiktoken.

    merged: the byte string of each id, in order of merging (the 256 single bytes among them); id `eos` is the end token.
    text: the tokenizer.json it came from, which `save` writes back unchanged.
    """

    def __init__(self, ranks: dict[bytes, int], eos: int, text: str):
        import tiktoken

        self.eos, self.vocab, self._text = eos, max(eos, *ranks.values()) + 1, text
        self.token_bytes = np.zeros(self.vocab, np.int64)  # (vocab,) utf-8 bytes each id stands for
        digest = hashlib.sha256(b"byte-level bpe, gpt2 words, end %d" % eos)
        for token, rank in sorted(ranks.items(), key=lambda pair: pair[1]):
            self.token_bytes[rank] = len(token)
            digest.update(b"%d %s\n" % (rank, token.hex().encode()))
        self.fingerprint = digest.hexdigest()
        self._encoding = tiktoken.Encoding("zoo", pat_str=GPT2_WORDS, mergeable_ranks=ranks, special_tokens={END: eos})

    def encode(self, text: str) -> list[int]:
        return self._encoding.encode_ordinary(valid(text))

    def encode_batch(self, texts: list[str]) -> list[np.ndarray]:
        """One uint32 array of ids per text, straight from tiktoken's buffer: no Python list of ids, one thread."""
        encode = self._encoding._core_bpe.encode_to_tiktoken_buffer
        return [np.frombuffer(encode(valid(text), frozenset()), np.uint32) for text in texts]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of the ids; the end token is left out, broken utf-8 becomes U+FFFD."""
        return self._encoding.decode([i for i in map(int, ids) if i != self.eos])

    def save(self, folder: str | os.PathLike) -> None:
        _write(folder, self._text, END)
