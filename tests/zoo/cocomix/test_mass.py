"""The steering score: by hand, on nets made so that their concepts do steer, and its rule, callbacks and verb."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.zoo.cocomix.test_cocomix_labels import home, words  # noqa: F401  (a fixture)
from tests.zoo.cocomix.test_sae import D
from tests.zoo.cocomix.test_steering import logits, student, teacher
from zoo.__main__ import main as cli
from zoo.cli import main as lightning
from zoo.cocomix.attribution import ConceptExtractor
from zoo.cocomix.callbacks import ConceptTable, LabelAgreement, SteeringScore, overlap
from zoo.cocomix.cards import CARDS, Card, Cards, Next, prepared
from zoo.cocomix.mass import Picks, Score, picks, score
from zoo.cocomix.net import CoCoMix
from zoo.cocomix.sae import SparseAutoencoder
from zoo.cocomix.steering import SteerableCoCoMix, SteerableTeacher, steered, strength
from zoo.data.tokenizer import Bytes
from zoo.ntp import NextToken
from zoo.pretrained import from_pretrained, save_pretrained

V, C = 24, 60
PROMPTS = [[11, 2, 13], [4, 5, 16, 17], [18, 9], [20], [11, 12, 23]]


def pointing(net, table):
    """Blocks that do nothing, and rows of `table` for concepts 0 .. 7 that point at the tokens 0 .. 7; the others are 0."""
    with torch.no_grad():
        for name, p in net.named_parameters():
            if name.endswith(("attention.out.weight", "mlp.down.weight")):
                p.zero_()
        unembedding = torch.linalg.qr(torch.randn(32, 32))[0][:V]
        net.trunk.embedding.weight.copy_(unembedding)
        table.zero_()
        table[:8] = 3 * (unembedding[:8] - unembedding[:8].mean(1, keepdim=True))
    return net.eval()


def made(kind):
    torch.manual_seed(0)
    if kind == "student":
        net = CoCoMix(V, 16, dim=32, layers=3, heads=2, insert=1, concepts=C, keep=4)
        return SteerableCoCoMix(pointing(net, net.mixer.compressor.weight))
    net, sae = NextToken(V, 16, dim=32, layers=3, heads=2, flavour="gpt2"), SparseAutoencoder(32, C, 4)
    return SteerableTeacher(pointing(net, sae.decoder), sae, 1)


@pytest.mark.parametrize("kind", ["student", "teacher"])
@pytest.mark.parametrize("everywhere", [True, False])
def test_concepts_that_point_at_their_tokens_score_and_others_do_not(kind, everywhere):
    net = made(kind)
    if kind == "student":
        with torch.no_grad():
            net.net.mixer.predictor.weight.mul_(20)
    chosen = {c: [c] for c in range(8)}
    found = score(net, PROMPTS, Picks(chosen, {c: list(range(20, 40)) for c in chosen}), 4.0, everywhere)
    assert found.own.shape == found.other.shape == (8, 5) and found.value > 0
    assert found.mean > 1 and found.mean - found.interval > 0.5
    assert found.other.abs().max() < 0.05 and found.gains.min() > 1
    others = {c: [c - 50] for c in range(50, 58)}  # concepts that point nowhere, and the same lists
    found = score(net, PROMPTS, Picks(others, {c: list(range(20, 40)) for c in others}), 4.0, everywhere)
    assert abs(found.mean) < 0.05
    down = score(net, PROMPTS, Picks(chosen, {c: list(range(20, 40)) for c in chosen}), -4.0, everywhere)
    assert down.mean < 0


@pytest.mark.parametrize("make", [student, teacher])
@pytest.mark.parametrize("everywhere", [True, False])
def test_the_score_is_the_one_by_hand(make, everywhere):
    net = make()
    tokens, others = {3: [1, 2, 5], 7: [4], 9: [1, 8]}, {3: [7, 11], 7: [3, 12], 9: [13, 14]}
    found = score(net, PROMPTS[:2], Picks(tokens, others), 3.0, everywhere, rows=2)
    value = 3.0 * strength(net, PROMPTS[:2])
    assert found.value == pytest.approx(value)

    def mass(prompt, ids):
        return float(logits(net, torch.tensor([prompt]))[0, -1].softmax(-1)[ids].sum().log())

    for row, (concept, ids) in enumerate(tokens.items()):
        for column, prompt in enumerate(PROMPTS[:2]):
            plain, rise = mass(prompt, ids), []
            for one in (concept, *others[concept]):
                with steered(net, one, value, 0 if everywhere else len(prompt) - 1):
                    rise.append(mass(prompt, ids) - plain)
            assert float(found.own[row, column]) == pytest.approx(rise[0], abs=1e-5)
            assert float(found.other[row, column]) == pytest.approx((rise[1] + rise[2]) / 2, abs=1e-5)


def test_mean_and_interval_are_over_concepts():
    own = torch.tensor([[1.0, 3.0], [4.0, 4.0], [0.0, 2.0]])
    found = Score(own, torch.ones(3, 2), 2.0)
    assert found.gains.tolist() == [1.0, 3.0, 0.0] and found.mean == pytest.approx(4 / 3)
    spread = math.sqrt(((1 - 4 / 3) ** 2 + (3 - 4 / 3) ** 2 + (4 / 3) ** 2) / 2)
    assert found.interval == pytest.approx(4.302653 * spread / math.sqrt(3), rel=1e-5)
    assert "+1.333 nats (95 % interval -2.461 to +5.128, over 3 concepts, 2 prompts each)" in found.line("x")
    assert math.isnan(Score(own[:1], own[:1], 1.0).interval)


def card(count, lift=0.0, share=0.5):
    return Card(count, 0.1, [], [], [Next(7, "a", 9, share, lift), Next(8, "b", 9, share, lift)] if lift else [])


def test_the_rule_takes_the_highest_lift_and_others_as_frequent():
    cards = Cards({"concepts": 400}, {i: card(100 + i) for i in range(300)})
    cards.cards |= {301: card(99, 90.0), 302: card(200, 5.0), 303: card(250, 8.0), 304: card(150, 7.0), 305: card(4000, 6.0)}
    found = picks(cards, concepts=3, others=4, least=100)
    assert list(found.tokens) == [303, 304, 305] and found.tokens[303] == [7, 8]
    for concept, others in found.others.items():
        gaps = {other: abs(np.log(cards[other].count / cards[concept].count)) for other in cards.cards if other != concept}
        near = sorted(gaps.values())[11] + 1e-9
        assert len(set(others)) == 4 and all(gaps[other] <= near for other in others)
    assert picks(cards, 3, 4, 100) == found != picks(cards, 3, 4, 100, seed=1)
    assert next(iter(picks(cards, 4, 4, 99).tokens)) == 301
    with pytest.raises(ValueError, match="of 305 that occur 4 have characteristic tokens and stand in 100 places"):
        picks(cards, 5, 4, 100)


@pytest.fixture
def trained(home):  # noqa: F811
    """Labels, and a saved CoCoMix net that has the teacher's tokenizer."""
    cli(words(home, "--seeds", "0"))
    torch.manual_seed(3)
    net = CoCoMix(257, 16, dim=16, layers=3, heads=2, insert=1, concepts=48, keep=5)
    save_pretrained(net, home / "student", home / "net" / "tokenizer")
    return home


