"""Places in held-out Python code where a net is to go on, chosen on the text: the same for every tokenizer and net."""

import ast
import codeop
import hashlib
import itertools
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from zoo.data.store import TokenStore
from zoo.data.tokenizer import Tokenizer

CHUNK = 1 << 16  # tokens read at a time
DEDENT = re.compile(r"\n(?=[^\s)\]}])")  # a line that begins at the margin and closes no bracket


class Place(NamedTuple):
    """Where to go on: the text before, and the text that follows there, as long as it is wanted."""

    prompt: str
    following: str


def held_out(store: TokenStore, tokenizer: Tokenizer, count: int) -> list[str]:
    """The first `count` documents of a split, as text: decoded, so that a store without its corpus will do."""
    texts: list[str] = []
    left = np.empty(0, np.int64)
    for start in range(0, len(store), CHUNK):
        tokens = np.concatenate([left, store.windows([start], min(CHUNK, len(store) - start))[0]])
        *documents, left = np.split(tokens, np.flatnonzero(tokens == tokenizer.eos) + 1)
        texts += [tokenizer.decode(document) for document in documents]
        if len(texts) >= count:
            break
    return texts[:count]


def line_starts(texts: Sequence[str], count: int, characters: int, longest: int, seed: int = 0) -> list[Place]:
    """`count` beginnings of lines, spread over the documents.

    `prompt` is the last `characters` characters before, with the line's indentation but for its last character: byte-level BPE
    and SentencePiece both leave that one to the word that follows, so no prompt ends where a tokenizer would not cut.
    `following` is the rest of the line, which has a letter and at most `longest` characters, without white space at its end. The
    line before is not blank.
    """

    def found(text: str) -> Iterator[Place]:
        end = 0
        for line, after in itertools.pairwise(text.split("\n")):
            end += len(line) + 1
            place = end + max(0, len(after) - len(after.lstrip()) - 1)
            wanted = len(after) <= longest and any(c.isalpha() for c in after)
            if wanted and place >= characters and line and line == line.rstrip():
                yield Place(text[place - characters : place], after[place - end :].rstrip())

    return _spread(texts, found, count, seed)


def function_heads(texts: Sequence[str], count: int, longest: int, seed: int = 0) -> list[Place]:
    """`count` beginnings of functions, spread over the documents: from `def` to the end of the docstring, or of the signature.

    Functions at the margin of a file that has no syntax errors, with a body besides the docstring; heads of at most `longest`
    characters. `following` is the body.
    """

    def found(text: str) -> Iterator[Place]:
        tree, lines = parsed(text), text.split("\n")
        for node in tree.body if tree else ():
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                documented = ast.get_docstring(node, clean=False) is not None
                body = node.body[1:] if documented else node.body
                last = node.body[0].end_lineno if documented else _first_line(body[0]) - 1
                if not body or _first_line(body[0]) <= last or last < node.lineno:
                    continue
                head = "\n".join(lines[node.lineno - 1 : last]).rstrip()
                if len(head) <= longest:
                    yield Place(head, "\n" + "\n".join(lines[last : node.end_lineno]))

    return _spread(texts, found, count, seed)


def body_end(text: str) -> int | None:
    """Where a function's body ends in a continuation of its head: before the first line at the margin; None: it is still open.

    A line that begins with a closing bracket goes on. (A string over several lines with text at the margin is cut there.)
    """
    found = DEDENT.search(text)
    return found.start() if found else None


def accepts(head: str, body: str, finished: bool) -> bool:
    """Whether Python's parser takes a function, and its body says something.

    A body that is not finished is judged by its whole lines: what they open may be left open (a bracket, a block), but nothing in
    them may be wrong; the statements before what is open must say something. A body of docstring, `pass` and `...` says nothing.
    """
    if finished:
        tree = parsed(f"{head}{body}\n")
        return tree is not None and _says_something(tree)
    lines = f"{head}{body}".split("\n")[:-1]
    if not _may_go_on("\n".join(lines) + "\n"):
        return False
    for last in range(len(lines), head.count("\n") + 1, -1):
        if (tree := parsed("\n".join(lines[:last]) + "\n")) is not None:
            return _says_something(tree)
    return False


def parsed(text: str) -> ast.Module | None:
    """The syntax tree, or None where the parser refuses the text."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of odd escapes in strings
        try:
            return ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):  # ValueError: null bytes
            return None


def _may_go_on(text: str) -> bool:
    """Whether text is Python, or may become it by what follows; nothing is run."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            codeop.compile_command(text, symbol="exec")
        except (SyntaxError, ValueError, OverflowError, RecursionError, MemoryError):
            return False
    return True


def _says_something(tree: ast.Module) -> bool:
    function = tree.body[0] if tree.body else None
    if not isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return False
    constant = lambda node: isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return any(not isinstance(node, ast.Pass) and not constant(node) for node in function.body)


def _first_line(node: ast.stmt) -> int:
    return min([node.lineno, *(each.lineno for each in getattr(node, "decorator_list", ()))])


def _spread(texts: Sequence[str], found: Callable[[str], Iterator[Place]], count: int, seed: int) -> list[Place]:
    """`count` of the places found: one of every document, then a second, and so on, in an order that text and seed decide."""
    order = lambda *words: hashlib.sha256("\0".join([str(seed), *words]).encode(errors="replace")).hexdigest()
    ranked = []
    for text in dict.fromkeys(texts):
        mine = sorted(found(text), key=lambda place: order(*place))
        ranked += [(rank, order(text), place) for rank, place in enumerate(dict.fromkeys(mine))]
    return [place for _, _, place in sorted(ranked)[:count]]
