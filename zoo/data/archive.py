"""Pages of web archives: WARC, WET and ARC, gzipped by record, gzipped whole or plain, however damaged.

warcio reads the records; the framing around them is ours, because a damaged gzip member or a broken header must cost one record
and not the rest of the file. What is left out is counted by reason, never raised.
"""

import codecs
import contextlib
import mmap
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from typing import IO, NamedTuple

from zoo.data.segment import package

GZIP = b"\x1f\x8b\x08"
START = re.compile(rb"WARC/\d|\S+:\S* \S+ \d{8,14} .*\d+\s*$|filedesc:")  # first line of a record, of an ARC's second
BLOCK = 1 << 16


class Page(NamedTuple):
    url: str
    html: bool  # else plain text
    charset: str | None  # as the server declared it
    lang: str | None  # as the crawler identified it, the most frequent first; WET files may say so
    content: bytes


def pages(path: str, dropped: Counter, longest: int) -> Iterator[Page]:
    """The HTML and plain text of an archive in its order. dropped: hears of each record that is left out for a fault of its own;
    what is no page (requests, metadata, images, redirections, …) is counted there too. longest: bytes of a page."""
    for stream in _streams(path, dropped):
        held = None  # until the checksum of its gzip member has been read, which comes after it
        for page in _framed(stream, dropped, longest):
            if held:
                yield held
            held = page
        if held and not getattr(stream, "damaged", False):
            yield held


class _Member:
    """One gzip member as a file; it ends where the member does, or where it is damaged."""

    def __init__(self, data: mmap.mmap, start: int):
        self.data, self.at, self.stop, self.damaged = data, start, 0, False
        self.inflate = zlib.decompressobj(31)

    def read(self, size: int = BLOCK) -> bytes:
        out = b""
        while not (out or self.stop or self.damaged):
            fed = self.inflate.unconsumed_tail
            if not fed:
                fed = self.data[self.at : self.at + BLOCK]
                self.at += len(fed)
            try:
                out = self.inflate.decompress(fed, size)
            except zlib.error:
                self.damaged = True
                break
            if self.inflate.eof:
                self.stop = self.at - len(self.inflate.unused_data)
            elif not fed:  # the file ends inside the member
                self.damaged = True
        return out


def _streams(path: str, dropped: Counter) -> Iterator[IO[bytes] | _Member]:
    """The members of a gzip file one by one, found again behind a damaged one; a plain file is one stream."""
    with open(path, "rb") as file:
        head = file.read(3)
        file.seek(0)
        if not head:
            dropped["empty file"] += 1
        elif head != GZIP and not path.endswith(".gz"):
            yield file
        else:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                at = data.find(GZIP)
                if at:
                    dropped["no gzip where it should begin"] += 1
                while at >= 0:
                    member = _Member(data, at)
                    yield member
                    while member.read():
                        pass
                    dropped["damaged or truncated gzip"] += member.damaged
                    at = data.find(GZIP, at + 1 if member.damaged else member.stop)


def _framed(stream, dropped: Counter, longest: int) -> Iterator[Page]:
    """The pages of a stream of records. After a broken record the next line that begins one is looked for."""
    from warcio.bufferedreaders import BufferedReader
    from warcio.recordloader import ArcWarcRecordLoader

    reader, loader, lost = BufferedReader(stream), ArcWarcRecordLoader(verify_http=False, arc2warc=False), False
    while line := reader.readline():
        if line.isspace():
            continue
        if not START.match(line):
            dropped["bytes that begin no record"] += not lost
            lost = True
            continue
        try:
            record = loader.parse_record_stream(reader, line)
            if record.length is None or (record.length == 0 and record.rec_headers.get_header("Content-Length", "0") != "0"):
                raise ValueError("no length")
            page = _page(record, longest)
            while record.raw_stream.read(BLOCK):
                pass
        except Exception:  # warcio raises its own, KeyError, AttributeError, … for what crawlers write
            dropped["broken record"] += 1
            lost = True  # what follows is the rest of it: not counted twice
            continue
        lost = False
        if getattr(record.raw_stream, "limit", 0) > 0:
            page = "record cut short"
        if isinstance(page, str):
            dropped[page] += 1
        else:
            yield page


