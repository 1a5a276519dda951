"""The trunk: pieces, causality, positions, checkpointing, errors."""

import pytest
import torch
import torch.nn.functional as F

from zoo.nn.transformer import Block, Transformer, hidden_size, rotary, rotate

torch.set_num_threads(1)
FLAVOURS = ["gpt2", "llama"]


def trunk(flavour, seed=0, **kw):
    torch.manual_seed(seed)
    return Transformer(**{"vocab": 31, "dim": 24, "layers": 3, "heads": 4, "positions": 12, "flavour": flavour, **kw}).double()


def run(t, tokens, **kw):
    return t.unembed(t.norm(t.blocks(t.embed(tokens, kw.get("positions")), **kw)))


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_no_output_depends_on_later_tokens_and_every_one_on_its_own(flavour):
    t, tokens = trunk(flavour), torch.randint(0, 31, (1, 12))
    before = run(t, tokens)
    for place in range(12):
        changed = tokens.clone()
        changed[0, place] = (changed[0, place] + 1) % 31
        moved = (run(t, changed) - before).abs().amax((0, 2)) > 0
        assert not moved[:place].any() and moved[place:].all()


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_blocks_can_be_entered_and_left_anywhere_with_any_vectors(flavour):
    t, h = trunk(flavour), torch.randn(2, 9, 24, dtype=torch.float64)
    assert torch.equal(t.blocks(t.blocks(t.blocks(h, 0, 1), 1, 2), 2), t.blocks(h))
    assert torch.equal(t.blocks(h, 1, 1), h)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_an_explicit_causal_mask_and_explicit_positions_change_nothing(flavour):
    t, tokens = trunk(flavour), torch.randint(0, 31, (2, 10))
    mask = torch.ones(10, 10, dtype=torch.bool).tril()
    for m in (mask, mask.expand(2, 10, 10)):
        for positions in (torch.arange(10), torch.arange(10).expand(2, 10)):
            torch.testing.assert_close(run(t, tokens, positions=positions, mask=m), run(t, tokens), atol=1e-12, rtol=0)


def test_rows_may_have_positions_of_their_own():
    for flavour in FLAVOURS:
        t, tokens = trunk(flavour), torch.randint(0, 31, (2, 5))
        positions = torch.stack([torch.arange(5), torch.tensor([0, 0, 1, 4, 7])])
        both = run(t, tokens, positions=positions)
        for row in range(2):
            torch.testing.assert_close(
                both[row : row + 1], run(t, tokens[row : row + 1], positions=positions[row]), atol=1e-12, rtol=0
            )
        assert (both[1] - run(t, tokens)[1]).abs().max() > 1e-6


def test_rotary_scores_depend_on_the_distance_only():
    q, k = torch.randn(1, 1, 1, 2, 6).expand(1, 8, 2, 2, 6)[:, :, :1], torch.randn(1, 1, 1, 2, 6).expand(1, 8, 1, 2, 6)
    rope = rotary(torch.arange(8), 6, 10000.0)
    scores = torch.einsum("qhd,khd->hqk", rotate(q, rope)[0, :, 0], rotate(k, rope)[0, :, 0])
    for offset in range(-7, 8):
        line = scores.diagonal(offset, 1, 2)
        torch.testing.assert_close(line, line[:, :1].expand_as(line), atol=1e-5, rtol=1e-5)
    assert (scores[:, 0, 0] - scores[:, 0, 5]).abs().max() > 1e-3


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_fused_attention_equals_the_written_out_one(flavour):
    t, x = trunk(flavour), torch.randn(2, 7, 24, dtype=torch.float64)
    attention = t.layers[0].attention
    rope = rotary(torch.arange(7), 6, 10000.0) if flavour == "llama" else None
    q, k, v = (p.view(2, 7, 4, 6) for p in attention.qkv(x).chunk(3, -1))
    if rope:
        q, k = (rotate(p[:, :, None], rope)[:, :, 0] for p in (q, k))
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / 6**0.5
    scores = scores.masked_fill(~torch.ones(7, 7, dtype=torch.bool).tril(), -torch.inf)
    y = torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v).flatten(2)
    torch.testing.assert_close(
        attention(x, rope, None, True, None), F.linear(y, attention.out.weight, attention.out.bias), atol=1e-12, rtol=0
    )


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_recomputed_blocks_give_the_same_gradients_with_dropout(flavour):
    gradients = []
    for checkpoint in (False, True):
        t = trunk(flavour, dropout=0.3, checkpoint=checkpoint)
        torch.manual_seed(5)
        run(t, torch.arange(24).view(2, 12)).square().sum().backward()
        gradients.append([p.grad for p in t.parameters()])
    for a, b in zip(*gradients):
        assert torch.equal(a, b)


