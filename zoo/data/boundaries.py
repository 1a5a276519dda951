"""`Boundaries`: a byte-level classifier of sentence ends, trained here, that takes the place of SaT where its weights are not.

It is no SaT: some 190 thousand parameters of dilated convolutions over UTF-8 bytes, so any script passes, with a look of 63 bytes
to either side. It learns from documents that are lists of sentences, and the source of those is stated in its folder: what
another segmenter cut, or texts that come a sentence a line, joined. A share of the training text is lower-cased and stripped of
punctuation, as SaT's is (Frohmann et al. 2024, §3), which is where it can be better than rules.

    zoo prepare boundaries --out DIR --files GLOB… [--lines]      train one; --lines: a line is a sentence
"""

import argparse
import json
import math
import os
import random
import re
import unicodedata
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.data.language import LANG, SCRIPTS, UNSPACED
from zoo.data.segment import Segmenter, Sentencex, cut
from zoo.data.shards import write_json
from zoo.data.sources import Files, Source, digest
from zoo.files import put

PAD = 256  # stands for what lies outside a document
WINDOW = 512  # bytes whose ends are learnt from at a time
BLOCK = 1 << 16  # bytes classified at a time
_CLOSED = re.compile(f"[{''.join(SCRIPTS[code] for code in sorted(UNSPACED & SCRIPTS.keys()))}。！？]$")


class ByteNet(nn.Module):
    """Residual dilated convolutions of width 3 over bytes: (B, N) ids 0–256 -> (B, N) logits that a sentence ends there.

    Outputs depend on `reach` bytes to each side; those nearer to an edge of the input see zeros beyond it.
    """

    def __init__(self, channels: int = 96, dilations: tuple[int, ...] = (1, 2, 4, 8, 16, 32)):
        super().__init__()
        self.reach = sum(dilations)
        self.embed = nn.Embedding(257, channels)
        self.convolutions = nn.ModuleList(nn.Conv1d(channels, channels, 3, padding=d, dilation=d) for d in dilations)
        self.out = nn.Conv1d(channels, 1, 1)
        nn.init.constant_(self.out.bias, -4.0)  # about one byte in sixty ends a sentence

    def forward(self, ids: Tensor) -> Tensor:
        h = self.embed(ids).transpose(1, 2)  # (B, C, N)
        for convolution in self.convolutions:
            h = h + F.gelu(convolution(h))
        return self.out(h).squeeze(1)


