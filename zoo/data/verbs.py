"""This folder's verbs of `zoo`: the module whose `main(words)` runs each, and a line of help. Read, never imported."""

VERBS = {
    "prepare sentences": (
        "zoo.data.scale",
        "-c RECIPE …: build the sentence store of a recipe; --executor local|slurm|ray --workers N in many pieces at a time",
    ),
    "prepare boundaries": (
        "zoo.data.boundaries",
        "--out FOLDER with --files FILE… or -c RECIPE …: train a classifier of sentence ends",
    ),
}
