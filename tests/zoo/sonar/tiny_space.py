"""A space so small that a test can train it: one layer, twenty texts of made-up sentences, six steps."""

import random
from pathlib import Path

from zoo.cli import main

ROOT = Path(__file__).parents[3]


def settings(tmp_path):
    """The words of a run of a small space on sentences that are made up here."""
    words = "the sea was calm and a ship sailed slowly to its old town".split()
    draw = random.Random(0)
    for i in range(20):
        lines = [" ".join(draw.choices(words, k=draw.randrange(3, 9))).capitalize() + "." for _ in range(20)]
        (tmp_path / f"{i}.txt").write_text("\n".join(lines))
    small = {"dim": 32, "encoder_layers": 1, "decoder_layers": 1, "heads": 2, "hidden": 64}
    arguments = [f"--model.init_args.net.init_args.{name}={value}" for name, value in small.items()]
    arguments += [
        "--data.init_args.source=files",
        f"--data.init_args.files=['{tmp_path}/*.txt']",
        "--data.init_args.vocab_size=56",
    ]
    arguments += [f"--data.init_args.root={tmp_path}/data", "--trainer.max_steps=6", "--trainer.val_check_interval=6"]
    arguments += [f"--trainer.logger.init_args.save_dir={tmp_path}", "--trainer.precision=32", "--data.init_args.tokens=128"]
    return ["-c", str(ROOT / "recipes/sonar/small.yaml"), *arguments]


def trained(tmp_path):
    """Such a run, and its words."""
    words = settings(tmp_path)
    return main(["fit", *words]), words
