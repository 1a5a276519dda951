"""Reading files piece by piece: a piece is what one worker reads of a file; where pieces begin never changes what is read."""

import gzip
import hashlib
import json
import math
import os
import warnings
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import PurePath
from typing import IO, Any, NamedTuple

PART = 16_000_000  # bytes that one worker takes at a time
DAMAGED, NO_TEXT, NOT_UTF8, EMPTY = (
    "damaged files or parts of files",
    "rows or files without a text",
    "texts that are not UTF-8",
    "empty texts",
)  # reasons for which something is left out


class Piece(NamedTuple):
    """Bytes [start, stop) of a file, both moved on to a line end, or row groups [start, stop) of parquet; None is the end."""

    path: str
    start: int
    stop: int | None


def cut(path: str, longest: int, forgiving: bool = False) -> Iterator[tuple[Piece, int]]:
    """(piece, about how many bytes of text) of a file. Compressed files are one piece: they can only be read from the start.
    forgiving: a parquet file that is none is a piece too, for its reader to leave out."""
    size = os.path.getsize(path)
    if _form(path) == "parquet":
        try:
            groups = _parquet(path).metadata
        except ValueError:
            if not forgiving:
                raise
            yield Piece(path, 0, 0), size
            return
        yield from ((Piece(path, i, i + 1), groups.row_group(i).total_byte_size) for i in range(groups.num_row_groups))
    elif path.endswith(".gz") or size <= PART:
        yield Piece(path, 0, None), size * 3 if path.endswith(".gz") else size
    else:
        step = math.ceil(PART / longest) * longest  # a multiple, so that text is cut into the same documents as in one piece
        yield from ((Piece(path, start, min(start + step, size)), step) for start in range(0, size, step))


def texts(piece: Piece, column: str | None, longest: int, lost: Counter | None = None) -> Iterator[str]:
    """The texts of a piece that are not blank, read as a stream. Arguments as in `Files`.

    lost: hears of what is empty or cannot be read, reason -> count, and it is left out; without it what cannot be read is a
    ValueError.
    """
    form = _form(piece.path)
    if form == "parquet":
        found = _rows(piece, column, lost)
    else:
        found = _lines(piece, column, lost) if form == "lines" else _plain(piece, longest, lost)
    return not_blank(found, lost)


def not_blank(texts: Iterable[str | None], lost: Counter | None) -> Iterator[str]:
    """Those that are not blank. lost: hears of the others."""
    for text in texts:
        if text and not text.isspace():
            yield text
        elif lost is not None:
            lost[EMPTY] += 1


def joined(value: Any) -> Any:
    """A list of strings as a text of as many lines, where null is an empty one; anything else as it is."""
    whole = isinstance(value, list) and all(isinstance(part, str | None) for part in value)
    return "\n".join(part or "" for part in value) if whole else value


def json_lines(piece: Piece, lost: Counter | None = None) -> Iterator[tuple[dict, int]]:
    """(object, position of its line) of JSON lines; empty lines are skipped. lost: as in `texts`."""
    for data, at in _blocks(piece, 1, lost):
        if not data.isspace():
            try:
                row = json.loads(data)
                problem = None if isinstance(row, dict) else f"JSON of type {type(row).__name__}"
            except (ValueError, RecursionError) as error:
                problem = f"no JSON ({error})"
            if problem is None:
                yield row, at
            elif lost is None:  # the place is looked up here alone, as that takes long
                raise ValueError(f"{_place(piece.path, at)} is {problem}: the file needs one JSON object per line")
            else:
                lost["lines that are no JSON object"] += 1


def no_text(place: str, column: str | None, fields: Iterable[tuple[str, str]]) -> ValueError:
    """The error for a row without text; `fields` are the names and types that it has instead."""
    here = ", ".join(f"{name} ({kind})" for name, kind in fields) or "nothing"
    return ValueError(f"{place} has no text in {column or 'text or content'}, but {here}: name the field with `column`")


