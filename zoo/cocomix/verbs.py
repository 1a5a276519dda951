"""This folder's verbs of `zoo`: the module whose `main(words)` runs each, and a line of help. Read, never imported."""

VERBS = {
    "prepare sae": ("zoo.cocomix.training", "-c RECIPE …: train a sparse autoencoder of a teacher's hidden states"),
    "prepare concepts": (
        "zoo.cocomix.labels",
        "--teacher FOLDER --sae FOLDER -c RECIPE …: label the windows of a recipe's data with a teacher's concepts",
    ),
    "cards": ("zoo.cocomix.cards", "LABELS -c RECIPE …: say what concepts stand for, by where they are in the training text"),
    "steer": ("zoo.cocomix.steer", "FOLDER --concept ID: continue a prompt with a concept of CoCoMix, and of its teacher, set"),
    "generate --concepts": (
        "zoo.cocomix.predicted",
        "FOLDER --concepts [K]: continue a prompt with CoCoMix, and show the concepts behind each token",
    ),
}
