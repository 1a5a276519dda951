"""Speed of the sentence space: its part of `python -m benchmarks.bench [--quick]`.

`Space.encode` beside sonar-space's own `predict` at its default batch size: the same weights, and the same sentences of mixed
lengths. Training steps beside the same with torch's own attention. `ResidualQuantizer.encode` beside vector-quantize-pytorch's
ResidualVQ: the same codebooks and vectors. All of them are random: what they say does not change how long it takes.
"""

import pydoc_data.topics
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import torch
import torch.nn.functional as F

from benchmarks.bench_decode import best
from benchmarks.bench_nets import row
from zoo.nn.attention import attention
from zoo.nn.rvq import ResidualQuantizer
from zoo.optim import Muon
from zoo.sonar.autoencoder import AutoEncoder
from zoo.sonar.net import TextEncoder
from zoo.sonar.space import Space
from zoo.sonar.tokens import PAD, Tokenizer, train_sentencepiece

# sonar-space's "small" architecture with a smaller table, which no sentence reads much of; and the size that this project ships.
SHAPES = {
    "6 x 1024": {"dim": 1024, "layers": 6, "heads": 16, "hidden": 4096},
    "2 x 256": {"dim": 256, "layers": 2, "heads": 4, "hidden": 1024},
}
QUICK = {"dim": 32, "layers": 2, "heads": 4, "hidden": 64}
COUNTS = {"6 x 1024": 160, "2 x 256": 1200}
PIECES = 2000
# Codebooks, centroids of each, width, vectors, and the least ratio to ResidualVQ in wall-clock time.
CODES = {"8 x 8192": (8, 8192, 1024, 512, ">= 1.2"), "64 x 8192": (64, 8192, 1024, 256, ">= 1.5")}


def sentences(count: int) -> list[str]:
    """English sentences of 10 to 240 characters out of Python's own manual."""
    text = re.sub(r"\s+", " ", " ".join(pydoc_data.topics.topics.values()))
    found = [s for s in re.split(r"(?<=[.:;]) ", text) if 10 <= len(s) <= 240]
    return [found[i * 7919 % len(found)] for i in range(count)]


def encoding(name: str, quick: bool, rounds: int) -> list[dict]:
    """Sentences per second, at one thread by CPU seconds and at two by the wall clock."""
    said = sentences(40 if quick else COUNTS[name])
    torch.manual_seed(0)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        spaces, theirs = _sides(QUICK if quick else SHAPES[name], Path(folder))
        calls: dict[str, Callable[[], torch.Tensor]] = {kind: lambda s=space: s.encode(said) for kind, space in spaces.items()}
        calls["theirs"] = lambda: theirs.predict(said, source_lang="eng_Latn")
        pieces = theirs.tokenizer.create_encoder(lang="eng_Latn")  # its sentencepiece breaks ties of equal pieces otherwise
        alike = [pieces(text).tolist() == row for text, row in zip(said, spaces["fp32"].tokenizer.encode(said))]
        apart = (calls["fp32"]() - calls["theirs"]())[torch.tensor(alike)].abs().max().item()
        for clock, word, threads in ((0, "CPU", 1), (1, "wall", 2)):
            torch.set_num_threads(threads)
            taken = best(calls, rounds)
            for kind in spaces:
                told = f"encoding, {name}, {kind}: sentences per {word} s beside sonar-space's fp32 predict"
                told += f" (vectors {apart:.0e} apart)" if kind == "fp32" and apart > 1e-5 else ""
                rows.append(row(told, len(said) / taken[kind][clock], len(said) / taken["theirs"][clock], "/s", ">= 3"))
    return rows


def _sides(shape: dict, folder: Path):
    """Spaces of random weights, in fp32 and bf16, and sonar-space's pipeline on the same weights."""
    import soundfile  # noqa: F401  # before fairseq2
    from fairseq2.data.tokenizers import VocabularyInfo
    from fairseq2.models.nllb.tokenizer import NllbTokenizerConfig, load_nllb_tokenizer
    from sonar.inference_pipelines.text import TextToEmbeddingModelPipeline
    from sonar.models.sonar_text import SonarTextEncoderConfig, SonarTextEncoderFactory

    tokenizer = Tokenizer(train_sentencepiece(sentences(3000), PIECES))
    tokenizer.save(folder / "pieces")
    sizes = {**shape, "vocab": tokenizer.vocab, "positions": 512, "pad": PAD}
    encoder = TextEncoder(**sizes)
    config = SonarTextEncoderConfig(
        model_dim=shape["dim"], max_seq_len=512, vocab_info=VocabularyInfo(tokenizer.vocab, 1, 2, 3, PAD), pooling="mean",
        num_encoder_layers=shape["layers"], num_decoder_layers=1, num_encoder_attn_heads=shape["heads"],
        num_decoder_attn_heads=shape["heads"], ffn_inner_dim=shape["hidden"],
    )  # fmt: skip
    model = SonarTextEncoderFactory(config).create_model()
    model.load_state_dict(encoder.state_dict())
    theirs = load_nllb_tokenizer(folder / "pieces", NllbTokenizerConfig(langs=["eng_Latn"], default_lang="eng_Latn"))
    low = TextEncoder(**sizes)
    low.load_state_dict(encoder.state_dict())
    spaces = {"fp32": Space(encoder, None, tokenizer), "bf16": Space(low.to(torch.bfloat16), None, tokenizer)}
    return spaces, TextToEmbeddingModelPipeline(model, theirs)


