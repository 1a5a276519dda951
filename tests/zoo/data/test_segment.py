"""Segmenters: nothing is lost, caps hold, the most probable boundaries are cut at, and what is missing is named."""

import pickle
import random
import textwrap
from types import SimpleNamespace

import numpy as np
import pytest

from zoo.data import segment
from zoo.data.language import LISTS, SCRIPTS, short, told, written_in
from zoo.data.segment import (
    AFTER_MODELS,
    AFTER_RULES,
    Capped,
    Cleaned,
    SaT,
    Sentencex,
    SpaCy,
    most_probable,
    pack,
    spans,
    unwrapped,
)

MIXED = (
    "Dr. Smith paid 3.50. He left!  你好。我是学生，今天很好。 नमस्ते। आप कैसे हैं? สวัสดีครับผมชื่อสมชาย\n\nقال: نعم؛ لا. ខ្ញុំស្រឡាញ់។ "
    "ይህ ነው። བོད་སྐད་ཡིན། Ça va… oui;\tnon: peut-être, \u200bགཞན། 🙂 e\u0301e\u0301 42."
)


class Rules:
    """Cuts after a full stop and a space."""

    fingerprint = "rules"

    def __call__(self, text, lang="eng_Latn"):
        return [piece.strip() for piece in text.replace(". ", ".\0").split("\0") if piece.strip()]


class Model:
    """Probabilities that are a function of the text."""

    fingerprint, threshold = "model", 0.98

    def probabilities(self, text, lang="eng_Latn"):
        return np.random.default_rng(sum(map(ord, text))).random(len(text))

    def __call__(self, text, lang="eng_Latn"):
        return segment.cut(text, self.probabilities(text) > self.threshold)


def bare(text):
    return "".join(text.split())


def shuffled(seed, length):
    rng = random.Random(seed)
    return "".join(rng.choice(MIXED) for _ in range(length))


@pytest.mark.parametrize("cap", [8, 21, 200])
@pytest.mark.parametrize("inner", [Rules(), Model()])
def test_a_cap_holds_and_loses_nothing(inner, cap):
    capped = Capped(inner, cap)
    for seed in range(30):
        text = shuffled(seed, seed * 17)
        pieces = capped(text)
        assert bare("".join(pieces)) == bare(text) == bare("".join(inner(text)))
        assert all(piece == piece.strip() and 0 < len(piece) <= cap for piece in pieces)
    assert capped(" \n ") == capped("") == []
    assert pickle.loads(pickle.dumps(capped))(MIXED) == capped(MIXED)


def test_long_sentences_are_cut_at_their_most_probable_boundaries():
    class Given(Model):
        threshold = 0.9

        def probabilities(self, text, lang="eng_Latn"):
            chances = np.zeros(len(text))
            chances[[9, 24, 29, 44]] = 0.5, 0.3, 0.2, 0.95
            return chances

    text = "".join("abcdefghij"[i % 10] for i in range(60))
    # 45 characters over the threshold, 45 / 20 + 1 = 3 pieces at its two most probable places; 15 characters stay whole
    assert list(map(len, Capped(Given(), 20)(text))) == [10, 15, 20, 15]
    # 45 / 30 rounds to 2: 3 pieces; 60 / 25 + 1 = 3 where the threshold of the cap lets 44 pass
    assert list(map(len, Capped(Given(), 30)(text))) == [10, 15, 20, 15]
    assert list(map(len, Capped(Given(), 50, threshold=0.99)(text))) == [45, 15]
    assert list(map(len, Given()(text))) == [45, 15]


def test_most_probable_places_are_those_of_a_full_search():
    for seed in range(20):
        text = shuffled(seed, 40).strip()
        chances = np.random.default_rng(seed).random(len(text))
        best = []
        for at, character in enumerate(text[:-1]):
            stop = at + 1
            while text[stop].isspace():
                stop += 1
            if not character.isspace() and stop < len(text):
                best.append((max(chances[at:stop]), at))
        for count in (0, 1, 5, 100):
            wanted = sorted(at for _, at in sorted(best, reverse=True)[:count])
            assert np.flatnonzero(most_probable(text, chances, count)).tolist() == wanted


@pytest.mark.parametrize(
    "text, cap, order, pieces",
    [
        ("One two. Three four. Five six seven.", 21, AFTER_RULES, ["One two. Three four.", "Five six seven."]),
        ("It cost 3.50 in all, and was good", 20, AFTER_RULES, ["It cost 3.50 in all,", "and was good"]),
        ("It cost 3.50 in all and was good", 15, AFTER_RULES, ["It cost 3.50 in", "all and was", "good"]),
        ("No! said he, no. And left", 14, AFTER_MODELS, ["No!", "said he, no.", "And left"]),
        ("No! said he, no. And left", 16, AFTER_RULES, ["No! said he, no.", "And left"]),
        ("我是学生，今天很好。他不是学生", 10, AFTER_RULES, ["我是学生，今天很好。", "他不是学生"]),
        ("aaaae\u0301bcdefgh", 5, AFTER_RULES, ["aaaa", "e\u0301bcd", "efgh"]),
        ("abc" * 9, 9, [], ["abcabcabc"] * 3),
    ],
)
def test_greedy_packing_by_separators_in_order(text, cap, order, pieces):
    assert pack(text, cap, order) == pieces