def _page(record, longest: int) -> Page | str:
    """The page in a record, or why there is none."""
    if record.rec_type not in ("response", "resource", "conversion"):
        return "no page (request, metadata, …)"
    http, own = record.http_headers, record.rec_headers
    if http and not (http.get_statuscode() or "200").startswith("200"):
        return "status other than 200"
    kind = (http.get_header("Content-Type") if http else record.content_type) or ""
    media, _, rest = kind.lower().partition(";")
    if media.strip() not in ("text/html", "application/xhtml+xml", "text/plain"):
        return "neither HTML nor plain text"
    content = b""
    stream = record.content_stream()
    while len(content) <= longest and (data := stream.read(BLOCK)):
        content += data
    if len(content) > longest:
        return "page too long"
    declared = re.search(r"charset=[\"']?([\w.:-]+)", rest)
    languages = own.get_header("WARC-Identified-Content-Language") or ""
    url = own.get_header("WARC-Target-URI") or own.get_header("uri") or ""
    return Page(url, "html" in media, declared and declared[1], languages.split(",")[0].strip() or None, content)


def decoded(page: Page) -> str | None:
    """The text of a page's bytes, or None where no encoding fits: UTF-8 where it decodes, a few broken bytes aside, else what the
    server, the page itself or a guess says. Broken bytes, control characters and half surrogate pairs are left out."""
    meta = re.search(rb"<meta[^>]+charset=[\"']?([\w.:-]+)", page.content[:4096], re.I) if page.html else None
    named = [_of_the_web(name) for name in (page.charset, meta and meta[1].decode("ascii", "replace")) if name]
    for text in _readings(page.content, list(filter(None, named))):
        kept = text.translate(_LEFT_OUT)
        if len(text) - len(kept) <= 3 + 0.005 * len(text):  # one broken character is three at most
            return kept
    return None


_LEFT_OUT = dict.fromkeys([0xFFFD, *range(9), 0xB, 0xC, *range(0xE, 0x20), *range(0x7F, 0xA0), *range(0xD800, 0xE000)])
_WEB = re.compile(r"ascii|(utf-(8|16|32)|iso(8859-|2022_)|cp(125|8|9)|koi8-|mac-|gb|big5|euc_|shift_jis)[\w-]*|hz|johab|tis-620")


def _of_the_web(charset: str) -> str | None:
    """Python's name of an encoding that pages are written in; not of those that only programs use (unicode_escape, utf-7, …).
    "Latin-1" is Windows-1252, as in browsers."""
    try:
        name = codecs.lookup(charset).name
    except (LookupError, ValueError):
        return None
    return "cp1252" if name in ("ascii", "iso8859-1") else name if _WEB.fullmatch(name) else None


def _readings(content: bytes, named: list[str]) -> Iterator[str]:
    """What the bytes of a page may say in the encodings that it may have, the likeliest first."""
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        named = ["utf-16", *named]
    if b"\x1b" in content or b"\0" in content:  # valid UTF-8 all the same
        yield from (content.decode(name, "replace") for name in named if name.startswith(("iso2022", "utf-16", "utf-32")))
    text = content.decode("utf-8-sig", "replace")
    broken = text.count("\ufffd") - content.count("\ufffd".encode())
    if not broken or sum(character > "\x7f" for character in text) > 2 * broken:  # hardly any other encoding is valid so often
        yield text
    for name in named:
        with contextlib.suppress(ValueError):
            yield content.decode(name)
    if broken <= 0.005 * len(text):
        yield text
    if guess := package("charset_normalizer").from_bytes(content[:20_000]).best():
        yield content.decode(guess.encoding, "replace")
