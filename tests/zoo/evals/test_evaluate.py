"""`zoo evaluate` from the command line: folders it opens, table, record, one sentence per mistake."""

import json
import os
import socket

import pytest
import torch

from zoo.__main__ import main
from zoo.data.tokenizer import Bytes, train_bpe
from zoo.evals import evaluate
from zoo.evals.checkpoint import open_checkpoint
from zoo.evals.evaluate import metrics, table
from zoo.mtp.net import MTP
from zoo.ntp.net import NextToken
from zoo.pretrained import from_pretrained, save_pretrained, to_transformers

PIQA = [{"goal": f"Warm up {i}.", "sol1": "Run.", "sol2": "Sleep well.", "label": i % 2} for i in range(5)]
QUESTIONS = [{"question": f"who fell {i}", "answer": ["Al"]} for i in range(3)]


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("something reached for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def run(tmp_path):
    """A run folder with a net of three heads on bytes, and a folder with two tasks' files."""
    torch.manual_seed(0)
    Bytes().save(tmp_path / "tokenizer")
    save_pretrained(MTP(257, 48, n=3, dim=16, layers=4, heads=2), tmp_path / "run" / "pretrained", tmp_path / "tokenizer")
    (tmp_path / "files").mkdir()
    for name, docs in (("piqa_validation", PIQA), ("nq_open_validation", QUESTIONS)):
        (tmp_path / "files" / f"{name}.jsonl").write_text("\n".join(map(json.dumps, docs)))
    return tmp_path


def words(folder, *more: str) -> list[str]:
    return ["evaluate", str(folder / "run"), "--tasks", "piqa,nq_open", "--files", str(folder / "files"), *more]


def test_table_and_record(run, capsys):
    main(words(run, "--limit", "4"))
    shown = capsys.readouterr()
    lines = shown.out.splitlines()
    assert shown.err == "" and len(lines) == 2 + 4 + 1
    assert lines[0].startswith("piqa: 4 documents") and "8 of 8" not in lines[0] and lines[1].startswith("nq_open: 3 documents")
    assert [line.split()[:3] for line in lines[2:6]] == [
        ["task", "shots", "metric"],
        ["piqa", "0", "acc"],
        ["piqa", "0", "acc_norm"],
        ["nq_open", "0", "exact_match/remove_whitespace"],
    ]
    path = run / "run" / "evaluate-piqa+nq_open.json"
    assert lines[6] == f"record: {path}"
    record = json.loads(path.read_text())
    piqa = record["tasks"]["piqa"]
    assert set(piqa["metrics"]["piqa"]) == {"acc", "acc_norm", "acc_stderr", "acc_norm_stderr"}
    assert (piqa["documents"], piqa["requests"], piqa["shots"]) == (4, 8, {"piqa": 0})
    assert piqa["source"]["file"] == "piqa_validation.jsonl" and record["tasks"]["nq_open"]["truncated"] == 3
    assert (record["heads"], record["limit"], record["batch"], record["context"]) == (3, 4, 16, 48)
    assert record["weights"] == open_checkpoint(run / "run").digest and record["versions"]["lm_eval"].startswith("0.4")
    assert record["command"].startswith("zoo evaluate") and record["net"] == "zoo.mtp.net.MTP"


def test_accuracy_is_that_of_the_net(run, capsys):
    """The sums of log-probabilities, computed here by hand, say how many are right."""
    main(words(run)[:-3] + ["piqa", "--files", str(run / "files"), "--out", str(run / "o.json")])
    net, tokenizer = from_pretrained(run / "run" / "pretrained"), Bytes()
    right = right_norm = 0
    for doc in PIQA:
        sums = []
        for answer in (doc["sol1"], doc["sol2"]):
            context, answer = tokenizer.encode(f"Question: {doc['goal']}\nAnswer:"), tokenizer.encode(" " + answer)
            tokens = torch.tensor([(context + answer)[-49:] + [0, 0]])  # head 1 is followed by two more
            sums.append(-net.nll({"tokens": tokens})[0, -len(answer) :].sum().item())
        normed = [s / len(answer) for s, answer in zip(sums, (doc["sol1"], doc["sol2"]))]
        right += sums.index(max(sums)) == doc["label"]
        right_norm += normed.index(max(normed)) == doc["label"]
    found = json.loads((run / "o.json").read_text())["tasks"]["piqa"]["metrics"]["piqa"]
    assert found["acc"] == right / 5 and found["acc_norm"] == right_norm / 5


def test_speculation_changes_no_result(run, capsys):
    for heads in ("1", "3"):
        main(words(run, "--heads", heads, "--out", str(run / f"{heads}.json")))
    one, three = (json.loads((run / f"{heads}.json").read_text()) for heads in "13")
    assert one["heads"] == 1 and three["heads"] == 3
    assert [t["metrics"] for t in one["tasks"].values()] == [t["metrics"] for t in three["tasks"].values()]


def test_records_are_never_overwritten(run, capsys):
    for _ in range(3):
        main(["evaluate", str(run / "run"), "--tasks", "piqa", "--files", str(run / "files"), "--limit", "1"])
    assert sorted(p.name for p in (run / "run").glob("*.json")) == [
        "evaluate-piqa.2.json",
        "evaluate-piqa.3.json",
        "evaluate-piqa.json",
    ]
    assert "exists, and records are never overwritten" in fails(run, "--out", str(run / "run" / "evaluate-piqa.json"))


def test_what_was_measured_is_kept_when_a_later_task_fails(run, capsys, monkeypatch):
    whole = evaluate.run

    def dying(task, model, limit):
        if task.name == "nq_open":
            raise KeyboardInterrupt
        return whole(task, model, limit)

    monkeypatch.setattr(evaluate, "run", dying)
    monkeypatch.setattr(os, "link", lambda *names: (_ for _ in ()).throw(PermissionError("no hard links here")))
    for name in ("evaluate-piqa+nq_open.json", "evaluate-piqa+nq_open.2.json"):
        with pytest.raises(KeyboardInterrupt):
            main(words(run, "--limit", "1"))
        assert f"piqa: kept in {run / 'run' / name}" in capsys.readouterr().out
        assert list(json.loads((run / "run" / name).read_text())["tasks"]) == ["piqa"]
    assert not list((run / "run").glob(".*"))


def fails(run, *more: str, command: list[str] | None = None) -> str:
    with pytest.raises(SystemExit) as stop:
        main(command or words(run, *more))
    assert isinstance(stop.value.code, str) and "\n" not in stop.value.code
    return stop.value.code


def test_each_mistake_gets_its_sentence(run, monkeypatch):
    assert "--limit is at least 1, not 0" in fails(run, "--limit", "0")
    assert "--heads 4: this net has 3" in fails(run, "--heads", "4")
    assert "--device tpu is not there" in fails(run, "--device", "tpu")
    assert "there is no folder" in fails(run, command=["evaluate", str(run / "nothing"), "--tasks", "piqa"])
    assert "holds no saved net" in fails(run, command=["evaluate", str(run / "files"), "--tasks", "piqa"])
    assert "it belongs to another net" in fails(run, command=["evaluate", misfit(run), "--tasks", "piqa"])

    def missing(name):
        raise evaluate.importlib.metadata.PackageNotFoundError(name)

    from zoo.evals import evaluate

    monkeypatch.setattr(evaluate.importlib.metadata, "version", missing)
    assert "pip install 'zoo[eval]'" in fails(run)


def misfit(run) -> str:
    """A folder whose tokenizer knows more ids than its net."""
    train_bpe(["abc abc abd abd"] * 9, 262).save(run / "large")
    save_pretrained(NextToken(200, 8, dim=8, layers=1, heads=1), run / "misfit", run / "large")
    return str(run / "misfit")


@pytest.mark.parametrize("flavour", ["gpt2", "llama"])
def test_transformers_folder(tmp_path, flavour):
    tokenizer = train_bpe(["one two three two one"] * 9, 270)
    net = NextToken(tokenizer.vocab, 16, dim=8, layers=1, heads=2, flavour=flavour)
    to_transformers(net, tmp_path)
    tokenizer.save(tmp_path)
    opened = open_checkpoint(tmp_path)
    assert opened.net.config["flavour"] == flavour and opened.prefix == [] and opened.tokenizer.vocab == tokenizer.vocab
    if flavour == "llama":  # a tokenizer that begins every text with a token of its own
        data = json.loads((tmp_path / "tokenizer.json").read_text())
        end = {"id": "<|endoftext|>", "type_id": 0}
        data["post_processor"] = {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": end}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {end["id"]: {"id": end["id"], "ids": [tokenizer.eos], "tokens": [end["id"]]}},
        }
        (tmp_path / "tokenizer.json").write_text(json.dumps(data))
        assert open_checkpoint(tmp_path).prefix == [tokenizer.eos]


def test_metrics_and_table():
    row = {"alias": "t", "acc,none": 0.5, "acc_stderr,none": "N/A", "em,strict": 1.0, "em_stderr,strict": 0.25, "name": "t"}
    kept = metrics(row | {"ppl,none": float("inf"), "sample_len": 3})
    assert kept == {"acc": 0.5, "em/strict": 1.0, "em_stderr/strict": 0.25, "ppl": None}
    lines = table({"t": {"metrics": {"t": kept}, "shots": {"t": 2}}}).splitlines()
    assert [line.split() for line in lines[1:]] == [
        ["t", "2", "acc", "0.5000", "—"],
        ["t", "2", "em/strict", "1.0000", "0.2500"],
        ["t", "2", "ppl", "—", "—"],
    ]