class Boundaries:
    """The trained classifier as a segmenter: SaT's place in `Capped` and plain, with probabilities.

    folder: what `train` wrote. threshold: a sentence ends where the probability is higher.
    Raises FileNotFoundError or ValueError in a sentence when it is loaded and the folder holds none.
    """

    def __init__(self, folder: str, threshold: float = 0.5, device: str = "cpu"):
        self.folder, self.threshold, self.device = folder, threshold, device
        self._net: ByteNet | None = None

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_net": None}

    @cached_property
    def about(self) -> dict:
        """What is said about the training: labels, corpus, bytes, f1 on held-out documents, …"""
        try:
            return json.loads((Path(self.folder).expanduser() / "boundaries.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise FileNotFoundError(
                f"there is no boundary classifier in {self.folder}: train one there with `zoo prepare boundaries`"
            ) from None
        except ValueError:
            raise ValueError(f"{self.folder}/boundaries.json is damaged: train the classifier again") from None

    @property
    def fingerprint(self) -> str:
        return digest("boundaries", self.about["weights"], self.threshold)

    def probabilities(self, text: str, lang: str = LANG) -> np.ndarray:
        """That a sentence ends after each character: (characters,)."""
        if not text:
            return np.zeros(0, np.float32)
        data = np.frombuffer(text.encode(errors="replace"), np.uint8)
        last = np.append(data[1:] & 0xC0 != 0x80, True)  # the last byte of each character
        return self._classified(data)[last]

    def __call__(self, text: str, lang: str = LANG) -> list[str]:
        return cut(text, self.probabilities(text, lang) > self.threshold)

    @torch.inference_mode()
    def _classified(self, data: np.ndarray) -> np.ndarray:
        net = self._loaded()
        edge = np.full(net.reach, PAD, np.int64)
        ids = torch.from_numpy(np.concatenate([edge, data, edge]))
        found = []
        for start in range(0, len(data), BLOCK):
            block = ids[start : start + BLOCK + 2 * net.reach].to(self.device)
            found.append(net(block[None])[0, net.reach : len(block) - net.reach].sigmoid().float().cpu().numpy())
        return np.concatenate(found)

    def _loaded(self) -> ByteNet:
        if self._net is None:
            from safetensors import SafetensorError
            from safetensors.torch import load_file

            path, net = Path(self.folder).expanduser() / "boundaries.safetensors", ByteNet(self.about["channels"])
            try:
                net.load_state_dict({name: value.float() for name, value in load_file(path).items()})
            except (OSError, SafetensorError, RuntimeError) as error:
                reason = str(error).splitlines()[0]
                raise ValueError(
                    f"{path} holds no such classifier ({reason}): train it again, or fetch the folder whole"
                ) from None
            self._net = net.eval().to(self.device)
        return self._net


def joined(sentences: list[str], rng: random.Random, corrupt: float) -> tuple[bytes, np.ndarray]:
    """A document's bytes and whether a sentence ends after each. Sentences are joined by a space, one in ten by a line end,
    those of scripts without spaces by nothing; a share `corrupt` of the documents is lower-cased and loses its punctuation."""
    if rng.random() < corrupt:
        kept = ("".join(c for c in text.lower() if unicodedata.category(c)[0] != "P") for text in sentences)
        sentences = [text.strip() for text in kept if text.strip()]
    parts, ends = [], []
    for text in sentences:
        data = text.encode(errors="replace")
        gap = b"\n" if rng.random() < 0.1 else b"" if _CLOSED.search(text) else b" "
        parts.append(data + gap)
        end = np.zeros(len(data) + len(gap), bool)
        end[len(data) - 1] = True
        ends.append(end)
    return b"".join(parts), np.concatenate([np.zeros(0, bool), *ends])


def cut_by(segmenter: Segmenter, texts: Iterable[tuple[str, str]]) -> Iterator[list[str]]:
    """(text, lang) -> its sentences as another segmenter cuts them."""
    return (segmenter(text, lang) for text, lang in texts)


def train(
    documents: Iterable[list[str]],
    folder: str | os.PathLike,
    labels: str,
    steps: int = 1500,
    batch: int = 16,
    lr: float = 3e-3,
    corrupt: float = 0.1,
    megabytes: float = 20.0,
    seed: int = 0,
    device: str = "cpu",
    channels: int = 96,
) -> dict:
    """Train a `ByteNet` on documents (lists of sentences) and write its folder; one document in 20 is held out for `f1`.

    labels: where the sentences come from, in words; it is written beside the weights. megabytes: at most so much text.
    Returns what is written. Raises ValueError for fewer than 40 documents.
    """
    from safetensors.torch import save_file

    data, held, used = _read(documents, random.Random(seed), corrupt, megabytes)
    torch.manual_seed(seed)
    net = ByteNet(channels).to(device)
    optimizer = torch.optim.AdamW(net.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=0.01)
    curve = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda i: min(1, (i + 1) / 50) * (0.02 + 0.49 * (1 + math.cos(math.pi * i / steps)))
    )
    draw, span = torch.Generator().manual_seed(seed), torch.arange(WINDOW + 2 * net.reach)
    for _ in range(steps):
        starts = torch.randint(len(data[0]) - len(span) + 1, (batch,), generator=draw)
        ids, ends = (torch.from_numpy(each[starts[:, None] + span]).to(device) for each in data)  # (B, WINDOW + 2 reach)
        inner = slice(net.reach, -net.reach)
        logits, ids, ends = net(ids.long())[:, inner], ids[:, inner], ends[:, inner]
        loss = F.binary_cross_entropy_with_logits(logits[ids != PAD], ends[ids != PAD].float())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        curve.step()
    folder = Path(folder)
    weights = {name: value.detach().half().cpu().contiguous() for name, value in net.state_dict().items()}
    put(folder / "boundaries.safetensors", lambda draft: save_file(weights, draft))
    content = digest({name: value.numpy().tobytes().hex() for name, value in weights.items()})
    about = {"labels": labels, "weights": content, "channels": channels, "bytes": used, "steps": steps, "seed": seed}
    about |= {"corrupt": corrupt, "loss": round(loss.item(), 5), "parameters": sum(p.numel() for p in net.parameters())}
    write_json(folder / "boundaries.json", about)
    about |= {name: round(value, 4) for name, value in agreement(Boundaries(str(folder)), held).items()}
    write_json(folder / "boundaries.json", about)
    return about


