"""Speed of decoding: the decoder's part of `python -m benchmarks.bench [--quick]`, and of one saved net.

`python -m benchmarks.bench_decode FOLDER [--text FILE …]` prints, for k = 1 .. n heads of a saved net, the tokens per forward
pass and the gain in wall-clock time over k = 1, on prompts cut from the files (default: this package's own source, which no
corpus of the project holds).

Times are the best of interleaved rounds in one process: other work on the machine can only add to them.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from benchmarks.bench_nets import row
from benchmarks.report import table
from benchmarks.spec import ROOT
from zoo.generate import Generation, generate
from zoo.mtp import MTP
from zoo.nn.packed import packed
from zoo.ntp import NextToken
from zoo.pretrained import from_pretrained, to_transformers

SHAPES = {"8 x 512": {"layers": 8, "dim": 512, "heads": 8}, "GPT-2 small": {"layers": 12, "dim": 768, "heads": 12}}
TARGETS = {"8 x 512": ">= 1.2", "GPT-2 small": ">= 1.05"}
STEP = {"layers": 12, "dim": 768, "heads": 12, "vocab": 32000, "context": 512}  # 134M parameters at n = 4


def best(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, tuple[float, float]]:
    """Least (CPU seconds, wall seconds) of each call, the calls taking turns; each runs once before."""
    for call in calls.values():
        call()
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for turn in range(rounds):
        for name in list(calls) if turn % 2 == 0 else list(calls)[::-1]:
            cpu, wall = time.process_time(), time.perf_counter()
            calls[name]()
            taken[name].append((time.process_time() - cpu, time.perf_counter() - wall))
    return {name: (min(x[0] for x in pairs), min(x[1] for x in pairs)) for name, pairs in taken.items()}


def plain(name: str, quick: bool, rounds: int) -> list[dict]:
    """Greedy decoding of one text with a cache, beside transformers' `generate` with the same weights; packing included.

    CPU seconds are those of one thread, as waiting threads would count; wall-clock seconds are those of two.
    """
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    shape = {"layers": 2, "dim": 64, "heads": 2} if quick else SHAPES[name]
    vocab, new = (512, 40) if quick else (50257, 256)
    net = NextToken(vocab, 512, **shape, flavour="gpt2").eval()
    prompt = torch.randint(0, vocab, (1, 32))
    with tempfile.TemporaryDirectory() as folder:
        to_transformers(net, folder)
        other = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa").eval()

    def theirs() -> list[int]:
        ids = other.generate(prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=new, pad_token_id=0)
        return ids[0, prompt.shape[1] :].tolist()

    def ours() -> list[int]:
        return generate(net, prompt, new).tokens[0]

    rows = []
    for clock, word, threads in ((0, "CPU", 1), (1, "wall", 2)):
        torch.set_num_threads(threads)
        taken, same = best({"ours": ours, "theirs": theirs}, rounds), ours() == theirs()
        told = f"greedy decoding, {name}: tokens per {word} s beside transformers" + ("" if same else " (the texts differ)")
        rows.append(row(told, new / taken["ours"][clock], new / taken["theirs"][clock], "tok/s", TARGETS[name]))
    return rows


def steps(quick: bool, rounds: int) -> list[dict]:
    """A self-speculative step at batch 1 beside a plain one, and beside what the weights that it reads predict."""
    torch.manual_seed(0)
    shape = {"layers": 6, "dim": 64, "heads": 2, "vocab": 512, "context": 64} if quick else STEP
    net = MTP(n=4, **shape).eval()
    new, forwards = 32, {}

    def decode(k: int) -> None:
        forwards[k] = generate(net, [[1, 2, 3, 4]], new, heads=k).forwards

    with torch.inference_mode(), packed(net):
        taken = best({str(k): lambda k=k: decode(k) for k in range(1, net.n + 1)}, rounds)
    each = sum(p.numel() for p in net.heads.blocks[0].parameters())
    fixed = sum(p.numel() for p in net.trunk.layers.parameters()) + net.trunk.unembedding.numel()
    rows = []
    for k in range(2, net.n + 1):
        ours, alone = (1000 * taken[str(x)][0] / forwards[x] for x in (k, 1))
        predicted = (fixed + k * each) / (fixed + each)
        name = f"step of k={k} heads beside a plain step, over the bytes' {predicted:.3f}"
        rows.append(row(name, ours, alone, "CPU ms", "<= 1.1", ratio=ours / alone / predicted))
    return rows


def main(quick: bool = False, rounds: int = 5) -> list[dict]:
    """Measure everything: rows {name, ours, anchor, ratio, target, unit, ok}. Some minutes; `quick` seconds."""
    rounds = 1 if quick else rounds
    rows = [*plain("8 x 512", quick, rounds), *plain("GPT-2 small", quick, rounds)]
    torch.set_num_threads(2)
    return [*rows, *steps(quick, rounds)]


def gains(net: nn.Module, prompts: list[list[int]], new: int, rounds: int) -> list[list[str]]:
    """One line per k = 1 .. n: tokens per forward pass, tokens per second, gain over k = 1, whether the texts are the same."""
    out: dict[str, Generation] = {}

    def decode(k: int) -> None:
        out[str(k)] = generate(net, prompts, new, heads=k)

    with torch.inference_mode(), packed(net):
        taken = best({str(k): lambda k=k: decode(k) for k in range(1, getattr(net, "n", 1) + 1)}, rounds)
    lines = []
    for k, (_, wall) in taken.items():
        same = "yes" if out[k].tokens == out["1"].tokens else "no"
        speed, gain = sum(map(len, out[k].tokens)) / wall, taken["1"][1] / wall
        lines.append([k, f"{out[k].tokens_per_forward:.2f}", f"{speed:,.0f}", f"{gain:.2f}", same])
    return lines


def saved() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.bench_decode", description="Gain of self-speculation, k = 1 .. n.")
    parser.add_argument("folder", help="a folder of save_pretrained")
    parser.add_argument("--text", nargs="+", default=sorted(map(str, (ROOT / "zoo").rglob("*.py"))))
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--prompt", type=int, default=64, help="tokens of a prompt")
    parser.add_argument("--tokens", type=int, default=64, help="new tokens")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    from zoo.data.tokenizer import load_tokenizer

    net = from_pretrained(given.folder).to(given.device)
    ids = load_tokenizer(f"{given.folder}/tokenizer").encode("\n\n".join(Path(path).read_text() for path in given.text))
    starts = torch.linspace(0, len(ids) - given.prompt, given.batch + 2)[1:-1].long().tolist()
    lines = gains(net, [ids[start : start + given.prompt] for start in starts], given.tokens, given.rounds)
    print(*table(["k", "tokens/forward", "tokens/s", "gain", "same text"], lines), sep="\n")


if __name__ == "__main__":
    saved()
