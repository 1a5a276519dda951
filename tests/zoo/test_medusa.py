"""Medusa decoding against plain decoding: what must be equal is equal, and what is approximate is measured."""

import itertools
import math

import pytest
import torch
from scipy.stats import chisquare
from torch import nn

from zoo.__main__ import main
from zoo.data.tokenizer import Bytes
from zoo.generate import generate
from zoo.medusa import _Decoding, medusa, scored_by, typical
from zoo.mtp import MTP
from zoo.nn.cache import Cache
from zoo.ntp import NextToken
from zoo.pretrained import save_pretrained
from zoo.reading import window_start
from zoo.sampling import Sampling
from zoo.tree import Tree, acceptance
from zoo.writing import Writing

torch.set_num_threads(1)
V, W = 7, 16
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


def streamed(model, tree, limit, length=None, stop=()):
    """What each row streamed, call by call, and the result; `length` tokens end a row through `until`."""
    calls = [[] for _ in PROMPTS]
    out = medusa(
        model,
        PROMPTS,
        limit,
        tree=tree,
        stop=stop,
        until=None if length is None else lambda new: len(new) == length,
        stream=lambda row, new: calls[row].append(new),
    )
    return calls, out


# -- exact: greedy -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("flavour", ["llama", "gpt2"])
@pytest.mark.parametrize("n, tree", [(2, Tree.default(2, 6)), (3, Tree.sparse([(2, 1), (0, 0)])), (4, Tree.default(4, 20))])
def test_greedy_equals_plain_greedy_token_by_token(n, tree, flavour):
    accepted = [0] * tree.depth
    for seed in range(3):
        model = net(n, seed, flavour=flavour)
        plain = generate(model, PROMPTS, 28)  # past the context, at different times
        for accept in ("greedy", "nucleus", "typical"):
            out = medusa(model, PROMPTS, 28, tree=tree, accept=accept)
            assert out.tokens == plain.tokens and out.stopped == plain.stopped == [False] * 4
        accepted = [a + b for a, b in zip(accepted, out.accepted)]
    assert accepted[0] > accepted[-1] > 0 or (tree.depth == 1 and accepted[0] > 0)


def test_a_tree_of_the_root_alone_is_plain_decoding():
    model = net(2)
    out, plain = medusa(model, PROMPTS, 40, tree=Tree.sparse([])), generate(model, PROMPTS, 40)
    assert (out.tokens, out.forwards, out.steps, out.accepted) == (plain.tokens, 39, [39] * 4, [])


def test_stop_tokens_and_until_end_a_row_inside_an_accepted_path():
    inside, tree = 0, Tree.default(4, 20)
    for seed in range(2):
        model = net(4, seed, scale=4.0)
        plain = generate(model, PROMPTS, 20).tokens
        free, _ = streamed(model, tree, 20)
        ends = [set(itertools.accumulate(map(len, row))) for row in free]
        for stop in range(V):
            expected = generate(model, PROMPTS, 20, stop={stop})
            pieces, out = streamed(model, tree, 20, stop={stop})
            assert out.tokens == expected.tokens == [list(itertools.chain(*row)) for row in pieces]
            assert out.stopped == expected.stopped
        for length in range(1, 8):
            pieces, out = streamed(model, tree, 20, length=length)
            assert out.tokens == [tokens[:length] for tokens in plain] == [list(itertools.chain(*row)) for row in pieces]
            assert out.stopped == [True] * 4
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
    calls, out = streamed(model, tree, 30)
    assert out.steps == [len(row) - 1 for row in calls] and out.forwards == max(out.steps)
    assert [len(tokens) for tokens in out.tokens] == [30] * 4
    assert sum(out.accepted) + sum(out.steps) == 4 * 29  # each step writes its drafts and one token more
    assert out.tokens_per_forward == pytest.approx(4 * 29 / sum(out.steps)) and out.tokens_per_forward > 1
    assert sorted(out.accepted, reverse=True) == out.accepted and len(out.accepted) == 3


