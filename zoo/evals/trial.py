"""What inmates of a jail do: run a program on its input, offer a program's functions, or test them from another process.

Program and test never share a process: the program sees the arguments of its calls and nothing else of the test, and nothing
that it does to its own interpreter reaches the verdict. What crosses between them is plain data, by value.

Descriptors: 0 input, 1 output, 2 errors or, of a test, its verdict in JSON; 3 the program or test, 4 the line to the other side.
Standard library only.
"""

import atexit
import builtins
import collections
import datetime
import decimal
import fractions
import importlib
import io
import json
import os
import pickle
import random
import struct
import sys
import threading
import traceback
import types

LONGEST = 1 << 26  # bytes of one message
PLAIN = (
    *(type(None), bool, int, float, complex, str, bytes, bytearray, tuple, list, dict, set, frozenset, range, slice),
    *(collections.OrderedDict, collections.Counter, collections.deque, decimal.Decimal, fractions.Fraction),
    *(datetime.date, datetime.time, datetime.datetime, datetime.timedelta, datetime.timezone),
)
IMMUTABLE = 1 << 8  # Py_TPFLAGS_IMMUTABLETYPE
NAMED = {(kind.__module__, kind.__qualname__): kind for kind in PLAIN}


class Lost(BaseException):
    """The other side has gone. No `except Exception` of a test may take this for an answer."""


class Pickler(pickle.Pickler):
    """Plain data by value, a subclass as what it is made from (no equality of its own); of the rest only a number leaves."""

    def __init__(self, file, kept: list | None):
        super().__init__(file, 4)
        self.kept = kept

    def persistent_id(self, value):
        if type(value) is Remote:
            return value._number
        if isinstance(value, PLAIN) or (isinstance(value, type) and value in PLAIN):
            return None
        if self.kept is None:
            raise TypeError(f"a test gives the program a {type(value).__name__}, which is no plain data")
        self.kept.append(value)
        return len(self.kept) - 1

    def reducer_override(self, value):
        if isinstance(value, type) or type(value) in PLAIN:
            return NotImplemented
        base = next(kind for kind in type(value).__mro__ if kind in PLAIN)
        return base, (base(value),)


class Unpickler(pickle.Unpickler):
    """Reads nothing but plain data and numbers of objects."""

    def __init__(self, file, line: "Line"):
        super().__init__(file)
        self.line = line

    def persistent_load(self, number):
        return Remote(self.line, int(number)) if self.line.kept is None else self.line.kept[number]

    def find_class(self, module: str, name: str):
        if (module, name) not in NAMED:
            raise pickle.UnpicklingError(f"{module}.{name} is no plain data")
        kind = NAMED[module, name]
        if self.line.kept is None and not kind.__flags__ & IMMUTABLE:  # a pickle can set its __eq__, for all who use it
            return lambda *content: kind(*content)
        return kind


