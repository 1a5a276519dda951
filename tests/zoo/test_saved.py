"""A saved net in the place of a new one, through the command line, and what callbacks measure of it at test."""

import json
from pathlib import Path

import pytest
import torch

from zoo.__main__ import main
from zoo.mtp import MTP
from zoo.pretrained import Saved, save_pretrained

ROOT = Path(__file__).parents[2]


def words(folder: Path, *more: str) -> list[str]:
    return [
        "fit", "-c", f"{ROOT}/recipes/mtp/code.yaml", "-c", f"{ROOT}/recipes/scales/smoke.yaml",
        "--data.init_args.source=files", f"--data.init_args.files=['{folder}/code.jsonl']",
        f"--data.init_args.root={folder}/data",
        "--data.init_args.prepare_workers=1", f"--trainer.logger.init_args.save_dir={folder}/runs", *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """Folder of the data, and of two saved nets: n = 2 and n = 1."""
    folder = tmp_path_factory.mktemp("saved")
    code = [
        f"def f{i}(x):\n" + "".join(f"    x = g{i * j % 7}(x, {j})\n" for j in range(60)) + "    return x\n" for i in range(30)
    ]
    (folder / "code.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in code))
    for n in (2, 1):
        main(words(folder, f"--model.init_args.net.init_args.n={n}", f"--trainer.logger.init_args.version=n{n}"))
    return folder


def saved(folder: Path, n: int) -> str:
    return f"{folder}/runs/mtp-code/n{n}/pretrained"


def test_a_saved_net_is_tested_as_it_is(fitted):
    gain = f"{{class_path: zoo.evals.gain.Gain, init_args: {{baseline: {saved(fitted, 1)}}}}}"
    text = (
        "{class_path: zoo.evals.code_text.CodeText, init_args: {lines: 2, functions: 1, characters: 40, longest: 60, body: 30}}"
    )
    (fitted / "a.jsonl").write_text(
        '{"task_id": "a/1", "prompt": "def f():", "entry_point": "f", "test": "", "canonical_solution": "    return 1"}'
    )
    references = f"{{class_path: zoo.evals.code_text.References, init_args: {{files: ['{fitted}/a.jsonl']}}}}"
    cli = main(
        words(
            fitted,
            f"--model.init_args.net={{class_path: zoo.pretrained.Saved, init_args: {{folder: {saved(fitted, 2)}}}}}",
            f"--trainer.callbacks=[{gain}, {{class_path: zoo.mtp.emphasis.Emphasis}}, {text}, {references}]",
            "--trainer.max_steps=0",
        )
    )
    cli.trainer.test(cli.model, datamodule=cli.datamodule, verbose=False)
    found = {name: float(value) for name, value in cli.trainer.callback_metrics.items()}
    own = torch.load(f"{fitted}/runs/mtp-code/n2/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(w, own[f"net.{name}"]) for name, w in cli.model.net.state_dict().items())
    assert found["test/emphasis"] == 1.5 and "test/harder_slope" in found
    assert found["test/reference_bits_per_byte"] > 1 and 0 <= found["test/line_similarity"] <= 100
    assert abs(found["test/gain"]) > 0 and {"test/gain_slope_error", "test/syntax", "test/entropy_bin1"} <= found.keys()


def test_training_goes_on_from_a_saved_net(fitted):
    net = f"--model.init_args.net={{class_path: zoo.pretrained.Saved, init_args: {{folder: {saved(fitted, 2)}}}}}"
    cli = main(words(fitted, net, "--trainer.max_steps=2"))
    assert cli.trainer.global_step == 2 and cli.model.net.n == 2 and cli.model.net.training


def test_a_net_for_other_data_is_refused(tmp_path):
    save_pretrained(MTP(11, 8, n=2, dim=8, layers=3, heads=2), tmp_path)
    assert Saved(11, 8, str(tmp_path)).training
    with pytest.raises(ValueError, match="11 token ids and the data 12"):
        Saved(12, 8, str(tmp_path))
    with pytest.raises(ValueError, match="positions"):
        Saved(11, 9, str(tmp_path))
    with pytest.raises(FileNotFoundError, match="holds no saved net"):
        Saved(11, 8, str(tmp_path / "none"))
