"""Our sparse autoencoder beside sae-lens'."""

import json
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from zoo.cocomix.sae import CONFIG, WEIGHTS, Latents, SparseAutoencoder

D, C, K = 12, 48, 5


def saved(folder, **config):
    """An autoencoder of sae-lens with random weights, saved to `folder`."""
    from sae_lens import TopKSAE, TopKSAEConfig

    torch.manual_seed(0)
    sae = TopKSAE(TopKSAEConfig(d_in=D, d_sae=C, k=K, **config))
    with torch.no_grad():
        for p in sae.parameters():
            p.copy_(torch.randn_like(p))
    sae.save_model(folder)
    return sae


@pytest.mark.parametrize(
    "config",
    [
        {"normalize_activations": "layer_norm"},
        {"normalize_activations": "none", "apply_b_dec_to_input": False},
        {"normalize_activations": "layer_norm", "rescale_acts_by_decoder_norm": True},
    ],
)
def test_reads_what_sae_lens_saves_and_gives_its_latents(tmp_path, config):
    theirs = saved(tmp_path, **config)
    ours = SparseAutoencoder.load(tmp_path)
    x = torch.randn(3, 7, D) * 4 + 2
    latents = ours.encode(x, chunk=4)
    dense = torch.zeros(3, 7, C).scatter(-1, latents.ids, latents.values)
    torch.testing.assert_close(dense, theirs.encode(x), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours.decode(latents), theirs(x), rtol=1e-4, atol=1e-3)
    assert not any(p.requires_grad for p in ours.parameters()) and ours.latents == C


def test_a_trained_one_of_sae_lens_too(tmp_path):
    from sae_lens import SAE, TopKTrainingSAE, TopKTrainingSAEConfig

    torch.manual_seed(0)
    TopKTrainingSAE(TopKTrainingSAEConfig(d_in=D, d_sae=C, k=K)).save_inference_model(tmp_path)
    ours, x = SparseAutoencoder.load(tmp_path), torch.randn(20, D)
    torch.testing.assert_close(ours.decode(ours.encode(x)), SAE.load_from_disk(tmp_path)(x), rtol=1e-4, atol=1e-4)


def test_latents_that_would_be_negative_are_zero_and_a_state_keeps_its_scale():
    torch.manual_seed(0)
    sae = SparseAutoencoder(D, 6, 6)
    x = torch.randn(50, D) * 9 + 4
    latents = sae.encode(x)
    assert (latents.values >= 0).all() and (latents.values == 0).any()
    pre, mean, std = sae.pre(x)
    torch.testing.assert_close(latents.values.sum(1), pre.relu().sum(1))
    torch.testing.assert_close(mean[:, 0], x.mean(1))
    torch.testing.assert_close(std[:, 0], (x - mean).square().sum(1).div(D - 1).sqrt())
    nothing = Latents(torch.zeros(50, 6), latents.ids, mean, std)
    torch.testing.assert_close(sae.decode(nothing), sae.shift * std + mean)


def test_what_is_missing_damaged_or_another_kind_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"cfg\.json is missing: give the folder"):
        SparseAutoencoder.load(tmp_path)
    saved(tmp_path, normalize_activations="layer_norm")
    config, weights = json.loads((tmp_path / CONFIG).read_text()), load_file(tmp_path / WEIGHTS)
    (tmp_path / CONFIG).write_text(json.dumps(config | {"architecture": "standard"}))
    with pytest.raises(ValueError, match="it is 'standard' on activations"):
        SparseAutoencoder.load(tmp_path)
    (tmp_path / CONFIG).write_text(json.dumps(config))
    save_file({name: w for name, w in weights.items() if name != "W_dec"}, tmp_path / WEIGHTS)
    with pytest.raises(ValueError, match=r"cannot be read \('W_dec'\): save a TopK one again"):
        SparseAutoencoder.load(tmp_path)
    for change, said in (
        ({"W_dec": weights["W_dec"][:30].clone()}, "cannot be read .*size mismatch"),
        ({"W_dec": weights["W_dec"] * torch.nan}, "NaN or infinite: train it again"),
    ):
        save_file(weights | change, tmp_path / WEIGHTS)
        with pytest.raises(ValueError, match=said) as failed:
            SparseAutoencoder.load(tmp_path)
        assert "\n" not in str(failed.value)
    (tmp_path / CONFIG).write_text("[1]")
    with pytest.raises(ValueError, match="cannot be read"):
        SparseAutoencoder.load(tmp_path)
    (tmp_path / CONFIG).write_text(json.dumps(config))
    (tmp_path / WEIGHTS).write_bytes(b"cut")
    with pytest.raises(ValueError, match="cannot be read"):
        SparseAutoencoder.load(tmp_path)


def test_refuses_more_active_latents_than_there_are():
    with pytest.raises(ValueError, match="choose 1 to 6"):
        SparseAutoencoder(D, 6, 7)


def test_a_release_that_cannot_be_had_is_said(monkeypatch):
    monkeypatch.setattr("sae_lens.SAE.from_pretrained", lambda *names: (_ for _ in ()).throw(OSError("no\nnetwork")))
    with pytest.raises(ValueError, match=r"blocks.5 of gpt2-small cannot be had \(no network\): give a folder instead"):
        SparseAutoencoder.released("gpt2-small", "blocks.5")


def test_without_sae_lens_a_folder_is_read_and_a_release_is_not(monkeypatch, tmp_path):
    saved(tmp_path, normalize_activations="layer_norm")
    monkeypatch.setitem(sys.modules, "sae_lens", None)
    assert SparseAutoencoder.opened(tmp_path).latents == C
    with pytest.raises(ValueError, match=r"a/b is a release of sae-lens, which is not installed: pip install sae-lens"):
        SparseAutoencoder.opened("a/b")


def test_a_release_is_read_like_a_folder(monkeypatch, tmp_path):
    theirs = saved(tmp_path, normalize_activations="layer_norm")
    monkeypatch.setattr("sae_lens.SAE.from_pretrained", lambda *names: theirs)
    x = torch.randn(9, D)
    ours, there = SparseAutoencoder.released("a", "b"), SparseAutoencoder.load(tmp_path)
    assert ours.encode(x).ids.equal(there.encode(x).ids)
