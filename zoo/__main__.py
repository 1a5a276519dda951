"""`zoo` and `python -m zoo`: LightningCLI's verbs, which zoo.cli runs, and our own, which need not wait for Lightning."""

import sys
from collections.abc import Iterable
from importlib import import_module

LIGHTNING = {
    "fit": "train; LightningCLI: -c recipes/mtp/code.yaml -c recipes/scales/laptop.yaml --key=value",
    "validate": "the validation pass alone",
    "test": "the test pass alone",
    "prepare": "build the token store of a recipe (fit does it too, when it is missing)",
}
OWN = {  # verb, of one word or two: the module whose `main(words)` runs it
    "prepare sae": ("zoo.cocomix.training", "-c RECIPE …: train a sparse autoencoder of a teacher's hidden states"),
    "prepare concepts": (
        "zoo.cocomix.labels",
        "--teacher FOLDER --sae FOLDER -c RECIPE …: label the windows of a recipe's data with a teacher's concepts",
    ),
    "prepare space": (
        "zoo.sonar.ship",
        "--run FOLDER --out FOLDER -c RECIPE …: make a folder of a trained sentence space, and measure it",
    ),
    "prepare codebooks": (
        "zoo.sonar.codebooks",
        "--space FOLDER --out FOLDER -c RECIPE …: fit the codebooks of a residual quantizer to a sentence space",
    ),
    "prepare chains": (
        "zoo.lcm.books",
        "--out FOLDER -c RECIPE …: fit the codebooks of a residual quantizer to the vectors of the test bed",
    ),
    "prepare fragility": (
        "zoo.evals.fragile",
        "--space FOLDER --out FOLDER -c RECIPE …: train a model that tells how fragile a sentence is",
    ),
    "prepare judge": ("zoo.evals.judge", "--out FOLDER -c RECIPE …: train a judge of coherence on validation documents"),
    "prepare sentences": (
        "zoo.data.scale",
        "-c RECIPE …: build the sentence store of a recipe; --executor local|slurm|ray --workers N in many pieces at a time",
    ),
    "prepare boundaries": (
        "zoo.data.boundaries",
        "--out FOLDER with --files FILE… or -c RECIPE …: train a classifier of sentence ends",
    ),
    "generate": (
        "zoo.generate",
        "FOLDER: continue a prompt with a saved net; --concepts for what CoCoMix predicts, --space for an LCM",
    ),
    "edit": (
        "zoo.lcm.edit",
        "FOLDER --space SPACE --replace NUMBER TEXT: change a sentence, and have an LCM write on from there",
    ),
    "roundtrip": ("zoo.sonar.roundtrip", "SPACE --text TEXT: sentences beside what comes back of them from their vectors"),
    "cards": ("zoo.cocomix.cards", "LABELS -c RECIPE …: say what concepts stand for, by where they are in the training text"),
    "steer": ("zoo.cocomix.steer", "FOLDER --concept ID: continue a prompt with a concept of CoCoMix, and of its teacher, set"),
    "solve": ("zoo.evals.passk", "FOLDER: have a saved net solve code problems (HumanEval, MBPP, APPS), pass@k"),
    "evaluate": (
        "zoo.evals.evaluate",
        "FOLDER --tasks a,b: measure a saved net on lm-eval's tasks, from local files (--files) or the hub",
    ),
}


def main(args: list[str] | None = None, callbacks: Iterable = ()):
    """Run `zoo` with these words (default: the command line); a failure ends with one sentence and exit code 1 or 2.

    callbacks: of the caller, for LightningCLI's verbs, whose command line object is returned.
    """
    from zoo.explain import did_you_mean, in_one_sentence

    args = list(sys.argv[1:] if args is None else args)
    if not args or args[0] in ("-h", "--help"):
        verbs = {**LIGHTNING, **{verb: words for verb, (_, words) in OWN.items()}}
        print("usage: zoo VERB …", *(f"  {verb:<16} {words}" for verb, words in sorted(verbs.items())), sep="\n")
        print("`zoo VERB --help` tells more; `zoo fit … --print_config` shows every setting of a run.")
        return None
    verb = " ".join(args[:2]) if " ".join(args[:2]) in OWN else args[0]
    if verb not in {**LIGHTNING, **OWN}:
        sys.exit(f"zoo: there is no verb {verb!r}{did_you_mean(verb, [*LIGHTNING, *OWN])}")
    if verb in LIGHTNING:
        asked = [word for before, word in zip(["", *args], args) if "--ckpt_path" in (before, word.split("=")[0])]
        if any("://" in word for word in asked):  # Lightning would unpickle whatever it is
            sys.exit("zoo: --ckpt_path is a file on a disk, which is read without running what is in it: fetch it first.")
        from zoo.cli import main as run

        return run(args, callbacks)
    module = OWN[verb][0]
    if verb == "generate" and any(word.split("=")[0] == "--concepts" for word in args):
        module = "zoo.cocomix.predicted"  # which `generate`, for every token net, knows nothing of
    if verb == "generate" and any(word.split("=")[0] == "--space" for word in args):
        module = "zoo.lcm.generate"
    with in_one_sentence():
        return import_module(module).main(args[1 + verb.count(" ") :])


def run() -> None:
    """The installed command: what `main` returns is no exit code."""
    main()


if __name__ == "__main__":
    main()
