"""This folder's verbs of `zoo`: the module whose `main(words)` runs each, and a line of help. Read, never imported."""

VERBS = {
    "prepare space": (
        "zoo.sonar.ship",
        "--run FOLDER --out FOLDER -c RECIPE …: make a folder of a trained sentence space, and measure it",
    ),
    "prepare codebooks": (
        "zoo.sonar.codebooks",
        "--space FOLDER --out FOLDER -c RECIPE …: fit the codebooks of a residual quantizer to a sentence space",
    ),
    "roundtrip": ("zoo.sonar.roundtrip", "SPACE --text TEXT: sentences beside what comes back of them from their vectors"),
}
