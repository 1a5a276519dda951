"""AutoBLEU and fragility on a made-up space whose answers are known: its decoder says the known sentence that is nearest."""

from types import SimpleNamespace

import pytest
import torch

from zoo.data.segment import Cleaned, Sentencex
from zoo.data.sources import Files
from zoo.evals import autobleu
from zoo.evals.autobleu import AutoBLEU, bleu, grouped, round_trips, spread
from zoo.evals.fragility import CharacterNgrams, Encoder, FragilityScores, fragility, sentence_bleu
from zoo.nn.fragility import FragilityModel
from zoo.nn.normalizer import Normalizer

TEXTS = [
    f"The {what} number {i} of the {where}." for i in range(12) for what in ("ship", "house") for where in ("town", "old sea")
]


class Nearest:
    """Sentences at random points; those of the house lie close together, so little noise is enough to mix them up."""

    def __init__(self, texts):
        self.texts = list(texts)
        near = torch.tensor([0.2 if "house" in text else 1.0 for text in texts])[:, None]
        self.vectors = near * torch.randn(len(texts), 16, generator=torch.Generator().manual_seed(0)) + (near < 1) * 3

    def encode(self, texts, lang=None):
        return torch.stack([self.vectors[self.texts.index(text)] for text in texts])

    def decode(self, vectors, lang=None, beam=1):
        return [self.texts[i] for i in torch.cdist(vectors, self.vectors).argmin(1).tolist()]


@pytest.fixture(scope="module")
def space():
    return Nearest(TEXTS)


