import sys

import pytest
import torch

from zoo.nn.normalizer import Normalizer
from zoo.sonar.net import TextDecoder, TextEncoder
from zoo.sonar.space import Space, batches


def test_vectors_do_not_depend_on_the_batch(space, tiny):
    together = space.encode(tiny.texts)
    alone = torch.cat([space.encode([text]) for text in tiny.texts])
    assert together.shape == (48, 32) and together.dtype == torch.float32
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
    torch.testing.assert_close(space.encode(tiny.texts, budget=30), alone, rtol=0, atol=1e-5)
    assert (alone[0] - alone[1]).abs().max() > 0.1
    assert (space.encode(tiny.texts, "fra_Latn") - together).abs().max() > 0.01


def test_vectors_may_take_part_in_training(space, tiny):
    vectors = space.encode(tiny.texts[:2])
    weight = torch.ones(32, requires_grad=True)
    (vectors * weight).sum().backward()
    assert torch.equal(weight.grad, vectors.sum(0)) and not vectors.is_inference()


def test_batches_hold_every_row_once_and_fit():
    rows = [[1] * length for length in (3, 9, 1, 9, 4, 40, 2, 9)]
    seen = []
    for chosen, tokens, lengths in batches(rows, 27):
        assert tokens.numel() <= 27 or len(tokens) == 1
        for i, row, length in zip(chosen, tokens, tokens.shape[1] * torch.ones(len(tokens)) if lengths is None else lengths):
            assert row.tolist() == [1] * len(rows[i]) + [0] * (tokens.shape[1] - len(rows[i])) and length == len(rows[i])
        seen += chosen.tolist()
    assert sorted(seen) == list(range(8))
    assert [(len(tokens), lengths is None) for _, tokens, lengths in batches(rows, 27)] == [(1, True), (3, True), (4, False)]


def test_texts_are_decoded_in_order_whatever_the_rows(space, tiny):
    vectors = space.encode(tiny.texts)
    with pytest.warns(UserWarning, match="reached the limit"):
        texts = space.decode(vectors, beam=3, limit=20)
    with pytest.warns(UserWarning):
        assert space.decode(vectors, beam=3, limit=20, rows=7) == texts
    assert texts[4] == tiny.texts[4]  # "Pu.": short ones were learnt
    assert len(set(texts)) > 20


def test_nothing_is_cut_silently(space):
    long = "a" * 300
    tokens = space.tokenizer.encode([long])[0]
    assert len(tokens) > 48
    with pytest.warns(UserWarning, match="1 of 2 texts have more than the encoder's 48 tokens and were cut"):
        vectors = space.encode([long, "Pu."])
    assert space.truncated == 1
    kept = torch.tensor([[*tokens[:47], tokens[-1]]])
    torch.testing.assert_close(vectors[0], space.encoder(kept)[0], rtol=0, atol=1e-5)
    with pytest.warns(UserWarning, match="2 of 2 decoded texts reached the limit"):
        space.decode(vectors, limit=4)
    assert space.cut == 2


def test_letters_without_pieces_are_told(space, tiny, recwarn):
    space.encode([*tiny.texts, "Pu 42.", ""])
    assert space.unknown == 0 and not recwarn
    with pytest.warns(UserWarning, match="2 of 4 texts are in letters that the space's tokenizer does not know") as told:
        space.encode(["Море было спокойно.", "Pu.", "समुद्र शांत था।", "Pu. море"])
    assert space.unknown == 2 and len(told) == 1 and told[0].filename == __file__


def test_nothing_at_all(space):
    assert space.encode([]).shape == (0, 32) and space.decode(torch.empty(0, 32)) == []
    assert space.encode([""]).isfinite().all()


def test_bf16_is_near(space, folder, tiny):
    low = Space.opened(folder, dtype=torch.bfloat16)
    assert low.encoder.layer_norm.weight.dtype == torch.bfloat16
    high, near = space.encode(tiny.texts), low.encode(tiny.texts)
    assert near.dtype == torch.float32
    assert torch.cosine_similarity(high, near).min() > 0.999
    assert low.decode(high[4:5]) == ["Pu."]


def test_halves_may_come_from_two_folders(space, folder, tiny, tmp_path):
    from zoo.sonar.folder import write_folder

    torch.manual_seed(5)
    decoder = TextDecoder(**tiny.decoder.config)
    normalizer = Normalizer.fitted(torch.randn(50, 32))
    write_folder(tmp_path, None, decoder, tiny.tokenizer, dtype=torch.float32, normalizer=normalizer)
    both = Space.opened(folder, tmp_path)
    assert torch.equal(both.encode(tiny.texts), space.encode(tiny.texts))
    assert torch.equal(both.decoder.unembedding, decoder.unembedding)
    assert torch.equal(both.normalizer.center, normalizer.center)
    with pytest.raises(ValueError, match="normalizer is for vectors of 8 numbers, and this space's have 32"):
        Space(None, decoder, tiny.tokenizer, normalizer=Normalizer(8)).fits()
    only = Space.opened(tmp_path)
    assert only.encoder is None and only.width == 32
    with pytest.raises(ValueError, match="This space has no encoder"):
        only.encode(["a"])


def test_sentences_for_bad_input(space, tiny, folder, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="put it into brackets"):
        space.encode("one text")
    with pytest.raises(ValueError, match="Vector 1 of 2 holds NaN"):
        space.decode(torch.tensor([[0.0] * 32, [torch.nan] * 32]))
    with pytest.raises(ValueError, match=r"\(2, 31\)"):
        space.decode(torch.zeros(2, 31))
    with pytest.raises(ValueError, match="has no decoder"):
        Space(tiny.encoder, None, tiny.tokenizer).decode(torch.zeros(1, 32))
    with pytest.raises(ValueError, match="needs a folder or the names"):
        Space.opened()
    with pytest.raises(FileNotFoundError, match="is no folder"):
        Space.opened(tmp_path / "none")
    other = TextEncoder(tiny.tokenizer.vocab, 16, 1, 2, 8)
    with pytest.raises(ValueError, match="makes vectors of 16 numbers and the decoder reads 32"):
        Space(other, tiny.decoder, tiny.tokenizer).fits()
    for name in ("soundfile", "sonar"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match="To open the card 'text_sonar_basic_encoder' sonar-space is needed"):
        Space.opened("text_sonar_basic_encoder")
