"""Names of languages, and a rule that says whether a text is in one: by its script, or by the words that are frequent in it.

Languages are named as SONAR and FLORES-200 do ("eng_Latn"); the ISO 639 part alone, of two or three letters, is understood too.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from functools import cache

LANG = "eng_Latn"
# ISO 639-3 and 639-1; a macro-language with one written member has its code
SHORT = dict(zip(*[iter("""
    afr af   als sq   amh am   ara ar   arb ar   asm as   aze az   azj az   bak ba   bel be   ben bn   bod bo   bos bs   bul
    bg   cat ca   ces cs   cym cy   dan da   deu de   dzo dz   ekk et   ell el   eng en   epo eo   est et   eus eu   ewe ee
    fao fo   fij fj   fin fi   fra fr   gaz om   gla gd   gle ga   glg gl   grn gn   guj gu   hat ht   hau ha   heb he   hin
    hi   hrv hr   hun hu   hye hy   ibo ig   ind id   isl is   ita it   jav jv   jpn ja   kan kn   kas ks   kat ka   kaz kk
    khk mn   khm km   kik ki   kin rw   kir ky   kon kg   kor ko   lao lo   lim li   lin ln   lit lt   ltz lb   lug lg   lvs
    lv   mal ml   mar mr   mkd mk   mlt mt   mri mi   msa ms   mya my   nld nl   nno nn   nob nb   npi ne   nya ny   oci oc
    orm om   ory or   pan pa   pbt ps   pes fa   plt mg   pol pl   por pt   pus ps   quy qu   ron ro   run rn   rus ru   sag
    sg   san sa   sin si   slk sk   slv sl   smo sm   sna sn   snd sd   som so   sot st   spa es   sqi sq   srd sc   srp sr
    ssw ss   sun su   swe sv   swh sw   tam ta   tat tt   tel te   tgk tg   tgl tl   tha th   tir ti   tsn tn   tso ts   tuk
    tk   tur tr   twi tw   uig ug   ukr uk   urd ur   uzn uz   vie vi   wol wo   xho xh   ydd yi   yor yo   yue zh   zho zh
    zsm ms   zul zu   fas fa   swa sw   uzb uz   nep ne   mon mn   mlg mg   lav lv   fil tl   prs fa   yid yi   ori or   kur ku
    kmr ku   que qu   aym ay   ayr ay   ful ff   fuv ff   kau kr   knc kr   din dik   nor no   hbs sh   bih bh   aka ak
""".split())] * 2))  # fmt: skip
MEMBERS = {"ak": "fat tw", "bh": "bho mag mai", "no": "nb nn", "sh": "bs hr sr"}  # of a macro-language, with several
UNSPACED = frozenset("bo dz ja km lo my th zh".split())  # written without spaces between words

# ISO 639 -> justext's stop lists; those of close relatives compete, so a text must be likelier in the one asked for
LISTS = {
    "en": "English Simple_English",
    "sr": "Serbian Serbo_Croatian", "hr": "Croatian Serbo_Croatian", "bs": "Bosnian Serbo_Croatian",
    "be": "Belarusian Belarusian_Taraskievica",
} | dict(zip(*[iter("""
    af Afrikaans an Aragonese ar Arabic ast Asturian az Azerbaijani bg Bulgarian bn Bengali br Breton ca Catalan ceb Cebuano
    cs Czech cv Chuvash cy Welsh da Danish de German el Greek eo Esperanto es Spanish et Estonian eu Basque fa Persian fi Finnish
    fr French fy West_Frisian ga Irish gl Galician gu Gujarati he Hebrew hi Hindi ht Haitian hu Hungarian hy Armenian
    id Indonesian ig Igbo is Icelandic it Italian jv Javanese ka Georgian kk Kazakh kn Kannada ko Korean ku Kurdish
    ky Kyrgyz la Latin lb Luxembourgish lmo Lombard lt Lithuanian lv Latvian mk Macedonian ml Malayalam mr Marathi ms Malay
    mt Maltese nb Norwegian_Bokmal ne Nepali nl Dutch nn Norwegian_Nynorsk no Norwegian_Bokmal oc Occitan pl Polish
    pt Portuguese qu Quechua ro Romanian ru Russian scn Sicilian sk Slovak sl Slovenian sq Albanian su Sundanese sv Swedish
    sw Swahili ta Tamil te Telugu tk Turkmen tl Tagalog tr Turkish uk Ukrainian ur Urdu uz Uzbek vi Vietnamese yo Yoruba