def _read(documents: Iterable[list[str]], rng: random.Random, corrupt: float, megabytes: float):
    """((ids, ends) of all documents, with PAD between them), held-out documents, bytes of text."""
    ids, ends, held, used, reach = [], [], [], 0, ByteNet(1).reach
    for number, sentences in enumerate(documents):
        if number % 20 == 7:
            held.append(sentences)
            continue
        data, marks = joined(sentences, rng, corrupt)
        ids += [np.frombuffer(data, np.uint8).astype(np.int16), np.full(reach, PAD, np.int16)]
        ends += [marks, np.zeros(reach, bool)]
        used += len(data)
        if used > megabytes * 1e6:
            break
    if len(ids) < 78:
        raise ValueError(f"{len(ids) // 2 + len(held)} documents are too few to train and test on: give 40 or more")
    space = [np.full(WINDOW + 2 * reach, PAD, np.int16)], [np.zeros(WINDOW + 2 * reach, bool)]
    return (np.concatenate([*ids, *space[0]]), np.concatenate([*ends, *space[1]])), held, used


def agreement(segmenter: Segmenter, documents: list[list[str]]) -> dict[str, float]:
    """Precision, recall and f1 of a segmenter's inner sentence ends on documents (lists of sentences) joined by spaces."""
    right = found = there = 0
    for sentences in documents:
        data, _ = joined(sentences, random.Random(0), 0.0)
        marks = [set(np.cumsum([len("".join(piece.split())) for piece in pieces])[:-1].tolist())
                 for pieces in (segmenter(data.decode()), sentences)]  # fmt: skip
        right, found, there = right + len(marks[0] & marks[1]), found + len(marks[0]), there + len(marks[1])
    return {"precision": right / max(1, found), "recall": right / max(1, there), "f1": 2 * right / max(1, found + there)}


def main(words: list[str] | None = None) -> dict[str, float]:
    """Returns precision, recall and f1 on held-out documents."""
    about, rest = __doc__.split(": ", 1)[1].split("\n\n")[0], "Without --files, all other words are of `zoo prepare`."
    parser = argparse.ArgumentParser("zoo prepare boundaries", description=about, epilog=rest)
    parser.add_argument("--files", nargs="+", help="documents, as data.files takes them; else those of a recipe (-c RECIPE …)")
    parser.add_argument("--out", required=True, help="folder of the classifier")
    parser.add_argument("--lines", action="store_true", help="a line is a sentence; else sentencex cuts the documents")
    parser.add_argument("--lang", default=LANG, help="language of the documents, for sentencex (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=1500)
    given, rest = parser.parse_known_args(words)
    if bool(given.files) == bool(rest):
        parser.error("give --files, or the recipe of the data whose text it learns from (-c RECIPE …), and not both")
    source = Files(given.files, validation=0, test=0) if given.files else _of_recipe(rest)
    texts = (document.text for document in source.documents("train"))
    if given.lines:
        documents = ([line for line in map(str.strip, text.splitlines()) if line] for text in texts)
        labels = f"lines of {source.description}, joined"
    else:
        documents = cut_by(Sentencex(), ((text, given.lang) for text in texts))
        labels = f"sentencex's boundaries in {source.description}"
    about = train(documents, given.out, labels, given.steps)
    print(json.dumps(about, indent=1))
    return {name: about[name] for name in ("precision", "recall", "f1")}


def _of_recipe(words: list[str]) -> Source:
    """The documents of a recipe's data, before they are cut into sentences."""
    from zoo.cli import main as lightning

    source = lightning(["prepare", *words]).datamodule.corpus
    return getattr(source, "corpus", source)


if __name__ == "__main__":
    main()
