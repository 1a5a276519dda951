"""A test run that scores the next sentence through a space on disk, from text to the numbers that are logged."""

import json
import sys
import warnings
from pathlib import Path

import lightning as L
import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
from sentence_vectors import Stops

from zoo.data.crawl import CommonCrawlSentences
from zoo.data.sources import Files
from zoo.data.tokenizer import Bytes
from zoo.evals.judge import Judge
from zoo.evals.next_sentence import NextSentence
from zoo.module import LanguageModel
from zoo.ntp.net import NextToken
from zoo.pretrained import save_pretrained
from zoo.sonar.encoder import SpaceEncoder
from zoo.sonar.space import Space

SAID = ("l2", "contrastive", "contrastive_others", "par_pooled", "l2_roundtrip", "gap", "mi", "coherence")


class Middle(nn.Module):
    """Says of each sentence the middle between it and the first one."""

    def __init__(self, vocab, context):
        super().__init__()
        self.share = nn.Parameter(torch.tensor(0.5))

    def forward(self, batch):
        error = (self.predict(batch) - batch["vec"]).square().sum()
        return {"loss": error, "parts": {"mse": (error.detach(), batch["mask"].sum())}}

    def predict(self, batch, seed=0):
        return torch.lerp(batch["vec"][:, :1], batch["vec"], self.share)


@pytest.fixture(scope="module")
def run(tiny, folder, tmp_path_factory):
    """What a test run logged, its data and the space."""
    home, texts = tmp_path_factory.mktemp("scored"), [text for text in tiny.texts if ". " not in text]
    rows = [" ".join(texts[(3 * i + j) % len(texts)] for j in range(2 + i % 5)) for i in range(24)]
    (home / "a.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in dict.fromkeys(rows)))
    space, encoder = Space.opened(folder), SpaceEncoder(str(folder), "cpu")
    given = {"segmenter": Stops(), "encoder": encoder, "context": 16, "batch": 4, "root": str(home)}
    data = CommonCrawlSentences(source="files", files=[f"{home}/a.jsonl"], **given)
    data.corpus = Files([f"{home}/a.jsonl"], validation=0.2, test=0.4)
    torch.manual_seed(0)
    Bytes().save(home / "bytes")
    save_pretrained(NextToken(257, 256, dim=16, layers=1, heads=2), home / "scorer", home / "bytes")
    judge = Judge(32, 8, 8)
    judge.about = {"encoder": encoder.fingerprint}
    judge.save(home / "judge")
    callback = NextSentence(space=str(folder), scorer=str(home / "scorer"), judge=str(home / "judge"), decode_sentences=20)
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
                        enable_checkpointing=False, callbacks=[callback], use_distributed_sampler=False)  # fmt: skip
    module = LanguageModel(32, 16, Middle)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*encoded by another space")
        trainer.test(module, data, verbose=False)
    return {name: value.item() for name, value in trainer.callback_metrics.items()}, data, space


def test_all_rows_are_logged(run):
    logged, data, _ = run
    assert {f"test/{row}{name}" for row in ("", "truth_", "shuffled_") for name in SAID} <= logged.keys()
    store = data.stores["test"]
    assert logged["test/scored"] == (store.lengths - 2).sum() > 20 >= logged["test/decoded"] > 10
    assert logged["test/truth_l2"] == 0 and logged["test/mse"] > 0
    distances = []
    for number in range(len(store)):
        vec = torch.from_numpy(store.chunks([number])[0])[0, : store.lengths[number] - 1]
        distances += [((vec[0] - vec[n]) / 2).norm().item() for n in range(1, len(vec))]
    assert logged["test/l2"] == pytest.approx(sum(distances) / len(distances), rel=1e-5)


def test_the_floor_of_the_space_is_what_its_own_sentences_lose(run):
    """The truth's round trip is a sentence that was encoded, stored, decoded and encoded again."""
    logged, data, space = run
    assert logged["test/truth_gap"] == logged["test/truth_l2_roundtrip"] < logged["test/l2_roundtrip"]
    store, lost = data.stores["test"], []
    for number in range(len(store)):
        vec = torch.from_numpy(store.chunks([number])[0])[0, 1 : store.lengths[number] - 1]
        lost.append((space.encode(space.decode(vec, data.lang, beam=1), data.lang) - vec).norm(dim=1))
    lost = torch.cat(lost)
    assert lost.min() <= logged["test/truth_l2_roundtrip"] <= lost.max()
    every = NextSentence()
    every.space, every.limit = space, 10**6
    with torch.inference_mode():
        for batch in data.test_dataloader():
            every.add(Middle(32, 16), batch, store)
        every.add_texts(store, data.lang)
    total, count = every.sums.pairs["truth_l2_roundtrip"]
    assert total / count == pytest.approx(lost.mean().item(), rel=1e-4) and count == len(lost)
