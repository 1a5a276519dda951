"""`zoo generate FOLDER --space SPACE`: text in, sentences, a Large Concept Model, text out."""

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from zoo.data.language import LANG
from zoo.data.segment import Capped, Cleaned, Sentencex
from zoo.lcm.batch import TARGET
from zoo.lcm.writing import END, Draft, Stop, continued, fits_space
from zoo.nn.diffusion import trailing
from zoo.pretrained import from_pretrained
from zoo.sonar.encoder import fingerprints
from zoo.sonar.folder import located
from zoo.sonar.named import sources
from zoo.sonar.space import Space

ABOUT = "about.json"  # of zoo.sonar.ship, which takes seconds to import
SPACE = "tokenizer/space.json"  # what CommonCrawlSentences leaves beside a net


def main(words: list[str]) -> None:
    """`zoo generate`."""
    parser = argparse.ArgumentParser("zoo generate", description=__doc__.split(": ", 1)[1])
    several = "may be repeated, and all are then printed when the last is done"
    parser.add_argument("--prompt", action="append", default=[], help=f"a text to go on from; {several}")
    parser.add_argument("--prompt_file", action="append", default=[], help=f"a text file; {several}")
    parser.add_argument(
        "--beside", action="store_true", help="print each sentence of the text and, below, what is predicted given those before"
    )
    add_arguments(parser)
    given = parser.parse_args(words)
    net, space, told = opened(given)
    able(net, space, given)
    texts = [*given.prompt, *map(text_of, given.prompt_file)]
    if not texts:
        raise ValueError("A Large Concept Model goes on from a text: give --prompt TEXT or --prompt_file FILE.")
    prompts = [sentences_of(text, given) for text in texts]
    for number, prompt in enumerate(prompts, 1):
        fits(net, prompt, f"prompt {number}")
    stop = ending(space, told, given)
    if given.beside:
        for prompt in prompts:
            beside(net, space, prompt, given)
    elif len(prompts) == 1:
        show(Draft(net, space, prompts[0], given.lang, given.into, *room(net, len(prompts[0]), stop, given)), given)
    else:
        together(net, space, prompts, stop, given)


def beside(net: nn.Module, space: Space, sentences: list[str], given: argparse.Namespace) -> None:
    """Print the sentences but the first, and below each what the net says in its place, given the true ones before it."""
    vectors = space.encode(sentences, given.lang).to(given.device)[None]  # (1, S, E)
    role, row = torch.full(vectors.shape[:2], TARGET, device=vectors.device), torch.zeros(1, dtype=torch.long)
    with torch.no_grad():
        said = net.predict({"vec": vectors, "role": role, "mask": row == 0, "window": row}, given.seed)[0]  # (S, E)
    written = space.decode(said[1:].float(), given.into or given.lang, beam=given.beam)
    print(sentences[0])
    for sentence, other in zip(sentences[1:], written):
        print(f"{sentence}\n  → {other}")


def together(net: nn.Module, space: Space, prompts: list[list[str]], stop: Stop, given: argparse.Namespace) -> None:
    """Go on from several prompts side by side, and print each with what follows."""
    sizes = [len(prompt) for prompt in prompts]
    vectors = space.encode([sentence for prompt in prompts for sentence in prompt], given.lang).split(sizes)
    written: list[list[torch.Tensor]] = [[] for _ in prompts]
    for rows, new in continued(net, vectors, stop, seeds=[given.seed] * len(prompts)):  # each as it would be alone
        for row, vector in zip(rows, new):
            written[row].append(vector)
    for prompt, made in zip(prompts, written):
        said = space.decode(torch.stack(made), given.into or given.lang, beam=given.beam) if made else []
        print(*prompt, "|", *said)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", help="what a run leaves at <run folder>/pretrained")
    parser.add_argument("--space", required=True, action="append", help="folder of the space, or a card of it; may be repeated")
    parser.add_argument("--lang", default=LANG, help="of the text (default: %(default)s)")
    parser.add_argument("--into", help="language to write in, any that the space has (default: that of the text)")
    parser.add_argument("--sentences", type=at_least_one, default=20, help="new ones, at most (default: %(default)s)")
    parser.add_argument("--similar", type=float, default=0.9, help="cosine to the end marker that ends a text (default: 0.9)")
    parser.add_argument("--repeated", type=float, default=0.9, help="cosine to the sentence before that ends it (default: 0.9)")
    parser.add_argument(
        "--sampler", nargs="*", default=[], metavar="NAME=VALUE", help="where it is not to be the paper's: guidance=2 taken=20"
    )
    parser.add_argument(
        "--characters",
        type=at_least_one,
        help="of a prompt's sentence, at most (default: as the space has learnt; if it does not say, 200)",
    )
    parser.add_argument("--beam", type=at_least_one, default=5, help="of the decoder; 1 is greedy (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")


