"""Our net under lm-eval: equal to a naive reference, to lm-eval's own HFLM on the same weights, and to plain decoding."""

import random
from types import SimpleNamespace

import pytest
import torch

from zoo.data.tokenizer import END, Bytes, train_bpe
from zoo.evals.harness import Harness, before, generation_settings
from zoo.evals.scoring import Score, fit, score, windows
from zoo.mtp.net import MTP
from zoo.ntp.net import NextToken
from zoo.pretrained import to_transformers

WORDS = "the cat sat on a mat and saw no dog that could have been there before it rained".split()
CONTEXT = 24


def sentence(seed: int, count: int) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=count))


def small(cls, vocab: int, **more):
    torch.manual_seed(0)
    net = cls(vocab, CONTEXT, dim=16, layers=3, heads=2, **more)
    with torch.no_grad():
        for weight in net.parameters():
            weight += 0.3 * torch.randn_like(weight)  # at the start all tokens are about equally likely
    return net


@pytest.fixture(scope="module")
def tokenizer():
    return train_bpe([sentence(i, 12) for i in range(100)], 300)


@pytest.fixture(scope="module", params=["gpt2", "llama", "mtp"])
def net(request, tokenizer):
    if request.param == "mtp":
        return small(MTP, tokenizer.vocab, n=2)
    return small(NextToken, tokenizer.vocab, flavour=request.param)


@pytest.fixture(scope="module")
def pairs():
    """Texts for loglikelihood: shared contexts, none, spaces at the end, one-token answers, and too long ones."""
    choices = [(sentence(i, 4), " " + sentence(100 * i + j, 1 + j)) for i in range(5) for j in range(1 + i % 4)]
    odd = [("", " the cat"), ("the cat ", "sat on"), ("the cat", " sat"), (sentence(7, 60), " mat"), (sentence(8, 14), " a dog")]
    return choices + odd + [(sentence(9, 40), " " + sentence(j, 2)) for j in range(3)]


def requests(arguments: list[tuple]) -> list:
    return [SimpleNamespace(args=args) for args in arguments]


def naive(net, context: list[int], continuation: list[int]) -> Score:
    """One forward pass over everything, all logits."""
    logits = net.next(torch.tensor([context + continuation[:-1]]), net.cache(1))[0, len(context) - 1 :].log_softmax(-1)
    target = torch.tensor(continuation)
    return Score(logits.gather(1, target[:, None]).sum().item(), bool((logits.argmax(-1) == target).all()))


def ids(seed: int, count: int, vocab: int = 40) -> list[int]:
    return torch.randint(vocab, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_scores_do_not_depend_on_what_is_read_together(net, batch):
    groups = [(ids(i, 1 + 3 * i), [ids(50 * i + j, 1 + (2 * j + i) % 4) for j in range(i)]) for i in range(7)]
    pairs = [(context, c) for context, continuations in groups for c in continuations]
    pairs += [
        (ids(70, CONTEXT - 1), ids(71, 1)),
        (ids(70, CONTEXT - 1), ids(72, 2)),
        (ids(73, 2), ids(74, 9)),
        (ids(73, 2), ids(75, CONTEXT - 1)),
    ]
    random.Random(batch).shuffle(pairs)
    for context, continuation in pairs[::5]:  # of some, the net itself would write the beginning
        continuation[0] = net.next(torch.tensor([context]), net.cache(1))[0, -1].argmax().item()
    found, wanted = score(net, pairs, batch), [naive(net, *pair) for pair in pairs]
    torch.testing.assert_close([f.logp for f in found], [w.logp for w in wanted], rtol=1e-5, atol=1e-4)
    assert [f.greedy for f in found] == [w.greedy for w in wanted] and any(f.greedy for f in found)


def test_greedy_means_from_the_first_token_on(net):
    def best(tokens: list[int]) -> int:
        return net.next(torch.tensor([tokens]), net.cache(1))[0, -1].argmax().item()

    context = ids(0, 5)
    first = best(context)
    other = (first + 1) % 40
    continuations = [[first, best([*context, first])], [other, best([*context, other])], [first, -1 % 40]]
    found = score(net, [(context, c) for c in continuations])
    assert [f.greedy for f in found] == [True, False, continuations[2] == continuations[0]]


def test_shared_context_is_read_once(net, monkeypatch):
    read = []
    states = net.states
    monkeypatch.setattr(net, "states", lambda tokens, cache: read.append(tokens.numel()) or states(tokens, cache))
    context = ids(0, 20)
    score(net, [(context, [1, 2]), (context, [3]), (context, [4, 5, 6])])
    assert sum(read) == 20 + 1 + 2


def test_windows_predict_each_token_once_with_all_the_room():
    assert windows([1, 2, 3], [4, 5], 4) == [([1, 2, 3], [4, 5])]
    assert windows([1, 2, 3], [4, 5], 3) == [([2, 3], [4, 5])] == [fit([1, 2, 3], [4, 5], 3)]
    assert windows([1, 2, 3], [4, 5, 6, 7, 8], 3) == [([3], [4, 5, 6]), ([5, 6], [7, 8])]


def test_score_says_what_is_wrong(net):
    with pytest.raises(ValueError, match="do not fit into the net's context of 24"):
        score(net, [([1] * 24, [1, 2])])
    with pytest.raises(ValueError, match="at least one token"):
        score(net, [([], [1])])
    broken = small(NextToken, 40)
    broken.trunk.norm.weight.data.fill_(torch.nan)
    with pytest.raises(ValueError, match="nan"):
        score(broken, [([1], [2])])


@pytest.fixture(scope="module")
def hflm(net, tokenizer, tmp_path_factory):
    """lm-eval's own wrapper around transformers' own model, with the same weights and the same tokenizer.json."""
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("hf")
    to_transformers(net, folder)
    tokenizer.save(folder)
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), eos_token=END)
    model = AutoModelForCausalLM.from_pretrained(folder)
    return HFLM(pretrained=model, tokenizer=theirs, device="cpu", max_length=CONTEXT, batch_size=4)


