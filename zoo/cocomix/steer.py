"""`zoo steer`: continues prompts with a concept made strong or taken out, in CoCoMix and in its teacher (Figs. 5 and 10)."""

import argparse
from types import SimpleNamespace

from torch import nn

from zoo.cocomix.cards import Cards
from zoo.cocomix.mass import picks, score
from zoo.cocomix.prompts import Asked, add_arguments, cards_of, placed, random
from zoo.cocomix.steering import SteerableCoCoMix, SteerableTeacher, steered, strength
from zoo.data.labels import differences
from zoo.generate import generate


def main(words: list[str]) -> dict[str, float]:
    """`zoo steer FOLDER --concept ID …` and `zoo steer FOLDER --score --cards FOLDER`; the scores, where they were asked for."""
    parser = argparse.ArgumentParser("zoo steer", description=__doc__.split(": ", 1)[1])
    add_arguments(parser)
    parser.add_argument("--concept", type=int, help="index of the concept, the same in CoCoMix and the teacher")
    parser.add_argument(
        "--factor",
        type=float,
        action="append",
        help="set the concept to so many times what a strong one has; 0 takes it out, below 0 turns it round; may be repeated "
        "(default: 4)",
    )
    parser.add_argument(
        "--where", choices=["all", "end"], default="all", help="set it at every token (default), or from the prompt's last on"
    )
    parser.add_argument("--teacher", help="the teacher: a folder of a saved net (ours, or transformers'), or a hub name")
    parser.add_argument("--sae", help="its autoencoder: a folder that sae-lens saved, or one of its releases: RELEASE/ID")
    parser.add_argument("--layer", type=int, default=6, help="blocks below the teacher's states (default: %(default)s)")
    parser.add_argument(
        "--teacher_cards",
        metavar="FOLDER",
        help="of --score: cards of labels that were chosen by activation, which say what the teacher's concepts stand for",
    )
    parser.add_argument("--score", action="store_true", help="measure how well concepts steer; needs --cards")
    parser.add_argument("--concepts", type=int, default=50, help="of --score: how many (default: %(default)s)")
    parser.add_argument("--others", type=int, default=20, help="of --score: random concepts beside each (default: %(default)s)")
    parser.add_argument("--least", type=int, default=100, help="of --score: places that a concept has at least (default: 100)")
    given = parser.parse_args(words)
    if given.score == (given.concept is not None):
        raise ValueError("zoo steer takes either --concept ID, or --score with --cards FOLDER.")
    if given.score and (given.cards is None or len(given.factor or ()) > 1):
        raise ValueError("--score needs --cards FOLDER, which `zoo cards` makes, and takes one --factor.")
    if (given.teacher is None) != (given.sae is None):
        raise ValueError("--teacher and --sae go together: give both, or neither.")
    asked = Asked.of(given)
    nets: dict[str, SteerableCoCoMix | SteerableTeacher] = {"CoCoMix": SteerableCoCoMix(asked.net)}
    if given.teacher:
        nets["teacher"] = _teacher(given, asked)
        if nets["teacher"].concepts != nets["CoCoMix"].concepts:
            raise ValueError(
                f"The autoencoder has {nets['teacher'].concepts} latents and the net {nets['CoCoMix'].concepts} concepts: give "
                "the one that its labels were made with."
            )
    cards = cards_of(given, nets["CoCoMix"].concepts)
    if given.score:
        other = Cards.load(given.teacher_cards, nets["CoCoMix"].concepts) if given.teacher_cards else None
        for each in (cards, other):
            _belongs(each, nets.get("teacher"), given)
        return _score(given, asked, nets, cards, other)
    _continue(given, asked, nets, cards)
    return {}


def _teacher(given: argparse.Namespace, asked: Asked) -> SteerableTeacher:
    from zoo.cocomix.teacher import opened_sae, opened_teacher  # brings Lightning, which takes seconds

    data = SimpleNamespace(tokenizer=asked.tokenizer, context=1)  # prompts of any length: the window moves with the text
    teacher = opened_teacher(given.teacher, data)
    return placed(SteerableTeacher(teacher.net, opened_sae(given.sae, given.layer, teacher), given.layer), given)


def _belongs(cards: Cards | None, teacher: SteerableTeacher | None, given: argparse.Namespace) -> None:
    """Refuse an autoencoder, or a layer, that the cards' labels are not of: their concepts would be other ones."""
    if cards is None or teacher is None:
        return
    if wrong := differences(cards.about, {"autoencoder": teacher.extractor.sae.digest[:16], "layer": given.layer}):
        raise ValueError(f"The cards are of labels of {wrong}: give --sae and --layer as `zoo prepare concepts` had them.")


def _score(
    given: argparse.Namespace, asked: Asked, nets: dict[str, nn.Module], cards: Cards, other: Cards | None
) -> dict[str, float]:
    """Print each net's score, and return it, under the names of `zoo.cocomix.callbacks.SteeringScore`: without other cards the
    teacher's is of CoCoMix's own concepts and tokens ("same")."""
    asks = {"steering": ("CoCoMix", cards)}
    if "teacher" in nets:
        asks["steering_teacher_same"] = "teacher", cards
    if other and "teacher" in nets:
        asks["steering_teacher"] = "teacher", other
    measured = {}
    for key, (name, told) in asks.items():
        picked = picks(told, given.concepts, given.others, given.least, given.seed)
        print(f"concepts: {', '.join(map(str, picked.tokens))}")
        found = score(nets[name], asked.prompts, picked, (given.factor or [4.0])[0], given.where == "all")
        print(found.line(name), flush=True)
        measured |= {key: found.mean, f"{key}_interval": found.interval}
    return measured


def _continue(given: argparse.Namespace, asked: Asked, nets: dict[str, nn.Module], cards: Cards | None) -> None:
    """Print each net's continuations of each prompt, as it is and steered."""
    longest = max(map(len, asked.prompts)) + given.tokens
    for name, net in nets.items():
        if given.where == "end" and longest > net.context:
            raise ValueError(
                f"--where end: {longest} tokens with the prompt are more than the {net.context} of the {name}'s context, which "
                "would move away from the prompt's end: ask for fewer --tokens, or for --where all."
            )
    if cards:
        print(f"concept {given.concept}: {cards.words(given.concept, 10)}\n")
    for prompt in asked.prompts:
        print(asked.tokenizer.decode(prompt))
        for name, net in nets.items():
            start, unit = 0 if given.where == "all" else len(prompt) - 1, strength(net, [prompt])
            print(f"  {name}: {_continued(given, asked, net, prompt)!r}")
            for factor in given.factor or [4.0]:
                with steered(net, given.concept, factor * unit, start):
                    text = _continued(given, asked, net, prompt)
                print(f"  {name}, concept {given.concept} at {factor:g} x {unit:.3g}: {text!r}", flush=True)
        print()


def _continued(given: argparse.Namespace, asked: Asked, net: nn.Module, prompt: list[int]) -> str:
    settings = {"stop": {asked.tokenizer.eos}, "generator": random(given)}
    return asked.tokenizer.decode(generate(net, [prompt], given.tokens, asked.sampling, **settings).tokens[0])
