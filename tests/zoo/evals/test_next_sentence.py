"""Scores of the next sentence: against naive loops over documents, on a made-up space whose decoder says the nearest sentence."""

import json
import random
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
from sentence_vectors import Hashed, Stops, vector

from zoo.data.crawl import CommonCrawlSentences
from zoo.data.sources import Files
from zoo.data.tokenizer import Bytes
from zoo.evals import next_sentence
from zoo.evals.information import CausalScorer
from zoo.evals.judge import Judge
from zoo.evals.next_sentence import ROWS, NextSentence, elsewhere, means
from zoo.evals.sentence_scores import places, set_sampler
from zoo.nn.diffusion import Sampler
from zoo.ntp.net import NextToken
from zoo.pretrained import save_pretrained
from zoo.sonar.space import Space


class Nearest:
    """Encodes as the store's encoder did; decodes to the nearest of some sentences."""

    encoder, fingerprint, width = True, "hashed", 6
    tokenizer = SimpleNamespace(langs=("eng_Latn",))

    def __init__(self, texts):
        self.texts, self.vectors = texts, torch.stack([self._vector(text) for text in texts])

    def _vector(self, text):
        return torch.from_numpy(vector(text).copy()).half().float()

    def encode(self, texts, lang=None):
        assert lang == "eng_Latn"
        return torch.stack([self._vector(text) for text in texts])

    def decode(self, vectors, lang=None, beam=5):
        assert (lang, beam) == ("eng_Latn", 1)
        return [self.texts[i] for i in torch.cdist(vectors, self.vectors).argmin(1).tolist()]


