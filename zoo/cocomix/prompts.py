"""What the verbs that continue prompts with CoCoMix have in common on their command lines."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from zoo.cocomix.cards import Cards
from zoo.data.tokenizer import Tokenizer
from zoo.evals.checkpoint import open_checkpoint
from zoo.sampling import Sampling

# The first two are the paper's (Figs. 5 and 10); none of them asks for one kind of token.
PROMPTS = (
    "The best platform for buying tickets is the",
    "Latent concept modeling is a",
    "It was the first time that",
    "The following example shows how",
    "In this case, we",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of `zoo generate` that choose a net, its prompts and how they are continued, and --cards."""
    parser.add_argument("folder", help="a run folder, or one of save_pretrained")
    parser.add_argument("--prompt", action="append", help='text to continue, "-" for standard input; may be repeated')
    parser.add_argument("--prompt_file", type=Path, action="append", default=[], help="a file whose text is to be continued")
    parser.add_argument("--tokens", type=int, default=40, help="tokens to add to each prompt at most (default: %(default)s)")
    parser.add_argument("--temperature", type=float, default=0.0, help="default: 0, the most likely token")
    parser.add_argument("--top_k", type=int, help="sample among the k most likely tokens")
    parser.add_argument("--top_p", type=float, help="sample among the most likely tokens that add up to p")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="type of weights and cache")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--cards", metavar="FOLDER", help="where `zoo cards` left its cards: says what concepts stand for")


@dataclass(frozen=True)
class Asked:
    """What the arguments name: a net, its tokenizer, the prompts as tokens, how to choose a token."""

    net: nn.Module
    tokenizer: Tokenizer
    prompts: list[list[int]]
    sampling: Sampling

    @classmethod
    def of(cls, given: argparse.Namespace, default: Sequence[str] = PROMPTS) -> "Asked":
        """Raises FileNotFoundError or ValueError, in a sentence, where something cannot be had. default: prompts if none is."""
        opened = open_checkpoint(given.folder)
        texts = [sys.stdin.read() if text == "-" else text for text in given.prompt or ()]
        texts += [_text(path) for path in given.prompt_file]
        prompts = [opened.tokenizer.encode(text) or [opened.tokenizer.eos] for text in texts or default]
        sampling = Sampling(given.temperature, given.top_k, given.top_p)
        return cls(placed(opened.net, given), opened.tokenizer, prompts, sampling)


def placed(net: nn.Module, given: argparse.Namespace) -> nn.Module:
    """A net, or what belongs to one, in the asked type and place."""
    return net.to(given.device, getattr(torch, given.dtype))


def cards_of(given: argparse.Namespace, concepts: int) -> Cards | None:
    """The cards that were named, if any, which must be of so many concepts."""
    return Cards.load(given.cards, concepts) if given.cards else None


def random(given: argparse.Namespace) -> torch.Generator:
    """Draws that are the same for every continuation that starts with them."""
    return torch.Generator(given.device).manual_seed(given.seed)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, UnicodeDecodeError):
        raise ValueError(f"There is no UTF-8 text in {path}: check the path of the prompt file.") from None