def test_dropout_is_off_in_evaluation_and_on_in_training():
    t, tokens = trunk("gpt2", dropout=0.5), torch.arange(12)[None]
    assert not torch.equal(run(t, tokens), run(t, tokens))
    t.eval()
    assert torch.equal(run(t, tokens), run(trunk("gpt2").eval(), tokens))


def test_initial_spread():
    for flavour in FLAVOURS:
        torch.manual_seed(0)
        t = Transformer(500, 256, 4, 4, positions=64, flavour=flavour)
        spreads = {n: p.std().item() for n, p in t.named_parameters() if p.ndim == 2}
        for name, std in spreads.items():
            expected = 0.02 / 8**0.5 if name.endswith(("attention.out.weight", "mlp.down.weight")) else 0.02
            assert abs(std / expected - 1) < 0.05, name
        for name, p in t.named_parameters():
            if p.ndim == 1:
                assert torch.equal(p, torch.ones_like(p) if name.endswith("norm.weight") else torch.zeros_like(p)), name


def test_a_meta_build_initialises_like_a_direct_one():
    with torch.device("meta"):
        t = Transformer(31, 24, 2, 4, positions=12, flavour="gpt2")
    t.to_empty(device="cpu")
    torch.manual_seed(0)
    for module in t.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    torch.manual_seed(0)
    direct = Transformer(31, 24, 2, 4, positions=12, flavour="gpt2")
    assert all(torch.equal(a, b) for a, b in zip(t.parameters(), direct.parameters()))


def test_tying_follows_the_flavour_unless_told():
    for flavour, tied, own in [("gpt2", None, False), ("llama", None, True), ("gpt2", False, True), ("llama", True, False)]:
        t = trunk(flavour, tied=tied)
        assert ("output.weight" in t.state_dict()) is own
        assert (t.unembedding is t.embedding.weight) is not own


def test_feed_forward_width():
    assert hidden_size(512, "gpt2") == 2048
    assert [hidden_size(d, "llama") for d in (128, 256, 512, 1024, 4096)] == [512, 768, 1536, 2816, 11008]
    assert trunk("llama", hidden=40).layers[0].mlp.down.weight.shape == (24, 40)


@pytest.mark.parametrize("heads", [1, 2, 8])
def test_any_head_width_works(heads):
    assert run(trunk("gpt2", heads=heads), torch.zeros(1, 3, dtype=torch.long)).isfinite().all()
    odd = trunk("gpt2", dim=21, heads=3)  # 7 per head, as 67 and 131 in CoCoMix's baselines
    assert run(odd, torch.zeros(1, 3, dtype=torch.long)).isfinite().all()


def test_a_block_is_a_block():
    t = trunk("llama")
    assert isinstance(t.block(), Block) and [p.shape for p in t.block().parameters()] == [
        p.shape for p in t.layers[0].parameters()
    ]


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"heads": 5}, "dim 24 cannot be split over 5 heads"),
        ({"dim": 20, "heads": 4}, "leaves 5 per head: make it even"),
        ({"flavour": "bert"}, "flavour is 'gpt2' or 'llama'"),
        ({"dropout": 1.0}, "dropout must lie in"),
        ({"vocab": 0}, "must be at least 1"),
    ],
)
def test_impossible_sizes(wrong, message):
    with pytest.raises(ValueError, match=message):
        trunk(**{"flavour": "llama", **wrong})


def test_too_long_a_sequence_names_the_fix():
    for flavour in FLAVOURS:
        with pytest.raises(ValueError, match="positions=13"):
            run(trunk(flavour), torch.zeros(1, 13, dtype=torch.long))
