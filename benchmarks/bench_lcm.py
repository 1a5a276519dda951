"""Speed of the two towers: their part of `python -m benchmarks.bench [--quick]`.

The anchor does the work that LCM's released code does (benchmarks/released_lcm.py) in a net of the same shape, in the same
process, turn by turn; CPU seconds are the figure to compare, as in bench_nets.py.
"""

import argparse
import statistics
from collections.abc import Callable

import torch

from benchmarks import released_lcm
from benchmarks.bench_nets import times
from zoo.lcm import TwoTower
from zoo.nn.packed import packed

FULL = {"width": 1024, "sizes": {"dim": 512, "layers": 2, "denoiser_layers": 3, "heads": 8, "hidden": 1368}, "new": 8}
QUICK = {"width": 32, "sizes": {"dim": 32, "layers": 2, "denoiser_layers": 3, "heads": 2, "hidden": 64}, "new": 2}
# The paper's width: there products are large, and what each of them costs besides is little.
WIDE = {"width": 1024, "sizes": {"dim": 2048, "layers": 1, "denoiser_layers": 2, "heads": 16, "hidden": 5632}, "new": 2}
TRAINING = {"128 positions": (4, 32, 1.3), "2,048 positions": (16, 128, 1.5)}  # documents, sentences, target
SAMPLING = {"16 to 24 sentences of context": (16, 3.0), "128": (128, 8.0)}
FLAT = 16, 512, 1.5  # contexts, and how much dearer a sentence may be behind the longer one


def net_of(shape: dict, dropout: float = 0.1, released: bool = False) -> TwoTower:
    """A net; as `released`, with the queries and keys of a self-attention that sees itself alone."""
    torch.manual_seed(0)
    net = TwoTower(shape["width"], 128, **shape["sizes"], dropout=dropout, queries=released, positions=1024)
    for layer in net.layers:
        torch.nn.init.normal_(layer.modulation.weight, std=0.02)
    return net


def batch_of(shape: dict, rows: int, size: int) -> dict[str, torch.Tensor]:
    vectors = torch.randn(rows, size, shape["width"], generator=torch.Generator().manual_seed(rows))
    return {"vec": vectors, "role": torch.full((rows, size), 2), "mask": torch.ones(rows, dtype=torch.bool)}


def step_of(net: TwoTower, loss: Callable[[], torch.Tensor], fused: bool, half: bool = False) -> Callable[[], None]:
    """One whole training step: forward, backward, clipping, AdamW."""
    way = {"fused": True} if fused else {"foreach": False}
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, eps=1e-5, **way)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            value = loss()
        value.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 25.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def training(shape: dict, rows: int, size: int, rounds: int) -> dict[str, float]:
    """CPU seconds of a step: released, ours, ours in bfloat16."""
    batch = batch_of(shape, rows, size)
    theirs, ours, half = net_of(shape, released=True), net_of(shape), net_of(shape)
    steps = {
        "released": step_of(theirs, lambda: released_lcm.loss(theirs, batch), False),
        "ours": step_of(ours, lambda: ours(batch)["loss"], True),
        "bf16": step_of(half, lambda: half(batch)["loss"], True, True),
    }
    return {name: statistics.median(cpu for cpu, _ in taken) for name, taken in times(steps, rounds).items()}


def sampling(shape: dict, contexts: list[int], rounds: int, rows: int = 4, released: bool = True) -> dict[str, float]:
    """CPU seconds of `new` sentences for 4 documents that have so many before: "released 16", "ours 16", "bf16 16", … The
    documents are read before the clock starts; so are those that the released code's contextualizer keeps."""
    net, new = net_of(shape, 0.0).eval(), shape["new"]
    theirs, half = net_of(shape, 0.0, released=True).eval(), net_of(shape, 0.0).eval().bfloat16()
    steps, generator = {}, torch.Generator().manual_seed(1)
    for size in contexts:
        prompt = torch.randn(rows, size, shape["width"], generator=generator)
        noise = torch.randn(rows, new, shape["width"], generator=generator)
        if released and size in [context for context, _ in SAMPLING.values()]:
            steps[f"released {size}"] = released_lcm.sampling(theirs, prompt, noise)
        steps[f"ours {size}"], steps[f"bf16 {size}"] = ours(net, prompt, noise), ours(half, prompt, noise)
    return {name: statistics.median(cpu for cpu, _ in taken) for name, taken in times(steps, rounds).items()}


def ours(net: TwoTower, prompt: torch.Tensor, noise: torch.Tensor) -> Callable[[], torch.Tensor]:
    """Makes sentences (B, count, E) of noise behind prompts (B, N, E), whenever it is called."""
    memory = net.memory(len(prompt), prompt.shape[1] + noise.shape[1])
    net.read(prompt, memory)

    @torch.no_grad()
    def made() -> torch.Tensor:
        found = []
        with packed(net):
            for number in range(noise.shape[1]):
                found.append(net.next_vector(memory, noise[:, number]))
                net.read(found[-1][:, None], memory)
        memory.forget(noise.shape[1])
        return torch.stack(found, 1)

    return made


def rows_of(name: str, ours: float, anchor: float, target: float, unit: str = "CPU s", most: bool = False) -> dict:
    ratio = ours / anchor if most else anchor / ours
    met = ratio <= target if most else ratio >= target
    return {
        "name": name, "ours": ours, "anchor": anchor, "ratio": ratio, "target": f"{'≤' if most else '≥'} {target}", "unit": unit,
        "ok": met,
    }  # fmt: skip


def main(quick: bool = False) -> list[dict]:
    """Rows of the report."""
    shape, rounds = (QUICK, 1) if quick else (FULL, 9)
    found, contexts = [], sorted({*(size for size, _ in SAMPLING.values()), *FLAT[:2]})
    with torch.random.fork_rng():
        for name, (rows, size, target) in TRAINING.items():
            taken = training(shape, 2 if quick else rows, 8 if quick else size, rounds if size < 100 else max(1, rounds // 3))
            found.append(rows_of(f"two towers, training step, {name}", taken["ours"], taken["released"], target))
            found.append(rows_of(f"two towers, bf16 against own fp32, {name}", taken["bf16"], taken["ours"], 1.5))
        taken = sampling(shape, contexts, max(1, rounds // 3))
        wide = sampling(QUICK if quick else WIDE, FLAT[:1], max(1, rounds // 3), released=False)
    for name, (size, target) in SAMPLING.items():
        found.append(rows_of(f"two towers, sampling, {name}", taken[f"ours {size}"], taken[f"released {size}"], target))
    short, long, most = FLAT
    found.append(
        rows_of(
            f"two towers, a sentence at {long} of context against {short}",
            taken[f"ours {long}"],
            taken[f"ours {short}"],
            most,
            most=True,
        )
    )
    for name, seconds in {"": taken, f", width {WIDE['sizes']['dim']:,}": wide}.items():
        found.append(
            rows_of(f"two towers, sampling, bf16 against own fp32{name}", seconds[f"bf16 {short}"], seconds[f"ours {short}"], 1.5)
        )
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="benchmarks.bench_lcm", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    for line in main(parser.parse_args().quick):
        print(f"{line['name']}: {line['ours']:.4g} against {line['anchor']:.4g}, ratio {line['ratio']:.3g} ({line['target']})")
