"""`zoo` and `python -m zoo`: LightningCLI's verbs, which zoo.cli runs, and our own, which need not wait for Lightning."""

import runpy
import sys
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path

LIGHTNING = {
    "fit": "train; LightningCLI: -c recipes/mtp/code.yaml -c recipes/scales/laptop.yaml --key=value",
    "validate": "the validation pass alone",
    "test": "the test pass alone",
    "prepare": "build the token store of a recipe (fit does it too, when it is missing)",
}
OWN = {"generate": ("zoo.generate", "FOLDER: continue a prompt with a saved net of tokens")}  # the others are their folders'
HOME = Path(__file__).parent


def verbs_of_folders() -> dict[str, tuple[str, str]]:
    """Our own verbs: OWN and every folder's `VERBS`, which its verbs.py holds.

    "verb", "two words", or "verb --option", which takes the verb over where the option is given -> the module whose
    `main(words)` runs it, and a line of help. Raises ValueError for a verb that is there twice.
    """
    found, place = dict(OWN), dict.fromkeys([*LIGHTNING, *OWN], "zoo/__main__.py")
    for path in sorted(HOME.glob("*/verbs.py")):
        name = f"zoo/{path.parent.name}/verbs.py"
        for verb, entry in runpy.run_path(str(path))["VERBS"].items():  # an import would run the folder's __init__: seconds
            if verb in place:
                raise ValueError(f"the verb {verb!r} is in {place[verb]} and in {name}: take it out of one of them.")
            found[verb], place[verb] = entry, name
    return found


def main(args: list[str] | None = None, callbacks: Iterable = ()):
    """Run `zoo` with these words (default: the command line); a failure ends with one sentence and exit code 1 or 2.

    callbacks: of the caller, for LightningCLI's verbs, whose command line object is returned.
    """
    from zoo.explain import did_you_mean, in_one_sentence

    args = list(sys.argv[1:] if args is None else args)
    with in_one_sentence():
        own = verbs_of_folders()
    if not args or args[0] in ("-h", "--help"):
        lines = {**LIGHTNING, **{verb: words for verb, (_, words) in own.items()}}
        width = max(map(len, lines))
        print("usage: zoo VERB …", *(f"  {verb:<{width}}  {words}" for verb, words in sorted(lines.items())), sep="\n")
        print("`zoo VERB --help` tells more; `zoo fit … --print_config` shows every setting of a run.")
        return None
    plain = [each for each in (*LIGHTNING, *own) if " --" not in each]
    verb = " ".join(args[:2]) if " ".join(args[:2]) in plain else args[0]
    if verb not in plain:
        sys.exit(f"zoo: there is no verb {verb!r}{did_you_mean(verb, plain)}")
    options = [f"{verb} {word.split('=')[0]}" for word in args]
    taken = next((each for each in own if each in options), verb)
    if taken in LIGHTNING:
        asked = [word for before, word in zip(["", *args], args) if "--ckpt_path" in (before, word.split("=")[0])]
        if any("://" in word for word in asked):  # Lightning would unpickle whatever it is
            sys.exit("zoo: --ckpt_path is a file on a disk, which is read without running what is in it: fetch it first.")
        from zoo.cli import main as run

        return run(args, callbacks)
    with in_one_sentence():
        return import_module(own[taken][0]).main(args[1 + verb.count(" ") :])


def run() -> None:
    """The installed command: what `main` returns is no exit code."""
    main()


if __name__ == "__main__":
    main()
