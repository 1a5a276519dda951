"""This folder's verbs of `zoo`: the module whose `main(words)` runs each, and a line of help. Read, never imported."""

VERBS = {
    "prepare chains": (
        "zoo.lcm.books",
        "--out FOLDER -c RECIPE …: fit the codebooks of a residual quantizer to the vectors of the test bed",
    ),
    "edit": (
        "zoo.lcm.edit",
        "FOLDER --space SPACE --replace NUMBER TEXT: change a sentence, and have an LCM write on from there",
    ),
    "generate --space": (
        "zoo.lcm.generate",
        "FOLDER --space SPACE: continue a text, sentence by sentence, with a Large Concept Model",
    ),
}
