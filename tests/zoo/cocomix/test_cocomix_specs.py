"""What the specs of CoCoMix ask for can be measured, and its baselines are as large as what is compared with them."""

import pytest
import torch

from benchmarks.spec import SPECS, expand, load
from zoo.cocomix.matching import matched_dim
from zoo.cocomix.net import CoCoMix
from zoo.evals.likelihood import TASKS

NAMES = sorted(path.stem for path in SPECS.glob("*-cocomix-*.yaml"))
BENCHMARKS = {f"test/{printed.name}" for printed in TASKS.values()} | {"test/average_perplexity", "test/average_accuracy"}


def runs(name, scale):
    return {run.row: run for run in expand(load(name), scale) if run.seed == load(name).scales[scale].seeds[0]}


def callbacks(run):
    return [each["class_path"].rpartition(".")[2] for each in run.config()["trainer"].get("callbacks", [])]


@pytest.mark.parametrize("name", NAMES)
def test_cells_of_the_paper_are_measured_at_its_scale(name):
    spec = load(name)
    for row, run in runs(name, "paper").items():
        if spec.runs[row].paper and BENCHMARKS & spec.runs[row].paper.cells.keys():
            assert "Likelihoods" in callbacks(run), row


def test_the_rows_of_a_paper_scale_keep_their_own_budgets():
    steps = {row: run.config()["trainer"]["max_steps"] for row, run in runs("figure-cocomix-3", "paper").items()}
    assert steps == {row: 191000 if "38b" in row else 382000 for row in steps} and len(steps) == 6
    steps = {row: run.config()["trainer"]["max_steps"] for row, run in runs("table-cocomix-1", "paper").items()}
    assert steps == {row: 20000 if "38b" in row else 40000 for row in steps} and len(steps) == 9


@pytest.mark.parametrize("scale", ["smoke", "desk", "paper"])
def test_what_is_steered_is_the_net_of_the_table_in_one_process(scale):
    steered = runs("figure-cocomix-5", scale)["steered"]
    assert runs("table-cocomix-1", scale)["cocomix"].key in [need.key for need in steered.needs]
    assert steered.config()["trainer"]["devices"] == 1


@pytest.mark.parametrize(
    ("name", "scale", "concepts", "baselines"),
    [
        ("table-cocomix-1", "laptop", "cocomix", ["ntp", "kd"]),
        ("table-cocomix-1", "desk", "cocomix", ["ntp", "kd"]),
        ("table-cocomix-1", "gpu", "cocomix", ["ntp", "kd"]),
        ("table-cocomix-1", "paper", "cocomix", ["ntp", "kd"]),
        ("table-cocomix-1", "paper", "cocomix-386m", ["ntp-386m", "kd-386m"]),
        ("table-cocomix-1", "paper", "cocomix-1-38b", ["ntp-1-38b", "kd-1-38b"]),
        ("figure-cocomix-4", "desk", "cocomix-386m", ["ntp-386m"]),
        ("figure-cocomix-4", "desk", "cocomix-shift", ["ntp-shift"]),
        ("figure-cocomix-6f", "desk", "cocomix", ["pause"]),
    ],
)
def test_baselines_have_the_active_parameters_of_what_is_compared(name, scale, concepts, baselines):
    found = runs(name, scale)
    sizes = lambda row: found[row].config()["model"]["init_args"]["net"]["init_args"]
    data, given = found[concepts].config()["data"]["init_args"], sizes(concepts)
    vocab = {"gpt2": 50257, "bpe": data.get("vocab_size")}.get(data["tokenizer"], 4096)  # or the desk teacher's
    with torch.device("meta"):
        net = CoCoMix(vocab, data["context"], **given)
    heads = given["heads"]
    dim = matched_dim(net, 16 if scale == "paper" else heads)
    assert {sizes(row)["dim"] for row in baselines} == {dim} and all(sizes(row)["heads"] == heads for row in baselines)
