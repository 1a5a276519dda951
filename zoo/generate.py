"""Decoding for every token net: ragged prompts, sampling, stop tokens, streaming; and the verb `zoo generate`."""

import argparse
import sys
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo.nn.packed import packed
from zoo.reading import Reading, Row, rows_of
from zoo.sampling import GREEDY, Sampling
from zoo.speculative import Drafts, HeadDrafts, NetDrafts, first_divergence, verify
from zoo.writing import Writing

OTHERS = "With --concepts, what CoCoMix predicts; with --space, a net of sentences: `zoo generate --space --help` has its words."
PACK_FROM = 32  # new tokens from which on packing the weights pays; see `packed`


@dataclass
class Generation:
    """What `generate` returns; lists have one item per prompt.

    tokens: the new ones only, without the stop token. stopped: ended by a stop token or by `until`, not by the limit.
    forwards: forward passes of the batch after the prompt's. steps: those of them that a row took part in.
    accepted: [j] = in how many of all rows' steps at least j + 1 drafts were accepted (and emitted), j = 0 .. k - 2.
    """

    tokens: list[list[int]]
    stopped: list[bool]
    forwards: int
    steps: list[int]
    accepted: list[int]

    @property
    def tokens_per_forward(self) -> float:
        """Mean over rows and steps of the tokens a forward pass yields; the prompt's pass and its token do not count."""
        return 1 + sum(self.accepted) / sum(self.steps) if sum(self.steps) else float("nan")


@torch.inference_mode()
def generate(
    net: nn.Module,
    prompts: Sequence[Sequence[int]] | Tensor,
    limit: int,
    sampling: Sampling = GREEDY,
    *,
    heads: int = 1,
    draft: nn.Module | None = None,
    stop: Collection[int] = (),
    until: Callable[[list[int]], bool] | None = None,
    stream: Callable[[int, list[int]], None] | None = None,
    generator: torch.Generator | None = None,
) -> Generation:
    """Continue each prompt by up to `limit` tokens.

    With heads = k > 1 a step verifies the newest token and k - 1 drafts at once, of the net's own heads 2 .. k or of a `draft`
    net, and yields 1 to k tokens. The text is that of k = 1: in greedy decoding the same tokens, up to rounding where two logits
    are as good as equal (see `first_divergence`), in sampling the same distribution. A text may outgrow the net's context, with
    any k alike: see `zoo.reading.window_start`.

    Args:
        net: a token net in any mode (dropout is off meanwhile).
        prompts: token ids, at least one per prompt; lengths may differ.
        limit: new tokens per row at most.
        sampling: how a token is chosen, default greedy.
        heads: k, at most the net's heads unless a draft net drafts.
        draft: a small net of the same vocabulary that drafts k - 1 tokens per step instead of the heads.
        stop: token ids that end a row; they are not part of its result.
        until: asked after each new token with all new tokens of a row; True ends the row.
        stream: called with a row's number and its new tokens, as they become final.
        generator: source of randomness, on the net's device.
    Raises ValueError where these do not fit together, or the logits are not numbers.
    """
    rows = rows_of(prompts, net.vocab)
    _check(net, heads, draft)
    # A net that is decoded from many times is packed once by whoever wraps the calls in `packed`.
    nets = [net] if draft is None else [net, draft]
    modes = [each.training for each in nets]
    writing = Writing(limit, stop, until, stream, heads - 1)
    decoding = _Decoding(net, draft, heads, sampling, writing, generator)
    try:
        with ExitStack() as stack:
            for each in nets:
                each.eval()
                if limit >= PACK_FROM:
                    stack.enter_context(packed(each))
            forwards = decoding.run(rows) if rows and limit > 0 else 0
    finally:
        for each, mode in zip(nets, modes):
            each.train(mode)
    tokens, stopped, steps = ([getattr(row, name) for row in rows] for name in ("new", "stopped", "steps"))
    return Generation(tokens, stopped, forwards, steps, writing.accepted)


def _check(net: nn.Module, heads: int, draft: nn.Module | None) -> None:
    if heads < 1:
        raise ValueError(f"heads = {heads}: decoding takes at least 1.")
    if draft is None and heads > getattr(net, "n", 1):
        raise ValueError(f"heads = {heads} were asked for and this net has {getattr(net, 'n', 1)}: take fewer, or a draft net.")
    if draft is not None and draft.vocab != net.vocab:
        raise ValueError(f"The draft net has {draft.vocab} token ids and the net {net.vocab}: both need the same tokenizer.")
    if draft is not None and heads < 2:
        raise ValueError("A draft net drafts heads - 1 tokens per step: ask for heads = 2 or more.")