def test_a_heads_right_guess_of_any_rank_in_the_tree_is_used():
    """The measured acceptance of one head says how often a tree of depth 1 accepts."""
    model = net(2, 3)
    shares = acceptance(model, [PROMPTS[0]], 12, ranks=V)
    assert shares.shape == (1, V) and shares.sum() == pytest.approx(1)
    every = medusa(model, [PROMPTS[0]], 12, tree=Tree.sparse([(rank,) for rank in range(V)]))
    assert every.accepted == [5] and every.steps == [6]  # 1 + 5 * 2 + 1
    text = torch.tensor([PROMPTS[0] + generate(model, [PROMPTS[0]], 12).tokens[0]])
    guesses = model.next(text, model.cache(1), heads=2)[0, 2:-2, 1].argsort(-1, descending=True)  # (10, V)
    expected = [(guesses[:, rank] == text[0, 4:]).double().mean().item() for rank in range(V)]
    assert shares[0].tolist() == pytest.approx(expected)


class Counting(nn.Module):
    """Writes 0, 1, 2, …; head 2's second guess and head 3's first one are right."""

    def __init__(self):
        super().__init__()
        self.vocab, self.context, self.n = 30, 30, 3
        self.config = {"unembeddings": "replicated"}
        self.weight = nn.Parameter(torch.zeros(1))

    def cache(self, batch_size, capacity=None, dtype=None, device=None):
        return Cache(1, batch_size, capacity or self.context, 1, 1)

    def states(self, tokens, cache, positions=None, mask=None, heads=1):
        cache.advance(tokens.shape[1])
        return tokens[:, :, None, None].float().expand(-1, -1, heads, -1)

    def logits(self, states, head=0):
        right = (states[..., 0].long() + 1 + head) % self.vocab
        logits = torch.zeros(*right.shape, self.vocab).scatter_(-1, right[..., None], 1.0)
        return logits.scatter_(-1, (right[..., None] + 5) % self.vocab, 2.0) if head == 1 else logits


def test_a_tree_is_measured_by_what_the_heads_get_right():
    model, held_out = Counting(), [[0], [3, 4]]
    shares = acceptance(model, held_out, 9, ranks=3)
    assert shares.tolist() == [[0, 1, 0], [1, 0, 0]]
    tree = Tree.measure(model, held_out, 3, limit=9)
    assert tree.paths == ((), (1,), (1, 0))
    out = medusa(model, [[5]], 13, tree=tree)
    assert out.tokens == [list(range(6, 19))] and out.accepted == [4, 4] and out.forwards == 4
    assert medusa(model, [[5]], 13, tree=Tree.default(3, 3)).accepted == [0, 0]
    with pytest.raises(ValueError, match="limit=3"):
        acceptance(model, held_out, 2)


# -- exact: sampling -----------------------------------------------------------------------------------------------
SAMPLES = 4000
NUCLEUS = Sampling(1.5, top_p=0.8)


def soft(n=3):
    """A net with a few likely tokens in each place, the heads' guesses often among them."""
    return net(n, 1, vocab=5, scale=2.5)


def exact(model, prompt, count, sampling):
    """Probability of every continuation of `count` tokens, by running each of them."""
    table = {(): 1.0}
    for _ in range(count):
        longer = {}
        for tokens, p in table.items():
            text = torch.tensor([prompt + list(tokens)])
            q = sampling.probabilities(model.next(text, model.cache(1))[0, -1])
            longer |= {(*tokens, token): p * q[token].item() for token in range(model.vocab) if q[token] > 0}
        table = longer
    return table


def counts(texts):
    seen = {}
    for text in texts:
        seen[tuple(text)] = seen.get(tuple(text), 0) + 1
    return seen


def p_value(texts, expected):
    """Chi-square test of texts against probabilities; what is expected less than 5 times counts together."""
    seen, total = counts(texts), len(texts)
    if set(seen) - set(expected):
        return 0.0
    often = [text for text, p in expected.items() if p * total >= 5]
    observed = [seen.get(text, 0) for text in often]
    hoped = [expected[text] * total for text in often]
    if total - sum(hoped) > 1:
        observed, hoped = [*observed, total - sum(observed)], [*hoped, total - sum(hoped)]
    scale = total / sum(hoped)
    return chisquare(observed, [x * scale for x in hoped]).pvalue