def at_least_one(word: str) -> int:
    if not word.isdecimal() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"{word} is no number from 1 on")
    return int(word)


def opened(given: argparse.Namespace) -> tuple[nn.Module, Space, dict[str, Any]]:
    """The net, the space, and what the net's folder tells of the space that it has learnt, if anything: encoder, lang, end.

    Raises ValueError, in a sentence, where the folder holds another net, or the space is not the one that it has learnt."""
    dtype = getattr(torch, given.dtype)
    net = from_pretrained(given.folder)
    if not hasattr(net, "writing"):
        raise ValueError(f"The net in {given.folder} is no Large Concept Model: leave out --space to go on with its tokens.")
    net.sampler = chosen(net.sampler if getattr(given, "beside", False) else net.writing, given.sampler)
    told, space = read_space(given.folder), Space.opened(*given.space, device=given.device, dtype=dtype)
    fits_space(net, space)
    if "encoder" in told and told["encoder"] not in fingerprints(given.space, space.tokenizer.langs):
        raise ValueError(
            f"The net in {given.folder} has learnt another space than {' and '.join(given.space)}: give --space the one that its "
            f"data were encoded with (or, if it only goes by another name, take away {Path(given.folder) / SPACE})."
        )
    return net.to(given.device, dtype).eval(), space, told


def read_space(folder: str | Path) -> dict[str, Any]:
    """What `CommonCrawlSentences` left beside a net; nothing beside others. Raises ValueError, in a sentence."""
    path = Path(folder) / SPACE
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError:
        raise ValueError(f"{path} is damaged: save the net again.") from None


def ending(space: Space, told: dict[str, Any], given: argparse.Namespace) -> Stop:
    """When a document is over. Its end marker is the one that training documents had, in their language."""
    end = told.get("end", END)
    lang = told.get("lang", given.lang)
    vector = None if end is None else space.encode([end], lang if lang in space.tokenizer.langs else given.lang)[0]
    return Stop(vector, given.similar if end else 2.0, given.repeated, given.sentences)


def chosen(sampler, words: list[str]):
    """A sampler with some of its settings changed: ["guidance=2", "taken=20"]. Raises ValueError, in a sentence."""
    settings = {field.name: getattr(sampler, field.name) for field in dataclasses.fields(sampler)}
    for word in words:
        name, _, value = word.partition("=")
        if name not in settings or not value:
            raise ValueError(f"--sampler {word} is none of {', '.join(f'{key}=…' for key in settings)}.")
        kind = int if name in ("taken", "top_k") else str if name == "predicts" else float
        try:
            settings[name] = kind(value)
        except ValueError:
            raise ValueError(f"--sampler {word}: {value!r} is no number.") from None
    return type(sampler)(**settings)


def sentences_of(text: str, given: argparse.Namespace) -> list[str]:
    """The sentences of a prompt, none longer than those that the space has learnt."""
    return Cleaned(Capped(Sentencex(), given.characters or longest(given.space)))(text, given.lang)


def longest(spaces: list[str]) -> int:
    """Characters of the longest sentences that a space was trained on, where its folder tells; else 200."""
    for about in (located(source) / ABOUT for space in spaces for source in sources(space)):
        if about.is_file():
            return json.loads(about.read_text(encoding="utf-8")).get("longest", 200)
    return 200


def able(net: nn.Module, space: Space, given: argparse.Namespace) -> None:
    """Raise ValueError, in a sentence, where the space has not the languages, or the net's schedule not the steps."""
    space.tokenizer.lang_id(given.lang)
    space.target.lang_id(given.into or given.lang)
    if hasattr(net, "diffusion"):
        trailing(net.diffusion.schedule.steps, net.sampler.taken)


def fits(net: nn.Module, sentences: list[str], name: str) -> None:
    """Raise ValueError, in a sentence, where a prompt has no sentence, or leaves the net no position for another."""
    most = net.trunk.positions - 1
    if not sentences:
        raise ValueError(f"There is no sentence in {name}: give it words.")
    if len(sentences) > most:
        raise ValueError(f"The net reads {most} sentences, and {name} has {len(sentences)}: give the last {most} of them alone.")


def room(net: nn.Module, sentences: int, stop: Stop, given: argparse.Namespace) -> tuple[int, Stop, int, int]:
    """Capacity, stop, beam and seed of a draft: there is room for one more sentence that is given."""
    return min(sentences + given.sentences + 1, net.trunk.positions), stop, given.beam, given.seed


def show(draft: Draft, given: argparse.Namespace) -> None:
    print(*draft.texts, "|", end="", flush=True)
    for text in draft.write():
        print("", text, end="", flush=True)
    print()


def text_of(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise FileNotFoundError(f"There is no prompt file {path}: check its path.") from None
    except UnicodeDecodeError:
        raise ValueError(f"The prompt file {path} is no UTF-8 text.") from None
