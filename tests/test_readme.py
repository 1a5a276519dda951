"""What the README tells people to type is there and parses; with --slow, it runs."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from zoo.__main__ import main, verbs_of_folders

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


LIGHTNING = [c for c in of("zoo") if c[1] in ("fit", "validate", "test", "prepare") and c[2] == "-c"]
TEACHER = COMMANDS[(first := next(i for i, c in enumerate(COMMANDS) if c[-1].endswith("=teacher"))) : first + 7]
SHORT = ["--trainer.max_steps=2", "--trainer.val_check_interval=2", "--data.init_args.eval_bytes=5000"]
ON_A_LAPTOP = [c for c in LIGHTNING if "recipes/scales/laptop.yaml" in c]
OWN = [c for c in of("zoo") if c not in LIGHTNING]


@pytest.mark.parametrize("command", OWN, ids=" ".join)
def test_our_own_verbs_know_their_options(command, capsys):
    verb = command[1:3] if command[1] == "prepare" else command[1:2]
    taking = [word for word in command if f"{command[1]} {word}" in verbs_of_folders() and word.startswith("-")]
    with pytest.raises(SystemExit) as stop:
        main([*verb, "--help", *taking])
    assert stop.value.code in (0, None)
    known = {"-c", *re.findall(r"--?[a-z]\w*", capsys.readouterr().out)}  # -c: handed on
    used = {word.partition("=")[0] for word in command if word.startswith("-") and not word.startswith("--data.")}
    assert used <= known
    assert all((ROOT / word).is_file() for word in command if word.startswith("recipes/"))


@pytest.mark.parametrize("command", LIGHTNING, ids=" ".join)
def test_zoo_commands_parse(command, tmp_path, capsys, monkeypatch):
    for name in ("recipes", "zoo"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    assert printed(["fit", "-c", "recipes/mtp/code.yaml"]) == 0
    for word in command:
        if word.startswith("runs/") and word.endswith("config.yaml"):  # that a run leaves
            Path(word).parent.mkdir(parents=True)
            Path(word).write_text(capsys.readouterr().out)
    assert printed(command[1:]) == 0


def printed(words: list[str]) -> int | str | None:
    """Have LightningCLI print what it understands of these words: 0, or what it does not."""
    with pytest.raises(SystemExit) as stop:
        main([*words, "--print_config"])
    return stop.value.code


def test_table_of_the_tree_is_true():
    for path in re.findall(r"^(?:\S*?)((?:zoo|recipes|benchmarks|tests)/[\w./]*)", (ROOT / "README.md").read_text(), re.M):
        assert (ROOT / path).exists(), path


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", [c for c in LIGHTNING if "recipes/scales/laptop.yaml" in c and c not in TEACHER], ids=" ".join
)
def test_laptop_commands_run(command, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    words = [w.replace("my/texts/*.jsonl.gz", f"{ROOT}/zoo/**/*.py") for w in command[1:]]
    here = [f"--data.init_args.root={tmp_path}", f"--trainer.logger.init_args.save_dir={tmp_path}"]
    assert main([*words, *SHORT, *here]).trainer.global_step == 2


@pytest.mark.slow
def test_the_steps_with_a_teacher_run_in_their_order(tmp_path, monkeypatch, capsys):
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    monkeypatch.chdir(tmp_path)
    less = {"fit": SHORT, "sae": ["--sae.tokens=20480", SHORT[2]], "concepts": [SHORT[2]], "cards": [SHORT[2]]}
    for command in TEACHER:
        words = command[1:]
        main(words + less.get(words[1] if words[0] == "prepare" else words[0], []))
    assert "concept 7" in capsys.readouterr().out.lower()