def sample(model, sampling, accept, tree, count=4, seed=0, **settings):
    random = torch.Generator().manual_seed(seed)
    return medusa(model, [PROMPTS[0]] * SAMPLES, count, sampling, tree=tree, accept=accept, generator=random, **settings)


@pytest.mark.parametrize("sampling", [NUCLEUS, Sampling(1.5), Sampling(2.0, top_k=3)])
def test_nucleus_acceptance_samples_exactly(sampling):
    model = soft()
    out = sample(model, sampling, "nucleus", Tree.sparse([(0, 0), (0, 1), (1,)]))
    assert min(out.accepted) > SAMPLES / 20
    assert p_value(out.tokens, exact(model, PROMPTS[0], 4, sampling)) > 0.01


def test_the_same_test_sees_a_wrong_scheme(monkeypatch):
    """Drawing the token after the accepted path anew gives the drafts a second chance to be written."""
    model, sampling = soft(), Sampling(1.5)
    whole = _Decoding._verify

    def drawn_anew(self, tree, nodes, logits, usable):
        ends, _ = whole(self, tree, nodes, logits, usable)
        return ends, self.sampling.choose(logits[torch.arange(len(nodes)), ends], self.generator)

    monkeypatch.setattr(_Decoding, "_verify", drawn_anew)
    out = sample(model, sampling, "nucleus", Tree.sparse([(0, 0), (0, 1), (1,)]))
    assert p_value(out.tokens, exact(model, PROMPTS[0], 4, sampling)) < 1e-6


# -- approximate: typical acceptance -------------------------------------------------------------------------------
@pytest.mark.parametrize("eps, delta", [(0.09, 0.3), (0.3, 0.09), (0.5, 2.0)])
def test_typical_is_the_formula(eps, delta):
    random = torch.Generator().manual_seed(0)
    p = (4 * torch.randn(50, 9, generator=random)).softmax(-1)
    p[0] = torch.eye(9)[0]  # zeros have no entropy
    for row, threshold in zip(p.tolist(), typical(p, eps, delta).tolist()):
        entropy = -sum(x * math.log(x) for x in row if x > 0)
        assert threshold == pytest.approx(min(eps, delta * math.exp(-entropy)), rel=1e-5)
        assert max(row) > threshold or delta > 1
    assert 0 < (typical(p, 0.09, 0.3) == 0.09).sum() < 50  # both sides of the minimum were met


def test_typical_accepts_the_longest_and_then_the_likeliest_path():
    """Against the definition, written out path by path."""
    tree, eps, delta = Tree.default(4, 20), 0.09, 0.3
    decoding = _Decoding(net(4), None, tree, Sampling(0.7), (eps, delta), Writing(1), None)
    random = torch.Generator().manual_seed(1)
    nodes, logits = torch.randint(0, V, (60, 20), generator=random), 2 * torch.randn(60, 20, V, generator=random)
    room = torch.randint(0, 4, (60,), generator=random)
    ends, _ = decoding._verify(tree, nodes, logits, tree.depths <= room[:, None])
    for row in range(60):
        best = (0, 0.0, 0)
        for node, path in enumerate(tree.paths[1:], 1):
            total = 0.0
            for end in range(1, len(path) + 1):
                child, parent = tree.paths.index(path[:end]), tree.paths.index(path[: end - 1])
                p = (logits[row, parent].double() / 0.7).softmax(-1)
                entropy = -(p * p.log()).sum().item()
                likely = p[nodes[row, child]].item()
                total += math.log(likely) if likely > min(eps, delta * math.exp(-entropy)) else -math.inf
            if len(path) <= room[row] and total > -math.inf:
                best = max(best, (len(path), total, -node))
        assert ends[row] == -best[2]
    assert len(ends.unique()) > 8


