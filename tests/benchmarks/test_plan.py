"""What a plan counts, how it lays runs out, and the commands it gives."""

import re
import shlex
import subprocess
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import yaml

import zoo.cli
from benchmarks import plan, workload
from benchmarks.memory import DEVICES, Device, Fit, Memory
from benchmarks.spec import expand, load
from zoo.sonar.encoder import SpaceEncoder
from zoo.sonar.space import Space

H100 = DEVICES["h100"]
SMALL = {"model.init_args.net.init_args.n": 2, "model.init_args.net.init_args.dim": 32}


@pytest.fixture
def spec(tmp_path):
    """Writes a spec over the MTP recipe: rows of overrides, and scales."""

    def made(rows, scales, name="table-made-1"):
        content = {
            "title": "made", "source": {"arxiv": "0", "item": "Table 1"}, "recipe": "recipes/mtp/code.yaml", "claims": [],
            "runs": {row: {"label": row, "overrides": overrides} for row, overrides in rows.items()},
            "metrics": [{"keys": ["test/next"], "label": "next", "direction": "lower", "digits": 2}], "scales": scales,
        }  # fmt: skip
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(content))
        return load(path)

    return made


@pytest.fixture
def paper(spec):
    """The 7B row of MTP's Table 1 with n = 4, over 128 devices."""
    return spec({"seven": {}}, {"paper": {"seeds": [0], "devices": 128}})


def settings(words):
    """What `zoo` makes of these words."""
    import contextlib
    import io

    with contextlib.redirect_stdout(io.StringIO()) as text, pytest.raises(SystemExit) as end:
        zoo.cli.main([*words, "--print_config"])
    assert end.value.code in (0, None)
    return yaml.safe_load(text.getvalue())


def test_rows_that_measure_a_saved_net_are_not_planned(spec):
    made = spec({"one": SMALL, "measured": {**SMALL, "trainer.max_steps": 0}}, {"smoke": {"seeds": [0]}})
    assert [row.runs[0].row for row in plan.plans(made, "smoke", H100, 0.4)] == ["one"]


def step_tokens(settings):
    data, trainer = settings["data"]["init_args"], settings["trainer"]
    devices = int(trainer["devices"]) * trainer["num_nodes"]
    return data["batch"] * data["context"] * trainer["accumulate_grad_batches"] * devices


def test_seven_billion_parameters_on_two_hundred_billion_tokens(paper):
    (row,) = plan.plans(paper, "paper", H100, 0.4)
    assert row.work.net.parameters == pytest.approx(6.70e9, rel=0.02)
    assert row.work.tokens == pytest.approx(209.7e9, rel=1e-3)
    products = 6 * (row.work.net.parameters - 32000 * 4096) + 3 * 6 * 32000 * 4096  # three more heads, no look-up
    attention = 12 * 32 * 4096 * 4096
    assert row.work.flops == pytest.approx((products + attention) * row.work.tokens, rel=0.01)
    assert row.hours == pytest.approx(row.work.flops / (128 * 0.4 * 989e12) / 3600)
    assert (row.fit.devices, row.fit.nodes, row.fit.strategy) == (128, 16, "fsdp2")
    assert row.fit.memory < 79 * 2**30
    assert any("209.7B" in line and "128 FSDP2" in line for line in plan.table([row]))

    words = row.runs[0].arguments(plan.sizes(row))
    told, recipe = settings(words), settings(row.runs[0].arguments())
    assert step_tokens(told) == 8 * 2**20
    trainer = told["trainer"]
    assert (trainer["strategy"], int(trainer["devices"]), trainer["num_nodes"]) == ("fsdp2", 8, 16)
    every = [s["trainer"]["val_check_interval"] / s["trainer"]["accumulate_grad_batches"] for s in (told, recipe)]
    assert every[0] == every[1]


