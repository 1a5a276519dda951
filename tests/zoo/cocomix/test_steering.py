"""Steering: what it adds and where, that it leaves all else to the last digit, and that cached decoding sees the same."""

import pytest
import torch

from zoo.cocomix.net import CoCoMix
from zoo.cocomix.predicted import predicted
from zoo.cocomix.sae import SparseAutoencoder
from zoo.cocomix.steering import SteerableCoCoMix, SteerableTeacher, steered, strength
from zoo.generate import generate
from zoo.nn.concepts import normalised
from zoo.ntp import NextToken
from zoo.reading import window_start
from zoo.sampling import Sampling

V, T, C, LAYER = 29, 12, 50, 2
PROMPTS = [[1, 2, 3], [4, 5, 6, 7, 8], [9]]
FORMS = [{}, {"mixing": "add"}, {"flavour": "llama"}, {"n": 2, "layers": 5}]


def shaken(net, size=0.1):
    with torch.no_grad():
        for p in net.parameters():
            p.add_(torch.randn_like(p) * size)
    return net.double().eval()


def student(**settings):
    torch.manual_seed(0)
    sizes = {"dim": 16, "layers": 4, "heads": 2, "insert": 2, "concepts": C, "keep": 5}
    return SteerableCoCoMix(shaken(CoCoMix(V, T, **{**sizes, **settings})))


def teacher():
    torch.manual_seed(1)
    net = shaken(NextToken(V, T, dim=16, layers=4, heads=2, flavour="gpt2"), 0.2)
    return SteerableTeacher(net, shaken(SparseAutoencoder(16, C, 5)), LAYER)


def logits(net, tokens):
    return net.logits(net.states(tokens, net.cache(*tokens.shape))[:, :, 0])


def tokens(rows=2, length=9):
    return torch.randint(0, V, (rows, length), generator=torch.Generator().manual_seed(3))


def absent(ids, concepts=C):
    """A concept that is among none of the kept ones."""
    return next(i for i in range(concepts) if not (ids == i).any())


def mixed_in(net, x, **steering):
    """The vectors that the student mixes in."""
    seen = []
    with steered(net, **steering):
        states = net.net._above
        net.net._above = lambda h, mixed, *more: seen.append(mixed.vectors) or states(h, mixed, *more)
        net.states(x, net.cache(*x.shape))
        del net.net._above
    return seen[0]


@pytest.mark.parametrize("form", FORMS)
def test_a_concept_outside_the_kept_ones_adds_its_compressor_row(form):
    net, x = student(**form), tokens()
    kept, ids = predicted(net.net, x)
    concept = absent(ids)
    h = net.net.trunk.blocks(net.net.trunk.embed(x), stop=2)
    plain, (_, _, std) = net.net.mixer(h).vectors, normalised(h)
    row = net.net.mixer.compressor.weight[concept]
    added = mixed_in(net, x, concept=concept, value=3.5) - plain
    torch.testing.assert_close(added, 3.5 * std * row)
    assert (logits(net, x) - _steered_logits(net, x, concept=concept, value=3.5)).abs().amin() > 0
    inside = int(ids[0, 4, 2])  # one that is kept here: its own logit goes, the new one comes, the others stay
    at = (kept * (ids == inside)).sum(-1, keepdim=True)
    row = net.net.mixer.compressor.weight[inside]
    torch.testing.assert_close(mixed_in(net, x, concept=inside, value=-2.0) - plain, (-2.0 - at) * std * row)
    others = kept.masked_fill(ids == inside, 0.0)  # taken out: the sum of all others
    mean, std = h.mean(-1, keepdim=True), h.std(-1, keepdim=True)
    torch.testing.assert_close(mixed_in(net, x, concept=inside, value=0.0), net.net.mixer.compress(others, ids, mean, std))


def _steered_logits(net, x, **steering):
    with steered(net, **steering):
        return logits(net, x)


def test_a_latent_adds_the_difference_of_its_decoder_row_alone():
    net, x = teacher(), tokens()
    trunk, sae = net.extractor.teacher.trunk, net.extractor.sae
    h = trunk.blocks(trunk.embed(x), stop=LAYER)
    found = sae.encode(h)
    active, inactive = int(found.ids[1, 3, 0]), absent(found.ids)
    for concept in (active, inactive):
        old = (found.values * (found.ids == concept)).sum(-1, keepdim=True)
        wanted = h + (7.0 - old) * found.std * sae.decoder[concept]
        wanted = trunk.unembed(trunk.norm(trunk.blocks(wanted, start=LAYER)))
        torch.testing.assert_close(_steered_logits(net, x, concept=concept, value=7.0), wanted)
        # the state less what the autoencoder makes of it is as it was
        dense = torch.zeros(*x.shape, C, dtype=h.dtype).scatter(-1, found.ids, found.values)
        dense[..., concept] = 7.0
        back = (dense @ sae.decoder + sae.shift) * found.std + found.mean
        net.steering = None
        with steered(net, concept, 7.0):
            torch.testing.assert_close(net._set(h, torch.arange(9)) - back, h - sae.decode(found))
    plain = net.extractor.teacher.next(x, net.extractor.teacher.cache(2, 9))
    assert logits(net, x).equal(plain)  # unsteered
    alone = x[1:, :4]
    value = sae.encode(trunk.blocks(trunk.embed(alone), stop=LAYER)).values[0, 3, 0]  # of the same shape: the same digits
    assert _steered_logits(net, alone, concept=active, value=value, start=3).equal(logits(net, alone))  # left as it is
    assert _steered_logits(net, x, concept=inactive, value=0.0).equal(logits(net, x))  # taken out where it is not
    assert not _steered_logits(net, alone, concept=active, value=0.0, start=3).equal(logits(net, alone))