""".split())] * 2))  # fmt: skip
SCRIPTS = {  # languages told by letters that hardly any other language writes
    "am": "ሀ-፿", "bo": "ༀ-࿿", "dv": "ހ-޿", "dz": "ༀ-࿿", "ja": "ぁ-ヿ", "km": "ក-៿", "lo": "ກ-໿", "my": "က-႟", "or": "ଁ-୿",
    "pa": "ਁ-੿", "sat": "᱐-᱿", "si": "ඁ-෿", "th": "ก-๿", "ti": "ሀ-፿", "zh": "一-鿿",
}  # fmt: skip
VOCABULARY = 100_000  # words that a language is taken to share its other half among
WORD = re.compile(r"[^\s\d!-/:-@\[-`{-~।॥،؛؟«»“”„‘’…–—、。！？：；（）]+")
LIKELY = 0.7  # of `likelihoods`: texts of NTREX-128 in a listed language are above 1 with few exceptions


def short(lang: str) -> str:
    """The two-letter code of a language where it has one: "eng_Latn", "eng" and "en-US" are "en"."""
    code = re.split("[-_]", lang)[0].lower()
    return SHORT.get(code, code)


def told(lang: str) -> bool:
    """Whether `written_in` has a rule for a language."""
    return short(lang) in LISTS or short(lang) in SCRIPTS


def spoken(text: str, lang: str, identified: str | None) -> bool:
    """Whether a text is in a language: by what somebody `identified` it as, in any code for it; where that is one of MEMBERS'
    macro-languages, or None, by `written_in`. Without a rule a macro-language counts as the language, and None does not."""
    code, said = short(lang), short(identified or "")
    if identified and code not in MEMBERS.get(said, "").split():
        return code == said or said in MEMBERS.get(code, "").split()
    return written_in(text, lang) if told(lang) else bool(identified)


def written_in(text: str, lang: str) -> bool:
    """Whether a text is likely to be in a language: its script is (half of the letters; kana for Japanese, Han without kana for
    Chinese), or the stop lists of justext, read as the likelier half of a language's words, speak for it and for no other.

    Names, tables and texts of a few words say little and are refused. ValueError for a language without a rule (`told`).
    """
    code = short(lang)
    if code in SCRIPTS:
        letters = [letter for letter in text[:20_000] if letter.isalpha()]
        inside = len(re.findall(f"[{SCRIPTS[code]}]", "".join(letters)))
        kana = len(re.findall(f"[{SCRIPTS['ja']}]", "".join(letters)))
        if code == "zh" and kana * 20 > len(letters):
            return False
        return bool(letters) and inside > len(letters) * (0.1 if code == "ja" else 0.5)
    if code not in LISTS:
        raise ValueError(f"there is no rule for texts in {lang!r}: give None, which keeps all languages, and filter beforehand")
    if len(re.findall(f"[{''.join(SCRIPTS.values())}]", text[:20_000])) * 3 > len(text[:20_000]):
        return False
    found = likelihoods(text)
    mine = max((found.get(name, 0.0) for name in LISTS[code].split()), default=0.0)
    return mine >= LIKELY and mine >= max(found.values())


def likelihoods(text: str, words: int = 1000) -> Mapping[str, float]:
    """Stop list -> log-likelihood ratio per word (nats) of the first words of a text: half of a language's words are taken to
    fall on its list, evenly, and half on the rest of a vocabulary."""
    lists, weights = _stop_lists()
    read = WORD.findall(text[: 20 * words].lower())[:words]
    found: Counter = Counter()
    for word in read:
        for name in lists.get(word, ()):
            found[name] += weights[name]
    return {name: score / len(read) for name, score in found.items()}


@cache
def _stop_lists() -> tuple[dict[str, list[str]], dict[str, float]]:
    """word -> lists that hold it; list -> weight of one of its words."""
    try:
        import justext
    except ModuleNotFoundError:
        raise ImportError("justext is not installed: install the extra `sentences` (pip install 'zoo[sentences]')") from None
    lists, weights = defaultdict(list), {}
    for name in sorted({name for names in LISTS.values() for name in names.split()}):
        words = justext.get_stoplist(name)
        weights[name] = math.log(VOCABULARY / len(words))
        for word in words:
            lists[word].append(name)
    return dict(lists), weights
