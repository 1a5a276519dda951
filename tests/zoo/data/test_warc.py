"""The web archive source: documents of one language, each once, whoever reads them."""

import errno
import gzip
import pickle
import sys
from collections import Counter
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from web_archives import by_record, conversion, html, paragraph, response

from zoo.data import warc
from zoo.data.sources import identity, split_of
from zoo.data.warc import WARC

GERMAN = "Der Mann sagte, dass er nicht da sein würde, wenn sie kommen, und das war alles, was sie über ihn zu sagen hatte. " * 6


@pytest.fixture
def folder(tmp_path):
    """Three archives with repetitions across and inside files."""
    pytest.importorskip("warcio", reason="warcio is in the extra `sentences`")
    pytest.importorskip("trafilatura", reason="trafilatura is in the extra `sentences`")
    pytest.importorskip("justext", reason="justext is in the extra `sentences`")
    near = paragraph(1, 200)
    first = [response(html(paragraph(0, 200))), response(html(near)), response(html(paragraph(0, 200))), response(html(""))]
    second = [response(html(near.replace("number1", "number9"))), response(html(paragraph(2))), response(bytes(range(256)) * 9)]
    second += [response(html(GERMAN.strip())), response(b"\xff" * 9, kind="image/png")]
    third = [conversion(paragraph(i), "eng") for i in range(3, 9)] + [
        conversion(paragraph(20), "deu,eng"),
        conversion("short", "eng"),
    ]
    (tmp_path / "a.warc.gz").write_bytes(by_record(first))
    (tmp_path / "b.warc").write_bytes(b"".join(second))
    (tmp_path / "c.warc.wet.gz").write_bytes(by_record(third)[:-4])
    return tmp_path


def test_documents_of_one_language_each_once(folder):
    source = WARC(f"{folder}/*.w*")
    texts = [document.text for document in source.documents()]
    assert texts == [paragraph(0, 200), paragraph(1, 200), *(paragraph(i) for i in range(2, 9))]
    assert source.kept == 9
    assert dict(source.dropped) == {
        "exact duplicate": 1, "near duplicate": 1, "no text, or hardly any": 1, "wrong encoding": 1, "another language": 2,
        "neither HTML nor plain text": 1, "damaged or truncated gzip": 1,
    }  # fmt: skip
    assert "9 documents kept; left out: 2 another language" in source.report()


def test_whoever_reads_a_part_reads_the_same(folder):
    source = WARC([f"{folder}/*.warc*"])
    whole = list(source.documents())
    copy = pickle.loads(pickle.dumps(source))
    parts = source.parts()
    assert [document for part in reversed(parts) for document in reversed(list(copy.read(part)))] == whole[::-1]
    fresh = WARC(f"{folder}/*.warc*")
    assert [document for part in fresh.parts() for document in fresh.read(part)] == whole
    assert fresh.fingerprint == source.fingerprint == copy.fingerprint


def test_a_document_has_its_split_for_good(folder):
    source = WARC(f"{folder}/*.w*", validation=0.3, test=0.3)
    documents = list(source.documents())
    assert all(each.id == identity(each.text) for each in documents)
    assert [each.split for each in documents] == [split_of(each.id, 0.3, 0.3) for each in documents]
    small = WARC(f"{folder}/*.w*", validation=1e-9, test=1e-9)  # the hash catches none: two with the lowest ids go there
    splits = {each.id: each.split for each in small.documents()}
    lowest = sorted(splits)
    assert [splits[id] for id in lowest] == ["validation", "test"] + ["train"] * 7
    assert [each.text for each in small.documents("test")] == [each.text for each in documents if each.id == lowest[1]]


def test_repetitions_and_languages_are_kept_on_demand(folder):
    everything = WARC(f"{folder}/*.w*", lang=None, duplicates=False)
    assert len(list(everything.documents())) == everything.kept == 13
    assert "exact duplicate" not in everything.dropped and "another language" not in everything.dropped
    german = WARC(f"{folder}/b.warc", lang="deu_Latn", validation=0, test=0)
    assert [each.text for each in german.documents()] == [GERMAN.strip()]
    made = [WARC(f"{folder}/*", **given) for given in ({}, {"lang": None}, {"similar": None}, {"shortest": 9}, {"test": 0.1})]
    assert len({each.fingerprint for each in made}) == 5
    assert WARC(f"{folder}/a*").fingerprint != WARC(f"{folder}/b*").fingerprint


