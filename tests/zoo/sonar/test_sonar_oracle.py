"""Our encoder, decoder, tokenizer and search beside sonar-space's, with the same weights."""

import pytest
import torch

from zoo.sonar.folder import load_weights
from zoo.sonar.net import TextDecoder, TextEncoder
from zoo.sonar.space import Space

SIZES = {"vocab": 50, "dim": 24, "layers": 3, "heads": 2, "hidden": 40, "pad": 1}


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "max", "last"])
def test_vectors_of_random_weights(sonar, folder, pooling):
    asked = sonar["random"]
    encoder = TextEncoder(**SIZES, positions=22, pooling=pooling).eval()
    load_weights(encoder, folder / f"{pooling}.pt")
    close(encoder(asked["tokens"], asked["lengths"]), asked[f"{pooling} padded"])
    close(encoder(asked["tokens"]), asked[f"{pooling} full"])
    theirs = torch.load(folder / f"{pooling}.pt", weights_only=True)
    assert theirs.keys() == encoder.state_dict().keys()


def test_logits_of_random_weights(sonar, folder):
    asked = sonar["random"]
    decoder = TextDecoder(**SIZES, positions=20, memory=16).eval()
    load_weights(decoder, folder / "decoder.pt")
    close(decoder(asked["memory"], asked["tokens"]), asked["logits"])
    theirs = torch.load(folder / "decoder.pt", weights_only=True)["model"]
    assert theirs.keys() == decoder.sonar_state().keys()
    assert all(torch.equal(w, theirs[name]) for name, w in decoder.sonar_state().items())


def test_its_pipelines_load_our_cards_by_name(sonar, tiny, space):
    vectors = space.encode(tiny.texts)
    close(vectors, sonar["named"]["vectors"])
    assert vectors.std(0).min() > 0.01  # no two texts have one vector, so that equal ones say something


@pytest.mark.parametrize("beam", [1, 3, 5])
def test_searches_find_the_same_texts(sonar, space, beam):
    named = sonar["named"]
    vectors = torch.cat([named["vectors"], strange()])
    with pytest.warns(UserWarning, match="reached the limit"):
        ours = space.decode(vectors, beam=beam, limit=30)
    assert ours == named[f"beam{beam}"]
    assert len(set(ours)) > 30


def test_length_penalty(sonar, tiny):
    from zoo.sonar.search import beam_search

    vectors = torch.cat([sonar["named"]["vectors"], strange()])
    found = beam_search(tiny.decoder, vectors, tiny.tokenizer.prefix(mode="target"), 4, 30, length_penalty=0.3)
    assert tiny.tokenizer.decode(found.tokens) == sonar["named"]["penalty"]
    assert sonar["named"]["penalty"] != sonar["named"]["beam5"]


def test_we_read_cards_as_it_does(sonar, tiny):
    named = sonar["named"]
    close(named["opened"], named["vectors"])
    assert named["opened_texts"] == named["beam5"]
    assert tuple(named["opened_langs"]) == tiny.tokenizer.langs


def test_it_reads_the_half_precision_that_spaces_are_shipped_in(sonar, folder, tiny):
    named, half = sonar["named"], Space.opened(folder / "half")
    close(half.encode(tiny.texts), named["half"])
    assert half.decode(named["half"], limit=30) == named["half_texts"]
    assert 1e-6 < (named["half"] - named["vectors"]).abs().max() < 1e-2


@pytest.mark.parametrize("mode", ["source", "target"])
def test_token_ids(sonar, tiny, mode):
    named, tokenizer = sonar["named"], tiny.tokenizer
    for lang in tokenizer.langs:
        assert tokenizer.encode(named["samples"], lang, mode) == named[f"{mode} {lang}"]
    assert tokenizer.decode(named[f"target {tokenizer.langs[0]}"]) == [str(text) for text in named["read"]]
    special = [tokenizer.vocab, tokenizer.pad, tokenizer.unk, tokenizer.bos, tokenizer.eos]
    assert special == named["vocab_info"]


def test_cards_that_cannot_be_opened(sonar):
    refused = sonar["refused"]
    for name in ("gone_encoder", "far_encoder"):
        assert refused[name].startswith(
            f"OSError: The weights of {name!r} are not here and cannot be fetched: run this once where"
        )
    assert "no folder and no card" in refused["no_such_card"]


def test_speech_vectors(sonar):
    speech = sonar["speech"]
    assert speech["together"].shape == (3, 32)
    torch.testing.assert_close(speech["together"], speech["alone"], rtol=0, atol=1e-4)
    assert not torch.allclose(speech["alone"][0], speech["alone"][1], atol=1e-3)


def strange() -> torch.Tensor:
    """The vectors that conftest.py asks about beside those of the texts: nothing was trained to write them."""
    return torch.randn(6, 32, generator=torch.Generator().manual_seed(1))


def test_the_released_cards_have_the_names_that_recipes_say(sonar):
    families = ["transformer_encoder", "transformer_decoder", "transformer_decoder", "sonar_speech"]
    assert list(sonar["released"].values()) == families


def test_the_space_of_this_repository_opens_by_its_cards(sonar):
    if sonar["shipped"] is None:
        pytest.skip("zoo/sonar/small is not there yet: make space")
    close(Space.opened("zoo/sonar/small").encode(sonar["texts"]), sonar["shipped"])
