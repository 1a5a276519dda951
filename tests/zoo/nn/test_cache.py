"""Decoding with the cache against running everything again."""

import pytest
import torch

from zoo.mtp import MTP
from zoo.nn.cache import Cache
from zoo.ntp import NextToken

torch.set_num_threads(1)
V, T = 29, 16


def net(flavour, n=1):
    torch.manual_seed(0)
    kw = {"vocab": V, "context": T, "dim": 24, "layers": 4, "heads": 3, "flavour": flavour}
    return (NextToken(**kw) if n == 1 else MTP(n=n, **kw)).double().eval()


def full(net, tokens, heads=1):
    """Logits (B, t, V) or (B, t, heads, V) without any cache."""
    with torch.no_grad():
        h = net.trunk.blocks(net.trunk.embed(tokens))
        if isinstance(net, MTP):
            h = torch.stack([net._head(i, h) for i in range(heads)], 2)
            h = h[:, :, 0] if heads == 1 else h
        return net.trunk.unembed(net.trunk.norm(h))


def close(a, b):
    torch.testing.assert_close(a, b, atol=1e-11, rtol=0)


@pytest.mark.parametrize("flavour", ["gpt2", "llama"])
@pytest.mark.parametrize("n, heads", [(1, 1), (3, 1), (3, 2), (3, 3)])
def test_cached_equals_uncached_in_any_pieces(flavour, n, heads):
    model, tokens = net(flavour, n), torch.randint(0, V, (3, T))
    expected = full(model, tokens, heads)
    for pieces in ([T], [1] * T, [5, 1, 1, 4, 5]):
        cache = model.cache(3)
        out = [model.next(part, cache, heads=heads) for part in tokens.split(pieces, 1)]
        close(torch.cat(out, 1), expected)
        assert cache.lengths.tolist() == [T] * 3


@pytest.mark.parametrize("flavour", ["gpt2", "llama"])
def test_ragged_prompts_truncation_and_writing_again(flavour):
    model, tokens = net(flavour, 2), torch.randint(0, V, (3, T))
    lengths, other = [7, 2, 5], torch.randint(0, V, (3, 4))
    cache = model.cache(3)
    out = model.next(tokens[:, :7], cache, heads=2)  # right-padded prompts
    cache.truncate(torch.tensor(lengths))
    wrong = model.next(other, cache, heads=2)  # drafts, of which row r keeps r
    again = cache.lengths.tolist()
    assert again == [11, 6, 9]
    kept = [7, 3, 7]
    cache.truncate(torch.tensor(kept))
    last = model.next(tokens[:, :3], cache, heads=2)
    step = model.next(tokens[:, 3:4], cache, heads=2)
    for row in range(3):
        text = torch.cat((tokens[row, : lengths[row]], other[row, : kept[row] - lengths[row]], tokens[row, :4]))[None]
        alone = full(model, text, 2)[0]
        close(out[row, : lengths[row]], alone[: lengths[row]])
        close(wrong[row, : kept[row] - lengths[row]], alone[lengths[row] : kept[row]])
        close(last[row], alone[kept[row] : -1])
        close(step[row, 0], alone[-1])


@pytest.mark.parametrize("flavour", ["gpt2", "llama"])
@pytest.mark.parametrize("ragged", [False, True])
def test_a_draft_tree_sees_its_prefix_and_its_ancestors_only(flavour, ragged):
    model, tokens = net(flavour, 2), torch.randint(0, V, (2, 6))
    lengths = torch.tensor([6, 3]) if ragged else torch.tensor([6, 6])
    nodes = torch.randint(0, V, (2, 5))
    parent, depth = [-1, 0, 0, 1, 2], torch.tensor([0, 1, 1, 2, 2])  # two branches under one root
    mask = torch.eye(5, dtype=torch.bool)
    for node in range(5):
        if parent[node] >= 0:
            mask[node] |= mask[parent[node]]
    cache = model.cache(2)
    model.next(tokens, cache, heads=2)
    cache.truncate(lengths)
    out = model.next(nodes, cache, positions=lengths[:, None] + depth, mask=mask, heads=2)
    paths = [[0], [0, 1], [0, 2], [0, 1, 3], [0, 2, 4]]
    for row in range(2):
        for path in paths:
            text = torch.cat((tokens[row, : lengths[row]], nodes[row, path]))[None]
            close(out[row, path[-1]], full(model, text, 2)[0, -1])
    cache.truncate(lengths)  # the same nodes in a row, each seeing all before: those of the other branch then tell
    line = model.next(nodes, cache, positions=lengths[:, None] + depth, heads=2)
    cache.truncate(lengths)
    assert torch.equal(model.next(nodes, cache, positions=lengths[:, None] + depth, mask=mask, heads=2), out)
    assert (line - out).abs().amax((0, 2, 3)).gt(1e-6).tolist() == [False, False, True, True, True]
    # keep one path per row, of different lengths, and go on
    cache.keep(lengths, torch.tensor([[0, 2, 4], [0, 1, 0]]))
    cache.truncate(lengths + torch.tensor([3, 2]))
    more = model.next(tokens[:, :2], cache, heads=2)
    assert cache.lengths.tolist() == (lengths + torch.tensor([5, 4])).tolist()
    for row, path in enumerate(([0, 2, 4], [0, 1])):
        text = torch.cat((tokens[row, : lengths[row]], nodes[row, path], tokens[row, :2]))[None]
        close(more[row], full(model, text, 2)[0, -2:])


