import pytest
import torch

from zoo.sonar.net import Frontend, TextDecoder, TextEncoder, sinusoid

SIZES = {"vocab": 40, "dim": 16, "layers": 2, "heads": 2, "hidden": 24, "positions": 20, "pad": 0}


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return TextEncoder(**SIZES).eval()


@pytest.fixture
def decoder():
    torch.manual_seed(0)
    return TextDecoder(**SIZES, memory=6).eval()


def test_the_defaults_have_the_released_sizes():
    with torch.device("meta"):
        encoder, decoder = TextEncoder(), TextDecoder()
    assert sum(p.numel() for p in encoder.parameters()) == 766_091_264
    assert sum(p.numel() for p in decoder.parameters()) == 866_902_016


def test_sinusoids_are_fairseqs():
    table = sinusoid(torch.arange(3), 6)
    for position in range(3):
        for i in range(3):
            angle = torch.tensor(position / 10000 ** (i / 2), dtype=torch.float64)
            assert table[position, i].item() == pytest.approx(angle.sin().item(), abs=1e-6)
            assert table[position, 3 + i].item() == pytest.approx(angle.cos().item(), abs=1e-6)


@pytest.mark.parametrize("pooling", ["mean", "max", "last"])
def test_padding_changes_nothing(pooling):
    torch.manual_seed(0)
    encoder = TextEncoder(**SIZES, pooling=pooling).eval()
    tokens, lengths = torch.randint(1, 40, (3, 9)), torch.tensor([9, 2, 5])
    together = encoder(tokens, lengths)
    for row, length, vector in zip(tokens, lengths, together):
        torch.testing.assert_close(encoder(row[None, :length])[0], vector, rtol=0, atol=1e-6)


def test_the_decoder_is_causal_and_reads_its_vector(decoder):
    tokens, vectors = torch.randint(1, 40, (2, 7)), torch.randn(2, 6)
    logits = decoder(vectors, tokens)
    other = tokens.clone()
    other[:, 4] = (other[:, 4] + 1) % 40
    changed = decoder(vectors, other)
    torch.testing.assert_close(changed[:, :4], logits[:, :4], rtol=0, atol=1e-6)
    assert (changed[:, 4:] - logits[:, 4:]).abs().amax((0, 2)).min() > 1e-3
    assert (decoder(vectors + 0.5, tokens) - logits).abs().amax(2).min() > 1e-3


def test_cross_attention_is_attention_to_one_vector(decoder):
    """The naive form: softmax of queries with one key, then its value."""
    layer, x, vectors = decoder.decoder.layers[0], torch.randn(2, 5, 16), torch.randn(2, 6)
    cross = layer.encoder_decoder_attn
    q, k, v = cross.q_proj(layer.encoder_decoder_attn_layer_norm(x)), cross.k_proj(vectors), cross.v_proj(vectors)
    heads = lambda y: y.unflatten(-1, (2, 8)).transpose(1, -2)
    weights = (heads(q) @ heads(k[:, None]).transpose(-1, -2)).softmax(-1)  # (B, H, T, 1)
    naive = cross.output_proj((weights * heads(v[:, None])).transpose(1, 2).flatten(2))
    torch.testing.assert_close(cross(vectors)[:, None].expand_as(naive), naive, rtol=0, atol=1e-6)


def test_what_has_no_effect_is_frozen_and_the_rest_has_gradients(encoder, decoder):
    tokens = torch.randint(1, 40, (3, 8))
    decoder(encoder(tokens)[:, :6], tokens).logsumexp(-1).sum().backward()
    frozen = {name for name, p in decoder.named_parameters() if not p.requires_grad}
    parts = ("encoder_decoder_attn.q_proj", "encoder_decoder_attn.k_proj", "encoder_decoder_attn_layer_norm")
    assert frozen == {f"decoder.layers.{i}.{part}.{kind}" for i in range(2) for part in parts for kind in ("weight", "bias")}
    for net in (encoder, decoder):
        assert all(p.grad.abs().max() > 0 for name, p in net.named_parameters() if p.requires_grad and "k_proj.bias" not in name)
    assert encoder.encoder_frontend.embed.weight.grad[0].abs().max() == 0  # the pad's


def test_dropout_is_on_in_training_only(encoder, decoder):
    tokens, vectors = torch.randint(1, 40, (2, 7)), torch.randn(2, 6)
    for net, given in ((encoder, (tokens,)), (decoder, (vectors, tokens))):
        assert torch.equal(net(*given), net(*given))
        net.train()
        assert not torch.equal(net(*given), net(*given))


def test_a_reset_after_a_meta_build_starts_as_a_new_net_does(decoder):
    with torch.device("meta"):
        other = TextDecoder(**SIZES, memory=6)
    other.to_empty(device="cpu")
    torch.manual_seed(0)
    for module in other.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    for name, w in other.state_dict().items():
        assert w.shape == decoder.state_dict()[name].shape
        assert w.std(correction=0).item() == pytest.approx(decoder.state_dict()[name].std(correction=0).item(), rel=0.5, abs=1e-6)


def test_a_second_table_is_refused(decoder):
    state = decoder.sonar_state()
    decoder.load_state_dict(state)
    state["final_proj.weight"] = state["final_proj.weight"] + 1
    with pytest.raises(ValueError, match="ties the two"):
        decoder.load_state_dict(state)


def test_sentences_for_bad_input(encoder):
    with pytest.raises(ValueError, match="21 tokens were given to a SONAR net that has 20 positions"):
        encoder(torch.ones(1, 21, dtype=torch.int64))
    with pytest.raises(ValueError, match="no width for 3 heads"):
        TextEncoder(10, 16, 1, 3, 8)
    with pytest.raises(ValueError, match="pools by one of mean, max, last"):
        TextEncoder(10, 16, 1, 2, 8, pooling="attention")


def test_bf16_keeps_positions_in_fp32():
    front = Frontend(8, 16, 600, 0, 0.0).to(torch.bfloat16)
    late = front(torch.zeros(1, 600, dtype=torch.int64))[0]  # the pad's vector is zero: what is left are the positions
    torch.testing.assert_close(late.float(), sinusoid(torch.arange(1, 601), 16), rtol=0, atol=0.004)
