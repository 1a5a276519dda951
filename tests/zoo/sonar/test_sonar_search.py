import pytest
import torch

from zoo.sonar.net import TextDecoder
from zoo.sonar.search import Decoding, beam_search, greedy
from zoo.sonar.tokens import EOS, PAD


@pytest.fixture
def prefix(tiny):
    return tiny.tokenizer.prefix(mode="target")


@pytest.fixture
def vectors(space, tiny):
    return space.encode(tiny.texts)


@pytest.mark.parametrize("fuse", [False, True])
def test_steps_give_the_logits_of_the_whole(tiny, vectors, fuse):
    """Incremental decoding with the folded cross-attention, rows chosen in between, beside the plain forward pass."""
    tokens = torch.randint(4, 100, (6, 40))
    state = Decoding(tiny.decoder, vectors[:6], 48, fuse)
    rows = torch.arange(6)
    for step, (start, stop) in enumerate([(0, 2), (2, 3), (3, 4), *((i, i + 1) for i in range(4, 40))]):
        out = tiny.decoder.unembed(state.step(tokens[rows, start:stop]))
        whole = tiny.decoder(vectors[rows], tokens[rows, :stop])[:, start:]
        torch.testing.assert_close(out, whole, rtol=0, atol=2e-5)
        choice = {1: [5, 5, 0, 3, 3, 3, 1, 0], 4: [7, 2, 2], 9: [0]}.get(step)
        if choice:
            state.choose(torch.tensor(choice))
            rows = rows[choice]


@torch.no_grad()
def naive_greedy(decoder, vector, prefix, limit):
    row = list(prefix)
    while len(row) < limit - 1:
        logits = decoder(vector[None], torch.tensor([row]))[0, -1]
        logits[PAD] = -torch.inf
        row.append(int(logits.argmax()))
        if row[-1] == EOS:
            return row[len(prefix) :], False
    cut = int(decoder(vector[None], torch.tensor([row]))[0, -1].argmax()) != EOS
    return [*row[len(prefix) :], EOS], cut


@torch.no_grad()
def naive_beam(decoder, vector, prefix, beam, limit, penalty):
    """fairseq2's search for one sentence, hypothesis by hypothesis, without a cache."""
    logprobs = lambda row: decoder(vector[None], torch.tensor([row]))[0].log_softmax(-1)
    going = [(float(logprobs(prefix)[0, prefix[1]]), list(prefix))]
    done = []
    for length in range(len(prefix), limit):
        candidates = []
        for score, row in going:
            found = logprobs(row)[-1]
            found[PAD] = -torch.inf
            if length == limit - 1:
                candidates.append((score + float(found[EOS]), [*row, EOS]))
            else:
                top, ids = found.topk(2 * beam)
                candidates += [(score + float(s), [*row, int(i)]) for s, i in zip(top, ids)]
        candidates.sort(key=lambda c: -c[0])
        for score, row in candidates[:beam]:
            if row[-1] == EOS and len(done) < beam:
                done.append((score / length**penalty, row))
        going = [c for c in candidates[: 2 * beam] if c[1][-1] != EOS][:beam]
        if len(done) == beam:
            break
    score, row = max(done, key=lambda c: c[0])
    return row[len(prefix) :], score


def test_greedy_beside_its_naive_form(tiny, vectors, prefix):
    found = greedy(tiny.decoder, vectors[:12], prefix, 20)
    for vector, tokens, cut in zip(vectors, found.tokens, found.cut):
        assert naive_greedy(tiny.decoder, vector, prefix, 20) == (tokens, bool(cut))
    assert 0 < found.cut.sum() < 12  # both kinds were there


@pytest.mark.parametrize("beam, penalty", [(1, 1.0), (3, 1.0), (4, 0.2)])
def test_beam_search_beside_its_naive_form(tiny, vectors, prefix, beam, penalty):
    found = beam_search(tiny.decoder, vectors[:7], prefix, beam, 14, penalty)
    for vector, tokens, score in zip(vectors, found.tokens, found.scores):
        wanted, wanted_score = naive_beam(tiny.decoder, vector, prefix, beam, 14, penalty)
        assert tokens == wanted
        assert float(score) == pytest.approx(wanted_score, abs=1e-4)


def test_a_beam_of_one_is_greedy(tiny, vectors, prefix):
    plain, beam = greedy(tiny.decoder, vectors, prefix, 30), beam_search(tiny.decoder, vectors, prefix, 1, 30)
    assert plain.tokens == beam.tokens
    assert torch.equal(plain.cut, beam.cut)


def test_sentences_do_not_depend_on_their_batch(tiny, vectors, prefix):
    together = beam_search(tiny.decoder, vectors, prefix, 5, 30)
    for i in (0, 7, 30):
        assert beam_search(tiny.decoder, vectors[i : i + 1], prefix, 5, 30).tokens == [together.tokens[i]]


def test_finished_rows_leave_the_batch(tiny, vectors, prefix, monkeypatch):
    rows, step = [], Decoding.step
    monkeypatch.setattr(Decoding, "step", lambda self, tokens: rows.append(len(tokens)) or step(self, tokens))
    found = greedy(tiny.decoder, vectors, prefix, 30)
    alive = [sum(len(tokens) > place for tokens in found.tokens) for place in range(28)]
    assert rows == [count for count in alive if count]
    assert rows[0] > rows[-1]


def test_no_sentences(tiny, prefix):
    none = torch.empty(0, 32)
    assert greedy(tiny.decoder, none, prefix).tokens == beam_search(tiny.decoder, none, prefix).tokens == []


def test_sentences_for_bad_input(tiny, vectors, prefix):
    with pytest.raises(ValueError, match="A limit of 2 tokens leaves none behind the 2 of the prefix"):
        greedy(tiny.decoder, vectors, prefix, 2)
    with pytest.raises(ValueError, match="A beam of 4 does not suit a vocabulary of 8"):
        beam_search(TextDecoder(8, 16, 1, 2, 8), torch.randn(1, 16), [3, 4], 4)