def measured(callback, trainer, module):
    callback.on_test_start(trainer, module)
    callback.on_test_epoch_end(trainer, module)


def test_the_callback_logs_what_score_says(trained):
    data = lightning(["prepare", "-c", str(trained / "recipe.yaml")]).datamodule
    data.setup()
    torch.manual_seed(3)
    net = CoCoMix(257, 16, dim=16, layers=3, heads=2, insert=1, concepts=48, keep=5).eval()
    logged = {}
    module = SimpleNamespace(net=net, device=torch.device("cpu"), log=lambda name, value: logged.update({name: value}))
    trainer = SimpleNamespace(world_size=1, datamodule=data)
    sizes = {"concepts": 6, "others": 4, "least": 2, "prompts": ("text 1", "a"), "everywhere": False}
    given = {"labels": str(trained / "out"), "teacher": str(trained / "net"), "sae": str(trained / "sae"), "layer": 2}
    measured(SteeringScore(**given, **sizes), trainer, module)
    assert (trained / "out" / CARDS).exists()  # made, for they were missing
    picked = picks(prepared(trained / "out", data), 6, 4, 2)
    found = score(SteerableCoCoMix(net), [list(b"text 1"), [97]], picked, 4.0, everywhere=False)
    assert logged["test/steering"] == pytest.approx(found.mean)
    assert logged["test/steering_interval"] == pytest.approx(found.interval)
    assert logged["test/steering_own"] - logged["test/steering_other"] == pytest.approx(found.mean, abs=1e-6)
    other = SteerableTeacher(from_pretrained(trained / "net"), SparseAutoencoder.load(trained / "sae"), 2)
    found = score(other, [list(b"text 1"), [97]], picked, 4.0, everywhere=False)
    assert logged["test/steering_teacher"] == pytest.approx(found.mean) != 0
    assert [logged[f"test/steering_{name}"] for name in ("concepts", "others", "prompts")] == [6, 4, 2]
    assert logged["test/steering_none"] == logged["test/steering_teacher_none"] == 0 and len(logged) == 13
    student, same = logged["test/steering"], found.mean
    cli(words(trained, "--seeds", "0", "--score", "activation", "--out", str(trained / "active")))
    measured(SteeringScore(**given, teacher_labels=str(trained / "active"), **sizes), trainer, module)
    theirs = picks(prepared(trained / "active", data), 6, 4, 2)
    found = score(other, [list(b"text 1"), [97]], theirs, 4.0, everywhere=False)
    assert theirs != picked and logged["test/steering"] == student
    assert logged["test/steering_teacher"] == pytest.approx(found.mean)
    assert logged["test/steering_teacher_same"] == pytest.approx(same)  # on what CoCoMix is scored on
    for wrong, said in (
        (given | {"layer": 1}, "layer 2, not 1"),
        ({"labels": given["labels"], "sae": given["sae"]}, "go together"),
        (given | {"rows": 0}, "at least 1"),
    ):
        with pytest.raises(ValueError, match=said):
            SteeringScore(**wrong, **sizes).on_test_start(trainer, module)
    with pytest.raises(ValueError, match="one process"):
        SteeringScore(**given).on_test_start(SimpleNamespace(world_size=2), module)
    module.net = CoCoMix(257, 16, dim=16, layers=3, heads=2, insert=1, concepts=40, keep=5)
    with pytest.raises(ValueError, match="of 48 concepts and the net has 40"):
        SteeringScore(given["labels"], **sizes).on_test_start(trainer, module)


