"""Speculative decoding against plain decoding: the same tokens, and the same distribution."""

from itertools import pairwise

import pytest
import torch

from zoo.generate import generate
from zoo.medusa import medusa
from zoo.mtp import MTP
from zoo.ntp import NextToken
from zoo.sampling import GREEDY, Sampling
from zoo.speculative import Drafts, first_divergence, verify
from zoo.tree import Tree
from zoo.writing import Writing

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


def reference(net: MTP, prompt: list[int], limit: int, k: int) -> tuple[list[int], int, list[int]]:
    """Self-speculation of one row as the paper tells it, everything scored anew: new tokens, steps, accepted."""

    def heads(text: list[int]) -> list[int]:
        return net.next(torch.tensor([text]), net.cache(1), heads=k)[0, -1].argmax(-1).tolist()

    token, *drafts = heads(prompt)
    new, steps, accepted = [token], 0, [0] * (k - 1)
    while len(new) < limit:
        tried, block = [], []
        for draft in [*drafts[: limit - len(new) - 1], None]:
            token, *following = heads([*prompt, *new, *tried])
            block.append(token)
            if token != draft:
                break
            tried.append(draft)
        new, drafts, steps = new + block, following, steps + 1
        for place in range(len(block) - 1):
            accepted[place] += 1
    return new, steps, accepted


@pytest.mark.parametrize("k", [2, 3, 4])
def test_steps_and_acceptance_are_those_of_the_plain_telling(net, k):
    out = generate(net, PROMPTS, 16, heads=k)
    told = [reference(net, prompt, 16, k) for prompt in PROMPTS]
    assert out.tokens == [tokens for tokens, _, _ in told] and out.steps == [steps for _, steps, _ in told]
    assert out.accepted == [sum(column) for column in zip(*(accepted for _, _, accepted in told))]


def test_later_heads_are_unembedded_at_one_position(net, monkeypatch):
    rows, unembed = [], net.trunk.unembed
    monkeypatch.setattr(net.trunk, "unembed", lambda h: rows.append(h.shape[:-1].numel()) or unembed(h))
    out = generate(net, [[4, 5, 6, 0, 2, 3, 1]], 17, heads=4)
    again = rows.count(3)  # where the step did not end at the position of the last one
    assert rows[0] == 1 + 3 and max(rows) <= 4 + 3 and len(rows) == 1 + out.forwards + again and again < out.forwards


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


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(0.8)])
def test_nothing_is_sent_to_the_device_between_a_pass_and_its_result(net, monkeypatch, sampling):
    """A copy waits for all that was asked of a GPU before it, so that what follows it could not be queued meanwhile."""
    events, states, tensor, give = [], net.states, torch.tensor, Writing.give
    monkeypatch.setattr(torch, "tensor", lambda *a, **k: events.append("sent") or tensor(*a, **k))
    monkeypatch.setattr(Writing, "give", lambda *a: events.append("result") or give(*a))

    def watched(*a, **k):
        made = states(*a, **k)
        events.append("pass")
        return made

    monkeypatch.setattr(net, "states", watched)
    generate(net, PROMPTS, 14, sampling, heads=4, generator=torch.Generator().manual_seed(0))
    after = [following for event, following in pairwise(events) if event == "pass"][1:]  # first: the prompts
    assert len(after) > 3 and set(after) == {"result"}


def test_a_stream_hands_out_blocks(net):
    seen = [[] for _ in PROMPTS]
    out = generate(net, PROMPTS, 16, heads=4, stop={2}, stream=lambda row, new: seen[row].append(new))
    assert [[token for new in blocks for token in new] for blocks in seen] == out.tokens and max(
        len(new) for blocks in seen for new in blocks
    ) > 1


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


def exact(sampling: Sampling, net, prompt: list[int], count: int) -> torch.Tensor:
    """Probabilities (V ** count,) of all continuations by `count` tokens."""
    texts, weights = torch.tensor([prompt]), torch.ones(1)
    for _ in range(count):
        p = sampling.probabilities(net.next(texts, net.cache(len(texts)))[:, -1])
        weights = (weights[:, None] * p).flatten()
        following = torch.arange(net.vocab).repeat(len(texts))[:, None]
        texts = torch.cat((texts.repeat_interleave(net.vocab, 0), following), 1)
    return weights


def p_value(texts: list[list[int]], expected: torch.Tensor, vocab: int) -> float:
    """Of Pearson's chi-square test; cells that expect fewer than 5 texts are put together. 0 if an impossible text was drawn."""
    from scipy.stats import chisquare

    tokens = torch.tensor(texts)
    cells = (tokens * vocab ** torch.arange(tokens.shape[1] - 1, -1, -1)).sum(1)
    seen, expected = cells.bincount(minlength=len(expected)).double(), expected.double() / expected.double().sum() * len(texts)
    if seen[expected == 0].sum() > 0:
        return 0.0
    rare = expected < 5
    pairs = [torch.cat((x[~rare], x[rare].sum()[None])) for x in (seen, expected)]
    seen, expected = (x[pairs[1] > 0] for x in pairs)
    return float(chisquare(seen, expected).pvalue)


ROWS, TOKENS = 8000, 4  # texts of 4 tokens from 5: 625 cells
SAMPLINGS = [Sampling(1.0), Sampling(0.7, top_k=3), Sampling(1.4, top_p=0.8)]


