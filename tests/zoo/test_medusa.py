"""Medusa decoding against plain decoding: what must be equal is equal, and what is approximate is measured."""

import itertools
import math

import pytest
import torch
from scipy.stats import chisquare

from zoo.generate import generate
from zoo.medusa import medusa, scored_by, typical
from zoo.mtp import MTP
from zoo.ntp import NextToken
from zoo.sampling import Sampling
from zoo.tree import Tree, acceptance

torch.set_num_threads(1)
V, W = 7, 24
PROMPTS = [[1, 2, 3], [4, 5, 6, 2, 0, 4, 6], [5], [3, 3, 1, 4]]


def net(n=4, seed=0, vocab=V, scale=3.0, flavour="llama"):
    """A random net whose logits are far from equal."""
    torch.manual_seed(seed)
    made = MTP(vocab, W, n=n, dim=16, layers=n + 2, heads=2, hidden=24, flavour=flavour).eval()
    with torch.no_grad():
        for p in made.parameters():
            p.mul_(scale)
    return made


def small(seed=5, context=W, scale=3.0):
    torch.manual_seed(seed)
    made = NextToken(V, context, 16, 2, 2, hidden=24).eval()
    with torch.no_grad():
        for p in made.parameters():
            p.mul_(scale)
    return made


# -- exact: greedy -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("flavour", ["llama", "gpt2"])
@pytest.mark.parametrize("n, tree", [(2, Tree.default(2, 6)), (3, Tree.sparse([(2, 1), (0, 0)])), (4, Tree.default(4, 20))])
def test_greedy_equals_plain_greedy_token_by_token(n, tree, flavour):
    accepted = [0] * tree.depth
    for seed in range(3):
        model = net(n, seed, flavour=flavour)
        plain = generate(model, PROMPTS, 40)  # past the context, at different times
        for accept in ("greedy", "nucleus", "typical"):
            out = medusa(model, PROMPTS, 40, tree=tree, accept=accept)
            assert out.tokens == plain.tokens and out.stopped == plain.stopped == [False] * 4
        accepted = [a + b for a, b in zip(accepted, out.accepted)]
    assert accepted[0] > accepted[-1] > 0 or tree.depth == 1 and accepted[0] > 0


def test_a_tree_of_the_root_alone_is_plain_decoding():
    model = net(2)
    out, plain = medusa(model, PROMPTS, 30, tree=Tree.sparse([])), generate(model, PROMPTS, 30)
    assert (out.tokens, out.forwards, out.steps, out.accepted) == (plain.tokens, 29, [29] * 4, [])


def test_stop_tokens_and_until_end_a_row_inside_an_accepted_path():
    inside = 0
    for seed in range(4):
        model, tree = net(4, seed, scale=4.0), Tree.default(4, 20)
        plain = generate(model, PROMPTS, 20).tokens
        for stop in range(V):
            expected = generate(model, PROMPTS, 20, stop={stop})
            streamed = [[] for _ in PROMPTS]
            out = medusa(model, PROMPTS, 20, tree=tree, stop={stop}, stream=lambda row, new: streamed[row].extend(new))
            assert out.tokens == expected.tokens == streamed and out.stopped == expected.stopped
        for length in range(1, 8):
            pieces = [[] for _ in PROMPTS]
            out = medusa(
                model, PROMPTS, 20, tree=tree, until=lambda new: len(new) == length, stream=lambda r, new: pieces[r].append(new)
            )
            assert out.tokens == [tokens[:length] for tokens in plain] and out.stopped == [True] * 4
            assert [sum(row, []) for row in pieces] == out.tokens
            free = [[] for _ in PROMPTS]
            medusa(model, PROMPTS, 20, tree=tree, stream=lambda r, new: free[r].append(new))
            ends = [set(itertools.accumulate(map(len, row))) for row in free]
            inside += sum(length not in each for each in ends)
    assert inside > 5  # the length was met in the middle of what one step wrote


def test_a_row_does_not_depend_on_its_batch_nor_on_the_limit():
    model, tree = net(3, 1), Tree.default(3, 9)
    together = medusa(model, PROMPTS, 30, tree=tree)
    for row, prompt in enumerate(PROMPTS):
        alone = medusa(model, torch.tensor([prompt]), 30, tree=tree)
        assert (
            alone.tokens == [together.tokens[row]] and alone.steps == [together.steps[row]] and alone.forwards == alone.steps[0]
        )
        for limit in (0, 1, 2, 5, 11):
            assert medusa(model, [prompt], limit, tree=tree).tokens == [together.tokens[row][:limit]]
    assert together.forwards == max(together.steps)
    assert medusa(model, [], 5, tree=tree).tokens == []


def test_statistics_count_what_was_written():
    model, tree = net(4, 2, scale=4.0), Tree.default(4, 20)
    calls = [0] * 4

    def count(row, new):
        calls[row] += 1

    out = medusa(model, PROMPTS, 30, tree=tree, stream=count)
    assert out.steps == [n - 1 for n in calls] and out.forwards == max(out.steps)
    assert [len(tokens) for tokens in out.tokens] == [30] * 4
    assert sum(out.accepted) + sum(out.steps) == 4 * 29  # each step writes its drafts and one token more
    assert out.tokens_per_forward == pytest.approx(4 * 29 / sum(out.steps)) and out.tokens_per_forward > 1
    assert sorted(out.accepted, reverse=True) == out.accepted and len(out.accepted) == 3


def test_a_heads_right_guess_of_any_rank_in_the_tree_is_used():
    """The measured acceptance of one head says how often a tree of depth 1 accepts."""
    model = net(2, 3)
    shares = acceptance(model, [PROMPTS[0]], 20, ranks=V)
    assert shares.shape == (1, V) and shares.sum() == pytest.approx(1)
    every = medusa(model, [PROMPTS[0]], 20, tree=Tree.sparse([(rank,) for rank in range(V)]))
    assert every.accepted == every.steps[:0] + [19 // 2] and every.steps == [10]
    text = torch.tensor([PROMPTS[0] + generate(model, [PROMPTS[0]], 20).tokens[0]])
    guesses = model.next(text, model.cache(1), heads=2)[0, 2:-2, 1].argsort(-1, descending=True)  # (19, V)
    expected = [(guesses[:, rank] == text[0, 4:]).double().mean().item() for rank in range(V)]
    assert shares[0].tolist() == pytest.approx(expected)


def test_the_measured_tree_accepts_more_than_the_default_one():
    model = net(3, 4, vocab=V, scale=4.0)
    held_out = [[row % V, (3 * row + 1) % V] for row in range(12)]
    measured, default = Tree.measure(model, held_out, 6, limit=20), Tree.default(3, 6)
    assert len(measured.paths) == 6 and measured.paths != default.paths
    rates = [medusa(model, held_out, 20, tree=tree).tokens_per_forward for tree in (measured, default)]
    assert rates[0] > rates[1]
    with pytest.raises(ValueError, match="limit=3"):
        acceptance(model, held_out, 2)
