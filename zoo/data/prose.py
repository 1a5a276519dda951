"""The English prose inside Python source: what doc strings and comment blocks say, without code, tables and parameter lists.

The text is found by one regular expression and not by `ast`: that is 30 times faster, the same on every Python version (a file
with newer syntax still reads), and sees comments and the doc strings that packages pass as arguments, like numpy's `add_newdoc`.
"""

import re

# One alternative per thing a quote or a hash can start; strings on one line are matched only to be stepped over.
TEXTS = re.compile(
    r"(?:(?<=\n)|\A)(?P<comment>[ \t]*\#[^\n]*(?:\n[ \t]*\#[^\n]*)+)|\#[^\n]*"
    r'|"""(?P<double>[^"\\]*(?:(?:\\.|"(?!""))[^"\\]*)*)"""'
    r"|'''(?P<single>[^'\\]*(?:(?:\\.|'(?!''))[^'\\]*)*)'''"
    r"""|"[^"\\\n]*(?:\\.[^"\\\n]*)*"|'[^'\\\n]*(?:\\.[^'\\\n]*)*'""",
    re.S,
)
SHORTEST = 30  # characters of a paragraph
VERBATIM = (">>>", "...", "..", "|", "+-", "==", "--", "~~", "$", "@")  # doctests, directives, tables, underlines, commands
HEADER = re.compile(r"[\w*, .`\[\]]+ : ")  # numpy style: "axis : int, optional"; the description is on the next line
ITEM = re.compile(  # list marker, or "name (type): " and ":param name: " before a description on the same line
    r"(?:[-*+•] |\d{1,2}[.)] |:(?:param|arg|return|raise|type|rtype|keyword|var|ivar)\w*[^:]*:"
    r"|[*\w.\[\], ]{1,40}(?: ?\([^()]*(?:\([^()]*\)[^()]*)*\))?: )"
)
ROLE = re.compile(r":[\w:.+-]+:`[!~]?\.?([^`<]*?)(?: ?<[^`>]*>)?`")  # :func:`~numpy.abs` -> numpy.abs
EMPHASIS = re.compile(r"(?<![\w*])\*{1,2}(\w[^*]*)\*{1,2}(?![\w*])")
MARKS = re.compile(r"`+| ?\[\d+\]_|\\(?=[*_`])")
SMALL_WORDS = frozenset("the a an of is to in for and with be that this by on if or are it as not from can which will".split())
LEGAL = re.compile(r"(?i)copyright|licen[sc]e|warrant(?:y|ies)\b|permission")


def prose(source: str) -> list[str]:
    """The prose paragraphs of one module in source order, each on one line, repetitions left out."""
    found = {}
    for match in TEXTS.finditer(source):
        block = match["double"] or match["single"] or ""
        if match["comment"]:
            block = "\n".join(line.lstrip()[1:] for line in match["comment"].split("\n"))
        for paragraph in paragraphs(block) if len(block) >= SHORTEST else ():
            if "`" in paragraph or "*" in paragraph or "_" in paragraph:
                paragraph = MARKS.sub("", EMPHASIS.sub(r"\1", ROLE.sub(r"\1", paragraph))).strip()
            if reads_as_prose(paragraph):
                found[paragraph] = None
    return list(found)


def paragraphs(block: str) -> list[str]:
    """Unwrapped paragraphs of one doc string or comment; a blank line, a list item, a header or a new indentation ends one."""
    done, current, indent, item = [], [], None, None
    for number, line in enumerate([*block.expandtabs().split("\n"), ""]):
        text = line.lstrip()
        depth = len(line) - len(text)
        text = text.rstrip()
        skip = not text or text.startswith(VERBATIM) or HEADER.match(text)
        start = None if skip else ITEM.match(text)
        indent = depth if indent is None else indent
        moved = depth < indent if item else depth != indent  # the lines under an item may hang deeper
        if current and (skip or start or moved):
            done.append(" ".join(current))
            current = []
        if skip:
            continue
        if not current:
            indent, item = depth if number else None, start  # the line of the opening quotes has no indentation of its own
            text = text[start.end() :].lstrip() if start else text
        if text:
            current.append(text)
    return done


def reads_as_prose(paragraph: str) -> bool:
    """Whether it begins and ends like sentences, has one of the small words of English in ten, and is mostly letters."""
    if len(paragraph) < SHORTEST or paragraph[-1] not in ".!?:" or not paragraph[0].isupper():
        return False
    words = paragraph.lower().split()
    if 10 * sum(map(SMALL_WORDS.__contains__, words)) < len(words) or LEGAL.search(paragraph):
        return False
    return sum(map(str.isalpha, paragraph)) + len(words) >= 0.85 * len(paragraph)
