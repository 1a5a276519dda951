"""The benchmarks of a test run: the numbers of `zoo evaluate`, from the net's next-token likelihoods and nothing else."""

import json
import math
from functools import partial
from types import SimpleNamespace

import lightning as L
import pytest
import torch

from zoo.__main__ import main
from zoo.cocomix.net import CoCoMix
from zoo.data import Code
from zoo.data.tokenizer import Bytes
from zoo.evals import likelihood
from zoo.evals.harness import Harness
from zoo.evals.likelihood import TASKS, Likelihoods, averages
from zoo.evals.tasks import Unavailable
from zoo.module import LanguageModel
from zoo.ntp.net import NextToken
from zoo.pretrained import save_pretrained

T = 48
SIZES = {"dim": 16, "layers": 3, "heads": 2, "insert": 1, "concepts": 40, "keep": 4}
WORDS = ["ice", "the sun", "a long walk home", "rain", "no"]
FILES = {
    "lambada_openai_test": [{"text": f"He sat on a mat and saw {i} {WORDS[i].split()[-1]}"} for i in range(5)],
    "wikitext_test": [{"page": f" = A = \n It rained , then not , {i} times . "} for i in range(3)],
    "hellaswag_validation": [
        {"activity_label": "Baking", "ctx_a": f"A man {i}.", "ctx_b": "he", "endings": WORDS[:4], "label": str(i % 4)}
        for i in range(5)
    ],
    "piqa_validation": [{"goal": f"Warm up {i}.", "sol1": "Run.", "sol2": "Sleep.", "label": i % 2} for i in range(5)],
    "siqa_validation": [
        {"context": f"Al fell {i}.", "question": "Why?", "answerA": "ice", "answerB": "fun", "answerC": "joy", "label": "2"}
        for i in range(5)
    ],
    "arc_easy_test": [
        {"question": f"Is {i} warm?", "choices": {"text": WORDS[:4], "label": list("ABCD")}, "answerKey": "ABCD"[i % 4]}
        for i in range(5)
    ],
    "winogrande_xl_validation": [
        {"sentence": f"Ann saw Eve {i} and _ waved.", "option1": "Ann", "option2": "Eve", "answer": "12"[i % 2]} for i in range(5)
    ],
}


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("files")
    for name, rows in FILES.items():
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return str(folder)