def test_noise_replaces_its_share_of_the_variance():
    vectors = torch.randn(20000, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([0.1, 1, 5]) + 2
    normalizer = Normalizer.fitted(vectors)
    moved = normalizer.noised(vectors, 0.36, torch.Generator().manual_seed(1))
    torch.testing.assert_close(moved.std(0), vectors.std(0), rtol=0.03, atol=0)
    for i in range(3):
        assert torch.corrcoef(torch.stack([moved[:, i], vectors[:, i]]))[0, 1].item() == pytest.approx(0.8, abs=0.01)
    torch.testing.assert_close(normalizer.noised(vectors, 0.0, torch.Generator()), vectors)


def test_scores_fall_with_noise_and_crowded_sentences_are_fragile(space):
    normalizer, reader = Normalizer.fitted(space.vectors), CharacterNgrams(TEXTS)
    found = fragility(space, normalizer, TEXTS, reader, levels=(0.0, 0.01, 0.1, 0.5, 0.9))
    assert found.bleu.shape == found.cosine.shape == (len(TEXTS), 5)
    assert (found.bleu[:, 0] == 1).all() and torch.allclose(found.cosine[:, 0], torch.ones(len(TEXTS)))
    for score in (found.bleu, found.cosine):
        means = score.mean(0).tolist()
        assert means == sorted(means, reverse=True) and means[-1] < 0.9 * means[0]
    crowded = torch.tensor(["house" in text for text in TEXTS])
    assert (found.still_bleu == 1).all() and found.kept("bleu") == pytest.approx(found.bleu.mean().item())
    assert found.kept("cosine", slice(3, 9)) == pytest.approx(found.cosine[3:9].mean().item(), rel=1e-5)
    fragile = found.of("bleu")
    assert fragile[crowded].mean() > fragile[~crowded].mean() and fragile.min() >= -1 and fragile.max() <= 0


def test_autobleu_by_length(space):
    measured = AutoBLEU(edges=(30, 33, 40), sentences=100, noise=(3.0,)).measured(space, TEXTS)
    assert [measured[f"test/{name}"] for name in ("autobleu_30", "exact_33", "autobleu_40", "autobleu")] == [
        pytest.approx(100)
    ] * 4
    assert measured["test/autobleu_33@3.0"] < 90
    counts = [sum(low < len(text) <= high for text in TEXTS) for low, high in ((0, 30), (30, 33), (33, 40))]
    assert [len(group) for group in grouped(TEXTS, (30, 33, 40))] == counts and min(counts) > 0
    assert spread(list("abcdef"), 3) == ["a", "c", "e"] and spread(["a"], 3) == ["a"]
    assert round_trips(space, TEXTS[:5]) == TEXTS[:5] and bleu(["a b c d e"], ["a b c d f"]) < 100


class Forgetful:
    """Says the first seven words of a sentence, whatever the noise."""

    def encode(self, texts, lang=None):
        self.texts = list(texts)
        return torch.zeros(len(texts), 2)

    def decode(self, vectors, lang=None, beam=1):
        return [" ".join(text.split()[:7]) for text in self.texts]


def test_autobleu_weighs_its_first_two_lengths_as_the_text_has_them():
    short = [f"Say {word} again now." for word in ("this", "that", "these")]
    long = ["One two three four five six seven eight.", "All of this is far too long to keep."]
    found = AutoBLEU(edges=(25, 45), sentences=2, noise=()).measured(Forgetful(), [*short, *long], prefix="")
    kept = ["One two three four five six seven", "All of this is far too long"]
    assert found["exact_25"] == 100 and found["exact_45"] == 0 and found["autobleu_25"] == pytest.approx(100)
    assert found["autobleu_45"] == bleu(kept, long) < 90
    assert found["autobleu"] == pytest.approx((3 * 100 + 2 * found["autobleu_45"]) / 5)  # three are, two of them were measured
    other = [text.upper() for text in short]
    assert AutoBLEU(edges=(25, 45), noise=()).measured(Forgetful(), short, "", other)["exact_25"] == 0


def test_autobleu_of_other_texts(tmp_path, monkeypatch):
    (tmp_path / "other.txt").write_text("It rains.\n\nOne two three four five six seven eight nine. The last one is left out.")
    corpus = SimpleNamespace(segmenter=Cleaned(Sentencex()), lang="eng_Latn")
    logged, data = {}, SimpleNamespace(corpus=corpus, tokenizer=None, sentences=lambda split: ["Say this again now."])
    module = SimpleNamespace(net=SimpleNamespace(encoder=None, decoder=None), log_dict=logged.update)
    monkeypatch.setattr(autobleu, "Space", lambda *parts: Forgetful())
    run = lambda files: AutoBLEU(
        noise=(), corpora={"other": Files(str(tmp_path / files), validation=0.0, test=0.0)}, most=2
    ).on_test_epoch_end(SimpleNamespace(datamodule=data), module)
    run("other.txt")
    cut = ["It rains.", "One two three four five six seven eight nine."]
    assert logged["test/autobleu_other"] == bleu(["It rains.", "One two three four five six seven"], cut)
    assert set(logged) == {"test/autobleu", "test/autobleu_30", "test/exact_30", "test/autobleu_other"}
    (tmp_path / "empty.txt").write_text("!!")
    with pytest.raises(ValueError, match="holds no sentence"):
        run("empty.txt")


def test_what_is_logged_of_the_spread_over_sentences(space):
    data = SimpleNamespace(sentences=lambda split: TEXTS)
    net = SimpleNamespace(normalizer=Normalizer.fitted(space.vectors))
    space.device = torch.device("cpu")
    levels = (0.1, 0.5)
    found = FragilityScores(edges=(60,), learnt=0, levels=levels, seed=0).measured(space, net, data)
    each = fragility(space, net.normalizer, TEXTS, CharacterNgrams(TEXTS), levels).bleu.mean(1)
    assert [found[f"bleu_q{i}"] for i in (1, 2, 3)] == pytest.approx(each.quantile(torch.tensor([0.25, 0.5, 0.75])).tolist())
    assert found["bleu_q1"] < found["bleu_q3"] and sum(found[f"bleu_bin{i}"] for i in range(1, 11)) == pytest.approx(100)
    assert found["bleu_bin10"] == pytest.approx(100 * float((each >= 0.9).float().mean()), abs=1e-4)


def test_sentence_bleu_is_one_for_the_same_text():
    assert sentence_bleu("Two words", "Two words") == pytest.approx(1) and sentence_bleu("a b c", "x y z") == 0


def test_ngrams_know_spelling_and_rareness():
    reader = CharacterNgrams(TEXTS)
    cosine = lambda a, b: float(reader([a])[0] @ reader([b])[0])
    assert cosine("The ship.", "the SHIP!") == pytest.approx(1) and cosine("ship", "xylophone") < 0.1
    assert cosine("the zebra runs", "the zebra sleeps") > cosine("the zebra runs", "the number sleeps")
    assert reader(["!?"]).abs().sum() == 0


def test_an_encoder_of_the_hub_takes_the_gpu_that_is_there(monkeypatch):
    class Model(torch.nn.Embedding):
        device = torch.device("cpu")

        def to(self, device):
            places.append(device)
            return self

        def forward(self, input_ids):
            return SimpleNamespace(last_hidden_state=super().forward(input_ids))

    class Ids(dict):
        to = lambda self, device: self

    places, model, asked = [], Model(256, 8), {"trust_remote_code": False}
    tokenize = lambda texts, **_: Ids(input_ids=torch.tensor([[ord(text[0])] for text in texts]))
    opens = lambda found: SimpleNamespace(from_pretrained=lambda name, **given: found if given == asked else None)
    monkeypatch.setattr("transformers.AutoModel", opens(model))
    monkeypatch.setattr("transformers.AutoTokenizer", opens(tokenize))
    for there, device in ((True, "auto"), (False, "auto"), (True, "cpu")):
        monkeypatch.setattr("torch.cuda.is_available", lambda there=there: there)
        found = Encoder("some/model", device=device, batch=2)(["a", "b", "c"])
        torch.testing.assert_close(found, torch.nn.functional.normalize(model.weight[[97, 98, 99]]).detach())
    assert places == ["cuda", "cpu", "cpu"]


def test_the_model_learns_a_function_of_the_vector():
    draw = torch.Generator().manual_seed(0)
    vectors = torch.randn(1200, 8, generator=draw)
    targets = -torch.sigmoid(vectors[:, 0] + vectors[:, 1].abs())
    torch.manual_seed(0)
    model = FragilityModel(8, 32)
    model.fit(vectors[:600], targets[:600], steps=300)
    assert model.told(vectors[600:], targets[600:]) > 0.8
    model = FragilityModel(8, 32)
    model.fit(vectors[:600], targets[torch.randperm(600, generator=draw)], steps=300)
    assert abs(model.told(vectors[600:], targets[600:])) < 0.2  # it stops before it learns noise by heart
    assert model.told(vectors, torch.full((1200,), -0.3)) is None
    with pytest.raises(ValueError, match="too few"):
        FragilityModel(8, 32).fit(vectors[:10], targets[:10])
