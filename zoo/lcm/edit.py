"""`zoo edit FOLDER --space SPACE`: changes a sentence of a text, and has a Large Concept Model write on from there."""

import argparse

from zoo.lcm.generate import able, add_arguments, ending, fits, opened, room, sentences_of, show, text_of
from zoo.lcm.writing import Draft


def main(words: list[str]) -> None:
    """Prints the sentences of the text, and what becomes of it."""
    parser = argparse.ArgumentParser("zoo edit", description=__doc__.split(": ", 1)[1])
    parser.add_argument("--prompt", help="the text")
    parser.add_argument("--prompt_file", help="a file that holds it")
    change = parser.add_mutually_exclusive_group(required=True)
    change.add_argument(
        "--replace", nargs=2, metavar=("NUMBER", "TEXT"), help="sentence NUMBER, counted from 1, is TEXT from now on"
    )
    change.add_argument("--insert", nargs=2, metavar=("NUMBER", "TEXT"), help="TEXT stands before sentence NUMBER")
    change.add_argument("--delete", metavar="NUMBER", help="sentence NUMBER is gone")
    add_arguments(parser)
    given = parser.parse_args(words)
    if (given.prompt is None) == (given.prompt_file is None):
        raise ValueError("zoo edit changes one text: give --prompt TEXT, or --prompt_file FILE.")
    net, space, told = opened(given)
    able(net, space, given)
    text = given.prompt if given.prompt_file is None else text_of(given.prompt_file)
    sentences = sentences_of(text, given)
    fits(net, sentences, "the text")
    asked = given.replace or given.insert or [given.delete]
    last = len(sentences) + bool(given.insert)  # behind the last sentence one can be put, too
    if not asked[0].isdecimal() or not 1 <= int(asked[0]) <= last:
        raise ValueError(f"Sentences are counted from 1, here to {last}: {asked[0]} is none of these numbers.")
    new = [] if given.delete else sentences_of(asked[1], given)
    if not given.delete and len(new) != 1:
        raise ValueError(
            f"{asked[1]!r} is {len(new)} sentences of the space's length: give one, and put in more by further edits."
        )
    draft = Draft(net, space, sentences, given.lang, given.into, *room(net, len(sentences), ending(space, told, given), given))
    for number, sentence in enumerate(sentences, 1):
        print(f"{number:>4}  {sentence}")
    print("—")
    index = int(asked[0]) - 1
    if given.delete:
        draft.delete(index)
    elif given.insert:
        draft.insert(index, *new)
    else:
        draft.replace(index, *new)
    show(draft, given)
