"""`zoo roundtrip`: sentences beside what a space makes of them."""

import json

import pytest
import torch

from zoo.__main__ import main
from zoo.data.crawl import CommonCrawlSentences
from zoo.data.segment import Cleaned, Sentencex
from zoo.evals.autobleu import bleu
from zoo.sonar import Space, SpaceEncoder
from zoo.sonar.roundtrip import _bleu


def test_sentences_stand_beside_what_comes_back(folder, tiny, tmp_path, capsys):
    texts = tiny.texts[:6]
    (tmp_path / "text.txt").write_text("\n".join(texts[2:]))
    main(["roundtrip", str(folder), "--text", texts[0], "--text", texts[1], "--file", str(tmp_path / "text.txt")])
    lines = capsys.readouterr().out.splitlines()
    space = Space.opened(folder)
    back = space.decode(space.encode(texts))
    assert lines[:-1:2] == texts
    assert lines[1:-1:2] == [f"  {'=' if a == b else '→'} {b}" for a, b in zip(texts, back)]
    same = sum(a == b for a, b in zip(texts, back))
    assert lines[-1] == f"— {same} of 6 come back as they were; AutoBLEU {bleu(back, texts):.1f}"


def test_texts_of_a_word_or_two_are_judged_by_what_they_have():
    short, long = ["Receive Care", "More information"], ["A man went to the old town.", "The sea was calm and grey."]
    assert bleu(short, short) == 0 and _bleu(short, short) == pytest.approx(100) and _bleu(short, long[:2]) < 50
    assert _bleu(long, long[::-1]) == bleu(long, long[::-1]) and _bleu(long[::-1] + long, long + long) == bleu(
        long[::-1] + long, long + long
    )


@pytest.fixture
def stored(folder, tiny, tmp_path):
    """Makes a store of the first texts, as documents of three; returns its folder."""

    def make(encoder, **given):
        rows = [{"text": "\n".join(tiny.texts[i : i + 3])} for i in range(0, 12, 3)]
        (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        given = {"source": "files", "files": [f"{tmp_path}/a.jsonl"], "share": 0, "segmenter": Cleaned(Sentencex())} | given
        data = CommonCrawlSentences(encoder=encoder, root=str(tmp_path / "data"), **given)
        data.prepare_data()
        return str(data.folder)

    return make


@pytest.mark.filterwarnings("ignore:.*reached the limit of tokens")
def test_vectors_of_a_store_are_decoded(folder, tiny, stored, capsys):
    store = stored(SpaceEncoder(str(folder), "cpu"))
    capsys.readouterr()
    main(["roundtrip", str(folder), "--store", store, "--first", "7"])
    lines, texts = capsys.readouterr().out.splitlines(), tiny.texts[:7]
    space = Space.opened(folder)
    back = space.decode(space.encode(texts).half().float())
    assert lines[:-1:2] == texts and lines[1:-1:2] == [f"  {'=' if a == b else '→'} {b}" for a, b in zip(texts, back)]
    assert lines[-1].endswith(f" of 7 come back as they were; AutoBLEU {bleu(back, texts):.1f}")
    main(["roundtrip", str(folder), "--store", store, "--beam", "1", "--noise", "3"])
    assert capsys.readouterr().out.splitlines()[-1].split(";")[0].endswith(" of 12 come back as they were")
    other = stored(SpaceEncoder(str(folder), "cpu", lang="fra_Latn"), lang="hin_Deva")
    capsys.readouterr()
    main(["roundtrip", str(folder), "--store", other, "--into", "fra_Latn"])
    assert capsys.readouterr().out.splitlines()[0] == texts[0]


def test_a_store_of_another_space_is_refused(folder, stored, tmp_path):
    class Other:
        def __init__(self, width):
            self.width, self.fingerprint = width, f"other {width}"

        def encode(self, texts, lang):
            return torch.zeros(len(texts), self.width)

    narrow, same = stored(Other(4)), stored(Other(32))
    for words, why in (
        (["--store", narrow], "has vectors of 4 numbers, and this space's have 32: give the space that it was encoded with"),
        (["--store", same], "was encoded by another space than this: give the space that made it"),
        (["--store", same, "--text", "One."], "without --text and --file"),
        (["--store", same, "--first", "0"], "give --first 1 or more"),
        (["--store", str(tmp_path)], "there is no sentence store in"),
    ):
        with pytest.raises(SystemExit, match=why):
            main(["roundtrip", str(folder), *words])


def test_languages_and_noise(folder, tiny, capsys):
    said = []
    for more in ([], ["--into", "fra_Latn"], ["--noise", "3"], ["--noise", "3", "--seed", "1"]):
        main(["roundtrip", str(folder), "--text", "\n".join(tiny.texts[:8]), "--beam", "1", *more])
        said.append(capsys.readouterr().out)
    assert len(set(said)) == 4
    for words, why in ((["--text", " "], "no sentence to encode"), (["--text", "One.", "--noise", "1"], "two or more")):
        with pytest.raises(SystemExit, match=why):
            main(["roundtrip", str(folder), *words])