@pytest.fixture(scope="module")
def net() -> CoCoMix:
    torch.manual_seed(0)
    net = CoCoMix(257, T, **SIZES)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(torch.randn_like(p) * 0.2)
    return net.eval()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A prepared DataModule of bytes."""
    folder = tmp_path_factory.mktemp("data")
    rows = [json.dumps({"text": f"a text of {i} words, all told " * 9}) for i in range(60)]
    (folder / "a.jsonl").write_text("\n".join(rows))
    return partial(Code, "files", [str(folder / "a.jsonl")], tokenizer="bytes", context=T, batch=4, root=str(folder / "stores"))


def logged_by(net, data, *callbacks, **options) -> dict[str, float]:
    """What a test run of the net logs."""
    module = LanguageModel(257, T, net=lambda *_: net)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = L.Trainer(accelerator="cpu", callbacks=list(callbacks), use_distributed_sampler=False, **(quiet | options))
    trainer.test(module, datamodule=data(prepare_workers=1), verbose=False)
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


@pytest.fixture(scope="module")
def found(net, data, files) -> dict[str, float]:
    return logged_by(net, data, Likelihoods(files=[files]))


def test_the_numbers_are_those_of_zoo_evaluate(net, files, found, tmp_path):
    Bytes().save(tmp_path / "tokenizer")
    save_pretrained(net, tmp_path / "saved", tmp_path / "tokenizer")
    main(["evaluate", str(tmp_path / "saved"), "--tasks", ",".join(TASKS), "--files", files, "--out", str(tmp_path / "o.json")])
    record = json.loads((tmp_path / "o.json").read_text())
    assert record["net"] == "zoo.cocomix.net.CoCoMix"
    for task, (name, metric, is_share) in TASKS.items():
        theirs = record["tasks"][task]["metrics"][task]
        factor = 100 if is_share else 1
        assert found[f"test/{name}"] == pytest.approx(factor * theirs[metric], rel=1e-5)
        if task == "wikitext":  # lm-eval estimates none
            assert "test/wikitext_perplexity_stderr" not in found
        else:
            assert found[f"test/{name}_stderr"] == pytest.approx(factor * theirs[f"{metric}_stderr"], rel=1e-5)
    assert {TASKS[task].metric for task in TASKS} == {"perplexity", "word_perplexity", "acc_norm", "acc"}
    assert found["test/hellaswag_truncated"] == 0 < found["test/piqa"] < 100


def test_averages_are_those_of_the_tables(found):
    shares = [found[f"test/{name}"] for name in ("hellaswag", "piqa", "social_iqa", "arc_easy", "winogrande")]
    assert found["test/average_accuracy"] == pytest.approx(sum(shares) / 5)
    errors = [found[f"test/{name}_stderr"] for name in ("hellaswag", "piqa", "social_iqa", "arc_easy", "winogrande")]
    assert found["test/average_accuracy_stderr"] == pytest.approx(sum(e * e for e in errors) ** 0.5 / 5)
    assert found["test/perplexity"] == pytest.approx(math.exp(found["test/next"]), rel=1e-5)
    three = [found[f"test/{name}"] for name in ("perplexity", "lambada_perplexity", "wikitext_perplexity")]
    assert found["test/average_perplexity"] == pytest.approx(sum(three) / 3, rel=1e-5)
    assert found["test/average_task_perplexity"] == pytest.approx(sum(three[1:]) / 2, rel=1e-5)
    assert averages({"piqa": 50.0}) == {}


def test_precision_of_the_training_changes_nothing(net, data, files, found):
    some = Likelihoods(["piqa", "lambada_openai"], [files])
    mixed = logged_by(net, data, some, precision="bf16-mixed")
    names = [name for name in mixed if name.startswith(("test/piqa", "test/lambada"))]
    assert len(names) == 6 and {name: mixed[name] for name in names} == {name: found[name] for name in names}
    assert mixed["test/next"] != found["test/next"] and "test/average_accuracy" not in mixed
    low = logged_by(net, data, Likelihoods(["lambada_openai"], [files], dtype="bfloat16"))
    assert low["test/lambada_perplexity"] != found["test/lambada_perplexity"]
    assert low["test/lambada_perplexity"] == pytest.approx(found["test/lambada_perplexity"], rel=0.2)
    assert net.trunk.embedding.weight.dtype == torch.float32


def test_a_limit_takes_the_first_documents(net, data, files):
    one = logged_by(net, data, Likelihoods(["piqa"], [files], limit=1))
    assert one["test/piqa"] in (0.0, 100.0) and one["test/next"] > 0


def test_processes_share_the_tasks_out(net, files, found, monkeypatch):
    """Two processes, one after the other; the second adds what the first would have sent."""
    monkeypatch.setattr(likelihood, "_perplexity", lambda *_: found["test/perplexity"])
    sent: list[torch.Tensor] = []
    logged: dict[str, float] = {}

    def add(values: torch.Tensor, reduce_op: str) -> torch.Tensor:
        sent.append(values)
        return sum(sent)

    for rank in range(2):
        logged.clear()
        callback, data = Likelihoods(files=[files]), SimpleNamespace(tokenizer=Bytes())
        trainer = SimpleNamespace(global_rank=rank, world_size=2, strategy=SimpleNamespace(reduce=add), datamodule=data)
        module = SimpleNamespace(net=net, device="cpu", log_dict=logged.update, log=lambda k, v: logged.update({k: v}))
        callback.setup(trainer, module, "test")
        callback.on_test_epoch_end(trainer, module)
    first, second = (values[:, 1] for values in sent)
    assert first.any() and second.any() and not (first * second).any()
    assert logged == pytest.approx({name: found[name] for name in logged}, rel=1e-5) and len(logged) == 25


def test_what_is_not_there_is_left_out_or_refused(net, data, files, tmp_path, monkeypatch, capsys):
    with pytest.raises(FileNotFoundError, match=r"^piqa: no file of it is in"):
        logged_by(net, data, Likelihoods(["piqa"], [str(tmp_path)]))
    (tmp_path / "piqa.jsonl").write_text(json.dumps(FILES["piqa_validation"][0]))
    some = logged_by(net, data, Likelihoods(["lambada_openai", "piqa"], [str(tmp_path)], needed=False))
    assert "not measured: lambada_openai (lambada_openai: no file of it" in capsys.readouterr().out
    assert "test/piqa" in some and not any("lambada" in name for name in some)
    asked = []

    def offline(names, files):
        asked.extend(names)
        raise Unavailable(f"{names[0]}: its data set cannot be had from the hub")

    monkeypatch.setattr(likelihood, "load_tasks", offline)
    assert logged_by(net, data, Likelihoods(needed=False)).keys() == {
        "test/next",
        "test/loss",
        "test/bits_per_byte",
        "test/perplexity",
    }
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("not measured")]
    assert asked == ["lambada_openai"] and len(lines) == 1 and all(name in lines[0] for name in TASKS)
    with pytest.raises(Unavailable, match="cannot be had"):
        logged_by(net, data, Likelihoods())


def test_damaged_files_are_said_even_where_nothing_is_needed(net, data, tmp_path):
    (tmp_path / "piqa.jsonl").write_text("{}")
    with pytest.raises(ValueError, match="does not look like piqa"):
        logged_by(net, data, Likelihoods(["piqa"], [str(tmp_path)], needed=False))


def test_mistakes_in_the_settings_are_said():
    with pytest.raises(ValueError, match=r"lambada_openai, wikitext, .*; mmlu was given"):
        Likelihoods(["mmlu"])
    with pytest.raises(ValueError, match=r"limit \(0\)"):
        Likelihoods(limit=0)


def test_a_sharded_net_is_refused():
    sharded = SimpleNamespace(net=SimpleNamespace(parameters=lambda: [SimpleNamespace(full_tensor=None)]))
    with pytest.raises(ValueError, match="this one is sharded"):
        Likelihoods().on_test_start(None, sharded)


def test_no_concept_loss_is_in_a_likelihood(net, monkeypatch):
    """The sum of the next-token terms of a plain pass, whatever λ is."""
    texts = [("He sat on a", " mat"), ("Al fell", " because of ice"), ("", "no context")]
    requests = [SimpleNamespace(args=args) for args in texts]
    wanted = []
    for context, continuation in texts:
        tokens = torch.tensor([[256] * (not context) + Bytes().encode(context + continuation)])
        wanted.append(-float(net.nll({"tokens": tokens})[0, -len(continuation) :].sum()))
        with torch.no_grad():
            plain = net({"tokens": tokens, "mask": torch.ones_like(tokens, dtype=torch.bool)})["parts"]["next"]
        if not context:
            assert wanted[-1] == pytest.approx(-float(plain[0]), rel=1e-5)
    assert [logp for logp, _ in Harness(net, Bytes()).loglikelihood(requests)] == pytest.approx(wanted, rel=1e-5)
    monkeypatch.setattr(net, "lam", 1e6)
    assert [logp for logp, _ in Harness(net, Bytes()).loglikelihood(requests)] == pytest.approx(wanted, rel=1e-5)


def test_any_token_net_is_scored(data, files):
    torch.manual_seed(0)
    assert "test/piqa" in logged_by(NextToken(257, T, dim=16, layers=2, heads=2), data, Likelihoods(["piqa"], [files]))
