"""Sentences of many scripts through every segmenter, as it is, capped and cleaned: nothing but white space is lost."""

import random
from types import SimpleNamespace

import numpy as np
import pytest

from zoo.data import segment
from zoo.data.boundaries import Boundaries, train
from zoo.data.segment import Capped, Cleaned, Filtered, SaT, Sentencex, SpaCy

SCRIPTS = {  # two sentences of each, with the marks that end them there
    "eng_Latn": "The sea was calm this morning. Did the ship, which had sailed at 3.50, ever come back?",
    "deu_Latn": "Größe ist nicht alles, z. B. beim Äußern. „Wie heißt du?“, fragte er.",
    "rus_Cyrl": "Сегодня утром море было спокойно. Куда же, спрашивается, ушёл корабль?",
    "ell_Grek": "Η θάλασσα ήταν ήρεμη σήμερα το πρωί. Πού πήγε το πλοίο;",
    "arb_Arab": "كان البحر هادئًا هذا الصباح. إلى أين ذهبت السفينة؟ لا أحد يعلم؛ حقًا.",
    "urd_Arab": "آج صبح سمندر پرسکون تھا۔ جہاز کہاں گیا؟",
    "heb_Hebr": "הים היה שקט הבוקר. לאן הפליגה הספינה, ומתי תשוב?",
    "hin_Deva": "आज सुबह समुद्र शांत था। जहाज़ कहाँ गया? किसी को पता नहीं।",
    "ben_Beng": "আজ সকালে সমুদ্র শান্ত ছিল। জাহাজটি কোথায় গেল?",
    "tam_Taml": "இன்று காலை கடல் அமைதியாக இருந்தது. கப்பல் எங்கே சென்றது?",
    "guj_Gujr": "આજે સવારે દરિયો શાંત હતો. વહાણ ક્યાં ગયું?",
    "pan_Guru": "ਅੱਜ ਸਵੇਰੇ ਸਮੁੰਦਰ ਸ਼ਾਂਤ ਸੀ। ਜਹਾਜ਼ ਕਿੱਥੇ ਗਿਆ?",
    "tel_Telu": "ఈ ఉదయం సముద్రం ప్రశాంతంగా ఉంది. ఓడ ఎక్కడికి వెళ్ళింది?",
    "kan_Knda": "ಇಂದು ಬೆಳಿಗ್ಗೆ ಸಮುದ್ರ ಶಾಂತವಾಗಿತ್ತು. ಹಡಗು ಎಲ್ಲಿಗೆ ಹೋಯಿತು?",
    "mal_Mlym": "ഇന്ന് രാവിലെ കടൽ ശാന്തമായിരുന്നു. കപ്പൽ എവിടെ പോയി?",
    "div_Thaa": "މިއަދު ހެނދުނު ކަނޑު މަޑުމައިތިރިއެވެ. ބޯޓު ދިޔައީ ކޮންތާކަށްހެއްޔެވެ؟",
    "tha_Thai": "เช้านี้ทะเลสงบมาก เรือลำนั้นแล่นไปที่ไหน ไม่มีใครรู้เลย",
    "khm_Khmr": "សមុទ្រស្ងប់នៅព្រឹកនេះ។ តើកប៉ាល់ទៅណា៕",
    "mya_Mymr": "ဒီမနက် ပင်လယ် ငြိမ်သက်နေတယ်။ သင်္ဘော ဘယ်သွားသလဲ။",
    "zho_Hans": "今天早上大海很平静。那艘船，三点半开走的，还会回来吗？没有人知道！",
    "jpn_Jpan": "今朝の海は静かだった。あの船は、どこへ行ったのだろうか？誰も知らない。",
    "kor_Hang": "오늘 아침 바다는 고요했다. 그 배는 어디로 갔을까? 아무도 모른다.",
    "amh_Ethi": "ባሕሩ ዛሬ ጠዋት ጸጥ ያለ ነበር። መርከቡ ወዴት ሄደ፧",
    "kat_Geor": "ზღვა ამ დილით მშვიდი იყო. სად წავიდა გემი?",
    "hye_Armn": "Ծովը այս առավոտ հանգիստ էր։ Ո՞ւր գնաց նավը։",
    "bod_Tibt": "དེ་རིང་ཞོགས་པ་རྒྱ་མཚོ་ཞི་འཇགས་རེད། གྲུ་གཟིངས་གང་དུ་ཕྱིན་པ་རེད།",
    "sin_Sinh": "අද උදේ මුහුද සන්සුන් විය. නැව කොහේද ගියේ?",
    "lao_Laoo": "ເຊົ້ານີ້ທະເລງຽບສະຫງົບ ເຮືອໄປໃສ",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Every segmenter, by its name; where the package of one is not here, a sentence."""
    folder = tmp_path_factory.mktemp("scripts") / "boundaries"
    rng = random.Random(0)
    draw = lambda: " ".join(rng.choices(["the", "sea", "海", "море"], k=rng.randint(2, 7))) + rng.choice(".。")
    train([[draw() for _ in range(5)] for _ in range(60)], folder, "a test's", steps=8, batch=2, channels=8)
    sat = SaT("fake", threshold=0.6)
    sat._sat = SimpleNamespace(  # a stand-in for the network: any place may end a sentence
        predict_proba=lambda text, **_: np.random.default_rng(sum(map(ord, text))).random(len(text))
    )
    return {"sentencex": Sentencex(), "spacy": SpaCy(), "boundaries": Boundaries(str(folder), 0.02), "sat": sat}


def bare(text):
    return "".join(text.split())


@pytest.mark.parametrize("name", ["sentencex", "spacy", "boundaries", "sat"])
def test_every_script_passes(made, name):
    if name in ("sentencex", "spacy"):
        pytest.importorskip(name, reason=f"{name} is in the extra `sentences`")
    plain = made[name]
    for lang, text in SCRIPTS.items():
        text = f"{text}\n\n {text}"
        wanted = bare(text)
        assert bare("".join(plain(text, lang))) == wanted, lang
        for cap in (8, 25, 200):
            pieces = Capped(plain, cap)(text, lang)
            assert bare("".join(pieces)) == wanted and all(0 < len(piece) <= cap for piece in pieces), (lang, cap)
        for inner in (plain, Capped(plain, 25)):
            pieces = Cleaned(inner)(text, lang)  # which leaves out sentences without a letter alone
            assert list(filter(str.isalpha, "".join(pieces))) == list(filter(str.isalpha, text)), lang
            assert all(piece == " ".join(piece.split()) for piece in pieces)
        everything = Filtered(plain)(text, lang)
        assert everything == plain(text, lang)


def test_sentences_and_documents_are_left_out_by_their_length():
    stops = lambda text, lang: [f"{piece}." for piece in text.split(".") if piece]
    stops.fingerprint = "stops"
    text = "a.bb.ccc.dddd."
    assert Filtered(stops)(text) == ["a.", "bb.", "ccc.", "dddd."]
    assert Filtered(stops, shortest=3, longest=4)(text) == ["bb.", "ccc."]
    assert Filtered(stops, shortest=3, longest=4, fewest=2)(text) == ["bb.", "ccc."]
    assert Filtered(stops, shortest=3, longest=4, fewest=3)(text) == []
    made = [Filtered(stops), Filtered(stops, 3), Filtered(stops, 0, 3), Filtered(stops, fewest=3)]
    assert len({each.fingerprint for each in [*made, stops]}) == 5
    with pytest.raises(ValueError, match="no sentence has 5 characters at least and 4 at most"):
        Filtered(stops, 5, 4)


def test_sat_keeps_short_texts_whole(made):
    short, threshold = SaT("fake", threshold=0.0, shortest=10), SaT("fake", threshold=0.0)
    short._sat = threshold._sat = made["sat"]._sat
    assert short(" a b c d e ") == ["a b c d e"] == Capped(short, 100)("a b c d e") and len(threshold("a b c d e")) == 5
    assert len(short("a b c d e f")) == 6
    assert SaT("fake", shortest=10).fingerprint != SaT("fake").fingerprint == segment.digest("sat", "fake", 0.2, None)