def quantizing(name: str, quick: bool, rounds: int) -> list[dict]:
    """Vectors per second that are coded, their codes and errors compared."""
    from vector_quantize_pytorch import ResidualVQ

    books, units, width, count, target = (4, 64, 32, 40, CODES[name][-1]) if quick else CODES[name]
    torch.manual_seed(0)
    quantizer = ResidualQuantizer(width, books, units)
    scale = 0.9 ** torch.arange(books)[:, None, None]  # what is left gets smaller
    quantizer.load_state_dict({"centroids": torch.randn(books, units, width) * scale})
    theirs = ResidualVQ(dim=width, num_quantizers=books, codebook_size=units).eval()
    for layer, centroids in zip(theirs.layers, quantizer.centroids):
        layer._codebook.embed.copy_(centroids)
    vectors = torch.randn(count, width)
    with torch.inference_mode():
        taken = best({"ours": lambda: quantizer.encode(vectors), "theirs": lambda: theirs(vectors[None])}, rounds)
        codes, (vectors_of_theirs, other, _) = quantizer.encode(vectors), theirs(vectors[None])
        errors = [(vectors - found).square().mean().item() for found in (quantizer.decode(codes), vectors_of_theirs[0])]
    same, apart = (codes == other[0]).float().mean().item(), abs(errors[0] / errors[1] - 1)
    rows = []
    for clock, word, limit in ((1, "wall", target), (0, "CPU", "")):
        told = f"coding, {name} codebooks: vectors per {word} s beside ResidualVQ"
        rows.append(row(told, count / taken["ours"][clock], count / taken["theirs"][clock], "/s", limit))
    rows.append(row(f"coding, {name} codebooks: codes that are ResidualVQ's, %", 100 * same, 100, "", ">= 0.995"))
    rows.append(row(f"coding, {name} codebooks: error beside ResidualVQ's", *errors, "", "<= 0.0001", apart))
    return rows


def training(quick: bool, rounds: int) -> list[dict]:
    """Tokens per second of training steps of the small space in bfloat16, beside the same with torch's own attention."""
    torch.manual_seed(0)
    shape = {"dim": 32, "heads": 2, "hidden": 64} if quick else {"dim": 256, "heads": 4, "hidden": 1024}
    net = AutoEncoder(PIECES, 64, encoder_layers=2, decoder_layers=2, dropout=0.0, mask=0.0, **shape)
    optimizer = Muon(net, ns_steps=3)
    count, length, steps = (4 if quick else 102), 20, (1 if quick else 8)  # 2,040 tokens a step
    tokens = torch.randint(4, PIECES, (count, length + 1))
    batch = {"source": tokens[:, 1:], "tokens": tokens, "mask": torch.ones_like(tokens, dtype=torch.bool)}

    def train(attend: Callable) -> Callable[[], None]:
        def some() -> None:
            with patch("zoo.sonar.net.attention", attend):
                for _ in range(steps):
                    with torch.autocast("cpu", torch.bfloat16):
                        loss = net(batch)["loss"]
                    loss.backward()
                    optimizer.step()
                    optimizer.zero_grad()

        return some

    def theirs(q, k, v, mask=None, *, causal=False, dropout=0.0):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, dropout_p=dropout)

    taken, found = best({"ours": train(attention), "theirs": train(theirs)}, rounds), []
    for clock, word in ((1, "wall"), (0, "CPU")):
        told = f"training, 2 + 2 x {shape['dim']}, bf16: tokens per {word} s beside the same with torch's own attention"
        speeds = [steps * count * length / taken[name][clock] for name in ("ours", "theirs")]
        found.append(row(told, *speeds, "/s"))
    return found


def main(quick: bool = False, rounds: int = 3) -> list[dict]:
    """Measure everything: rows {name, ours, anchor, ratio, target, unit, ok}. Some minutes; `quick` seconds."""
    rounds = 1 if quick else rounds
    rows = [line for name in SHAPES for line in encoding(name, quick, rounds)]
    torch.set_num_threads(2)
    rows += training(quick, rounds)
    return rows + [line for name in CODES for line in quantizing(name, quick, rounds)]


if __name__ == "__main__":
    for line in main():
        print(line)