def test_typical_changes_the_distribution_and_by_how_much():
    """Two tokens: after the first one, drawn from p, an accepted draft of head 2 is written, whatever p says of the others."""
    model, sampling, ranks = soft(2), Sampling(1.0), 3
    plain = exact(model, PROMPTS[0], 2, sampling)
    text = torch.tensor([PROMPTS[0]])
    first, second = model.next(text, model.cache(1), heads=2)[0, -1]
    expected = {}
    for token, p in enumerate(first.softmax(-1).tolist()):
        after = model.next(torch.tensor([[*PROMPTS[0], token]]), model.cache(1))[0, -1].softmax(-1)
        passed = [draft for draft in second.topk(ranks).indices.tolist() if after[draft] > typical(after, 0.09, 0.3)]
        for other in range(5):
            share = float(other == max(passed, key=lambda x: after[x])) if passed else after[other].item()
            expected[token, other] = p * share
    gap = sum(abs(expected[text] - p) for text, p in plain.items()) / 2
    tree = Tree.sparse([(rank,) for rank in range(ranks)])
    out = sample(model, sampling, "typical", tree, count=3)
    written = [text[:2] for text in out.tokens]
    assert gap > 0.1
    assert p_value(written, {text: p for text, p in expected.items() if p > 0}) > 0.01
    assert p_value(written, plain) < 1e-6
    seen = counts(written)
    assert sum(abs(seen.get(text, 0) / SAMPLES - p) for text, p in plain.items()) / 2 == pytest.approx(gap, abs=0.03)
    # and at temperature 0 there is nothing to change
    greedy = sample(model, Sampling(), "typical", tree, count=3)
    assert sum(abs(n / SAMPLES - exact(model, PROMPTS[0], 3, Sampling())[text]) for text, n in counts(greedy.tokens).items()) == 0


# -- approximate: a judge ------------------------------------------------------------------------------------------
def test_a_net_that_judges_itself_decodes_greedily():
    for seed in range(2):
        model, tree = net(4, seed), Tree.default(4, 12)
        out, own = scored_by(model, model, PROMPTS, 28, tree=tree), medusa(model, PROMPTS, 28, tree=tree)
        assert out.tokens == own.tokens and (out.accepted, out.steps, out.forwards) == (own.accepted, own.steps, own.forwards)


@pytest.mark.parametrize("context", [W, 9, 1])  # the judge may see less
def test_a_judge_keeps_the_longest_path_of_drafts_that_it_would_write(context):
    """Against the definition: no cache, one row."""
    model, judge, tree = net(4, 0), small(context=context), Tree.default(4, 12)

    def read(made, text, heads=1):
        text = text[window_start(len(text), made.context) :]
        return made.next(torch.tensor([text]), made.cache(1, len(text)), heads=heads)[0, -1].view(heads, -1)

    out, changed = scored_by(model, judge, PROMPTS[:2], 20, tree=tree), False
    for prompt, tokens, steps in zip(PROMPTS[:2], out.tokens, out.steps):
        logits = read(model, prompt, 4)
        text, count = [*prompt, int(logits[0].argmax())], 0
        while len(text) < len(prompt) + 20:
            # what stays in both windows may be kept
            room = min(made.context - len(text) + window_start(len(text), made.context) for made in (model, judge))
            best = []
            for path in tree.paths:
                drafts = [int(logits[1 + depth].argsort(descending=True)[rank]) for depth, rank in enumerate(path)]
                right = [int(read(judge, text + drafts[:d]).argmax()) == drafts[d] for d in range(min(len(drafts), room))]
                if all(right) and len(drafts) <= min(room, len(prompt) + 19 - len(text)) and len(drafts) > len(best):
                    best = drafts
            # the states that draft next are those of the last kept token
            text, count = text + best, count + 1
            logits = read(model, text, 4)
            text.append(int(logits[0].argmax()))
        assert tokens == text[len(prompt) :] and steps == count
        changed |= tokens != generate(model, [prompt], 20).tokens[0]
    assert (context == 1) == (not changed) == (sum(out.accepted) == 0)  # approximate: not the net's own text


