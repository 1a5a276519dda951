"""Web archives written by hand, for the tests of what reads them."""

import gzip

WORDS = "the man said that he would not be there when they came and it was all that she had to say about him then".split()


def paragraph(seed, count=60):
    """English-like text that differs by its seed."""
    import random

    rng = random.Random(seed)
    return " ".join([*rng.choices(WORDS, k=count), f"number{seed}"]).capitalize() + "."


def html(*paragraphs, head=""):
    body = "".join(f"<p>{text}</p>" for text in paragraphs)
    return f"<!DOCTYPE html><html><head>{head}<title>t</title></head><body><article>{body}</article></body></html>"


def response(content, url="http://example.com/", kind="text/html; charset=utf-8", status="200 OK", extra=""):
    content = content.encode() if isinstance(content, str) else content
    return record("response", f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\n{extra}\r\n".encode() + content, url)


def record(kind, block, url="http://example.com/", media="application/http", extra="", length=None):
    head = f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: {url}\r\nContent-Type: {media}\r\n{extra}"
    return f"{head}Content-Length: {len(block) if length is None else length}\r\n\r\n".encode() + block + b"\r\n\r\n"


def conversion(text, lang="", url="http://example.com/"):
    extra = f"WARC-Identified-Content-Language: {lang}\r\n" if lang else ""
    return record("conversion", text.encode(), url, "text/plain", extra)


def arc(*contents):
    """An ARC 1 file, its description record first, as a list of records."""
    about = b"1 0 Test\nURL IP-address Archive-date Content-type Archive-length\n\n"
    records = [b"filedesc://a.arc 0.0.0.0 20080430204825 text/plain %d\n" % len(about) + about + b"\n"]
    for i, content in enumerate(contents):
        block = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n" + content.encode()
        records.append(b"http://example.com/%d 1.2.3.4 20080430204825 text/html %d\n" % (i, len(block)) + block + b"\n")
    return records


def by_record(records):
    return b"".join(map(gzip.compress, records))
