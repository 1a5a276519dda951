"""Speculative decoding against plain decoding: the same tokens, and the same distribution."""

import pytest
import torch

from zoo.generate import generate
from zoo.mtp import MTP
from zoo.ntp import NextToken
from zoo.sampling import Sampling

torch.set_num_threads(1)
V, W = 7, 24
PROMPTS = [[1, 2, 3], [4, 5, 6, 0, 2, 3, 1], [5], [3, 3, 1, 4]]
SIZES = {"dim": 16, "layers": 5, "heads": 2}


def mtp(n=4, seed=0, vocab=V, context=W, **changed) -> MTP:
    torch.manual_seed(seed)
    return MTP(vocab, context, n=n, **{**SIZES, **changed}).eval()


@pytest.fixture(scope="module")
def net():
    """Untrained, but with drafts that are accepted now and then: it tends to repeat itself, and its heads change little."""
    net = mtp(seed=1, tied=True)
    with torch.no_grad():
        for name, weight in net.named_parameters():
            if weight.ndim == 2 and "embedding" not in name:
                weight *= 10 if "trunk" in name else 3
    return net


@pytest.mark.parametrize("flavour", ["llama", "gpt2"])
@pytest.mark.parametrize("seed", range(6))
def test_greedy_with_any_number_of_heads_is_plain_greedy(flavour, seed):
    net = mtp(seed=seed, flavour=flavour)
    plain = generate(net, PROMPTS, 17)
    for heads in (2, 3, 4):
        assert generate(net, PROMPTS, 17, heads=heads).tokens == plain.tokens


def test_drafts_are_accepted_and_counted(net):
    plain = generate(net, PROMPTS, 16)
    for heads in (2, 3, 4):
        out = generate(net, PROMPTS, 16, heads=heads)
        assert out.tokens == plain.tokens and len(out.accepted) == heads - 1
        assert out.accepted == sorted(out.accepted, reverse=True) and out.accepted[0] > 0
        assert sum(out.steps) + sum(out.accepted) == sum(map(len, out.tokens)) - len(PROMPTS)
        assert out.forwards == max(out.steps) < plain.forwards
        assert 1 < out.tokens_per_forward <= heads
    assert plain.accepted == [] and plain.tokens_per_forward == 1


def test_past_the_context_too(net):
    prompts = [*PROMPTS, [i % V for i in range(W)], [i % V for i in range(2 * W + 1)]]
    plain = generate(net, prompts, 3 * W)
    assert [generate(net, prompts, 3 * W, heads=heads).tokens for heads in (2, 3, 4)] == [plain.tokens] * 3


def test_a_batch_is_its_rows_one_by_one(net):
    together = generate(net, PROMPTS, 20, heads=4)
    alone = [generate(net, [prompt], 20, heads=4) for prompt in PROMPTS]
    assert together.tokens == [out.tokens[0] for out in alone] and together.steps == [out.steps[0] for out in alone]
    assert together.accepted == [sum(column) for column in zip(*(out.accepted for out in alone))]


@pytest.mark.parametrize("heads", [2, 4])
def test_a_stop_the_limit_and_until_inside_an_accepted_block(net, heads):
    for limit in range(1, 12):
        plain = generate(net, PROMPTS, limit)
        out = generate(net, PROMPTS, limit, heads=heads)
        assert out.tokens == plain.tokens and out.stopped == plain.stopped
    for stop in range(V):
        ways = [{"stop": {stop}}, {"until": lambda new, stop=stop: new[-1] == stop}]
        for way in ways:
            plain, out = generate(net, PROMPTS, 14, **way), generate(net, PROMPTS, 14, heads=heads, **way)
            assert out.tokens == plain.tokens and out.stopped == plain.stopped
            emitted = sum(map(len, out.tokens)) + ("stop" in way) * sum(out.stopped)
            assert sum(out.steps) + sum(out.accepted) == emitted - len(PROMPTS)


def test_a_stream_hands_out_blocks(net):
    seen = [[] for _ in PROMPTS]
    out = generate(net, PROMPTS, 16, heads=4, stop={2}, stream=lambda row, new: seen[row].append(new))
    assert [sum(blocks, []) for blocks in seen] == out.tokens and max(len(new) for blocks in seen for new in blocks) > 1


def test_the_trunk_sees_each_token_once(net, monkeypatch):
    """Nothing is read again after a rejection: a step of k tokens passes k through the trunk, and no more."""
    passed = []
    embed = net.trunk.embed
    monkeypatch.setattr(net.trunk, "embed", lambda tokens, *more: passed.append(tokens.shape) or embed(tokens, *more))
    out = generate(net, [[1, 2, 3]], 16, heads=4)
    assert passed[0] == (1, 3) and len(passed) == 1 + out.forwards
    assert all(shape[1] <= 4 for shape in passed[1:])


@pytest.mark.parametrize("context", [W, 9, 2, 1])
def test_a_draft_net_drafts(net, context):
    plain = generate(net, PROMPTS, 40)
    torch.manual_seed(3)
    stranger = NextToken(V, context, 8, 1, 1).eval()
    assert generate(net, PROMPTS, 40, heads=4, draft=stranger).tokens == plain.tokens
    itself = generate(net, PROMPTS, 17, heads=4, draft=net)  # 1 + 4 + 4 + 4 + 4
    assert itself.tokens == [tokens[:17] for tokens in plain.tokens]
    assert itself.steps == [4] * 4 and itself.accepted == [16] * 3


def naive(sampling: Sampling, net, prompt: list[int], count: int) -> torch.Tensor:
    """Exact probabilities (V ** count,) of all continuations."""
    texts, weights = torch.tensor([prompt]), torch.ones(1)
    for _ in range(count):
        p = sampling.probabilities(net.next(texts, net.cache(len(texts)))[:, -1])
        weights = (weights[:, None] * p).flatten()
        texts = torch.cat((texts.repeat_interleave(net.vocab, 0), torch.arange(net.vocab).repeat(len(texts))[:, None]), 1)
    return weights


def p_value(counts: torch.Tensor, expected: torch.Tensor) -> float:
    """Of Pearson's chi-square test, cells that expect fewer than 5 put together."""
    from scipy.stats import chisquare

    assert counts[expected == 0].sum() == 0, "a token that cannot be drawn was drawn"
    expected = expected * counts.sum()
    rare = expected < 5
    seen = torch.cat((counts[~rare], counts[rare].sum()[None])).double()
    wanted = torch.cat((expected[~rare], expected[rare].sum()[None])).double()
    keep = wanted > 0
    return float(chisquare(seen[keep], wanted[keep] * seen[keep].sum() / wanted[keep].sum()).pvalue)
