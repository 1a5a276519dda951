"""Reading web archives: the framing never changes the pages, and damage costs what it touches and is counted."""

import gzip
import sys
from collections import Counter
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from web_archives import arc, by_record, conversion, html, paragraph, record, response

from zoo.data import archive
from zoo.data.archive import Page, decoded, pages

TEXTS = [paragraph(i) for i in range(8)]
NO_PAGE = "no page (request, metadata, …)"


@pytest.fixture
def read(tmp_path):
    pytest.importorskip("warcio", reason="warcio is in the extra `sentences`")

    def read(data, name="a.warc", longest=100_000):
        (tmp_path / name).write_bytes(data)
        dropped = Counter()
        return [decoded(page) for page in pages(str(tmp_path / name), dropped, longest)], dict(+dropped)

    return read


def records():
    info = record("warcinfo", b"software: test\r\n", media="application/warc-fields")
    return [info, *(response(text, kind="text/plain") for text in TEXTS)]


def test_the_framing_does_not_matter(read, monkeypatch):
    wanted = TEXTS, {NO_PAGE: 1}
    for data, name in [
        (b"".join(records()), "a.warc"),
        (by_record(records()), "a.warc.gz"),
        (by_record(records()), "no-suffix"),
        (gzip.compress(b"".join(records())), "whole.warc.gz"),
        (by_record([b"".join(records()[:4]), b"".join(records()[4:])]), "b.warc.gz"),
    ]:
        assert read(data, name) == wanted, name
        monkeypatch.setattr(archive, "BLOCK", 7)
        assert read(data, name) == wanted, name
        monkeypatch.undo()


