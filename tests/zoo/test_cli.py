"""The command line with real recipes on a tiny corpus: layering, links, one-sentence errors, what a run leaves behind."""

import errno
import importlib.util
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors import SafetensorError
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from zoo.__main__ import LIGHTNING, main, verbs_of_folders
from zoo.cli import ZooCLI
from zoo.explain import Told, explain
from zoo.files import put
from zoo.pretrained import from_pretrained

ROOT = Path(__file__).parents[2]


def words(folder: Path, verb: str = "fit", recipe: str = "mtp/code") -> list[str]:
    return [
        verb, "-c", f"{ROOT}/recipes/{recipe}.yaml", "-c", f"{ROOT}/recipes/scales/smoke.yaml",
        "--data.init_args.source=files", f"--data.init_args.files=['{ROOT}/zoo/**/*.py']", f"--data.init_args.root={folder}/data",
        "--data.init_args.prepare_workers=1", f"--trainer.logger.init_args.save_dir={folder}/runs",
    ]  # fmt: skip


def fails(capsys, args: list[str]) -> str:
    """What a failing command says: one line, not a traceback."""
    with pytest.raises(SystemExit) as stop:
        main(args)
    text = stop.value.code if isinstance(stop.value.code, str) else capsys.readouterr().err
    lines = [line for line in text.strip().splitlines() if line.startswith("zoo:")]
    assert len(lines) == 1 and "Traceback" not in text, text
    return lines[0]


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """One smoke run of MTP, shared by the tests that look at what it left."""
    folder = tmp_path_factory.mktemp("fit")
    return main(words(folder)), folder