def test_spans_leave_white_space_out():
    text = "  a b.\n c  "
    assert spans(text, np.array([character in ".a" for character in text])) == [(2, 3), (4, 6), (8, 9)]


def test_the_clean_up_is_what_it_says():
    text = "Hi 🙂 there 👨‍👩‍👧!\n* * *\nTwo  \t spaces. 12. ३. 1️⃣ ok ✔️ नमस्ते क्‍ष"
    assert Cleaned(Rules())(text) == ["Hi there !", "Two spaces.", "1 ok नमस्ते क्‍ष"]
    assert Cleaned(Rules(), lines=False)("a\nb. c") == ["a b.", "c"]
    assert Cleaned(Capped(Rules(), 8))("🙂" * 50 + "abc") == ["abc"]
    assert Cleaned(Rules())("Great👍🏽👍Thanks for coming☺See 👋you (🤷)👋!🎉") == ["Great Thanks for coming See you ()!"]


NOVEL = [
    "The man said that he would not be there when they came, and it was all that she had to say about him. It was late, and the "
    'house was still; nobody had seen him go. "He left," she said again, "as he came."',
    "There was a well-known path behind the garden, which nobody but Mrs. Bennet had ever taken in the rain, and so it was "
    "there that they looked for him first. They found a hat, a letter and a half-eaten pear.",
]


@pytest.mark.parametrize("indent", ["", "    "])
def test_hard_wrapped_paragraphs_are_joined(indent):
    def wrapped(paragraph, width):
        return textwrap.fill(paragraph, width, initial_indent=indent)

    for width in (56, 60, 65, 72, 80):
        book = "\n\n".join(["CHAPTER I", *(wrapped(each, width) for each in NOVEL), "CHAPTER II", wrapped(NOVEL[0], width)])
        wanted = ["CHAPTER I", *NOVEL, "CHAPTER II", NOVEL[0]]
        assert [line for line in unwrapped(book).splitlines() if line] == wanted
        assert Cleaned(Rules())(book) == Cleaned(Rules())("\n".join(wanted))
    # without blank lines, a short line ends a paragraph, and so does a heading
    book = "\r\n".join(["CHAPTER I", textwrap.fill(NOVEL[1] + " And a leaf.", 60).replace("\n", "\r\n"), "CHAPTER II"])
    assert unwrapped(book).splitlines() == ["CHAPTER I", NOVEL[1] + " And a leaf.", "CHAPTER II"]


WEB = """
Skip to content
Menu
iPhone and iPad
about us
Our twelve favourite walks along the coast of Northern Wales
Seven things that nobody ever told you about your new kitchen
How the town of Escopete was given back to the people of it
Why we will not be there when they come to look at the house
The man said that he would not be there when they came, and it was all that she had to say about him. It was late, and so on.
read more
Copyright 2024 by the owners of this page. All rights reserved.
""".strip()
VERSE = """
Of Man's first disobedience, and the fruit of that forbidden tree
Whose mortal taste brought death into the World, and all our woe,
With loss of Eden, till one greater Man restore us, and regain
The blissful seat, sing, Heavenly Muse, that, on the secret top
Of Oreb, or of Sinai, didst inspire that shepherd who first taught

And chiefly Thou, O Spirit, that dost prefer before all temples
The upright heart and pure, instruct me, for Thou know'st; Thou
""".strip()
LIST = "\n".join(
    f"- {['one more of', 'two further'][i % 2]} the things that you should bring along, number {i}" for i in range(20)
)
CHINESE = "\n".join(["他说他们来的时候他不会在那里，这就是她要说的全部。" * 3] * 9)
LONG = "\n".join(NOVEL * 3 + ["and so on, as it has been said of him by those who knew him well"] * 9)


@pytest.mark.parametrize("text", [WEB, VERSE, LIST, CHINESE, LONG, "", "\n", "one line of text", "two\nlines"])
def test_lines_that_are_items_are_not_joined(text):
    assert unwrapped(text) == text


def test_another_version_of_the_rules_has_another_fingerprint(monkeypatch):
    before = [Sentencex().fingerprint, SpaCy().fingerprint]
    monkeypatch.setattr("zoo.data.segment.installed", lambda name: "another")
    assert all(each.fingerprint != old for each, old in zip((Sentencex(), SpaCy()), before))


def test_fingerprints_say_what_decides_the_pieces():
    inner = Model()
    made = [inner, Rules(), Capped(inner), Capped(inner, 100), Capped(inner, threshold=0.5), Capped(inner, separators=["x"])]
    made += [Capped(Rules()), Cleaned(inner), Cleaned(inner, lines=False), Cleaned(Capped(inner)), Sentencex(), SpaCy()]
    made += [SaT(), SaT("sat-6l"), SaT(threshold=0.01)]
    assert len({each.fingerprint for each in made}) == len(made)
    assert SaT(device="cuda").fingerprint == SaT().fingerprint == pickle.loads(pickle.dumps(SaT())).fingerprint


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="Rules has no probabilities, so a threshold means nothing"):
        Capped(Rules(), threshold=0.5)
    with pytest.raises(ValueError, match="cap of 3 characters"):
        Capped(Rules(), 3)
    with pytest.raises(ImportError, match=r"no_such_package is not installed: install the extra `sentences`"):
        segment.package("no_such_package")


