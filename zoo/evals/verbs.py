"""This folder's verbs of `zoo`: the module whose `main(words)` runs each, and a line of help. Read, never imported."""

VERBS = {
    "prepare fragility": (
        "zoo.evals.fragile",
        "--space FOLDER --out FOLDER -c RECIPE …: train a model that tells how fragile a sentence is",
    ),
    "prepare judge": ("zoo.evals.judge", "--out FOLDER -c RECIPE …: train a judge of coherence on validation documents"),
    "solve": ("zoo.evals.passk", "FOLDER: have a saved net solve code problems (HumanEval, MBPP, APPS), pass@k"),
    "evaluate": (
        "zoo.evals.evaluate",
        "FOLDER --tasks a,b: measure a saved net on lm-eval's tasks, from local files (--files) or the hub",
    ),
}