def test_overlays_and_command_line_win_in_order(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([*words(tmp_path), "--model.init_args.net.init_args.dim=48", "--print_config"])
    config = yaml.safe_load(capsys.readouterr().out)
    net = config["model"]["init_args"]["net"]
    assert net["init_args"]["dim"] == 48 and net["init_args"]["layers"] == 10 and net["init_args"]["n"] == 4
    assert config["model"]["init_args"]["warmup"] == 2 and config["model"]["init_args"]["floor"] == 0.03


def test_the_verbs_are_those_that_there_are():
    assert set(LIGHTNING) == set(ZooCLI.subcommands())
    for verb, (module, _) in verbs_of_folders().items():
        assert importlib.util.find_spec(module), verb


def test_help_lists_every_verb_and_is_quick(capsys):
    main(["--help"])
    told = [line.split("  ")[1] for line in capsys.readouterr().out.splitlines()[1:-1]]
    assert told == sorted([*LIGHTNING, *verbs_of_folders()]) and {"generate --concepts", "generate --space"} <= set(told)
    after = "import sys; from zoo.__main__ import main; main(['--help']); print(*sorted(sys.modules), file=sys.stderr)"
    ran = subprocess.run([sys.executable, "-c", after], cwd=ROOT, capture_output=True, text=True, check=True)
    here = {name for name in ran.stderr.split() if name.split(".")[0] in ("zoo", "torch", "lightning")}
    assert here == {"zoo", "zoo.__main__", "zoo.explain"}  # no folder's __init__, and no verbs.py in what a record hashes


def folder_with(home: Path, name: str, verbs: dict[str, tuple[str, str]]) -> None:
    (home / name).mkdir()
    (home / name / "__init__.py").write_text("raise SystemExit('this takes seconds')")
    (home / name / "verbs.py").write_text(f"VERBS = {verbs}")


def test_a_folder_brings_its_verbs(tmp_path, monkeypatch):
    (tmp_path / "run_of_one.py").write_text("def main(words):\n    return words\n")
    monkeypatch.syspath_prepend(tmp_path)
    asked = dict.fromkeys(("prepare one", "sing --loud", "generate --loud", "fit --loud"), ("run_of_one", ""))
    folder_with(tmp_path, "one", {**asked, "sing": ("no_such_module", "")})
    monkeypatch.setattr("zoo.__main__.HOME", tmp_path)
    assert main(["prepare", "one", "-c", "x"]) == ["-c", "x"]
    assert main(["sing", "a", "--loud=3"]) == ["a", "--loud=3"] and main(["fit", "--loud"]) == main(["generate", "--loud"])
    with pytest.raises(SystemExit, match="zoo: ModuleNotFoundError: No module named 'no_such_module'"):
        main(["sing", "--louder"])
    with pytest.raises(SystemExit, match="there is no verb 'sng'; did you mean 'sing'"):
        main(["sng", "--loud"])


def test_a_verb_is_of_one_folder(tmp_path, monkeypatch):
    folder_with(tmp_path, "one", {"sing": ("a", "")})
    folder_with(tmp_path, "two", {"sing": ("b", "")})
    monkeypatch.setattr("zoo.__main__.HOME", tmp_path)
    with pytest.raises(SystemExit, match=r"zoo: the verb 'sing' is in zoo/one/verbs.py and in zoo/two/verbs.py: take it out of"):
        main(["--help"])
    folder_with(tmp_path, "three", {"fit": ("b", "")})
    with pytest.raises(ValueError, match=r"'fit' is in zoo/__main__.py and in zoo/three/verbs.py"):
        verbs_of_folders()


def test_data_and_seed_reach_the_model(fitted):
    cli, _ = fitted
    assert (cli.model.vocab, cli.model.context, cli.model.seed, cli.datamodule.seed) == (257, 64, 0, 0)
    assert cli.model.net.config["dim"] == 32


def test_run_leaves_config_checkpoints_and_a_net_that_loads(fitted):
    cli, folder = fitted
    run = folder / "runs/mtp-code/version_0"
    assert {p.name for p in (run / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert yaml.safe_load((run / "config.yaml").read_text())["seed_everything"] == 0
    net = from_pretrained(run / "pretrained")
    for name, weight in cli.model.net.state_dict().items():
        assert torch.equal(weight, net.state_dict()[name])


def test_saved_config_alone_repeats_the_run(fitted):
    cli, folder = fitted
    again = main(["fit", "-c", str(folder / "runs/mtp-code/version_0/config.yaml")])
    assert float(again.trainer.callback_metrics["val/loss"]) == float(cli.trainer.callback_metrics["val/loss"])


def test_validation_equals_a_count_by_hand(fitted):
    cli, _ = fitted
    metrics = cli.trainer.validate(cli.model, datamodule=cli.datamodule, verbose=False)[0]
    nll = total_bytes = tokens = 0
    cli.model.net.eval()
    for batch in cli.datamodule.val_dataloader():
        counted = batch["mask"][:, 1:65]
        with torch.autocast("cpu", torch.bfloat16):
            nll += (cli.model.net.nll(batch) * counted).sum().item()
        tokens += counted.sum().item()
        total_bytes += (batch["bytes"][:, 1:65] * counted).sum().item()
    assert metrics["val/next"] == pytest.approx(nll / tokens, rel=1e-5)
    assert metrics["val/bits_per_byte"] == pytest.approx(nll / total_bytes / math.log(2), rel=1e-5)
    heads = sum(metrics[f"val/{k}"] for k in ("next", "head2", "head3", "head4"))
    assert metrics["val/loss"] == pytest.approx(heads, rel=1e-5)


def test_tensorboard_holds_what_a_reader_looks_for(fitted):
    events = EventAccumulator(str(fitted[1] / "runs/mtp-code/version_0"))
    events.Reload()
    tags = events.Tags()
    expected = {"train/loss", "train/next", "train/head4", "val/bits_per_byte", "optim/learning_rate", "optim/gradient_norm",
                "speed/tokens_per_second", "speed/flop_per_second", "speed/peak_memory_mib"}  # fmt: skip
    assert expected <= set(tags["scalars"])
    assert any(t.startswith("sample/0") for t in tags["tensors"])
    layout = str(events.Tensors("custom_scalars__config__")[0].tensor_proto)
    assert "val/head4" in layout and "train/next" in layout
    hparams = str(events.summary_metadata["_hparams_/session_start_info"].plugin_data.content)
    assert "net.n" in hparams and "optimizer.lr" in hparams and "best." not in hparams


def test_measurements_of_the_run(fitted):
    measured = fitted[0].model.measured
    assert measured["tokens"] == 4 * 4 * 64
    assert measured["parameters"] == sum(p.numel() for p in fitted[0].model.net.parameters())
    assert measured["peak_memory_mib"] > 50 and 0 < measured["allocated_mib"] < measured["peak_memory_mib"]
    assert measured["epochs"] == pytest.approx(measured["tokens"] / (fitted[0].datamodule.windows("train") * 64))
    assert 0 < measured["step_seconds"] <= measured["seconds"] and measured["crowd"] >= 0


def test_baseline_runs_too_and_generates(tmp_path, capsys):
    main([*words(tmp_path, recipe="ntp/code"), "--trainer.max_steps=2", "--trainer.val_check_interval=2"])
    capsys.readouterr()
    main(["generate", str(tmp_path / "runs/ntp-code/version_0/pretrained"), "--prompt", "import ", "--tokens", "5"])
    assert capsys.readouterr().out.startswith("import ")


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("--model.init_args.net.init_args.heds=2", "unknown key 'heds'; did you mean 'heads'?"),
        ("--model.init_args.warmpu=2", "unknown key 'warmpu'; did you mean 'warmup'?"),
        ("--trainer.max_stepz=2", "unknown key 'trainer.max_stepz'; did you mean 'max_steps'?"),
        ("--data.init_args.contxt=2", "unknown key 'contxt'; did you mean 'context'?"),
        ("--trainer.max_steps=many", "trainer.max_steps"),
        ("--model.init_args.net.class_path=zoo.mtp.MPT", "has no attribute 'MPT'"),
        ("--model.init_args.net.init_args.n=10", "leave no trunk"),
        ("--model.init_args.net.init_args.positions=32", "positions"),
        ("--model.init_args.net.init_args.heads=5", "heads that divide dim"),
        ("--data.init_args.files=['nowhere/*.txt']", "nowhere"),
        ("--ckpt_path=nowhere.ckpt", "nowhere.ckpt"),
        ("--data.init_args.tokenizer=nowhere.json", "nowhere.json"),
    ],
)
def test_wrong_option_is_one_sentence(tmp_path, capsys, monkeypatch, option, sentence):
    monkeypatch.setattr(sys, "argv", ["zoo"])
    assert sentence in fails(capsys, [*words(tmp_path), option])


def test_misspelt_section_of_a_file_is_not_ignored(tmp_path, capsys):
    (tmp_path / "mine.yaml").write_text("modle: {}\n")
    assert "unknown key 'modle'; did you mean 'model'?" in fails(capsys, [*words(tmp_path), "-c", str(tmp_path / "mine.yaml")])


def test_missing_recipe_and_unknown_verb(tmp_path, capsys):
    assert "no configuration file" in fails(capsys, ["fit", "-c", str(tmp_path / "none.yaml")])
    assert "did you mean 'fit'" in fails(capsys, ["fti"])


@pytest.mark.parametrize("given", [["--ckpt_path=https://a.b/last.ckpt"], ["--ckpt_path", "s3://a/last.ckpt"]])
def test_a_checkpoint_of_the_network_is_not_unpickled(tmp_path, capsys, given):
    assert "is a file on a disk" in fails(capsys, [*words(tmp_path), *given])


def test_truncated_shard_names_itself(fitted, capsys):
    _, folder = fitted
    shard = next((folder / "data").rglob("*train*.bin"))
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-2])
    try:
        told = fails(capsys, words(folder, "validate"))
        assert shard.name in told and "Error" not in told
    finally:
        shard.write_bytes(whole)


