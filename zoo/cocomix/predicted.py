"""Which concepts CoCoMix predicts while it writes; and `zoo generate FOLDER --concepts`, which shows them beside the text."""

import argparse
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from zoo.cocomix.cards import Cards, shown
from zoo.cocomix.prompts import Asked, add_arguments, cards_of, random
from zoo.generate import generate
from zoo.nn.concepts import ConceptMixer
from zoo.reading import window_start


def concepts_of(net: nn.Module) -> int:
    """How many concepts a net predicts. Raises ValueError where it predicts none."""
    mixer = getattr(net, "mixer", None)
    if not isinstance(mixer, ConceptMixer):
        raise ValueError(f"This net ({type(net).__name__}) predicts no concepts: take a CoCoMix net with inserted 'concepts'.")
    return mixer.predictor.num_embeddings


@torch.no_grad()
def predicted(net: nn.Module, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """The kept concepts at each of tokens (B, T), from the likeliest on: logits and ids (B, T, keep).

    Raises ValueError where the net predicts none.
    """
    concepts_of(net)
    mixed = net.mixer(net.trunk.blocks(net.trunk.embed(tokens), stop=net.insert))
    return mixed.logits, mixed.ids


def behind(net: nn.Module, prompt: Sequence[int], new: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The kept concepts from which each of the new tokens was written: logits and ids (len(new), keep).

    They are those at the token before it, in the window that the net saw (see `window_start`); net: in evaluation mode.
    """
    text, device = [*prompt, *new], next(net.parameters()).device
    lengths = range(len(prompt), len(text))  # of what was there before each new token
    begins = [window_start(length, net.context) for length in lengths]
    found = []
    for begin in dict.fromkeys(begins):
        seen = [length - begin for length, first in zip(lengths, begins) if first == begin]
        window = torch.tensor([text[begin : begin + seen[-1]]], device=device)
        found.append([x[0, seen[0] - 1 :] for x in predicted(net, window)])
    return tuple(torch.cat(parts) for parts in zip(*found))


def table(net: nn.Module, tokenizer, prompt: list[int], new: list[int], top: int = 4, cards: Cards | None = None) -> str:
    """A line per new token: the token and the `top` likeliest concepts behind it, each with its logit.

    cards: to say what a concept stands for, by the tokens that follow it more often than they follow others.
    """
    words = [shown(tokenizer, token) for token in new]
    width, lines = max(map(len, words)), []
    for word, logits, ids in zip(words, *(x[:, :top].tolist() for x in behind(net, prompt, new))):
        told = [f"{i} {value:.2f}" + (f" ({cards.words(i)})" if cards else "") for value, i in zip(logits, ids)]
        lines.append(f"{word:<{width}}  {'   '.join(told)}".rstrip())
    return "\n".join(lines)


def main(words: list[str]) -> None:
    """`zoo generate FOLDER --concepts [K]`."""
    parser = argparse.ArgumentParser(
        "zoo generate", description="Continue prompts with a CoCoMix net and show the concepts behind each new token."
    )
    add_arguments(parser)
    parser.add_argument("--concepts", type=int, nargs="?", const=4, metavar="K", help="how many, the likeliest (default: 4)")
    parser.set_defaults(tokens=200, temperature=0.8)  # the text is the one that `zoo generate` prints
    given, rest = parser.parse_known_args(words)
    if rest:
        raise ValueError(f"--concepts is of plain decoding: leave out {' '.join(rest)}.")
    if given.concepts < 1:
        raise ValueError(f"--concepts shows at least 1 concept, not {given.concepts}.")
    asked = Asked.of(given, default=("def ",))
    net, tokenizer = asked.net, asked.tokenizer
    cards = cards_of(given, concepts_of(net))
    out = generate(net, asked.prompts, given.tokens, asked.sampling, stop={tokenizer.eos}, generator=random(given))
    for prompt, new in zip(asked.prompts, out.tokens):
        print(tokenizer.decode(prompt + new), end="\n\n")
        if new:
            print(table(net, tokenizer, prompt, new, given.concepts, cards), end="\n\n")
