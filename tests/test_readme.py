"""What the README tells people to type is there and parses; with --slow, it runs."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from zoo.__main__ import main

ROOT = Path(__file__).parents[1]
BLOCKS = "\n".join(re.findall(r"```(?:sh|bash)\n(.*?)```", (ROOT / "README.md").read_text(), re.S)).replace("\\\n", " ")
COMMANDS = [shlex.split(line, comments=True) for line in BLOCKS.splitlines() if line.strip() and not line.startswith("#")]


def of(program: str) -> list[list[str]]:
    return [c for c in COMMANDS if c and c[0] == program]


def test_readme_has_the_two_commands():
    assert ["make", "reproduce"] in COMMANDS and ["make", "test"] in COMMANDS


@pytest.mark.parametrize("command", of("make"), ids=" ".join)
def test_make_targets_exist(command):
    dry = subprocess.run(["make", "-n", *command[1:]], cwd=ROOT, capture_output=True, text=True)
    assert dry.returncode == 0, dry.stderr


@pytest.mark.parametrize("command", [c for c in of("zoo") if c[1] in ("fit", "validate", "test", "prepare")], ids=" ".join)
def test_zoo_commands_parse(command, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    words = [w for w in command[1:] if not w.startswith(("--ckpt_path", "runs/")) and "runs/" not in w]
    if "-c" in words and words.count("-c") != len([w for w in words if w.endswith(".yaml")]):
        words = ["fit", "-c", "recipes/mtp/code.yaml"]  # the command re-runs a saved configuration, which is not there yet
    with pytest.raises(SystemExit) as stop:
        main([*words, "--print_config"])
    assert stop.value.code == 0


def test_table_of_the_tree_is_true():
    for path in re.findall(r"^(?:\S*?)((?:zoo|recipes|benchmarks|tests)/[\w./]*)", (ROOT / "README.md").read_text(), re.M):
        assert (ROOT / path).exists(), path


@pytest.mark.slow
@pytest.mark.parametrize("command", [c for c in of("zoo") if "recipes/scales/laptop.yaml" in c], ids=" ".join)
def test_laptop_commands_run(command, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    words = [w.replace("my/texts/*.jsonl.gz", f"{ROOT}/zoo/**/*.py") for w in command[1:]]
    short = ["--trainer.max_steps=2", "--trainer.val_check_interval=2", "--data.init_args.eval_bytes=5000"]
    here = [f"--data.init_args.root={tmp_path}", f"--trainer.logger.init_args.save_dir={tmp_path}"]
    assert main([*words, *short, *here]).trainer.global_step == 2