def test_nan_stops_before_a_checkpoint_is_overwritten(tmp_path, capsys):
    every = "--last.every_n_train_steps=1"
    good = main([*words(tmp_path), every, "--trainer.max_steps=2", "--trainer.val_check_interval=2"])
    path = Path(good.trainer.log_dir) / "checkpoints/last.ckpt"
    before = path.read_bytes()
    wild = ["--model.init_args.optimizer.init_args.lr=1e38", "--model.init_args.warmup=1"]
    assert "NaN" in fails(capsys, [*words(tmp_path), every, *wild, f"--last.dirpath={path.parent}"])
    assert path.read_bytes() == before


def test_last_checkpoint_is_the_end_of_the_run_and_goes_on(tmp_path):
    cli = main([*words(tmp_path), "--last.every_n_train_steps=3"])
    path = Path(cli.trainer.log_dir) / "checkpoints/last.ckpt"
    assert torch.load(path, weights_only=True)["global_step"] == 4
    assert main([*words(tmp_path), "--trainer.max_steps=6", f"--ckpt_path={path}"]).trainer.global_step == 6


def test_resuming_takes_the_learning_rate_of_the_command_line(tmp_path):
    cli = main(words(tmp_path))
    lower = ["--model.init_args.optimizer.init_args.lr=1e-5", "--trainer.max_steps=6", "--model.init_args.floor=1"]
    resumed = main([*words(tmp_path), *lower, f"--ckpt_path={cli.trainer.log_dir}/checkpoints/last.ckpt"])
    assert resumed.trainer.global_step == 6
    assert {group["lr"] for group in resumed.trainer.optimizers[0].param_groups} == {1e-5}


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("--model.init_args.net.init_args.dim=16", "another net"),
        ("--model.init_args.net.init_args.n=2", "another net"),
        ("--model.init_args.optimizer=zoo.optim.Muon", "another optimizer"),
    ],
)
def test_checkpoint_of_another_run_is_one_sentence(fitted, capsys, option, sentence):
    folder = fitted[1]
    checkpoint = f"--ckpt_path={folder}/runs/mtp-code/version_0/checkpoints/last.ckpt"
    assert sentence in fails(capsys, [*words(folder), "--trainer.max_steps=6", option, checkpoint])


