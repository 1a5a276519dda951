"""Mutual information: beside a naive sum of log-probabilities, for nets of ours and in GPT-2's layout."""

import pytest
import torch

from zoo.data.tokenizer import train_bpe
from zoo.evals import information
from zoo.evals.information import CausalScorer
from zoo.mtp.net import MTP
from zoo.ntp.net import NextToken
from zoo.pretrained import save_pretrained, to_transformers

WORDS = "the sea was calm and a ship sailed slowly to its old town".split()
CONTEXTS = [[" ".join(WORDS[i : i + 3]) + "." for i in range(n)] for n in (3, 1, 0, 12)]
SENTENCES = [["A ship sailed.", "Calm.", "The old town was old and calm."], ["The sea.", "", "A ship sailed."]] * 2


@pytest.fixture(scope="module")
def tokenizer():
    return train_bpe([" ".join(WORDS)] * 50, 300)


def saved(net, tokenizer, folder):
    tokenizer.save(folder / "apart")
    save_pretrained(net, folder / "net", folder / "apart")
    return folder / "net"


def naive(net, tokenizer, context, sentence):
    """log p of a sentence after a text: one row, all logits."""
    before, after = tokenizer.encode(context), tokenizer.encode(sentence)
    tokens = torch.tensor([before + after])
    logp = net.next(tokens, net.cache(1, tokens.shape[1]))[0, len(before) - 1 : -1].log_softmax(-1)
    return float(logp[range(len(after)), after].sum())


def check(scorer, tokenizer):
    found, counts = scorer.information(CONTEXTS, SENTENCES)
    assert found.shape == counts.shape == (4, 3) and found.dtype == torch.float64
    for context, texts, values, sizes in zip(CONTEXTS, SENTENCES, found.tolist(), counts.tolist()):
        for text, value, size in zip(texts, values, sizes):
            assert size == (len(tokenizer.encode(text)) if context else 0)
            if not context or not text:
                assert value == 0
                continue
            given = naive(scorer.net, tokenizer, " ".join(context[-10:]) + "\n", text)
            assert value == pytest.approx(given - naive(scorer.net, tokenizer, "\n", text), abs=2e-4)
    assert found.abs().max() > 0.05  # the model does look at its context


@pytest.mark.parametrize("kind, batch", [(NextToken, 2), (MTP, 32)])
def test_it_is_a_difference_of_two_sums(kind, batch, tokenizer, tmp_path):
    torch.manual_seed(0)
    net = kind(tokenizer.vocab, 160, dim=32, layers=3, heads=2, **({"n": 2} if kind is MTP else {}))
    for parameter in net.parameters():
        parameter.data.mul_(3 if parameter.ndim > 1 else 1)
    scorer = CausalScorer(saved(net, tokenizer, tmp_path), batch=batch)
    check(scorer, tokenizer)
    assert scorer.parameters == sum(p.numel() for p in net.parameters()) and type(net).__name__ in scorer.name


def test_a_folder_in_the_layout_of_gpt2_and_a_name_of_the_hub(tokenizer, tmp_path, monkeypatch):
    torch.manual_seed(1)
    net = NextToken(tokenizer.vocab, 160, dim=32, layers=2, heads=2, flavour="gpt2")
    for parameter in net.parameters():
        parameter.data.mul_(4 if parameter.ndim > 1 else 1)
    to_transformers(net, tmp_path / "gpt2")
    tokenizer.save(tmp_path / "gpt2")
    check(CausalScorer(tmp_path / "gpt2"), tokenizer)
    asked = []
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **given: asked.append(name) or str(tmp_path / "gpt2"))
    there = CausalScorer("openai-community/gpt2").information(CONTEXTS, SENTENCES)[0]
    assert asked == ["openai-community/gpt2"] and there.equal(CausalScorer(tmp_path / "gpt2").information(CONTEXTS, SENTENCES)[0])


def test_a_model_that_knows_the_document_tells_its_sentences(tokenizer, tmp_path):
    """Sentences that repeat the one before: the right one is told by it, another one is not."""
    draw, texts = torch.Generator().manual_seed(0), []
    for _ in range(64):
        picked = [WORDS[i] for i in torch.randint(len(WORDS), (2,), generator=draw)]
        texts.append([*tokenizer.encode(f"{picked[0]} {picked[1]}.\n{picked[0]} {picked[1]}."), tokenizer.eos])
    torch.manual_seed(0)
    net = NextToken(tokenizer.vocab, 160, dim=48, layers=2, heads=4)
    size = max(map(len, texts))
    tokens = torch.tensor([text + [tokenizer.eos] * (size - len(text)) for text in texts])
    optimizer = torch.optim.AdamW(net.parameters(), 3e-3)
    for _ in range(80):
        loss = net({"tokens": tokens, "mask": torch.ones_like(tokens, dtype=torch.bool)})["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    scorer = CausalScorer(saved(net, tokenizer, tmp_path))
    contexts = [["sea old."], ["ship town."], ["calm its."]]
    said = [["sea old.", "ship town."], ["ship town.", "calm its."], ["calm its.", "sea old."]]
    found, counts = scorer.information(contexts, said)
    per_token = found.sum(0) / counts.sum(0)
    assert per_token[0] > 0.3 and per_token[0] > per_token[1] + 0.3


def test_a_sentence_longer_than_the_model_is_read_in_parts(tokenizer, tmp_path):
    torch.manual_seed(0)
    net = NextToken(tokenizer.vocab, 8, dim=16, layers=1, heads=2)
    scorer = CausalScorer(saved(net, tokenizer, tmp_path))
    long = " ".join(WORDS * 2)
    found, counts = scorer.information([[long], ["A ship."]], [[long], [long]])
    assert counts.min() > 16 and found.isfinite().all()
    again = information.summed(net, [([1, 2], [3, 4, 5]), ([1], [2])])
    assert again[0] == pytest.approx(
        sum(information.summed(net, [([1, 2, 3, 4, 5][:i], [[1, 2, 3, 4, 5][i]])])[0] for i in (2, 3, 4)), abs=1e-5
    )


def test_what_cannot_be_had_is_said_in_a_sentence(tmp_path):
    with pytest.raises(
        RuntimeError, match=r"the hub gives no model of that name \(\w+\): check the name and the network, or give"
    ):
        CausalScorer("openai-community/gpt2")
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        CausalScorer(tmp_path / "nothing")
    net = NextToken(257, 8, dim=16, layers=1, heads=2)
    with pytest.raises(ValueError, match="nan"):
        net.trunk.embedding.weight.data.fill_(torch.nan)
        information.summed(net, [([1], [2])])