@pytest.fixture(scope="module")
def five():
    net, stranger = mtp(seed=1, vocab=5, tied=True), None
    torch.manual_seed(7)
    stranger = NextToken(5, W, 8, 2, 1, tied=True).eval()
    with torch.no_grad():
        for each in (net, stranger):
            for weight in each.parameters():
                weight *= 6 if weight.ndim == 2 else 1
    return net, stranger


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
@pytest.mark.parametrize("way", ["plain", "heads", "draft"])
def test_samples_have_exactly_the_plain_distribution(five, sampling, way):
    net, stranger = five
    options = {"plain": {}, "heads": {"heads": 3}, "draft": {"heads": 3, "draft": stranger}}[way]
    random = torch.Generator().manual_seed(0)
    out = generate(net, [[1, 2, 3]] * ROWS, TOKENS, sampling, generator=random, **options)
    if way != "plain":  # else nothing was tested
        assert 0.2 < out.accepted[0] / sum(out.steps) < 0.95 and out.accepted[1] > 0
    assert p_value(out.tokens, exact(sampling, net, [1, 2, 3], TOKENS), 5) > 1e-3


def drawn(sampling, logits, heads, scheme, rows=20000) -> list[list[int]]:
    """First tokens of one step that verifies a draft of `scheme`: logits (V,) of the net, heads (V,) of the draft."""
    random, q = torch.Generator().manual_seed(0), sampling.probabilities(heads.expand(rows, 1, -1))
    sampled = torch.multinomial(q[:, 0], 1, generator=random)
    fixed = heads.argmax().expand(rows, 1)
    drafts = {
        "sampled": Drafts(sampled, q),
        "fixed": Drafts(fixed),
        "any fixed one": Drafts(torch.full_like(fixed, 2)),
        "argmax tested as if sampled": Drafts(fixed, q),
    }[scheme]
    usable = torch.ones(rows, dtype=torch.int64)
    tokens, accepted = verify(sampling, logits.expand(rows, 2, -1), drafts, usable, random)
    assert 0 < accepted.sum() < rows
    return tokens[:, :1].tolist()


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
@pytest.mark.parametrize("scheme", ["sampled", "fixed", "any fixed one", "argmax tested as if sampled"])
def test_the_wrong_scheme_is_caught_and_the_right_ones_are_not(sampling, scheme):
    logits, heads = torch.tensor([0.3, 1.0, 0.5, -0.2, 0.1]), torch.tensor([0.9, 0.8, 0.7, -0.5, 0.0])
    found = p_value(drawn(sampling, logits, heads, scheme), sampling.probabilities(logits), 5)
    assert found < 1e-9 if scheme == "argmax tested as if sampled" else found > 1e-3


def test_a_draft_that_may_not_be_used_is_drawn_anew():
    p, q = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.1, 0.1, 0.8])
    rows, random = 20000, torch.Generator().manual_seed(0)
    drafts = Drafts(torch.multinomial(q.expand(rows, -1), 1, generator=random), q.expand(rows, 1, -1))
    usable = torch.zeros(rows, dtype=torch.int64)
    tokens, accepted = verify(Sampling(1.0), p.log().expand(rows, 2, -1), drafts, usable, random)
    assert not accepted.any() and p_value(tokens[:, :1].tolist(), p, 3) > 1e-3


def test_the_same_distribution_is_always_accepted():
    logits = torch.randn(500, 3, 9, generator=torch.Generator().manual_seed(0))
    q = Sampling(0.9, top_p=0.9).probabilities(logits[:, :2])
    tokens = torch.multinomial(q.flatten(0, 1), 1).view(500, 2)
    accepted = verify(Sampling(0.9, top_p=0.9), logits, Drafts(tokens, q), torch.full((500,), 2))[1]
    assert accepted.eq(2).all()


def test_the_first_divergence_and_its_gap(net):
    plain = generate(net, [[1, 2, 3]], 12).tokens[0]
    assert first_divergence(plain, list(plain), net, [1, 2, 3]) is None
    other = [*plain[:5], (plain[5] + 1) % V, *plain[6:]]
    index, gap = first_divergence(plain, other, net, [1, 2, 3])
    logits = net.next(torch.tensor([[1, 2, 3, *plain[:5]]]), net.cache(1))[0, -1]
    assert index == 5 and gap == pytest.approx(float(logits[plain[5]] - logits[other[5]])) and gap > 0
    assert first_divergence(plain, plain[:7], net, [1, 2, 3], end=0).index == 7
    with pytest.raises(ValueError, match="name the stop token"):
        first_divergence(plain, plain[:7], net, [1, 2, 3])
    assert first_divergence(plain, other, net, list(range(7)) * 6).index == 5  # a window that has moved


def test_errors_name_the_fix(net):
    with pytest.raises(ValueError, match="heads = 5 were asked for and this net has 4"):
        generate(net, PROMPTS, 3, heads=5)
    with pytest.raises(ValueError, match="at least 1"):
        generate(net, PROMPTS, 3, heads=0)
    stranger = NextToken(V + 1, W, 8, 1, 1)
    with pytest.raises(ValueError, match="same tokenizer"):
        generate(net, PROMPTS, 3, heads=2, draft=stranger)
    with pytest.raises(ValueError, match="heads = 2 or more"):
        generate(net, PROMPTS, 3, draft=net)
    broken = mtp()
    broken.trunk.norm.weight.data[3] = float("nan")
    for sampling in (GREEDY, Sampling(1.0)):
        with pytest.raises(ValueError, match="not numbers"):
            generate(broken, PROMPTS, 3, sampling, heads=2)
    endless = mtp()
    endless.trunk.output.weight.data[3, 0] = float("inf")  # logits of +inf or -inf: sampling would turn them into nan
    for sampling in (GREEDY, Sampling(1.0)):
        with pytest.raises(ValueError, match="not numbers"):
            generate(endless, PROMPTS, 3, sampling, heads=2)
        with pytest.raises(ValueError, match="not numbers"):
            medusa(endless, PROMPTS, 3, sampling, tree=Tree.default(4, 4), accept="nucleus")