def test_ids_of_another_tokenizer_are_refused(tmp_path, capsys):
    """Both have 300 ids, so all would load, and the bits per byte would mean nothing."""
    bpe = ["--data.init_args.tokenizer=bpe", "--data.init_args.vocab_size=300", "--trainer.max_steps=2"]
    main([*words(tmp_path), *bpe])
    run = tmp_path / "runs/mtp-code/version_0"
    saved = f"{{class_path: zoo.pretrained.Saved, init_args: {{folder: {run}/pretrained}}}}"
    other = f"--data.init_args.files=['{ROOT}/benchmarks/**/*.py']"
    for verb, start in (("test", f"--ckpt_path={run}/checkpoints/last.ckpt"), ("test", f"--model.init_args.net={saved}"),
                        ("fit", f"--ckpt_path={run}/checkpoints/last.ckpt")):  # fmt: skip
        said = fails(capsys, [*words(tmp_path, verb), *bpe, other, start])
        assert "was trained with another tokenizer" in said and "pretrained/tokenizer" in said
    own = f"--data.init_args.tokenizer={run}/pretrained/tokenizer"
    cli = main([*words(tmp_path, "test"), *bpe, other, own, f"--model.init_args.net={saved}"])
    assert cli.trainer.callback_metrics["test/bits_per_byte"] > 0


def test_damaged_checkpoint_and_broken_yaml(tmp_path, capsys):
    (tmp_path / "last.ckpt").write_bytes(b"not a checkpoint")
    assert "damaged" in fails(capsys, [*words(tmp_path), f"--ckpt_path={tmp_path}/last.ckpt"])
    (tmp_path / "broken.yaml").write_text("model: {init_args: [")
    assert "is no YAML" in fails(capsys, [*words(tmp_path), "-c", str(tmp_path / "broken.yaml")])


def test_missing_gpu_is_one_sentence(tmp_path, capsys):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    assert "cuda" in fails(capsys, [*words(tmp_path), "--trainer.accelerator=cuda"]).lower()


def test_full_disk_is_explained():
    text = explain(OSError(errno.ENOSPC, "No space left on device", "last.ckpt"))
    assert "no space is left" in text and "--ckpt_path" in text
    assert "--ckpt_path" in explain(OSError(errno.ENOSPC, "No space left on device"))


@pytest.mark.parametrize(
    "full", [OSError(errno.ENOSPC, "x"), SafetensorError("I/O error: No space left on device (os error 28)")]
)
def test_only_a_run_is_resumed(tmp_path, full):
    def explained(path: Path) -> str:
        with pytest.raises(OSError) as raised:
            put(path, lambda draft: (_ for _ in ()).throw(full))
        return explain(raised.value)

    books = tmp_path / "books.safetensors"
    assert explained(books) == (
        f"no space is left on the disk of {books}; free some and run the same command again (what was written before is intact)."
    )
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    assert "resume with --ckpt_path" in explained(tmp_path / "run" / "pretrained" / "model.safetensors")


def test_our_own_sentences_are_printed_as_they_are(tmp_path):
    assert explain(Told("the shard is missing: run again")) == "the shard is missing: run again"
    assert explain(RuntimeError("shapes differ")) == "RuntimeError: shapes differ (ZOO_TRACEBACK=1 shows where)"
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError) as raised:
        put(tmp_path / "file" / "a.json", lambda draft: None)
    assert explain(raised.value).startswith(f"{tmp_path}/file/a.json could not be written: make room or give another folder (")


def test_no_sentence_of_ours_is_told_as_an_error_of_torch():
    """Where a RuntimeError is left, its reader is whoever writes code; but for those files whose change would cost runs."""
    left = {
        path.relative_to(ROOT).as_posix() for path in (ROOT / "zoo").rglob("*.py") if "raise RuntimeError(" in path.read_text()
    }
    assert left <= {"zoo/nn/losses.py", "zoo/nn/concepts.py", "zoo/evals/sandbox.py"}