def test_the_script_is_bash_and_starts_what_was_planned(paper, tmp_path):
    run = expand(paper, "paper")[0]
    work = workload.Work(workload.Net(None, None, 7, 1, None), 4096, 4, 4, 128, 25000, "bf16-mixed", 4000, 1e22)
    row = plan.Plan((run,), work, Fit(128, "fsdp2", 2, 8, 60 * 2**30), "", 4e14)
    command = plan.launch(row, run, tmp_path)
    path = tmp_path / f"table-made-1-{run.name}.sh"
    assert command == f"sbatch {path}"
    text = path.read_text()
    assert subprocess.run(["bash", "-n", str(path)], capture_output=True).returncode == 0
    for option in ("nodes=16", "ntasks-per-node=8", "gpus-per-node=8"):
        assert f"#SBATCH --{option}\n" in text
    days, hours, minutes = map(int, re.search(r"--time=(\d+)-(\d+):(\d+):00", text).groups())
    assert days * 24 + hours + minutes / 60 == pytest.approx(1.1 * 1e22 / 4e14 / 128 / 3600, abs=0.02)
    words = shlex.split(text[text.index("srun") :].replace("\\\n", ""))
    assert words[:3] == ["srun", "zoo", "fit"] and "--trainer.num_nodes=16" in words and "--data.init_args.batch=2" in words
    assert words[3:5] == ["-c", "recipes/mtp/code.yaml"] and f"--trainer.logger.init_args.version={run.name}" in words
    assert text.count("\n/") == 0 and str(tmp_path) not in text

    several = plan.Plan((run,), work, Fit(8, "ddp", 4, 64, 0), "", 4e14)
    words = shlex.split(plan.launch(several, run))
    assert words[:6] == ["torchrun", "--standalone", "--nproc_per_node=8", "-m", "zoo", "fit"]
    assert {"--trainer.strategy=ddp", "--trainer.devices=8", "--trainer.num_nodes=1"} <= set(words)
    one = shlex.split(plan.launch(plan.Plan((run,), work, Fit(1, "single", 4, 512, 0), "", 4e14), run))
    assert one[:2] == ["zoo", "fit"] and "--trainer.devices=1" in one and not any("strategy" in word for word in one)


@pytest.mark.parametrize("devices", [1, 2, 8, 16, 64])
def test_any_number_of_devices_makes_the_same_step(devices):
    """The words that a plan adds, and the step that they make."""
    work = workload.Work(workload.Net(None, None, 7, 1, None), 64, 4, 4, 16, 10, "32-true", 40, 1e12)
    state = Memory(2**30, 2**30, 2**31, 2**30, 5 * 2**30, 0, 0)
    layout = plan.fit(lambda *size: state, work.batch, work.accumulate, work.devices, H100, devices)
    words = plan.sizes(plan.Plan((), work, layout, "", 1.0))
    batch = words.get("data.init_args.batch", work.batch)
    accumulate = words.get("trainer.accumulate_grad_batches", work.accumulate)
    assert words["trainer.devices"] * words["trainer.num_nodes"] == devices
    assert batch * accumulate * devices == work.windows == 256
    assert words.get("trainer.val_check_interval", 40) / accumulate == 10


def test_trainer_settings_name_the_devices(spec):
    rows = {"named": {**SMALL, "trainer.devices": 4, "trainer.num_nodes": 2}, "open": SMALL}
    made = spec(rows, {"smoke": {"seeds": [0], "devices": 2}})
    named, left_open = (workload.workload(run, 2) for run in expand(made, "smoke"))
    assert (named.devices, left_open.devices) == (8, 2)
    assert named.tokens == 4 * left_open.tokens == 4 * 2 * 4 * 4 * 64 and named.flops == 4 * left_open.flops


def test_seeds_are_one_line_and_the_same_run_counts_once(spec, capsys):
    scales = {"smoke": {"seeds": [0, 1, 2]}}
    first = spec({"two": SMALL, "three": {**SMALL, "model.init_args.net.init_args.n": 3}}, scales)
    second = spec({"again": SMALL}, scales, "table-made-2")
    plan.show([first, second], "smoke", H100, 0.4, None, None)
    printed = capsys.readouterr().out
    cells = {c[1].strip(): [x.strip() for x in c] for c in (r.split("|") for r in printed.splitlines() if r.startswith("| "))}
    assert cells["two"][2] == "× 3" and sum(line.startswith("| two ") for line in printed.splitlines()) == 1
    commands = [line for line in printed.splitlines() if line.startswith("zoo fit")]
    assert len(commands) == 6 and len({re.search(r"--seed_everything=(\d)", line)[1] for line in commands}) == 3
    assert printed.count("the same run as two of table-made-1") == 3
    assert "In all: 6 different runs" in printed
    flops = [row.work.flops for row in plan.plans(first, "smoke", H100, 0.4)]
    [total] = [line for line in printed.splitlines() if line.startswith("In all")]
    assert f"{3 * sum(flops):.3g} FLOPs" in total


def test_nets_that_learn_from_a_teacher_are_planned_with_what_it_gives():
    """Concepts (their kept logits get gradients) and states; FLOPs and memory of the doubled sequence are in the plan."""
    rows = {row.runs[0].row: row for row in plan.plans(load("figure-cocomix-6b"), "smoke", H100, 0.4)}
    assert rows["cocomix"].work.flops > 1.2 * rows["ntp"].work.flops
    assert all(rows[name].fit.memory > rows["ntp"].fit.memory for name in ("cocomix", "l2", "cosine"))


