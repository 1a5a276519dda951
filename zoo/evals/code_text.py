"""What small models of code move: the next line, syntax of functions, bits per byte of reference solutions."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import lightning as L
import numpy as np
import torch
from torch import nn

from zoo.data.tokenizer import Tokenizer
from zoo.evals.places import Place, accepts, body_end, function_heads, held_out, line_starts
from zoo.evals.problems import Problem, load
from zoo.evals.scoring import score
from zoo.generate import generate
from zoo.sampling import GREEDY, Sampling


class CodeText(L.Callback):
    """At test: writes lines and functions of held-out files, and says how right they are.

    The places are a pure function of text and seed, so that all nets, whatever their tokenizer, go on from the same characters.

    A line: `characters` characters of a file, up to and with the indentation of a line, are continued greedily to the line's end.
    line_exact: percent of lines that are the file's. line_similarity: 100 · (1 - edit distance / length of the longer one), white
    space around them left out (Levenshtein's distance, of torchmetrics).

    A function: from `def` to the end of the docstring, continued at random up to the first line at the margin. syntax: percent
    of samples that `ast.parse` accepts and that say more than `pass`; a sample that `body` characters cut off is judged by its
    whole lines, see `zoo.evals.places.accepts`. syntax_open: percent that were cut off. syntax_finished: percent accepted of the
    others.

    Args:
        lines, functions: how many places of either kind; 0: none.
        characters: of the text before a line, and at most of a function's head. Keep characters + longest below the context
            (in bytes), or a byte net reads its window anew.
        longest: characters of a line at most.
        body: characters of a function's body at most.
        temperature: of the functions.
        documents: so many documents of the test split, the first ones, are searched for places.
        heads: that draft and verify the greedy lines (self-speculation gives the same text); None: all that the net has.
        batch: rows at a time.
        seed: of places and samples.
    """

    def __init__(
        self,
        lines: int = 128,
        functions: int = 64,
        characters: int = 160,
        longest: int = 96,
        body: int = 400,
        temperature: float = 0.8,
        documents: int = 400,
        heads: int | None = None,
        batch: int = 32,
        seed: int = 0,
    ):
        if min(characters, longest, body, documents, batch) < 1 or min(lines, functions) < 0:
            raise ValueError("CodeText: characters, longest, body, documents and batch are at least 1, lines and functions 0.")
        self.lines, self.functions, self.characters, self.longest, self.body = lines, functions, characters, longest, body
        self.documents, self.heads, self.batch, self.seed = documents, heads, batch, seed
        self.sampling = Sampling(temperature)

    def on_test_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if trainer.world_size > 1:
            raise ValueError("CodeText writes in one process: test the saved net with --trainer.devices=1.")
        data = trainer.datamodule
        texts = held_out(data.stores["test"], data.tokenizer, self.documents)
        for measure, count in ((self.next_lines, self.lines), (self.syntax, self.functions)):
            if count:
                for name, value in measure(module.net, data.tokenizer, texts).items():
                    module.log(f"test/{name}", value)

    def next_lines(self, net: nn.Module, tokenizer: Tokenizer, texts: Sequence[str]) -> dict[str, float]:
        """line_exact and line_similarity. Raises ValueError where the texts have no such lines."""
        from torchmetrics.functional.text import edit_distance

        places = line_starts(texts, self.lines, self.characters, self.longest, self.seed)
        if not places:
            raise ValueError(
                f"The held-out documents have no line after {self.characters} characters: give CodeText fewer characters."
            )
        heads, limit = self.heads or getattr(net, "n", 1), self.longest + 1
        enough = lambda text: "\n" in text or len(text) > self.longest
        written = [
            text.split("\n")[0].rstrip() for text, _ in _continued(net, tokenizer, places, limit, enough, self.batch, heads)
        ]
        wanted = [place.following for place in places]
        pairs = [(a.strip(), b.strip()) for a, b in zip(written, wanted)]
        apart = edit_distance(*zip(*pairs), reduction="none").tolist()
        alike = [1 - d / max(len(a), len(b)) for d, (a, b) in zip(apart, pairs)]
        return {
            "line_exact": 100 * sum(a == b for a, b in zip(written, wanted)) / len(wanted),
            "line_similarity": 100 * sum(alike) / len(alike),
        }

    def syntax(self, net: nn.Module, tokenizer: Tokenizer, texts: Sequence[str]) -> dict[str, float]:
        """syntax, syntax_open, syntax_finished (absent where none is). Raises ValueError where the texts have no functions."""
        places = function_heads(texts, self.functions, self.characters, self.seed)
        if not places:
            raise ValueError(
                f"The held-out documents have no Python function whose head has at most {self.characters} characters: give "
                "CodeText more characters, or functions: 0."
            )
        draws = torch.Generator(next(net.parameters()).device).manual_seed(self.seed)
        enough = lambda text: body_end(text) is not None or len(text) > self.body
        judged = []
        for place, (text, stopped) in zip(
            places, _continued(net, tokenizer, places, self.body, enough, self.batch, 1, self.sampling, draws)
        ):
            end = body_end(text[: self.body + 1])
            finished = end is not None or (stopped and len(text) <= self.body)
            judged.append((accepts(place.prompt, text[: self.body if end is None else end], finished), finished))
        whole = [accepted for accepted, finished in judged if finished]
        values = {
            "syntax": 100 * sum(accepted for accepted, _ in judged) / len(judged),
            "syntax_open": 100 * (1 - len(whole) / len(judged)),
        }
        return values | ({"syntax_finished": 100 * sum(whole) / len(whole)} if whole else {})


def _continued(
    net: nn.Module,
    tokenizer: Tokenizer,
    places: Sequence[Place],
    limit: int,
    enough: Callable[[str], bool],
    batch: int,
    heads: int,
    sampling: Sampling = GREEDY,
    draws: torch.Generator | None = None,
) -> Iterator[tuple[str, bool]]:
    """For each place the text that the net puts there, up to `limit` tokens or until there is enough; and whether it ended it."""
    until = lambda tokens: enough(tokenizer.decode(tokens))
    for first in range(0, len(places), batch):
        prompts = [tokenizer.encode(place.prompt) for place in places[first : first + batch]]
        made = generate(net, prompts, limit, sampling, heads=heads, stop={tokenizer.eos}, until=until, generator=draws)
        for prompt, tokens, stopped in zip(prompts, made.tokens, made.stopped):
            # after the prompt's last token: some tokenizers drop the space that a text begins with
            text = tokenizer.decode(prompt[-1:] + tokens)[len(tokenizer.decode(prompt[-1:])) :]
            yield text, stopped and not enough(text)


class References(L.Callback):
    """At test: bits per byte of reference solutions, each given its prompt, under head 1.

    Args:
        problems: "humaneval", "mbpp" or "apps", as `zoo.evals.problems.load` finds them; files: its files, if not the usual ones.
        limit: the first so many problems; None: all.
        name: what is logged is test/<name>_bits_per_byte.
        batch: windows at a time.
    """

    def __init__(
        self,
        problems: Literal["humaneval", "mbpp", "apps"] = "humaneval",
        files: list[str] | None = None,
        limit: int | None = None,
        name: str = "reference",
        batch: int = 16,
    ):
        self.problems, self.files, self.limit, self.name, self.batch = problems, files, limit, name, batch

    def setup(self, trainer: L.Trainer, module: L.LightningModule, stage: str) -> None:
        load(self.problems, self.files, self.limit)  # what is not there is told before the training, not after it

    def on_test_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if trainer.world_size > 1:
            raise ValueError("References are scored in one process: test the saved net with --trainer.devices=1.")
        pairs = [(problem.prompt, text) for problem in load(self.problems, self.files, self.limit) if (text := solution(problem))]
        if not pairs:
            raise ValueError(f"The problems of {self.problems} come without solutions: name files that have them.")
        bits, size = conditional_bits(module.net, trainer.datamodule.tokenizer, pairs, self.batch)
        module.log(f"test/{self.name}_bits_per_byte", bits / size)


def solution(problem: Problem) -> str:
    """What a net would have to write after the prompt of a problem; "" where the set has no solution."""
    whole = problem.canonical or ""
    return whole[len(problem.prefix) :] if problem.prefix and whole.startswith(problem.prefix) else whole and f"\n{whole}"


def conditional_bits(
    net: nn.Module, tokenizer: Tokenizer, pairs: Sequence[tuple[str, str]], batch: int = 16
) -> tuple[float, int]:
    """Bits of all texts (second of a pair), each given the one before it, and their bytes.

    Both are encoded as one. White space at the end of the first counts as the second's, for tokenizers join it with what
    follows. Where they outgrow the context, each token still has half of it before it.
    """
    parts = [part for pair in pairs for part in _windows(tokenizer, *pair, net.context)]
    found = score(net, [(before.tolist(), scored.tolist()) for before, scored in parts], batch)
    bits = -sum(each.logp for each in found) / math.log(2)
    return bits, sum(int(tokenizer.token_bytes[scored].sum()) for _, scored in parts)


def _windows(tokenizer: Tokenizer, given: str, text: str, context: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The tokens of `text`, each once, in parts; with those before them, together at most context + 1."""
    whole = given + text
    tokens = np.array([tokenizer.eos, *tokenizer.encode(whole)], np.int64)
    ends = tokenizer.token_bytes[tokens].cumsum()
    boundary = len(given.rstrip().encode()) + int(ends[-1]) - len(whole.encode())  # some tokenizers put a space before a text
    done = max(1, int((ends <= boundary).sum()))
    while done < len(tokens):
        stride = context if done == 1 else max(1, context // 2)  # nothing lies before the first token that could be lost
        end = min(len(tokens), done + stride)
        yield tokens[max(0, end - context - 1) : done], tokens[done:end]
        done = end