def sample_hash(path: str) -> str:
    """Hash of a file's content: all of it up to 4 MiB, the size and 64 samples of a larger one."""
    size = os.path.getsize(path)
    hasher = hashlib.sha256(f"{_form(path)} {size} ".encode())
    with open(path, "rb") as file:
        for i in range(64):
            file.seek((size - (1 << 16)) * i // 63 if size > 1 << 22 else i << 16)
            hasher.update(file.read(1 << 16))
    return hasher.hexdigest()


def _form(path: str) -> str:
    suffix = PurePath(path.removesuffix(".gz")).suffix
    return "parquet" if path.endswith(".parquet") else "lines" if suffix in (".jsonl", ".json") else "text"


def _leave_out(reason: str, error: ValueError, lost: Counter | None) -> None:
    if lost is None:
        raise error from None
    lost[reason] += 1
    warnings.warn(str(error), stacklevel=2)


def _plain(piece: Piece, longest: int, lost: Counter | None) -> Iterator[str]:
    for data, at in _blocks(piece, longest, lost):
        try:
            yield data.decode("utf-8-sig").replace("\r\n", "\n")
        except UnicodeDecodeError as error:
            if lost is None:
                place = _place(piece.path, at + error.start)
                raise ValueError(f"{place} is not UTF-8: convert the file or leave it out") from None
            lost[NOT_UTF8] += 1


def _lines(piece: Piece, column: str | None, lost: Counter | None) -> Iterator[str | None]:
    for row, at in json_lines(piece, lost):
        name = _pick(row, column)
        text = joined(row[name]) if name else 0
        if isinstance(text, str | None):
            yield text and text.encode("utf-8", "replace").decode()  # half a surrogate pair in an escape becomes "?"
        elif lost is None:
            raise no_text(_place(piece.path, at), column, ((key, type(value).__name__) for key, value in row.items()))
        else:
            lost[NO_TEXT] += 1


def _rows(piece: Piece, column: str | None, lost: Counter | None) -> Iterator[str | None]:
    import pyarrow

    try:
        file = _parquet(piece.path)
    except ValueError as error:
        _leave_out(DAMAGED, error, lost)
        return
    schema = file.schema_arrow
    name = _pick(schema.names, column)
    if name is None or not _is_text(schema.field(name).type):
        if lost is None or piece.start == 0:  # a file counts once
            _leave_out(NO_TEXT, no_text(piece.path, column, ((field.name, str(field.type)) for field in schema)), lost)
        return
    try:
        for batch in file.iter_batches(1024, row_groups=list(range(piece.start, piece.stop)), columns=[name]):
            yield from _strings(batch.column(0), piece.path, lost)
    except (pyarrow.ArrowException, OSError) as error:
        _leave_out(DAMAGED, _damaged(piece.path, error), lost)


def _is_text(kind) -> bool:
    import pyarrow

    for wraps in (pyarrow.types.is_list, pyarrow.types.is_large_list, pyarrow.types.is_dictionary):
        kind = kind.value_type if wraps(kind) else kind
    return any(is_one(kind) for is_one in (pyarrow.types.is_string, pyarrow.types.is_large_string, pyarrow.types.is_string_view))


def _strings(column, path: str, lost: Counter | None) -> Iterator[str | None]:
    """The values of a column of strings or lists of them, of which a writer may have put in bytes that are none."""
    try:
        yield from map(joined, column.to_pylist())
    except UnicodeDecodeError:
        import pyarrow

        if lost is None:
            raise ValueError(f"{path} holds texts that are not UTF-8: write it anew or leave it out") from None
        single = not hasattr(column.type, "value_field")
        kind = pyarrow.large_binary() if single else pyarrow.large_list(pyarrow.large_binary())
        for value in column.cast(kind).to_pylist():
            try:
                yield value and (value.decode() if single else joined([part and part.decode() for part in value]))
            except UnicodeDecodeError:
                lost[NOT_UTF8] += 1


def _damaged(path: str, error: Exception, what: str = "damaged") -> ValueError:
    """The error for a parquet file that pyarrow cannot read. A failing disk, memory that is full, or what else is no fault of the
    file, is raised as it is."""
    import pyarrow

    if getattr(error, "errno", None) or isinstance(error, MemoryError | pyarrow.lib.ArrowCancelled):
        raise error
    return ValueError(f"{path} is {what} ({str(error).splitlines()[0]}): fetch it again or leave it out")


def _pick(names: Iterable[str], column: str | None) -> str | None:
    return next((name for name in ([column] if column else ["text", "content"]) if name in names), None)


def _blocks(piece: Piece, size: int, lost: Counter | None = None) -> Iterator[tuple[bytes, int]]:
    """(block, its position) of a piece, cut at the first line end after each multiple of `size` bytes; size 1 gives lines."""
    try:
        with _open(piece.path) as file:
            at = 0
            if piece.start:
                file.seek(piece.start - 1)
                at = piece.start - 1 + len(file.readline())
            while piece.stop is None or at < piece.stop:
                data = file.read(size - at % size - 1) + file.readline()
                if not data:
                    return
                yield data, at
                at += len(data)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        said = f"{piece.path} is truncated or damaged ({error}): fetch it again or leave it out"
        _leave_out(DAMAGED, ValueError(said), lost)


def _open(path: str) -> IO[bytes]:
    return gzip.open(path) if path.endswith(".gz") else open(path, "rb")


def _place(path: str, position: int) -> str:
    """The line is counted for an error message only, so that reading need not count."""
    with _open(path) as file:
        lines = sum(file.read(min(1 << 20, position - at)).count(b"\n") for at in range(0, position, 1 << 20))
    return f"{path}, line {lines + 1},"


def _parquet(path: str):
    import pyarrow.parquet

    try:
        return pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise _damaged(path, error, "no parquet file") from None