def test_sentences_are_not_planned_and_the_rest_is(spec, capsys):
    plan.show([load("figure-lcm-14"), spec({"two": SMALL}, {"smoke": {"seeds": [0]}})], "smoke", H100, 0.4, None, None)
    printed = capsys.readouterr().out
    assert "figure-lcm-14: run: batches of sentences" in printed and printed.count("zoo fit") == 1
    assert plan.main(["figure-lcm-14", "--scale", "smoke"]) == 2


def test_what_fits_nowhere_says_so_and_the_rest_is_planned(spec, capsys):
    made = spec({"two": SMALL, "wide": {**SMALL, "model.init_args.net.init_args.dim": 256}}, {"smoke": {"seeds": [0]}})
    rows = plan.plans(made, "smoke", H100, 0.4)
    between = (rows[0].fit.memory + rows[1].fit.memory) / 2 / 2**30 / plan.USABLE
    plan.show([made], "smoke", Device("toy", 1e12, between), 0.4, 1, None)
    printed = capsys.readouterr().out
    assert printed.count("zoo fit") == 1 and "# wide: it does not fit on 1 of toy" in printed
    assert [line.count("—") for line in printed.splitlines() if line.startswith(("| two", "| wide"))] == [0, 4]


def test_tokenizers_that_would_need_a_network(spec, monkeypatch, tmp_path):
    sizes = {"hf-internal-testing/llama-tokenizer": 32000, "gpt2": 50257, "bytes": 257, "bpe": 777}
    for name, vocab in sizes.items():
        words = {**SMALL, "data.init_args.tokenizer": name, "data.init_args.vocab_size": 777, "data.init_args.source": "hub"}
        (run,) = expand(spec({"row": words}, {"smoke": {"seeds": [0]}}), "smoke")
        with torch.device("meta"):
            assert workload.workload(run, 1).net.make().vocab == vocab
    (run,) = expand(spec({"row": {**words, "data.init_args.tokenizer": "someone/else"}}, {"smoke": {"seeds": [0]}}), "smoke")
    with pytest.raises(ValueError, match=r"'someone/else' has is not known without a network.*zoo prepare"):
        workload.workload(run, 1)


@pytest.mark.parametrize(
    "args, words",
    [
        (["table-nothing-1"], "There is no spec"),
        (["--device", "h10"], "did you mean 'h100'"),
        (["--device", "cpu", "table-mtp-1"], "--peak"),
        (["table-mtp-1", "--scale", "deskk"], "did you mean 'desk'"),
    ],
)
def test_wrong_words_are_one_sentence(args, words, capsys):
    assert plan.main(args) == 2
    said = capsys.readouterr().err
    assert words in said and said.startswith("benchmarks.plan: ") and said.count("\n") == 1


def test_a_wrong_setting_names_its_row(spec):
    (run,) = expand(spec({"odd": {"model.init_args.net.init_args.dimm": 3}}, {"smoke": {"seeds": [0]}}), "smoke")
    with pytest.raises(ValueError, match=r"odd: .*dimm.*did you mean 'dim'"):
        workload.workload(run, 1)


def test_sentences_are_planned_and_fetch_no_space(monkeypatch):
    """Their encoder would be opened for the width of its vectors, and a card's weights are gigabytes."""
    monkeypatch.setattr(Space, "opened", None)
    work = workload.workload(expand(load("table-lcm-5"), "paper")[0], 32)
    assert (work.batch, work.context, work.steps) == (56, 128, 250_000) and work.tokens == 7168 * 32 * 250_000
    assert work.net.parameters == pytest.approx(1.54e9, rel=0.01)  # 1.65e9 with queries and keys that have no effect
    assert work.flops == pytest.approx(work.tokens * 6.24e9, rel=0.02)
    row = plan.Plan((), work, Fit(64, "ddp", 14, 2, 0), "", 1.0)
    words = plan.sizes(row)
    assert words["data.init_args.sentences"] == 14 * 128 and "data.init_args.batch" not in words
    run = next(run for run in expand(load("table-lcm-3"), "paper") if run.row == "quant-c-prose")
    with pytest.raises(ValueError, match="space or store is not there, so nothing is planned yet: runs/"):
        workload.workload(run, 32)
    encoder = {"class_path": "zoo.sonar.SpaceEncoder", "init_args": {"space": "text_sonar_basic_encoder"}}
    run = replace(run, overrides={**run.overrides, "data.init_args.encoder": encoder})
    with pytest.raises(ValueError, match=r"quant-c-prose: its codebooks decide its sizes, and .* is not there"):
        workload.workload(run, 32)


def test_a_card_of_unknown_width_is_not_fetched():
    data = SimpleNamespace(encoder=SpaceEncoder("some_card"))
    with pytest.raises(ValueError, match="How wide the vectors of some_card are"):
        workload.width(data)