class Line:
    """Messages over a socket. kept: the objects whose numbers have left; None on the side of the test, which keeps none."""

    def __init__(self, descriptor: int, kept: list | None):
        self.stream, self.kept, self.lost = open(descriptor, "r+b", buffering=0), kept, False

    def send(self, message) -> None:
        buffer = io.BytesIO()
        Pickler(buffer, self.kept).dump(message)
        data = memoryview(struct.pack("=I", buffer.tell()) + buffer.getvalue())
        try:
            while data:
                data = data[self.stream.write(data) :]
        except OSError:
            self.lost = True
            raise Lost from None

    def receive(self):
        (size,) = struct.unpack("=I", self._read(4))
        if size > LONGEST:
            raise ValueError(f"the program's answer is longer than {LONGEST} bytes")
        return Unpickler(io.BytesIO(self._read(size)), self).load()

    def _read(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            try:
                part = self.stream.read(size - len(data))
            except OSError:
                part = b""
            if not part:
                self.lost = True
                raise Lost
            data += part
        return bytes(data)


class Remote:
    """What a program made and is no plain data, as a test sees it: calls, attributes, iteration and truth are the program's,
    equality is not."""

    def __init__(self, line: Line, number: int):
        self.__dict__["_line"], self.__dict__["_number"] = line, number

    def _ask(self, what: str, *content):
        self._line.send((what, self, *content))
        return answer(self._line)

    def __call__(self, *arguments, **named):
        return self._ask("call", arguments, named)

    def __getattr__(self, name: str):
        return self._ask("get", name)

    def __setattr__(self, name: str, value) -> None:
        self._ask("set", name, value)

    def __iter__(self):
        return self._ask("iter")

    def __next__(self):
        return self._ask("next")

    def __bool__(self) -> bool:
        return bool(self._ask("bool"))


def answer(line: Line):
    """The value that the program sends, or the exception that it raised (a built-in one; others become RuntimeError)."""
    kind, *content = line.receive()
    if kind == "value":
        return content[0]
    name, text, number = map(str, content)
    error = getattr(builtins, name, None)
    fits = isinstance(error, type) and issubclass(error, Exception) and not issubclass(error, UnicodeError)
    if fits and issubclass(error, OSError) and number.isdigit():
        raise error(int(number), text)
    raise error(text) if fits else RuntimeError(f"{name}: {text}")


def source() -> str:
    with open(3, encoding="utf-8") as file:
        return file.read()


def module(name: str) -> dict:
    """The namespace of a new module (dataclasses and pickle look for it by its name)."""
    sys.modules[name] = types.ModuleType(name)
    random.seed(0)
    return sys.modules[name].__dict__


def program() -> None:
    """Run a program as a script: input and output are its files."""
    sys.stdin = open(0, encoding="utf-8", closefd=False)
    sys.stdout = sys.__stdout__ = open(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = sys.__stderr__ = open(2, "w", encoding="utf-8", closefd=False)
    code = 1
    try:
        exec(compile(source(), "<program>", "exec"), module("__main__"))
        threading._shutdown()  # what an interpreter does at its end
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc(limit=-3)
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code & 255)


def functions() -> None:
    """Run a program as a module, then answer for what it defined, until nobody asks any more."""
    text, line = source(), Line(4, [])
    space = module("program")
    line.kept.append(sys.modules["program"])
    act = lambda: exec(compile(text, "<program>", "exec"), space)
    try:
        while True:
            try:
                line.send(("value", act()))
            except Exception as error:
                number = getattr(error, "errno", None)
                line.send(("error", type(error).__name__, str(error).removeprefix(f"[Errno {number}] ")[:1000], number or ""))
            what, thing, *content = line.receive()
            act = lambda: perform(what, thing, *content)  # noqa: B023 (called before they change)
    except BaseException:  # the other side is gone, or the program wants to be
        os._exit(0)


def perform(what: str, thing, *content):
    """One request of a test."""
    if what == "call":
        return thing(*content[0], **content[1])
    if what == "set":
        return setattr(thing, *content)
    return {"get": getattr, "iter": iter, "next": next, "bool": bool}[what](thing, *content)


def test() -> None:
    """Try a test on the names that it takes from the program, and write the verdict.

    The text in descriptor 3 is JSON: `setup` (run first), `names` (then taken from the program), `test`.
    """
    job, line = json.loads(source()), Line(4, None)
    written = os.dup(2)
    os.dup2(1, 2)  # what the test prints, or is warned of, is no part of the verdict
    space, verdict = module("test"), {"status": "passed", "detail": ""}
    try:
        exec(compile(job["setup"], "<setup>", "exec"), space)
        answer(line)  # the program has reached its end
        for name in job["names"]:
            space[name] = Remote(line, 0)._ask("get", name)
        exec(compile(job["test"], "<test>", "exec"), space)
    except BaseException as error:
        verdict = {"status": status(error), "detail": told(error, job["test"])}
    if line.lost:  # whatever the test made of it
        verdict = {"status": "failed", "detail": "the program ended before its test did"}
    with open(written, "w", encoding="utf-8") as file:
        json.dump(verdict, file)
    os._exit(0)


def status(error: BaseException) -> str:
    """The word for what a program raised."""
    if isinstance(error, MemoryError):
        return "memory"
    return "forbidden" if isinstance(error, PermissionError) or getattr(error, "errno", None) == 30 else "failed"  # 30: EROFS


def told(error: BaseException, test: str) -> str:
    """One line: the exception, and the line of the test where it came up."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == "<test>"]
    where = f" in: {test.splitlines()[lines[-1] - 1].strip()}" if lines else ""
    return f"{type(error).__name__}: {error}".strip(": ")[:500] + where[:300]


def preload() -> None:
    """Import what programs use: a cell shows no shared libraries, so a module that needs one must be in memory already."""
    names = "array bisect bz2 calendar cmath copy dataclasses enum functools hashlib heapq itertools lzma math operator queue"
    for name in (names + " re statistics string textwrap typing zlib").split():
        importlib.import_module(name)