def test_sat_through_wtpsplit(monkeypatch, tmp_path):
    """A stand-in for the package: what is handed to it, and what becomes of its probabilities and of its errors."""

    class Fake:
        def __init__(self, model, tokenizer):
            if model == "sat-0l":
                raise OSError("segment-any-text/sat-0l is not a local folder\nand more lines")
            made.append((model, tokenizer))

        eval = lambda self: self
        to = lambda self, device: places.append(device) or self

        def predict_proba(self, text, stride, block_size):
            return np.array([0.9 if character in "。.\n" else 0.1 for character in text])

    made, places = [], []
    monkeypatch.setattr(segment, "package", lambda name: SimpleNamespace(SaT=Fake))
    (tmp_path / "tokenizer.json").write_text("{}")
    for model in ("sat-3l", str(tmp_path)):
        sat = SaT(model)
        assert sat("One. Two\n三。四") == ["One.", "Two", "三。", "四"] and sat(" ") == []
        assert pickle.loads(pickle.dumps(sat))._sat is None
    assert made == [("sat-3l", "facebookAI/xlm-roberta-base"), (str(tmp_path), str(tmp_path))]
    for there, device in ((True, "auto"), (False, "auto"), (True, "cpu"), (True, "cuda:1")):
        monkeypatch.setattr("torch.cuda.is_available", lambda there=there: there)
        SaT("sat-3l", device=device)("One. Two")
    assert places[2:] == ["cuda", "cpu", "cpu", "cuda:1"]
    assert SaT(str(tmp_path)).fingerprint != SaT().fingerprint
    with pytest.raises(RuntimeError, match=r"SaT's weights 'sat-0l'.*not a local folder\): check the name.*Boundaries"):
        SaT("sat-0l")("a b")


@pytest.mark.parametrize("kind, name", [(Sentencex, "sentencex"), (SpaCy, "spacy")])
def test_any_script_passes_through_the_libraries(kind, name):
    pytest.importorskip(name, reason=f"{name} is in the extra `sentences`")
    made = kind()
    for lang in ("eng_Latn", "zho_Hans", "jpn", "tha_Thai", "kor_Hang", "vie", "xx", "no-such"):
        for text in (MIXED, shuffled(0, 300), "", " \n", "\ud800 x"):
            if name != "spacy" or "\ud800" not in text:
                assert bare("".join(made(text.replace("\ud800", "?"), lang))) == bare(text.replace("\ud800", "?"))
    assert made("This is one. This is two.", "eng_Latn") == ["This is one.", "This is two."]
    assert pickle.loads(pickle.dumps(made))("今天好。我走。", "zho_Hans") == ["今天好。", "我走。"]


def test_names_of_languages():
    assert [short(name) for name in ("eng_Latn", "eng", "en-US", "arb_Arab", "npi_Deva", "zho_Hant", "tpi_Latn")] == [
        "en", "en", "en", "ar", "ne", "zh", "tpi"
    ]  # fmt: skip
    for pair in ("yid ydd", "ori ory", "kur kmr", "que quy", "aym ayr", "nep npi", "lav lvs", "zho zho_Hant"):
        assert len(set(map(short, pair.split()))) == 1
    assert all(told(code) for code in [*LISTS, *SCRIPTS, "eng_Latn", "deu"]) and not told("xho_Latn")


TEXTS = {
    "eng_Latn": "The man said that he would not be there when they came, and it was all that she had to say about him.",
    "deu_Latn": "Der Mann sagte, dass er nicht da sein würde, wenn sie kommen, und es war alles, was sie über ihn zu sagen hat.",
    "fra_Latn": "Il a dit que ce n'était pas possible et qu'il ne serait pas avec eux dans la maison pour la nuit.",
    "rus_Cyrl": "Он сказал, что его не будет дома, когда они придут, и это было всё, что она могла о нём сказать.",
    "zho_Hans": "他说他们来的时候他不会在那里，这就是她要说的全部。",
    "jpn_Jpan": "彼は彼らが来たときにそこにいないと言った。",
    "tha_Thai": "เขาบอกว่าเขาจะไม่อยู่ที่นั่นเมื่อพวกเขามา",
}


def test_texts_are_told_apart():
    pytest.importorskip("justext", reason="justext is in the extra `sentences`")
    for lang, text in TEXTS.items():
        assert [each for each in TEXTS if written_in(text, each)] == [lang]
    assert not written_in("", "eng_Latn") and not written_in("12 34 --", "jpn_Jpan")
    assert not written_in("Lorem ipsum dolor sit amet Smith Jones 1984", "eng_Latn")
    with pytest.raises(ValueError, match="no rule for texts in 'xho_Latn'"):
        written_in("molo", "xho_Latn")
