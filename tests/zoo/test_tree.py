"""Draft trees: what is in them, who sees whom, and which nodes are worth their time."""

import itertools

import pytest
import torch

from zoo.mtp import MTP
from zoo.ntp import NextToken
from zoo.tree import Tree

torch.set_num_threads(1)
V, T = 11, 24


def net(flavour="llama", n=4, vocab=V):
    torch.manual_seed(0)
    return MTP(vocab, T, n=n, dim=16, layers=n + 1, heads=2, hidden=24, flavour=flavour).double().eval()


def test_paths_are_closed_under_beginnings_and_the_mask_is_the_ancestors():
    tree = Tree.sparse([(1, 0, 2), (0,), [1, 1]])
    assert tree.paths == ((), (0,), (1,), (1, 0), (1, 1), (1, 0, 2))
    assert tree.parents.tolist() == [0, 0, 0, 2, 2, 3]
    assert tree.depths.tolist() == [0, 1, 1, 2, 2, 3] and tree.depth == 3
    assert tree.ranks.tolist() == [0, 0, 1, 0, 1, 2]
    for i, path in enumerate(tree.paths):
        assert {tree.paths[j] for j in tree.mask[i].nonzero()[:, 0]} == {path[:end] for end in range(len(path) + 1)}
        assert [tree.paths[j] for j in tree.routes[i, : len(path) + 1]] == [path[:end] for end in range(len(path) + 1)]
        assert not tree.routes[i, len(path) + 1 :].any()
    assert Tree.sparse([]).paths == ((),) and Tree.sparse([]).depth == 0


def test_a_cut_tree_is_the_tree_of_the_short_paths():
    tree = Tree.default(4, 16)
    for depth in range(4):
        cut = tree.cut(depth)
        again = Tree.sparse(path for path in tree.paths if len(path) <= depth)
        assert cut.paths == again.paths and all(torch.equal(a, b) for a, b in zip(cut[1:], again[1:]))
    assert tree.cut(3) is tree and tree.cut(-1).paths == ((),)


@pytest.mark.parametrize("path", [(0, -1), ("0",), (0.5,), (True,)])
def test_a_rank_is_a_whole_number(path):
    with pytest.raises(ValueError, match="whole numbers"):
        Tree.sparse([(0,), path])


def test_the_likeliest_tree_has_the_largest_sum_of_any_tree():
    table = [[0.5, 0.3, 0.1], [0.45, 0.25, 0.0], [0.9, 0.02, 0.01]]

    def worth(paths):
        total = 0.0
        for path in paths:
            product = 1.0
            for depth, rank in enumerate(path):
                product *= table[depth][rank]
            total += product
        return total

    every = [path for length in range(1, 4) for path in itertools.product(range(3), repeat=length)]
    for nodes in (1, 2, 4, 5):
        best = max(
            worth([(), *chosen])
            for chosen in itertools.combinations(every, nodes - 1)
            if all(path[:-1] in chosen or len(path) == 1 for path in chosen)
        )
        tree = Tree.likeliest(table, nodes)
        assert len(tree.paths) == nodes
        assert worth(tree.paths) == pytest.approx(best)
    full = Tree.likeliest(table, 1000)
    assert len(full.paths) == 1 + 3 + 3 * 2 + 3 * 2 * 3  # what is never right is never tried
    with pytest.raises(ValueError, match="1 or more"):
        Tree.likeliest(table, 0)


def test_the_default_tree_fits_the_heads():
    for heads in (1, 2, 4, 8):
        for nodes in (1, 5, 16, 64):
            tree = Tree.default(heads, nodes)
            assert tree.depth < heads and len(tree.paths) == (nodes if heads > 2 else min(nodes, 1 + 10 * (heads - 1)))
    assert Tree.default(4, 4).paths[1] == (0,)


def test_a_tree_deeper_than_the_heads_or_wider_than_the_vocabulary_is_refused():
    with pytest.raises(ValueError, match="depth 3 needs 4 heads and this net has 3: cut the tree to depth 2"):
        Tree.default(4).fits(net(n=3))
    with pytest.raises(ValueError, match="this net has 1"):
        Tree.default(2).fits(NextToken(V, T, 16, 2, 2))
    with pytest.raises(ValueError, match="12 tokens in one place"):
        Tree.sparse([(11,)]).fits(net())
    Tree.sparse([(10, 0, 0)]).fits(net())


@pytest.mark.parametrize("flavour", ["llama", "gpt2"])
def test_every_nodes_logits_are_those_of_its_path_alone(flavour):
    model, tree = net(flavour), Tree.sparse([(0, 0, 0), (0, 1), (1, 0, 2), (2,)])
    text, lengths = torch.randint(0, V, (3, 8)), torch.tensor([8, 3, 5])
    nodes = torch.randint(0, V, (3, len(tree.paths)))
    cache = model.cache(3)
    model.next(text, cache, heads=4)
    cache.truncate(lengths)
    out = model.next(nodes, cache, positions=lengths[:, None] + tree.depths, mask=tree.mask, heads=4)
    for row, node in itertools.product(range(3), range(len(tree.paths))):
        path = nodes[row, tree.mask[node]]  # in order of depth, since the nodes are
        alone = model.next(torch.cat((text[row, : lengths[row]], path))[None], model.cache(1), heads=4)[0, -1]
        torch.testing.assert_close(out[row, node], alone, atol=1e-11, rtol=0)


def test_nodes_take_their_tokens_from_their_heads_and_ranks():
    tree = Tree.sparse([(1, 0, 2), (0,), (1, 1)])
    root, candidates = torch.randint(0, V, (3,)), torch.randint(0, V, (3, 3, 4))
    tokens = tree.tokens(root, candidates)
    for row, (i, path) in itertools.product(range(3), enumerate(tree.paths)):
        assert tokens[row, i] == (candidates[row, len(path) - 1, path[-1]] if path else root[row])
    assert tree.cut(0).tokens(root, candidates[:, :0]).tolist() == root[:, None].tolist()


def test_the_longest_accepted_path_wins_and_ties_go_to_the_likelier():
    tree = Tree.default(4, 20)
    generator = torch.Generator().manual_seed(3)
    accepted = torch.rand(200, 20, generator=generator) < 0.6
    likelihood = torch.rand(200, 20, generator=generator).log().masked_fill(~accepted, -torch.inf)
    likelihood[0, 1:], accepted[0, 1:] = -torch.inf, False
    found, ties = tree.longest(accepted, likelihood), 0
    for row in range(200):
        whole = []
        for i, path in enumerate(tree.paths):
            nodes = [tree.paths.index(path[:end]) for end in range(1, len(path) + 1)]
            if all(accepted[row, node] for node in nodes):
                own = sum(likelihood[row, node].item() for node in nodes) + (likelihood[row, 0].item() if accepted[row, 0] else 0)
                whole.append((len(path), own, i))
        assert found[row] == max(whole)[2]
        ties += sum(length == max(whole)[0] for length, _, _ in whole) > 1
    assert ties > 50 and found[0] == 0