def test_labels_are_compared_with_labels_made_otherwise(trained):
    data = lightning(["prepare", "-c", str(trained / "recipe.yaml")]).datamodule
    data.setup()
    logged = {}
    module = SimpleNamespace(device=torch.device("cpu"), log=lambda name, value: logged.update({name: value}))
    given = {"teacher": str(trained / "net"), "sae": str(trained / "sae"), "layer": 2, "labels": 2}
    callback = LabelAgreement(**given, windows=4, exact_windows=2)
    measured(callback, SimpleNamespace(datamodule=data), module)
    net, sae = from_pretrained(trained / "net"), SparseAutoencoder.load(trained / "sae")
    count = data.windows("test")
    starts = [k * count // 4 * 16 for k in range(4)]
    tokens = torch.from_numpy(data.stores["test"].windows(np.array(starts), 17).astype(np.int64))
    plain = ConceptExtractor(net, sae, 2, 2)
    labels, active = plain(tokens), ConceptExtractor(net, sae, 2, 2, "activation")(tokens)
    few, exact = [0, 2], plain.exact(tokens[[0, 2]])
    compared = {
        "agreement_exact": (labels[few], exact), "agreement_activation": (labels, active),
        "exact_window": (exact, labels[few]), "exact_activation": (exact, active[few]),
    }  # fmt: skip
    for name, (ours, theirs) in compared.items():
        pairs = [(set(a) - {-1}, set(b)) for a, b in zip(ours.flatten(0, 1).tolist(), theirs.flatten(0, 1).tolist())]
        wanted = 100 * sum(len(a & b) for a, b in pairs) / sum(len(a) for a, b in pairs)
        assert logged[f"test/{name}"] == pytest.approx(wanted) != 100
    assert logged["test/exact_activation"] != logged["test/agreement_activation"]
    assert 0 < logged["test/agreement_all"] < 100 and 50 < logged["test/agreement_bf16"] <= 100
    assert logged["test/labelled"] == pytest.approx(100 * float((labels >= 0).any(-1).float().mean()))
    assert overlap(labels, labels) == 1 and overlap(labels, torch.full_like(labels, -1)) == 0
    with pytest.raises(ValueError, match="at most windows"):
        LabelAgreement(**given, windows=1, exact_windows=2)


def test_a_run_shows_and_scores_its_concepts(trained):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    cli(["cards", str(trained / "out"), "-c", str(trained / "recipe.yaml")])
    (trained / "more.yaml").write_text(f"""
model: {{init_args: {{warmup: 1, net: {{class_path: zoo.cocomix.CoCoMix, init_args:
          {{dim: 16, layers: 3, heads: 2, insert: 1, concepts: 48, keep: 5}}}}}}}}
trainer:
  max_steps: 2
  accumulate_grad_batches: 1
  limit_val_batches: 1
  logger:
    class_path: lightning.pytorch.loggers.TensorBoardLogger
    init_args: {{save_dir: "{trained}/runs", name: a, version: b}}
  callbacks:
    - {{class_path: zoo.cocomix.teacher.Teacher, init_args: {{net: null, gives: [concepts], cached: "{trained}/out"}}}}
    - {{class_path: zoo.cocomix.callbacks.ConceptTable, init_args:
         {{prompts: 2, prompt_tokens: 5, tokens: 3, cards: "{trained}/out"}}}}
    - {{class_path: zoo.cocomix.callbacks.SteeringScore, init_args:
         {{labels: "{trained}/out", concepts: 5, others: 3, least: 2, prompts: [a, text 3]}}}}
    - {{class_path: zoo.cocomix.callbacks.LabelAgreement, init_args:
         {{teacher: "{trained}/net", sae: "{trained}/sae", layer: 2, windows: 2, exact_windows: 1}}}}
""")
    run = ["-c", str(trained / "recipe.yaml"), "-c", str(trained / "more.yaml")]
    lightning(["fit", *run])
    events = EventAccumulator(str(trained / "runs" / "a" / "b"), size_guidance={"tensors": 0}).Reload()
    shown = events.Tensors("concepts/1/text_summary")[-1].tensor_proto.string_val[0].decode()
    assert len(shown.strip("`\n").split("\n\n")[-1].splitlines()) == 3 and "(" in shown
    found = lightning(["test", *run, "--ckpt_path", str(trained / "runs" / "a" / "b" / "checkpoints" / "last.ckpt")])
    metrics = found.trainer.callback_metrics
    assert float(metrics["test/steering_concepts"]) == 5 and math.isfinite(float(metrics["test/steering"]))
    assert 0 < float(metrics["test/agreement_exact"]) <= 100


def test_the_verb_prints_both_nets_and_scores_them(trained, capsys):
    pair = ["--teacher", str(trained / "net"), "--sae", str(trained / "sae"), "--layer", "2"]
    base = ["steer", str(trained / "student"), "--prompt", "ab", "--tokens", "4"]
    cli([*base, *pair, "--concept", "3", "--factor", "5", "--factor", "-5", "--factor", "0"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "ab" and [line.split(":")[0].strip().split(" at ")[0] for line in lines[1:9]] == [
        *("CoCoMix", *["CoCoMix, concept 3"] * 3), *("teacher", *["teacher, concept 3"] * 3)
    ]  # fmt: skip
    cli([*base, "--concept", "3", "--where", "end", "--temperature", "1", "--top_k", "5", "--dtype", "bfloat16"])
    assert capsys.readouterr().out.count("CoCoMix") == 2
    with pytest.raises(SystemExit, match="there are no cards"):
        cli([*base, "--score", "--cards", str(trained / "out")])
    cli(["cards", str(trained / "out"), "-c", str(trained / "recipe.yaml")])
    found = cli([*base, *pair, "--score", "--cards", str(trained / "out"), "--concepts", "5", "--others", "3", "--least", "2"])
    told = capsys.readouterr().out
    assert "CoCoMix: " in told and "teacher: " in told and "over 5 concepts, 1 prompts each" in told
    assert set(found) == {"steering", "steering_interval", "steering_teacher_same", "steering_teacher_same_interval"}
    cli([*base, "--concept", "3", "--cards", str(trained / "out")])
    assert capsys.readouterr().out.startswith("concept 3: ")
    few = ["--score", "--cards", str(trained / "out"), "--concepts", "5", "--others", "3", "--least", "2"]
    both = cli([*base, *pair, *few, "--teacher_cards", str(trained / "out")])
    assert found.items() < both.items() and both["steering_teacher"] == both["steering_teacher_same"]
    with pytest.raises(SystemExit, match="labels of layer 2, not 1: give --sae and --layer"):
        cli([*base, *pair[:-1], "1", *few])


def test_wrong_words_get_one_sentence(trained):
    base = ["steer", str(trained / "student")]
    for more, said in (
        ([], "either --concept ID, or --score"),
        (["--score", "--concept", "3"], "either --concept ID, or --score"),
        (["--score"], "--score needs --cards"),
        (["--concept", "3", "--teacher", str(trained / "net")], "go together"),
        (["--concept", "48"], "no concept 48: choose 0 to 47"),
        (["--concept", "3", "--where", "end", "--tokens", "40", "--prompt", "ab"], "more than the 16 of the CoCoMix's context"),
        (["--concept", "3", "--teacher", str(trained / "net"), "--sae", str(trained / "none")], "is missing"),
    ):
        with pytest.raises(SystemExit, match=said):
            cli([*base, *more])
    with pytest.raises(SystemExit, match=r"\(NextToken\) predicts no concepts"):
        cli(["steer", str(trained / "net"), "--concept", "3"])
    net = CoCoMix(257, 16, dim=16, layers=3, heads=2, insert=1, concepts=40, keep=5)
    save_pretrained(net, trained / "fewer", trained / "net" / "tokenizer")
    pair = ["--teacher", str(trained / "net"), "--sae", str(trained / "sae"), "--layer", "2"]
    with pytest.raises(SystemExit, match="has 48 latents and the net 40 concepts"):
        cli(["steer", str(trained / "fewer"), "--concept", "3", *pair])


def test_a_table_of_concepts_is_of_a_net_that_predicts_them(home):  # noqa: F811
    with pytest.raises(ValueError, match="at least 1"):
        ConceptTable(tokens=0)
    module = SimpleNamespace(net=NextToken(257, 16, dim=D, layers=1, heads=1))
    with pytest.raises(ValueError, match="predicts no concepts"):
        ConceptTable().on_fit_start(None, module)
    assert Bytes().eos == 256