def test_a_judge_at_a_temperature_ends_rows_and_repeats_by_its_seed():
    model, judge, tree = net(3, 1), small(), Tree.default(3, 9)
    runs = [
        scored_by(model, judge, PROMPTS, 20, Sampling(1.0), tree=tree, stop={2}, generator=torch.Generator().manual_seed(seed))
        for seed in (0, 0, 1)
    ]
    assert runs[0].tokens == runs[1].tokens != runs[2].tokens
    assert all(2 not in tokens and (stopped or len(tokens) == 20) for tokens, stopped in zip(runs[0].tokens, runs[0].stopped))
    assert any(runs[0].stopped)


# -- what cannot work ----------------------------------------------------------------------------------------------
def test_errors_name_the_fix():
    model, tree = net(3), Tree.default(3)
    with pytest.raises(ValueError, match="needs 4 heads and this net has 3"):
        medusa(model, PROMPTS, 5, tree=Tree.default(4))
    with pytest.raises(ValueError, match="'greedy', 'typical' or 'nucleus', not 'best'"):
        medusa(model, PROMPTS, 5, tree=tree, accept="best")
    with pytest.raises(ValueError, match="accept='greedy' is for temperature 0"):
        medusa(model, PROMPTS, 5, Sampling(0.7), tree=tree)
    with pytest.raises(ValueError, match="eps is a probability"):
        medusa(model, PROMPTS, 5, Sampling(0.7), tree=tree, accept="typical", eps=1.5)
    with pytest.raises(ValueError, match="A prompt is empty"):
        medusa(model, [[1], []], 5, tree=tree)
    with pytest.raises(ValueError, match="vocabulary of 5 tokens and the net one of 7: both need the same tokenizer"):
        scored_by(model, net(2, vocab=5), PROMPTS, 5, tree=tree)


def test_a_net_in_training_stays_in_training():
    model, judge = net(2).train(), small().train()
    scored_by(model, judge, PROMPTS, 3, tree=Tree.default(2, 4))
    assert model.training and judge.training
    with pytest.raises(RuntimeError, match="stop here"):
        medusa(
            model, PROMPTS, 3, tree=Tree.default(2, 4), stream=lambda row, new: (_ for _ in ()).throw(RuntimeError("stop here"))
        )
    assert model.training


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Folders of a net with three heads and of one with one head, over bytes."""
    folder = tmp_path_factory.mktemp("saved")
    bytes_ = Bytes()
    bytes_.save(folder / "tokenizer")
    torch.manual_seed(0)
    save_pretrained(net(3, vocab=bytes_.vocab), folder / "mtp", folder / "tokenizer")
    save_pretrained(NextToken(bytes_.vocab, W, 16, 2, 2), folder / "plain", folder / "tokenizer")
    return folder


def test_the_command_line_decodes_from_a_tree(saved, capsys):
    words = ["generate", str(saved / "mtp"), "--prompt", "ab", "--tokens", "12"]
    main([*words, "--temperature", "0"])
    plain = capsys.readouterr().out
    main([*words, "--temperature", "0", "--tree", "9"])
    assert capsys.readouterr().out.startswith(plain + "tree of 9 nodes, greedy acceptance: ")
    main([*words, "--tree", "9"])
    assert "tree of 9 nodes, nucleus acceptance: " in capsys.readouterr().out
    main([*words, "--tree", "9", "--accept", "typical"])
    assert "typical acceptance (approximate" in capsys.readouterr().out


@pytest.mark.parametrize(
    "net_, more, sentence",
    [
        ("plain", ["--tree", "4"], "one head only"),
        ("mtp", ["--tree", "4", "--heads", "2"], "leave out --heads"),
        ("mtp", ["--tree", "4", "--heads", "all"], "leave out --heads"),
        ("mtp", ["--accept", "typical"], "add --tree NODES"),
        ("mtp", ["--tree", "0"], "1 or more"),
        ("mtp", ["--tree", "4", "--accept", "greedy"], "is for temperature 0, not 0.8"),
    ],
)
def test_the_command_line_says_what_does_not_go_together(saved, net_, more, sentence):
    with pytest.raises(SystemExit, match=sentence):
        main(["generate", str(saved / net_), "--tokens", "4", *more])
