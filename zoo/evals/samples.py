"""Samples for code problems: a net completes prompts, jails judge the programs, and what is done once is kept in a file."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from zoo.data.tokenizer import Tokenizer
from zoo.evals.problems import Problem, parses
from zoo.evals.sandbox import Jails, Outcome
from zoo.generate import generate
from zoo.sampling import Sampling


@dataclass(frozen=True)
class Drawing:
    """How samples are drawn: `samples` per problem, each of up to `tokens` and up to `characters` (None: any number; with it nets
    of different tokenizers write as much), `batch` at once, with `heads` of the net (None: all it has; they draft, and the
    distribution stays that of head 1), and nucleus `top_p`."""

    samples: int = 200
    tokens: int = 512
    batch: int = 32
    top_p: float | None = None
    heads: int | None = None
    seed: int = 0
    characters: int | None = None

    def __post_init__(self):
        if min(self.samples, self.tokens, self.batch, self.characters or 1) < 1:
            raise ValueError(f"{self}: samples, tokens, characters and batch must be at least 1.")


@dataclass(frozen=True)
class Sample:
    """One completion and what became of it. parses: the program is Python. cut: its prompt was too long for the net."""

    problem: str
    number: int
    completion: str
    status: str
    detail: str
    parses: bool
    cut: bool


class Kept:
    """Samples in a file of JSON lines, each written when it is judged. A last line that a kill left unfinished is dropped."""

    def __init__(self, path: Path | None):
        self.path, self.samples = path, {}
        if path is not None and path.exists():
            whole, newline, rest = path.read_text(encoding="utf-8").rpartition("\n")
            if rest:
                path.write_text(whole + newline, encoding="utf-8")
            try:
                read = [Sample(**json.loads(line)) for line in whole.splitlines()]
            except (TypeError, ValueError) as error:
                raise ValueError(f"{path} holds a line that is no sample ({error}): move the file away to draw again") from error
            self.samples = {(sample.problem, sample.number): sample for sample in read}

    def add(self, samples: Sequence[Sample]) -> None:
        self.samples |= {(s.problem, s.number): s for s in samples}
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(vars(s)) + "\n" for s in samples)


def solve(
    net: nn.Module,
    tokenizer: Tokenizer,
    problems: Sequence[Problem],
    temperature: float,
    drawing: Drawing,
    jails: Jails,
    path: Path | None = None,
) -> list[list[Sample]]:
    """Samples of every problem. Those found in the file at `path` are not made again, new ones are added to it.

    The file belongs to one net and one way of drawing (see `signature`). Judging goes on beside the next batch's generation.
    """
    kept = Kept(path)
    wanted = [(p, i) for p in problems for i in range(drawing.samples) if (p.id, i) not in kept.samples]
    waiting: list[tuple[Sample, Future[Outcome]]] = []
    for chunk in (wanted[i : i + drawing.batch] for i in range(0, len(wanted), drawing.batch)):
        drawn = complete(net, tokenizer, chunk, temperature, drawing)
        futures = [(s, jails.submit(p.trial(p.prefix + s.completion))) for (p, _), s in zip(chunk, drawn, strict=True)]
        kept.add(list(_judged(waiting)))
        waiting = futures
    kept.add(list(_judged(waiting)))
    return [[kept.samples[p.id, i] for i in range(drawing.samples)] for p in problems]


def _judged(waiting: list[tuple[Sample, "Future[Outcome]"]]) -> Iterator[Sample]:
    for sample, future in waiting:
        outcome = future.result()
        yield Sample(**vars(sample) | {"status": outcome.status, "detail": outcome.detail})


def complete(
    net: nn.Module, tokenizer: Tokenizer, wanted: Sequence[tuple[Problem, int]], temperature: float, drawing: Drawing
) -> list[Sample]:
    """Completions of (problem, number), not judged yet; a prompt that leaves no room in the net's context loses its beginning.

    The same call draws the same samples: the seed is a function of the settings and of the first problem and number.
    """
    room = net.context - min(drawing.tokens, net.context // 2)
    whole = [tokenizer.encode(problem.prompt) or [tokenizer.eos] for problem, _ in wanted]
    prompts = [ids[-room:] for ids in whole]
    stops = sorted({stop for problem, _ in wanted for stop in problem.stops})
    reach = max((len(stop.encode()) for stop in stops), default=0) + 4  # tokens that a stop just made can span, and a margin
    most = drawing.characters

    def ended(new: list[int]) -> bool:
        recent = tokenizer.decode(new[-reach:])
        return any(stop in recent for stop in stops) or (most is not None and len(tokenizer.decode(new)) >= most)

    device = next(net.parameters()).device
    seed = int(hashlib.sha256(repr((drawing.seed, temperature, wanted[0][0].id, wanted[0][1])).encode()).hexdigest()[:15], 16)
    result = generate(
        net,
        prompts,
        drawing.tokens,
        Sampling(temperature, top_p=drawing.top_p),
        heads=drawing.heads or getattr(net, "n", 1),
        stop={tokenizer.eos},
        until=ended,
        generator=torch.Generator(device).manual_seed(seed),
    )
    samples = []
    for (problem, number), prompt, all_ids, new in zip(wanted, prompts, whole, result.tokens, strict=True):
        # the prompt is decoded along: some tokenizers drop the space that a text begins with
        text = problem.cut(tokenizer.decode(prompt + new)[len(tokenizer.decode(prompt)) :][:most])
        program = problem.prefix + text
        samples.append(Sample(problem.id, number, text, "", "", parses(program), len(all_ids) > len(prompt)))
    return samples


def signature(net: nn.Module, tokenizer: Tokenizer, problems: Sequence[Problem], temperature: float, drawing: Drawing) -> str:
    """16 digits that stand for everything a kept sample depends on: weights, tokenizer, problems, settings.

    The number of samples does not count: more of them go on where fewer ended.
    """
    settings = {k: v for k, v in vars(drawing).items() if k != "samples"} | {"temperature": temperature, "net": net.config}
    text = json.dumps([settings, tokenizer.fingerprint, [vars(p) for p in problems]], sort_keys=True, default=str)
    digest = hashlib.sha256(text.encode())
    for name, weight in sorted(net.state_dict().items()):
        digest.update(name.encode())
        digest.update(memoryview(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()))
    return digest.hexdigest()[:16]