def test_what_lies_beyond_a_rows_length_is_never_looked_at():
    model, tokens = net("llama"), torch.randint(0, V, (2, 8))
    caches = []
    for filler in (0, 1):
        padded = tokens.clone()
        padded[1, 3:] = filler
        cache = model.cache(2)
        model.next(padded, cache)
        cache.truncate(torch.tensor([8, 3]))
        caches.append(model.next(tokens[:, :3], cache))
    assert torch.equal(*caches)


def test_heads_that_sat_out_cannot_come_back_unnoticed():
    model, tokens = net("llama", 3), torch.randint(0, V, (2, 8))
    cache = model.cache(2)
    model.next(tokens[:, :4], cache, heads=3)
    model.next(tokens[:, 4:6], cache, heads=1)
    with pytest.raises(ValueError, match="sat out"):
        model.next(tokens[:, 6:], cache, heads=3)
    cache.truncate(torch.tensor([6, 4]))
    with pytest.raises(ValueError, match="sat out"):
        model.next(tokens[:, 6:], cache, heads=3)
    cache.truncate(4)  # back to where they left
    model.next(tokens[:, 4:6], cache, heads=3)
    close(model.next(tokens[:, 6:], cache, heads=3), full(model, tokens, 3)[:, 6:])


def test_errors_name_the_fix():
    model = net("gpt2", 3)
    with pytest.raises(ValueError, match="positions=17"):
        model.cache(1, capacity=17)
    cache = model.cache(1, capacity=4)
    with pytest.raises(ValueError, match="capacity=5"):
        model.next(torch.zeros(1, 5, dtype=torch.long), cache)
    cache = model.cache(1)
    model.next(torch.zeros(1, 3, dtype=torch.long), cache)
    with pytest.raises(ValueError, match="only be cut back"):
        cache.truncate(4)
    with pytest.raises(ValueError, match="has 3 heads, 4 were asked for"):
        model.next(torch.zeros(1, 1, dtype=torch.long), cache, heads=4)
    with pytest.raises(ValueError, match="one head"):
        net("gpt2").next(torch.zeros(1, 1, dtype=torch.long), cache, heads=2)


def test_an_equally_long_batch_needs_no_mask_for_a_step():
    cache = Cache(1, 2, 8, 1, 4)
    assert cache.visible(5) == (None, True)
    cache.layer(0).append(torch.zeros(2, 5, 1, 4), torch.zeros(2, 5, 1, 4))
    cache.advance(5)
    assert cache.visible(1) == (None, False)
    assert cache.visible(2)[0].shape == (1, 1, 2, 7)
    cache.truncate(torch.tensor([5, 2]))
    assert cache.visible(1)[0].tolist() == [[[[True] * 6]], [[[True, True, True, False, False, False]]]]


def test_under_autocast_a_cache_of_either_type_works():
    torch.manual_seed(0)
    model = NextToken(V, T, 24, 2, 3, flavour="llama").eval()
    tokens = torch.randint(0, V, (2, 6))
    expected = full(model, tokens)
    for dtype in (None, torch.bfloat16):
        cache = model.cache(2, dtype=dtype)
        with torch.autocast("cpu", torch.bfloat16):
            out = torch.cat([model.next(tokens[:, :4], cache), model.next(tokens[:, 4:], cache)], 1)
        assert (out - expected).abs().max() < 0.02


def test_rows_leave_in_place_and_others_take_their_slots():
    model, tokens = net("llama", 2), torch.randint(0, V, (4, 9))
    cache = model.cache(4)
    model.next(tokens[:, :7], cache, heads=2)
    cache.truncate([7, 3, 5, 1])
    store = cache.keys.data_ptr()
    cache.select([1, 3])
    assert cache.keys.data_ptr() == store and cache.held == cache.lengths.tolist() == [3, 1]
    other = model.cache(1, capacity=4)
    model.next(tokens[:1, :4], other, heads=2)
    cache.put([1], other)
    assert cache.held == cache.lengths.tolist() == [3, 4] and (cache.shortest, cache.longest) == (3, 4)
    out = model.next(tokens[:2, 7:], cache, heads=2)
    for row, text in enumerate((tokens[1, :3], tokens[0, :4])):
        close(out[row], full(model, torch.cat((text, tokens[row, 7:]))[None], 2)[0, -2:])
    cache.select([])
    assert cache.held == [] and cache.longest == 0


def test_heads_that_sat_out_elsewhere_do_not_come_in_with_a_row():
    model, tokens = net("llama", 2), torch.randint(0, V, (2, 4))
    cache, other = model.cache(2), model.cache(1)
    model.next(tokens, cache, heads=2)
    model.next(tokens[:1], other, heads=1)
    cache.put([0], other)
    with pytest.raises(ValueError, match="sat out"):
        model.next(tokens, cache, heads=2)


def test_a_mask_is_made_once_per_step_and_never_kept_too_long():
    cache = Cache(1, 2, 8, 1, 4)
    cache.layer(0).append(torch.zeros(2, 3, 1, 4), torch.zeros(2, 3, 1, 4))
    cache.advance(3)
    first = cache.visible(2)[0]
    assert cache.visible(2)[0] is first
    tree = torch.eye(2, dtype=torch.bool)
    assert not torch.equal(cache.visible(2, tree)[0], first) and torch.equal(cache.visible(2)[0], first)
    assert cache.visible(3)[0].shape[-1] == 6
    cache.truncate([3, 1])
    assert not torch.equal(cache.visible(2)[0], first.expand(2, -1, -1, -1))