def test_loglikelihood_equals_hflm(net, tokenizer, hflm, pairs):
    ours = Harness(net, tokenizer, batch=3)
    found, wanted = ours.loglikelihood(requests(pairs)), hflm.loglikelihood(requests(pairs), disable_tqdm=True)
    torch.testing.assert_close([logp for logp, _ in found], [logp for logp, _ in wanted], rtol=1e-5, atol=1e-4)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in wanted]
    assert (ours.truncated, ours.requests) == (4, len(pairs))


def test_rolling_equals_hflm(net, tokenizer, hflm):
    texts = [(sentence(i, count),) for i, count in enumerate((1, 20, 23, 24, 25, 70, 130))] + [("",)]
    ours = Harness(net, tokenizer, batch=2)
    found = ours.loglikelihood_rolling(requests(texts))
    wanted = hflm.loglikelihood_rolling(requests(texts), disable_tqdm=True)
    torch.testing.assert_close([*map(float, found)], [*map(float, wanted)], rtol=1e-5, atol=1e-4)
    assert found[-1] == 0 and found[-2] < found[0] < 0


def test_generate_until_equals_hflm(net, tokenizer, hflm):
    settings = {"until": [" the", "\n"], "max_gen_toks": 8, "do_sample": False}
    texts = [(sentence(i, 3 + 4 * i), settings) for i in range(6)]  # the longest ones leave no room for eight tokens
    ours = Harness(net, tokenizer, batch=2, heads=getattr(net, "n", 1))
    assert ours.generate_until(requests(texts)) == hflm.generate_until(requests(texts), disable_tqdm=True)
    assert 0 < ours.truncated < ours.requests == 6


def test_generation_stops_before_the_word(net, tokenizer):
    ours = Harness(net, tokenizer)
    full = ours.generate_until(requests([("the cat", {"until": [], "max_gen_toks": 12})]))[0]
    word = full[len(full) // 2 :][:2]
    short = ours.generate_until(requests([("the cat", {"until": [word, "\0"], "max_gen_toks": 12})]))[0]
    assert short == before(full, [word]) and word not in short and full.startswith(short)


def test_sampling_settings():
    until, limit, sampling = generation_settings({"until": "x", "do_sample": True, "top_k": 5})
    assert (until, limit, sampling.temperature, sampling.top_k) == (["x"], 256, 1.0, 5)
    assert generation_settings({"temperature": 0.7, "do_sample": False})[2].greedy
    assert generation_settings({"temperature": 0.7, "max_new_tokens": 3})[1:][0] == 3
    with pytest.raises(ValueError, match="'num_beams'"):
        generation_settings({"num_beams": 4})


def test_prefix_of_a_tokenizer_stands_once_before_every_text():
    ours = Harness(small(NextToken, 257), Bytes(), prefix=[256])
    assert ours.tok_encode("ab") == [256, 97, 98] and ours.tok_encode("ab", add_special_tokens=False) == [97, 98]
    plain = Harness(ours.net, Bytes())
    with_end = plain.loglikelihood(requests([("", "ab")]))
    assert ours.loglikelihood(requests([("", "ab")])) == with_end
    assert plain.loglikelihood(requests([("a", "b")]))[0][0] != ours.loglikelihood(requests([("a", "b")]))[0][0]
    rolled = ours.loglikelihood_rolling(requests([("ab",)]))[0]
    assert rolled == pytest.approx(with_end[0][0], abs=1e-5)