class _Decoding:
    """Settings of one `generate` call, and its loop."""

    def __init__(self, net, draft, heads, sampling, writing, generator):
        self.net, self.draft, self.heads, self.sampling = net, draft, heads, sampling
        self.writing, self.limit, self.generator = writing, writing.limit, generator
        self.device = next(net.parameters()).device

    def run(self, rows: list[Row]) -> int:
        """Fill all rows; returns the forward passes after the prompt's."""
        count = self.heads - 1
        if self.draft is None:
            reading = Reading(self.net, rows, self.limit, self.heads, spare=count)
            source = HeadDrafts(self.net, count, self.sampling, self.generator)
        else:
            reading = Reading(self.net, rows, self.limit, spare=count)
            source = NetDrafts(self.net, self.draft, rows, self.limit, count, self.sampling, self.generator)
        # What Python knows goes to the device before a pass is asked for: a copy waits for all that was asked before it.
        drafts, usable, forwards = Drafts(self._ids([[]] * len(rows))), self._usable(reading, rows), 0
        states = reading.start(rows)[:, None]
        while True:
            logits = source.logits(states)  # (B, 1 + drafts, V)
            tokens, accepted = verify(self.sampling, logits, drafts, usable, self.generator)
            bad = (~logits.isfinite()).any(-1).any(-1)
            *blocks, bad = torch.cat((tokens.T, accepted[None], bad[None])).tolist()  # the only wait for a pass
            *blocks, ends = blocks
            if any(bad):
                raise ValueError("The net's logits are not numbers: its training diverged, or its weights are damaged.")
            kept = self.writing.give(rows, [list(block[: end + 1]) for block, end in zip(zip(*blocks), ends)], forwards > 0)
            if not kept:
                return forwards
            rows = [rows[i] for i in kept]
            reading.go_on(rows, kept)
            newest, usable = self._ids([row.text[-1:] for row in rows]), self._usable(reading, rows)
            drafts = source.propose(rows, kept, [ends[i] for i in kept])
            width = max(min(room, self.limit - len(row.new)) for row, room in zip(rows, reading.room(rows)))
            drafts = drafts.first(width - 1)
            states = reading.step(torch.cat((newest, drafts.tokens), 1))
            forwards += 1

    def _usable(self, reading: Reading, rows: list[Row]) -> Tensor:
        """How many drafts (B,) each row may accept before its window moves."""
        return self._ids([room - 1 for room in reading.room(rows)])

    def _ids(self, lists: list) -> Tensor:
        return torch.tensor(lists, dtype=torch.int64, device=self.device)


def main(args: list[str]) -> None:
    """`zoo generate FOLDER --prompt …`: continue prompts with a saved net."""
    parser = argparse.ArgumentParser("zoo generate", description="Continue prompts with a saved token net.", epilog=OTHERS)
    parser.add_argument("folder", help="a run folder, one of save_pretrained, or a transformers GPT-2 or Llama folder")
    parser.add_argument("--prompt", action="append", help='text to continue, "-" for standard input; may be repeated')
    parser.add_argument(
        "--prompt_file", action="append", default=[], help="a file whose text is to be continued; may be repeated"
    )
    parser.add_argument("--tokens", type=int, default=200, help="tokens to add to each prompt at most")
    parser.add_argument("--temperature", type=float, help="0 takes the most likely token; default 0.8, with --heads all 0")
    parser.add_argument("--top_k", type=int, help="sample among the k most likely tokens")
    parser.add_argument("--top_p", type=float, help="sample among the most likely tokens that add up to p")
    parser.add_argument("--heads", default="1", help="k: k - 1 drafts per step; all: compares k = 1 .. n with each other")
    parser.add_argument("--draft", metavar="FOLDER", help="a small saved net that drafts instead of the heads")
    parser.add_argument("--tree", type=int, metavar="NODES", help="Medusa: verify a tree of the heads' drafts at once")
    parser.add_argument(
        "--accept", choices=["greedy", "nucleus", "typical"], help="of --tree: which drafts are kept; see `medusa`"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="type of weights and cache")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--stream", action="store_true", help="print the text as it becomes final; one prompt only")
    given = parser.parse_args(args)

    _, net, tokenizer, prefix = _load(given.folder, given)
    draft = None
    if given.draft:
        other = _load(given.draft, given)
        if other.tokenizer.fingerprint != tokenizer.fingerprint:
            raise ValueError(f"{given.draft} and {given.folder} have different tokenizers: a draft net needs the net's own.")
        draft = other.net
    texts = [sys.stdin.read() if text == "-" else text for text in given.prompt or ([] if given.prompt_file else ["def "])]
    texts += [_text_of(path) for path in given.prompt_file]
    prompts = [prefix + tokenizer.encode(text) or [tokenizer.eos] for text in texts]
    if given.tree is None and given.accept:
        raise ValueError("--accept says which drafts of a tree are kept: add --tree NODES, 16 for instance.")
    if given.tree is not None and (given.heads != "1" or draft):
        raise ValueError("--tree drafts with all heads of the net: leave out --heads and --draft.")
    if given.heads == "all":
        return _compare(net, tokenizer, prompts, given, draft)
    if not given.heads.isdigit():
        raise ValueError(f"--heads is a number or all, not {given.heads!r}.")
    if given.stream and len(prompts) > 1:
        raise ValueError("--stream prints one text: give one prompt, or leave it out.")
    sampling = Sampling(0.8 if given.temperature is None else given.temperature, given.top_k, given.top_p)
    random = torch.Generator(given.device).manual_seed(given.seed)
    show = _Typing(tokenizer, prompts[0]) if given.stream else None
    settings = {"stop": {tokenizer.eos}, "stream": show, "generator": random}
    if given.tree is None:
        out, name = (
            generate(net, prompts, given.tokens, sampling, heads=int(given.heads), draft=draft, **settings),
            f"heads {given.heads}",
        )
    else:
        out, name = _from_tree(net, prompts, given, sampling, settings)
    for prompt, new in zip(prompts, out.tokens):
        print() if show else print(tokenizer.decode(prompt + new))
    if given.tree is not None or int(given.heads) > 1:
        print(f"{name}: {_speed(out)}")