class Off(nn.Module):
    """Predictions that are off the truth by noise, which depends on chunk, place and seed alone."""

    def __init__(self, noise=0.2):
        super().__init__()
        self.noise = nn.Parameter(torch.tensor(noise))

    def predict(self, batch, seed=0):
        vec = batch["vec"].clone()
        for row, number in zip(vec, batch["window"].tolist()):
            row += self.noise * torch.randn(64, 6, generator=torch.Generator().manual_seed(1000 * seed + number))[: len(row)]
        return vec


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    home, rng = tmp_path_factory.mktemp("next"), random.Random(0)
    rows = [" ".join(f"Satz {rng.randrange(50)} of {i % 20}." for _ in range(rng.randint(1, 20))) for i in range(70)]
    (home / "a.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    given = {"segmenter": Stops(), "encoder": Hashed(), "context": 8, "batch": 4, "root": str(home)}
    made = CommonCrawlSentences(source="files", files=[f"{home}/a.jsonl"], **given)
    made.corpus = Files([f"{home}/a.jsonl"], validation=0.1, test=0.4)
    made.prepare_data()
    made.setup()
    return made


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A scorer and a judge that have learnt nothing."""
    home = tmp_path_factory.mktemp("scorers")
    torch.manual_seed(0)
    net = NextToken(257, 256, dim=16, layers=1, heads=2)
    for parameter in net.parameters():
        parameter.data.mul_(3 if parameter.ndim > 1 else 1)
    Bytes().save(home / "bytes")
    save_pretrained(net, home / "scorer", home / "bytes")
    Judge(6, 8, 8).save(home / "judge")
    return {"scorer": str(home / "scorer"), "judge": str(home / "judge")}


@pytest.fixture
def scored(data, folders, monkeypatch):
    """(net, …) -> what is measured of it on the test split."""
    store = data.stores["test"]
    space = Nearest(sorted({text for number in range(len(store)) for text in store.texts(number)} - {store.end}))
    monkeypatch.setattr(Space, "opened", lambda *sources, device: space)

    def measure(net, batch=4, backwards=False, **given):
        data.batch = batch
        batches = list(data.test_dataloader())
        made = NextSentence(**({"space": "here", "decode_sentences": 10**6, **folders} | given))
        return made.measured(net, batches[::-1] if backwards else batches, store, "eng_Latn")

    measure.space = space
    return measure


def sentences(store):
    """(chunk, place) of every sentence that is scored, and the texts of each chunk without its end marker."""
    texts = [[text for text in store.texts(number) if text != store.end] for number in range(len(store))]
    return [(c, n) for c, each in enumerate(texts) for n in range(1, len(each))], texts


def said_of(net, store, c, seed=0):
    vec = torch.from_numpy(store.chunks([c])[0])
    with torch.no_grad():
        return net.predict({"vec": vec, "window": torch.tensor([c])}, seed)[0], vec[0]


def test_it_is_a_naive_loop_over_sentences(scored, data, folders):
    store, net = data.stores["test"], Off()
    found = scored(net, seed=3)
    where, texts = sentences(store)
    assert found["scored"] == found["decoded"] == len(where) and any(store.texts(c)[-1] == store.end for c in range(len(store)))
    space, scorer, judge = scored.space, CausalScorer(folders["scorer"]), Judge.opened(folders["judge"])
    every = [torch.from_numpy(store.chunks(np.array([c]))[0][0, : len(each)]) for c, each in enumerate(texts)]
    centre = torch.cat(every).mean(0)  # of all sentences, less the ends of documents
    far, back, moved, constant, pooled, nats, tokens, seen = [], [], [], [], [[], []], 0.0, 0, {}
    for c, n in where:
        said, true = said_of(net, store, c, 3)
        far.append((said[n] - true[n]).norm().item())
        text = space.decode(said[n][None], "eng_Latn", 1)
        again = space.encode(text, "eng_Latn")[0]
        back.append((again - true[n]).norm().item())
        moved.append((again - said[n]).norm().item())
        constant.append((centre - true[n]).norm().item())
        for part, what in zip(pooled, (said, true)):
            part.append(F.cosine_similarity(what[n][None], true[:n]).max().item())
        total, count = scorer.information([texts[c][:n]], [text])
        nats, tokens = nats + total.item(), tokens + count.item()
        seen.setdefault(c, [true[0]]).append(again)
    mean = lambda values: sum(values) / len(values)
    assert found["moved"] == pytest.approx(mean(moved), rel=1e-5) and found["truth_moved"] == 0
    assert found["mean_l2"] == pytest.approx(mean(constant), rel=1e-5)
    coherent = judge.probability([torch.stack(each) for each in seen.values() if len(each) >= 3]).mean().item()
    wanted = {"l2": mean(far), "l2_roundtrip": mean(back), "gap": mean(back) - mean(far), "mi": nats / tokens}
    wanted |= {"coherence": coherent, "par_pooled": sum(pooled[0]) / sum(pooled[1])}
    wanted["par"] = mean([a / b for a, b in zip(*pooled) if b >= 0.01])
    assert {name: found[name] for name in wanted} == pytest.approx(wanted, abs=1e-4)
    assert {
        row + name for row in ROWS for name in ("l2", "contrastive", "contrastive_others", "par", "gap", "mi")
    } <= found.keys()


def test_the_truth_is_the_floor_and_the_shuffled_know_nothing(scored):
    found, exact = scored(Off(0.3)), scored(Off(0.0))
    assert exact["l2"] == found["truth_l2"] == exact["gap"] == 0 < found["l2"] < found["shuffled_l2"]
    assert found["truth_par"] == pytest.approx(1) and found["truth_l2_roundtrip"] == 0 < found["l2_roundtrip"]
    for name in ("l2", "contrastive", "contrastive_others", "par", "l2_roundtrip", "gap", "mi", "coherence"):
        assert exact[name] == pytest.approx(found[f"truth_{name}"], abs=1e-6), name
    for name in ("contrastive", "contrastive_others"):  # equal sentences are no farther, so the truth need not reach 1
        assert found[f"truth_{name}"] > 0.97 and abs(found[f"shuffled_{name}"] - 0.5) < 0.07
        assert found[f"shuffled_{name}"] < found[name] < found[f"truth_{name}"]


def test_batches_decide_over_nothing_but_distractors(scored):
    whole, parts = scored(Off(), batch=6), scored(Off(), batch=3, backwards=True)
    same = [name for name in whole if not name.startswith("shuffled") and "contrastive" not in name and name != "distractors"]
    assert {name: whole[name] for name in same} == pytest.approx({name: parts[name] for name in same}, abs=1e-6)
    assert whole["distractors"] > 1.5 * parts["distractors"] and scored(Off(), seed=1)["l2"] != whole["l2"]


@pytest.mark.parametrize("limit", [2, 9, 40])
def test_no_more_is_decoded_than_was_said(scored, limit):
    found = scored(Off(), decode_sentences=limit, scorer=None)
    assert limit - 7 <= found["decoded"] <= limit and found["scored"] > 100 and "mi" not in found
    other = scored(Off(), batch=3, backwards=True, decode_sentences=limit, scorer=None)
    for name in ("l2_roundtrip", "truth_l2_roundtrip", "gap", "coherence"):
        assert found.get(name) == pytest.approx(other.get(name), abs=1e-6), name  # the same documents
    every = scored(Off(), scorer=None)
    assert every["l2"] == pytest.approx(found["l2"]) and every["l2_roundtrip"] != found["l2_roundtrip"]


def test_vectors_alone_where_there_is_no_space(data, folders):
    batches = list(data.test_dataloader())
    found = NextSentence().measured(Off(), batches)
    assert not {name for name in found if "roundtrip" in name or "gap" in name or "mi" in name or "coherence" in name}
    assert found["scored"] == sum(int((b["role"][b["mask"]] != 0).sum()) - int(b["mask"].sum()) for b in batches)  # no store
    judged = NextSentence(judge=folders["judge"]).measured(Off(), batches, data.stores["test"])
    assert 0 < judged["coherence"] < 1 and judged["scored"] < found["scored"] and "decoded" not in judged
    given = [
        {**batch, "role": torch.where(torch.arange(batch["role"].shape[1]) < 3, 1, 2) * (batch["role"] != 0)} for batch in batches
    ]
    prompted = NextSentence().measured(Off(), given)
    assert prompted["scored"] == sum(int((b["role"][b["mask"]] == 2).sum()) for b in given) < found["scored"]
    deep = NextSentence(first=4).measured(Off(), batches)
    assert deep["scored"] == sum(int((b["role"][b["mask"]][:, 4:] != 0).sum()) for b in batches)


def test_the_shuffled_are_sentences_of_other_places():
    draw = torch.Generator().manual_seed(0)
    true, role = torch.randn(3, 5, 2, generator=draw), torch.full((3, 5), 2)
    role[1, 3:] = 0
    at = places(role, torch.tensor([True, True, False]), torch.zeros(3, 5, dtype=torch.bool))
    for seed in range(10):
        found = elsewhere(true, at, seed)
        assert (found[~at.present] == true[~at.present]).all() and (found[at.present] != true[at.present]).all()
        assert sorted(found[at.present][:, 0].tolist()) == sorted(true[at.present][:, 0].tolist())
    assert not elsewhere(true, at, 0).equal(elsewhere(true, at, 1))


def test_sums_of_two_processes_are_those_of_one(data, scored):
    store, halves = data.stores["test"], []
    batches = list(data.test_dataloader())
    whole = NextSentence().measured(Off(), batches, store)
    for part in (batches[::2], batches[1::2]):
        made = NextSentence()
        made.measured(Off(), part, store)
        halves.append(made.sums.pairs)
    both = {name: tuple(a + b for a, b in zip(halves[0][name], halves[1][name])) for name in halves[0]}
    assert means(both) == pytest.approx(whole)


def test_mistakes_are_named(data, folders, tmp_path, monkeypatch):
    store, batches = data.stores["test"], list(data.test_dataloader())
    with pytest.raises(ValueError, match="a scorer reads text, and without a space there is none"):
        NextSentence(scorer="gpt2")
    with pytest.raises(ValueError, match=r"decode_sentences \(0\)"):
        NextSentence(decode_sentences=0)
    for given in ({"judge": "no/judge"}, {"space": "./no-space"}, {"space": ["./a"], "scorer": "/no/scorer"}):
        with pytest.raises(FileNotFoundError, match="NextSentence: there is no folder"):
            NextSentence(**given).setup(None, None, "fit")
    NextSentence(space="text_sonar_basic_encoder", scorer="openai-community/gpt2").setup(None, None, "fit")  # names, not folders
    with pytest.raises(ValueError, match="predictions hold NaN or infinite numbers"):
        NextSentence().measured(Off(float("nan")), batches, store)
    Judge(5, 8, 8).save(tmp_path / "narrow")
    with pytest.raises(ValueError, match="The judge is for vectors of 5 numbers, and those of the data have 6"):
        NextSentence(judge=str(tmp_path / "narrow")).measured(Off(), batches, store)
    other = Judge(6, 8, 8)
    other.about = {"encoder": "another"}
    other.save(tmp_path / "other")
    with pytest.raises(ValueError, match="learnt from another space than the data's: `zoo prepare judge` makes one"):
        NextSentence(judge=str(tmp_path / "other")).measured(Off(), batches, store)
    other.about = {"split": "all", "store": store.manifest["fingerprint"]}
    other.save(tmp_path / "knows")
    with pytest.raises(ValueError, match=r"learnt from the documents that it is to judge: run .* without --split all"):
        NextSentence(judge=str(tmp_path / "knows")).measured(Off(), batches, store)
    space, said = Nearest(["A."]), []
    space.fingerprint = "another"
    monkeypatch.setattr(Space, "opened", lambda *sources, device: space)
    monkeypatch.setattr(next_sentence, "rank_zero_warn", said.append)
    NextSentence(space="here").open("cpu", store)
    assert said and "encoded by another space" in said[0]
    with pytest.raises(ValueError, match="these data have no text"):
        NextSentence(space="here", scorer=folders["scorer"]).measured(Off(), batches)


def test_a_sampler_is_set_for_the_test():
    net = SimpleNamespace(sampler=Sampler(taken=20))
    set_sampler(net, {"guidance": 2.0}, "NextSentence")
    assert net.sampler == Sampler(taken=20, guidance=2.0)
    with pytest.raises(ValueError, match="the net's sampler has no heat, but taken, guidance"):
        set_sampler(net, {"heat": 2.0}, "NextSentence")
    with pytest.raises(ValueError, match="has no guidance, but nothing"):
        set_sampler(SimpleNamespace(), {"guidance": 2.0}, "NextSentence")
