"""A tiny space that can almost write its own sentences, and what sonar-space itself makes of it."""

import os
import random
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from zoo.sonar.cards import write_space
from zoo.sonar.net import TextDecoder, TextEncoder
from zoo.sonar.space import Space
from zoo.sonar.tokens import PAD, Tokenizer, train_sentencepiece

LANGS = ("eng_Latn", "fra_Latn")
NAME, HALF = "tiny_zoo", "half_zoo"


def sentences(count: int, seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    words = ["".join(draw.choice("aeioulmnprst") for _ in range(draw.randint(2, 6))) for _ in range(60)]
    return [" ".join(draw.choice(words) for _ in range(draw.randint(1, 7))).capitalize() + "." for _ in range(count)]


def padded(rows: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    lengths = torch.tensor([len(row) for row in rows])
    tokens = torch.full((len(rows), int(lengths.max())), PAD)
    for line, row in zip(tokens, rows):
        line[: len(row)] = torch.tensor(row)
    return tokens, lengths


@pytest.fixture(scope="session")
def harbour():
    """(folder) -> 400 sentences, written there as 20 texts, and an encoder, a decoder and a tokenizer of them, untrained."""

    def make(home: Path):
        draw, words = random.Random(0), "the sea was calm and a ship sailed slowly to its old town".split()
        lines = [" ".join(draw.choices(words, k=draw.randrange(3, 9))).capitalize() + "." for _ in range(400)]
        for i in range(20):
            (home / f"{i}.txt").write_text("\n".join(lines[20 * i : 20 * i + 20]))
        tokenizer = Tokenizer(train_sentencepiece(lines, 48))
        torch.manual_seed(0)
        nets = [kind(tokenizer.vocab, 32, 1, 2, 64, 66, PAD) for kind in (TextEncoder, TextDecoder)]
        return lines, (*nets, tokenizer)

    return make


@pytest.fixture(scope="session")
def tiny() -> SimpleNamespace:
    """tokenizer, texts, and an encoder and decoder that were trained on the texts for a moment: no two outputs are alike."""
    texts = sentences(48)
    tokenizer = Tokenizer(train_sentencepiece(sentences(2000, 1) + texts, 120), LANGS)
    torch.manual_seed(0)
    sizes = {"vocab": tokenizer.vocab, "dim": 32, "layers": 2, "heads": 4, "hidden": 64, "positions": 48, "pad": PAD}
    encoder, decoder = TextEncoder(**sizes, dropout=0.0), TextDecoder(**sizes, dropout=0.0)
    params = [p for p in (*encoder.parameters(), *decoder.parameters()) if p.requires_grad]
    optimizer = torch.optim.AdamW(params, lr=1e-2)
    source, lengths = padded(tokenizer.encode(texts))
    target, _ = padded(tokenizer.encode(texts, mode="target"))
    for _ in range(80):
        logits = decoder(encoder(source, lengths), target[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), target[:, 1:].flatten(), ignore_index=PAD)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return SimpleNamespace(texts=texts, tokenizer=tokenizer, encoder=encoder.eval(), decoder=decoder.eval(), loss=loss.item())


@pytest.fixture(scope="session")
def folder(tiny, tmp_path_factory) -> Path:
    """The tiny space on disk, in fp32, with cards; and in half/, as spaces are shipped, with cards beside the others."""
    path = tmp_path_factory.mktemp("space")
    write_space(path, tiny.encoder, tiny.decoder, tiny.tokenizer, NAME, dtype=torch.float32)
    write_space(path / "half", tiny.encoder, tiny.decoder, tiny.tokenizer, HALF)
    card = (path / "half" / "cards" / f"{HALF}.yaml").read_text()
    (path / "cards" / f"{HALF}.yaml").write_text(card.replace("../", "../half/"))
    return path


@pytest.fixture
def space(tiny) -> Space:
    return Space(tiny.encoder, tiny.decoder, tiny.tokenizer)


@pytest.fixture(scope="session")
def sonar(tiny, folder) -> dict:
    """What sonar-space makes of the tiny space, and random models of its own with their outputs (see sonar_oracle.py).

    One process of its own: importing sonar-space costs 13 seconds of a CPU, and it reads its cards' folder once.
    """
    for name in ("sonar", "fairseq2", "soundfile"):
        if find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
    script, root = Path(__file__).with_name("sonar_oracle.py"), Path(__file__).resolve().parents[3]
    vectors = torch.randn(6, 32, generator=torch.Generator().manual_seed(1))
    asked = {"texts": tiny.texts, "vectors": vectors, "name": NAME, "half": HALF, "langs": LANGS, "shipped": ""}
    for card in (root / "zoo/sonar/small/cards").glob("*.yaml"):  # of the space of this repository, once it is there
        asked["shipped"] = card.stem
        (folder / "cards" / card.name).write_text(card.read_text().replace("../", f"{root}/zoo/sonar/small/"))
    torch.save(asked, folder / "asked.pt")
    env = {**os.environ, "FAIRSEQ2_USER_ASSET_DIR": str(folder / "cards"), "FAIRSEQ2_CACHE_DIR": str(folder / "cache")}
    env |= {"FAIRSEQ2_NO_PROGRESS": "1", "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, str(script), str(folder)], capture_output=True, text=True, env=env, timeout=900)
    assert done.returncode == 0, done.stderr[-4000:]
    return torch.load(folder / "answers.pt", weights_only=True)