def test_mistakes_are_named(folder):
    with pytest.raises(FileNotFoundError, match=r"no file matches 'nothing\*"):
        WARC("nothing*").parts()
    with pytest.raises(ValueError, match="'english' is no code of a language: give one like eng_Latn"):
        WARC("a", lang="english")
    with pytest.raises(ValueError, match=r"0 document\(s\) left.*; left out: 3 language unknown, as xho_Latn has no rule, 1"):
        WARC(f"{folder}/b*", lang="xho_Latn").parts()
    with pytest.raises(ValueError, match=r"0 document\(s\) left, too few for train, validation, test: add files"):
        WARC(f"{folder}/a*", lang="deu_Latn").parts()


NORWEGIAN = "Mannen sa at han ikke ville være der når de kom, og det var alt hun hadde å si om ham den gangen. " * 4
XHOSA = "Umntu uthe akayi kubakho apho xa befika, kwaye oko kwakukuko konke awayenako ukukuthetha ngaye. " * 4


@pytest.mark.parametrize(
    "text, header, kept, refused",
    [
        (NORWEGIAN, "nor", ["nob_Latn", "nb", "nor"], ["nno_Latn", "dan_Latn"]),  # a macro-language: the text decides
        (NORWEGIAN, "nno,eng", ["nno_Latn", "nor"], ["nob_Latn"]),  # what is said counts
        (NORWEGIAN, "", ["nob_Latn", "nor"], ["nno_Latn", "xho_Latn"]),
        (XHOSA, "xho", ["xho_Latn", "xh"], ["zul_Latn", "eng_Latn"]),  # without a rule
        (XHOSA, "yid", ["ydd_Hebr"], ["heb_Hebr"]),
        (XHOSA, "ori", ["ory_Orya"], []),
        (XHOSA, "kur", ["kmr_Latn"], ["ckb_Arab"]),
        (XHOSA, "que", ["quy_Latn"], []),
        (XHOSA, "aka", ["aka_Latn", "twi_Latn"], ["ewe_Latn"]),
    ],
)
def test_languages_as_the_crawler_names_them(tmp_path, text, header, kept, refused):
    pytest.importorskip("warcio", reason="warcio is in the extra `sentences`")
    pytest.importorskip("justext", reason="justext is in the extra `sentences`")
    (tmp_path / "a.wet").write_bytes(conversion(text, header))
    for lang in kept + refused:
        source = WARC(f"{tmp_path}/a.wet", lang, duplicates=False, validation=0, test=0)
        assert len(list(source._texts(source.paths[0], Counter()))) == (lang in kept), lang


def test_pages_are_extracted_once(folder, monkeypatch, capsys):
    made, plain = [], WARC(f"{folder}/*.w*")
    documents, dropped, of_page = list(plain.documents()), dict(plain.dropped), warc.text_of
    monkeypatch.setattr(warc, "text_of", lambda page: (made.append(page.url), of_page(page))[1])
    cached = lambda **given: WARC(f"{folder}/*.w*", cache=folder / "cache", **given)
    first = cached()
    first.extracts(None, 0, 2)  # of two workers, one
    assert not first.extracts.done() and len(list((folder / "cache").iterdir())) == 2
    before = len(made)
    second = cached()
    assert (list(second.documents()), dict(second.dropped), second.fingerprint) == (documents, dropped, plain.fingerprint)
    assert 0 < before < len(made) and second.extracts.done() and capsys.readouterr().out.count("the text of") == 3
    count = len(made)
    assert list(cached().documents()) == documents and list(pickle.loads(pickle.dumps(cached())).documents()) == documents
    assert cached(similar=None).kept == second.kept + 1 and len(made) == count
    assert [each.text for each in cached(lang="deu_Latn", validation=0, test=0).documents()] == [GERMAN.strip(), paragraph(20)]
    assert len(made) > count  # another language is another extract
    place = second.extracts.place(second.paths[0])
    whole = place.read_bytes()
    for damaged in (b"", whole[:-20], gzip.compress(b'"only a text"\n'), b"nothing"):
        place.write_bytes(damaged)
        with pytest.raises(RuntimeError, match=r"is damaged: delete it and run the same command again"):
            list(cached().documents())
    place.unlink()
    assert list(cached().documents()) == documents
    monkeypatch.setattr(warc, "text_of", lambda page: 1 / 0)
    place.unlink()
    with pytest.raises(ZeroDivisionError):
        list(cached().documents())
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match=r"the disk of .*cache is full; free some space"):
        patch.setattr(warc, "text_of", lambda page: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
        list(cached().documents())
    assert not place.exists() and not list((folder / "cache").glob("*.tmp"))