@pytest.mark.parametrize("make", [*(lambda form=form: student(**form) for form in FORMS), teacher])
def test_unsteered_is_plain_to_the_last_digit(make):
    net, x = make(), tokens()
    plain = net.net if isinstance(net, SteerableCoCoMix) else net.extractor.teacher
    before = logits(plain, x)
    assert logits(net, x).equal(before)
    with pytest.raises(RuntimeError), steered(net, 7, 3.0):
        assert not logits(net, x).equal(before)
        raise RuntimeError
    assert logits(net, x).equal(before) and logits(plain, x).equal(before)
    assert generate(net, PROMPTS, 20).tokens == generate(plain, PROMPTS, 20).tokens


@pytest.mark.parametrize("make", [*(lambda form=form: student(**form) for form in FORMS), teacher])
@pytest.mark.parametrize("start", [0, 5])
def test_cached_steps_are_the_whole_pass(make, start):
    net, x = make(), tokens()
    with steered(net, 7, 6.0, start):
        whole, cache, steps = logits(net, x), net.cache(2, 9), []
        for first, last in [(0, 4), (4, 5), (5, 6), (6, 9)]:
            steps.append(net.logits(net.states(x[:, first:last], cache)[:, :, 0]))
    torch.testing.assert_close(torch.cat(steps, 1), whole)
    plain = logits(net, x)
    assert whole[:, :start].equal(plain[:, :start]) and not whole[:, start:].isclose(plain[:, start:]).all(-1).any()


@pytest.mark.parametrize("make", [student, teacher])
def test_generation_is_the_whole_pass_at_every_token_past_the_context_too(make):
    net = make()
    with steered(net, 7, 6.0):
        texts = generate(net, PROMPTS, 2 * T).tokens
        for prompt, new in zip(PROMPTS, texts):
            for i in range(len(new)):
                text = prompt + new[:i]
                seen = torch.tensor([text[window_start(len(text), T) :]])
                assert int(logits(net, seen)[0, -1].argmax()) == new[i]
        draws = [generate(net, PROMPTS[:1], 9, Sampling(1.0), generator=torch.Generator().manual_seed(4)) for _ in range(2)]
    assert draws[0].tokens == draws[1].tokens
    assert texts != generate(net, PROMPTS, 2 * T).tokens
    assert not net.training


def test_speculation_writes_the_same_text_when_steered():
    net = student(n=2, layers=5)
    with steered(net, 7, 6.0):
        assert generate(net, PROMPTS, 2 * T, heads=2).tokens == generate(net, PROMPTS, 2 * T).tokens


@pytest.mark.parametrize("make", [student, teacher])
def test_every_row_may_have_its_own(make):
    net, x = make(), tokens(1).expand(3, -1)
    concepts, values, starts = torch.tensor([7, 8, 9]), torch.tensor([3.0, -3.0, 5.0]), torch.tensor([0, 2, 8])
    with steered(net, concepts, values, starts):
        together = logits(net, x)
    for row, (concept, value, start) in enumerate(zip(concepts.tolist(), values.tolist(), starts.tolist())):
        with steered(net, concept, value, start):
            torch.testing.assert_close(together[row], logits(net, x[:1])[0])


def test_strength_is_the_median_of_the_largest():
    net, x = student(), tokens(1, 8)
    largest = [float(row.abs().max()) for row in predicted(net.net, x)[0][0]]
    assert strength(net, [x[0, :5].tolist()]) == pytest.approx(sorted(largest[:5])[2])
    with torch.no_grad():
        net.net.mixer.prior.sub_(100)  # all logits below 0, as only their differences are learned where nothing is mixed in
    assert 0 < strength(net, [x[0, :5].tolist()]) < 200
    net = teacher()
    trunk = net.extractor.teacher.trunk
    values = net.extractor.sae.encode(trunk.blocks(trunk.embed(x), stop=LAYER)).values
    assert strength(net, [x[0, :5].tolist()]) == pytest.approx(float(values[0, :5, 0].median()))


def test_bfloat16_and_the_mode_are_kept():
    net = student()
    net.net.train()
    net = SteerableCoCoMix(net.net)
    net.to(torch.bfloat16)
    with steered(net, 7, 3.0):
        assert logits(net, tokens()).dtype == torch.bfloat16
        generate(net, PROMPTS, 2)
    assert net.training and net.net.training
    small = teacher().to(torch.bfloat16)
    with steered(small, 7, 3.0):
        assert logits(small, tokens()).dtype == torch.bfloat16


def test_what_cannot_be_steered_is_said():
    with pytest.raises(ValueError, match="There is no concept 50: choose 0 to 49"), steered(student(), 50, 1.0):
        pass
    with pytest.raises(ValueError, match="There is no concept -1"), steered(teacher(), torch.tensor([3, -1]), 1.0):
        pass
    with pytest.raises(ValueError, match="mixes no concepts in"):
        student(mixing="none")
    with pytest.raises(ValueError, match=r"\(CoCoMix\) predicts no concepts"):
        student(inserted="pause")
    with pytest.raises(ValueError, match="layer = 5 of a teacher with 4 blocks"):
        SteerableTeacher(NextToken(V, T, dim=16, layers=4, heads=2), SparseAutoencoder(16, C, 5), 5)