def _from_tree(net: nn.Module, prompts: list[list[int]], given, sampling: Sampling, settings: dict) -> tuple[Generation, str]:
    """What `medusa` writes with a default tree of so many nodes, and the name of this way to decode."""
    from zoo.medusa import medusa  # stands on this file
    from zoo.tree import Tree

    if getattr(net, "n", 1) == 1:
        raise ValueError("--tree needs heads that draft, and this net has one head only: take a net trained with n = 2 or more.")
    accept = given.accept or ("greedy" if sampling.greedy else "nucleus")
    tree = Tree.default(net.n, given.tree)
    name = f"tree of {len(tree.paths)} nodes, {accept} acceptance"
    if accept == "typical" and not sampling.greedy:
        name += " (approximate: not the distribution of plain sampling)"
    return medusa(net, prompts, given.tokens, sampling, tree=tree, accept=accept, **settings), name


def _load(folder: str, given: argparse.Namespace) -> Any:
    """A `zoo.evals.checkpoint.Checkpoint`, its net in the asked type and place."""
    from zoo.evals.checkpoint import open_checkpoint

    if any((Path(folder) / inner / "tokenizer" / "space.json").is_file() for inner in ("", "pretrained")):
        raise ValueError(f"The net in {folder} reads sentences, not tokens: add --space, the folder or card of its space.")
    opened = open_checkpoint(folder)
    return opened._replace(net=opened.net.to(given.device, getattr(torch, given.dtype)))


def _text_of(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise FileNotFoundError(f"There is no prompt file {path}: check its path.") from None
    except UnicodeDecodeError:
        raise ValueError(f"The prompt file {path} is no UTF-8 text.") from None


def _speed(out: Generation) -> str:
    shares = " ".join(f"{count / max(1, sum(out.steps)):.2f}" for count in out.accepted)
    return f"{out.tokens_per_forward:.2f} tokens per forward; share of steps with 1, 2, … drafts accepted: {shares}"


def _compare(net: nn.Module, tokenizer, prompts: list[list[int]], given: argparse.Namespace, draft: nn.Module | None) -> None:
    """Print the plain texts, and for each k = 2 .. n whether its texts are the same and how many tokens a forward pass gave."""
    if given.temperature or given.stream or draft is not None:
        raise ValueError("--heads all compares greedy texts of a net's own heads: leave out --temperature, --stream and --draft.")
    plain = generate(net, prompts, given.tokens, stop={tokenizer.eos})
    for prompt, new in zip(prompts, plain.tokens):
        print(tokenizer.decode(prompt + new))
    print(f"heads 1: {plain.tokens_per_forward:.2f} tokens per forward")
    for heads in range(2, getattr(net, "n", 1) + 1):
        out = generate(net, prompts, given.tokens, heads=heads, stop={tokenizer.eos})
        print(f"heads {heads}: {'identical text' if out.tokens == plain.tokens else 'ANOTHER text'}, {_speed(out)}")
        for number, (prompt, one, other) in enumerate(zip(prompts, plain.tokens, out.tokens), 1):
            where = first_divergence(one, other, net, prompt, tokenizer.eos)
            if where:
                print(
                    f"  prompt {number} differs first at new token {where.index + 1}, "
                    f"where the two tokens' logits are {abs(where.gap):.2g} apart"
                )


class _Typing:
    """Prints a text while it grows: as `stream` of `generate`."""

    def __init__(self, tokenizer, prompt: list[int]):
        self.tokenizer, self.ids, self.shown = tokenizer, list(prompt), ""
        self(0, [])

    def __call__(self, row: int, new: list[int]) -> None:
        self.ids += new
        text = self.tokenizer.decode(self.ids).rstrip("\N{REPLACEMENT CHARACTER}")  # a character may still lack its last bytes
        if text.startswith(self.shown):
            print(text[len(self.shown) :], end="", flush=True)
            self.shown = text