def test_wet_arc_and_what_is_no_page(read):
    kinds = [
        record("request", b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n"),
        record("revisit", b"HTTP/1.1 200 OK\r\n\r\n"),
        record("resource", TEXTS[0].encode(), media="text/plain"),
        conversion(TEXTS[1], "eng,deu"),
        response(b"\xff\xd8", kind="image/jpeg"),
        response("gone", status="404 Not Found"),
        response("there", status="301 Moved"),
        response("a" * 2000, kind="text/plain"),
        response(gzip.compress(TEXTS[2].encode()), kind="text/plain", extra="Content-Encoding: gzip\r\n"),
        response(b"4\r\nabcd\r\n3\r\nefg\r\n0\r\n\r\n", kind="text/plain", extra="Transfer-Encoding: chunked\r\n"),
    ]
    texts, dropped = read(by_record(kinds), "a.warc.gz", longest=1999)
    assert texts == [TEXTS[0], TEXTS[1], TEXTS[2], "abcdefg"]
    assert dropped == {NO_PAGE: 2, "neither HTML nor plain text": 1, "status other than 200": 2, "page too long": 1}
    for data, name in [(b"".join(arc(*TEXTS)), "a.arc"), (by_record(arc(*TEXTS)), "a.arc.gz")]:
        assert read(data, name) == (TEXTS, {NO_PAGE: 1})


@pytest.mark.parametrize("length", range(0, 2400, 97))
def test_a_truncated_file_gives_what_is_whole(read, length):
    data = by_record(records())
    whole, stop = 0, 0
    for each in records():
        stop += len(gzip.compress(each))
        whole += stop <= length
    texts, dropped = read(data[:length], "a.warc.gz")
    assert texts == TEXTS[: max(0, whole - 1)]
    if not length:
        assert dropped == {"empty file": 1}
    elif length < len(data):
        assert dropped.get("damaged or truncated gzip", 0) == (stop != length)


def test_a_plain_file_cut_short(read):
    data = b"".join(records())
    assert read(data[:-200]) == (TEXTS[:-1], {NO_PAGE: 1, "record cut short": 1})


def test_damage_costs_the_record_it_is_in(read):
    parts = [bytearray(gzip.compress(each)) for each in records()]
    parts[3][len(parts[3]) // 2] ^= 0xFF  # the compressed data
    parts[5][-6] ^= 0xFF  # the checksum
    parts[6:6] = [bytearray(b"junk" * 5)]
    texts, dropped = read(b"".join(parts), "a.warc.gz")
    assert texts == [text for i, text in enumerate(TEXTS) if i not in (2, 4)]
    assert dropped.pop("damaged or truncated gzip") == 2 and dropped.pop(NO_PAGE) == 1
    assert set(dropped) <= {"record cut short", "broken record"}
    broken = records()
    broken[2] = broken[2].replace(b"WARC/1.0", b"WARX/1.0")
    broken[4] = broken[4].replace(b"Content-Length: ", b"Content-Length: x")
    broken[6] = b"http junk\r\n\r\n\r\n" * 3
    for data, name in [
        (b"".join(broken), "a.warc"),
        (by_record(broken), "a.warc.gz"),
        (b"\0junk\n" + b"".join(broken), "b.warc"),
    ]:
        texts, dropped = read(data, name)
        assert texts == [text for i, text in enumerate(TEXTS) if i not in (1, 3, 5)], name
        assert dropped["broken record"] == 1 and dropped["bytes that begin no record"] == (3 if name == "b.warc" else 2)


def test_other_files_are_no_archives(read):
    assert read(b"PK\3\4" + bytes(1000)) == ([], {"bytes that begin no record": 1})
    assert read(b"no gzip at all", "a.warc.gz") == ([], {"no gzip where it should begin": 1})
    assert read(gzip.compress(b"<html>"), "a.html.gz") == ([], {"bytes that begin no record": 1})


GERMAN, RUSSIAN = "Größe – „schön“ und süß", "Он сказал, что его не будет дома"


@pytest.mark.parametrize(
    "content, html, charset, wanted",
    [
        (GERMAN.encode(), False, None, GERMAN),
        (GERMAN.encode(), False, "iso-8859-1", GERMAN),  # what decodes as UTF-8 is UTF-8
        (GERMAN.encode("cp1252"), False, "ISO-8859-1", GERMAN),
        (RUSSIAN.encode("cp1251"), False, "windows-1251", RUSSIAN),
        (b'<meta charset="windows-1251">' + RUSSIAN.encode("cp1251"), True, None, '<meta charset="windows-1251">' + RUSSIAN),
        (b"\xef\xbb\xbf" + GERMAN.encode(), False, "no-such-charset", GERMAN),
        ("今日は".encode("shift_jis"), False, "Shift_JIS", "今日は"),
        ("今日は".encode("iso2022_jp"), False, "ISO-2022-JP", "今日は"),  # valid ASCII, and what the server says all the same
        ("The man said".encode("utf-16-le"), False, "utf-16le", "The man said"),
        (GERMAN.encode("utf-16"), False, None, GERMAN),
        (GERMAN.encode()[:-1], False, "iso-8859-1", GERMAN[:-1]),  # broken UTF-8 is UTF-8
        (b'<meta charset="utf-8">\xff' + GERMAN.encode(), True, "windows-1252", '<meta charset="utf-8">' + GERMAN),
        (RUSSIAN.encode()[1:], False, "koi8-r", RUSSIAN[1:]),
        ("Öl für 5 £".encode("cp1252"), False, "iso-8859-1", "Öl für 5 £"),
        ((GERMAN * 3).encode("cp1252"), False, None, GERMAN * 3),  # a guess; its umlauts are no broken UTF-8
        (b"The man \\ud800 " * 99 + b"\xff", False, "unicode_escape", "The man \\ud800 " * 99),
        (b"+2AA-" * 99 + b"\xff", False, "utf-7", "+2AA-" * 99),
        (b"a\x00b" + b"c" * 1000, False, None, "ab" + "c" * 1000),
        (b"x" * 2000 + b"\xff" + b"y", False, "utf-8", "x" * 2000 + "y"),
        (bytes(range(256)) * 4, False, "utf-8", None),
        (b"", False, None, ""),
    ],
)
def test_encodings(content, html, charset, wanted):
    if wanted is None:
        pytest.importorskip("charset_normalizer")
    assert decoded(Page("", html, charset, None, content)) == wanted


@pytest.mark.parametrize(
    "charset", ["unicode_escape", "raw_unicode_escape", "utf-7", "punycode", "idna", "undefined", "zlib", "é"]
)
def test_no_charset_is_fatal(charset):
    """What programs alone use as an encoding is not looked at, and what is kept can be written as UTF-8."""
    pytest.importorskip("charset_normalizer")
    for content in (b"\\ud800 +2AA- \xff" * 9, b"\x00\xd8" * 99, b"\x1b$B" * 40, bytes(range(255, 0, -1)) * 3):
        for page in (
            Page("", False, charset, None, content),
            Page("", True, None, None, b"<meta charset=%a>" % charset + content),
        ):
            kept = decoded(page) or ""
            assert kept.encode().decode() == kept and not set(kept) & {"\0", "\ufffd"}


def test_what_a_page_says_of_itself(tmp_path):
    pytest.importorskip("warcio", reason="warcio is in the extra `sentences`")
    data = [conversion("text", "deu,eng", "http://a.de/x"), response(html("p"), "http://b.com/", "TEXT/HTML;charset='UTF-8'")]
    (tmp_path / "a.wet").write_bytes(b"".join(data))
    found = list(pages(str(tmp_path / "a.wet"), Counter(), 1000))
    assert found[0] == Page("http://a.de/x", False, None, "deu", b"text")
    assert found[1][:4] == ("http://b.com/", True, "utf-8", None)
