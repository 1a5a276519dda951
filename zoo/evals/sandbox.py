"""Running programs that nobody has read: in a jail without network, files, rights or time to spare, or not at all.

A program runs in its own Linux namespaces (user, mount, pid, IPC, network, host name) without root and without any system
package, see `zoo.evals.jail`. What holds:

- files: it sees the standard library of this Python, read-only and without site-packages, and one empty folder in memory of
  `file_mib`. Home, project, /proc, devices and every other file of the machine are not there, nor any environment or descriptor.
- network: an empty network namespace, and a filter of system calls under which asking for any kind of socket, but for a pair
  that is its own, ends the program.
- limits: processor time, time on the clock, address space per process, processes and threads, size of files, open files.
- its end: with the program goes every process that it has started.
- the verdict: a test runs in a process of its own, in a second cell, and calls the program's functions over a line that carries
  plain data (`zoo.evals.trial`). The program meets arguments, never the test, its file or an expected value; leaving early,
  printing, exit codes, patched built-ins and objects that equal everything change nothing in the process that judges.

What it does not promise: a program can tell what it is asked from the arguments and look up answers that it was trained on; a
hole in the kernel is a hole in the jail; `memory_mib` bounds a process, so a program may hold `processes` times as much; the
processor's side channels stay open.

It takes Linux 5.14, which counts processes per user namespace, on x86_64 or aarch64. Where a wall cannot be put up, or is not
seen to stand when the jail starts, `Jail` raises `Unavailable`: nothing runs unprotected.
"""

import concurrent.futures
import contextlib
import itertools
import json
import math
import os
import queue
import socket
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

ENABLE = (
    "allow it with sysctl user.max_user_namespaces=10000, on Ubuntu kernel.apparmor_restrict_unprivileged_userns=0, on older "
    "Debian kernel.unprivileged_userns_clone=1, in Docker --security-opt seccomp=unconfined --security-opt apparmor=unconfined "
    "--cap-add SYS_ADMIN, or evaluate the samples on a machine that does"
)


START = "import sys; sys.path[:1] = [{root!r}]; from zoo.evals import jail; del sys.path[0]; jail.main({control})"
# Harmless programs that show the walls: none asks for much more than its limit, or for long.
PROOF = """
import os, time

def refused(act):
    try:
        act()
    except (OSError, MemoryError):
        return True
    return False

def first(): return os.getpid() == 1
def outside(): return all(os.statvfs(p).f_flag & os.ST_RDONLY for p in ("/", os.path.dirname(os.__file__)))
def hidden(path): return not os.path.exists(path)
def memory(mib): return refused(lambda: bytearray(mib << 20))
def file(mib): return refused(lambda: os.pwrite(os.open("proof", os.O_WRONLY | os.O_CREAT), b"x", mib << 20))
def processes(limit):
    for made in range(limit + 4):
        try:
            if os.fork() == 0:
                time.sleep(60)
                os._exit(0)
        except OSError:
            return made
    return limit + 4
"""


class Unavailable(ValueError):  # of which the command line prints the text alone
    """This system offers no jail; the text says what is missing and how to allow it."""


@dataclass(frozen=True)
class Limits:
    """seconds: of the processor for each process; the clock gives the whole program three times as much, and a second.
    memory_mib: address space of a process, interpreter (about 40 MiB) included. processes: and threads, at one time.
    file_mib: a file, and the folder."""

    seconds: int = 5
    memory_mib: int = 512
    processes: int = 8
    file_mib: int = 16

    def __post_init__(self):
        if min(self.seconds, self.processes, self.file_mib) < 1 or self.memory_mib < 64:
            raise ValueError(f"{self}: seconds, processes and file_mib must be at least 1, memory_mib at least 64.")


STANDARD = Limits()


@dataclass(frozen=True)
class Outcome:
    """How a program ended. status: passed, failed (wrong, an exception, an early end), timeout, memory, or forbidden (it asked
    for what it may not have). detail: one line, "" when passed; written by the program itself, so for reading only."""

    status: str
    detail: str = ""

    @property
    def passed(self) -> bool:
        return self.status == "passed"


@dataclass(frozen=True)
class Trial:
    """One program and what it must do. Either `test`: Python that takes `names` from the program, after `setup` (trusted
    Python, the test's own); or `cases`: inputs and the output expected of the program as a script, compared by `same`."""

    program: str
    test: str = ""
    names: tuple[str, ...] = ()
    setup: str = ""
    cases: tuple[tuple[str, str], ...] = ()


class Jail:
    """One process that runs programs one by one; a context. Raises Unavailable where the walls cannot be put up."""

    def __init__(self, limits: Limits = STANDARD):
        self.limits = asdict(limits) | {"clock": 3 * limits.seconds + 1}
        if sys.platform != "linux":
            raise Unavailable(f"Programs run only on Linux, and this is {sys.platform}: evaluate the samples on another machine.")
        self.channel, theirs = socket.socketpair()
        start = START.format(root=str(Path(__file__).parents[2]), control=theirs.fileno())
        self.process = subprocess.Popen(
            [sys.executable, "-S", "-s", "-B", "-c", start],
            env={"PYTHONHASHSEED": "0", "PYTHONUTF8": "1", "PYTHONINTMAXSTRDIGITS": "0", "HOME": "/tmp"},
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
        )
        theirs.close()
        self._reply()
        self._prove()

    def __enter__(self) -> "Jail":
        return self

    def __exit__(self, *error) -> None:
        self.close()

    def close(self) -> None:
        self.channel.close()
        self.process.wait()

    def _prove(self) -> None:
        """Raise Unavailable unless every wall is seen to stand."""
        limits, here = self.limits, os.path.abspath(__file__)
        walls = {
            "a process namespace of its own": "first()",
            "a read-only world": f"outside() and hidden({here!r})",
            "a limit of memory": f"memory({limits['memory_mib']})",
            "a limit of files": f"file({limits['file_mib']})",
            "a limit of processes": f"processes({limits['processes']}) < {limits['processes']}",
        }
        names = ("first", "outside", "hidden", "memory", "file", "processes")
        for wall, test in walls.items():
            if not (outcome := self.check(PROOF, f"assert {test}", names)).passed:
                self._refuse(f"{wall} is missing: {outcome.detail}")
        outcome, _ = self.script("import socket\nsocket.socket()")
        if outcome.status != "forbidden":
            self._refuse("the filter of system calls is missing")

    def _refuse(self, why: str) -> None:
        self.close()
        raise Unavailable(f"Programs cannot be enclosed on this system ({why}): {ENABLE}.")

    def _reply(self) -> dict:
        message = self.channel.recv(1 << 16)
        if not message:
            self.close()
            raise RuntimeError(
                "The process of a jail was killed, perhaps because memory ran out: go on with fewer workers, samples are kept."
            )
        reply = json.loads(message)
        broken = [r["broken"] for r in (reply, *reply.values()) if isinstance(r, dict) and "broken" in r]
        if broken:
            self._refuse(broken[0])
        return reply

    def _send(self, cells: dict[str, Sequence[int]], close: Sequence[socket.socket] = ()) -> dict[str, dict]:
        """Descriptors of each role, of which those to `close` have no other holder afterwards; how each ended."""
        job = {"cells": {role: len(fds) for role, fds in cells.items()}, "limits": self.limits}
        socket.send_fds(self.channel, [json.dumps(job).encode()], [fd for fds in cells.values() for fd in fds])
        for end in close:
            end.close()
        return self._reply()

    def judge(self, trial: Trial) -> Outcome:
        """Run a program against its test or its cases (up to the first that it fails)."""
        if not trial.cases:
            return self.check(trial.program, trial.test, trial.names, trial.setup)
        for number, (given, expected) in enumerate(trial.cases, 1):
            outcome, output = self.script(trial.program, given)
            if outcome.passed and not same(output, expected):
                outcome = Outcome("failed", f"wrong output: {' '.join(output[:1000].split())[:200]}")
            if not outcome.passed:
                return Outcome(outcome.status, f"case {number}: {outcome.detail}")
        return Outcome("passed")

    def check(self, program: str, test: str, names: Sequence[str] = (), setup: str = "") -> Outcome:
        """Run a program as a module and its test beside it."""
        job = json.dumps({"setup": setup, "names": list(names), "test": test})
        ours, theirs = socket.socketpair()
        with open(os.devnull, "r+b") as null, memory(program) as code, memory(job) as judge, memory() as verdict:
            nothing, lines = null.fileno(), (ours.fileno(), theirs.fileno())
            ends = self._send(
                {
                    "functions": [nothing, nothing, nothing, code.fileno(), lines[0]],
                    "test": [nothing, nothing, verdict.fileno(), judge.fileno(), lines[1]],
                },
                close=(ours, theirs),
            )
            text = content(verdict)
        if ends["test"]["late"]:
            return Outcome("timeout", f"not done after {ends['test']['seconds']} s")
        found = Outcome(**json.loads(text)) if ends["test"]["code"] == 0 and text else Outcome("failed", "the test was cut short")
        return found if found.passed else ended(ends["functions"]) or found

    def script(self, program: str, given: str = "") -> tuple[Outcome, str]:
        """Run a program with `given` as its input; "passed" when it ends without an error. Returns its output, too."""
        with memory(given) as stdin, memory() as stdout, memory() as stderr, memory(program) as code:
            end = self._send({"program": [file.fileno() for file in (stdin, stdout, stderr, code)]})["program"]
            output, error = content(stdout), content(stderr).strip().rpartition("\n")[2]
        if end["code"] == 0 and not end["late"]:
            return Outcome("passed"), output
        last = error[:500] or f"exit code {end['code']}"
        words = {"MemoryError": "memory", "PermissionError": "forbidden", "OSError: [Errno 30]": "forbidden"}
        word = next((word for start, word in words.items() if last.startswith(start)), "failed")
        return ended(end) or Outcome(word, last), output


def available() -> str | None:
    """None where programs can be enclosed on this system, else the sentence that says what is missing and how to allow it."""
    try:
        Jail().close()
    except Unavailable as error:
        return str(error)
    return None


class Jails:
    """Several jails that share out trials, one for each processor (or `workers`); a context."""

    def __init__(self, limits: Limits = STANDARD, workers: int | None = None):
        self.limits, self.workers = limits, workers or len(os.sched_getaffinity(0))
        self.free: queue.SimpleQueue[Jail] = queue.SimpleQueue()
        self.stack = contextlib.ExitStack()

    def __enter__(self) -> "Jails":
        with contextlib.ExitStack() as stack:
            for _ in range(self.workers):
                self.free.put(stack.enter_context(Jail(self.limits)))
            self.pool = stack.enter_context(concurrent.futures.ThreadPoolExecutor(self.workers))
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *error) -> None:
        self.pool.shutdown(cancel_futures=True)
        self.stack.close()

    def submit(self, trial: Trial) -> "concurrent.futures.Future[Outcome]":
        return self.pool.submit(self._one, trial)

    def judge(self, trials: Iterable[Trial]) -> list[Outcome]:
        """Outcomes in the order of the trials."""
        return [future.result() for future in [self.submit(trial) for trial in trials]]

    def _one(self, trial: Trial) -> Outcome:
        jail = self.free.get()
        try:
            return jail.judge(trial)
        finally:
            self.free.put(jail)


def ended(end: dict) -> Outcome | None:
    """The outcome that the way of its end tells of a program; None where it ended by itself or was sent home."""
    if end["late"]:
        return Outcome("timeout", f"stopped after {end['seconds']} s")
    if end["code"] >= 0 or (end["code"] == -9 and end["stopped"]):
        return None
    if end["code"] == -31:  # SIGSYS
        return Outcome("forbidden", "asked for a socket, another program, a mount or the like, and was ended")
    if end["code"] == -9:
        return Outcome("memory", "killed by the system, which has no memory left")
    return Outcome("failed", f"ended by signal {-end['code']}")


def same(output: str, expected: str) -> bool:
    """Whether two outputs have the same words; one that is a number but no integer may differ in its sixth digit."""
    words = expected.split()
    pairs = itertools.zip_longest(output.split(maxsplit=len(words)), words, fillvalue="")  # one more, if there are more
    return all(found == wanted or _close(found, wanted) for found, wanted in pairs)


def _close(found: str, wanted: str) -> bool:
    if wanted.lstrip("+-").isdigit():  # int() refuses the longest, and as floating-point numbers all of those are inf
        return False
    try:
        return math.isclose(float(found), float(wanted), rel_tol=1e-5, abs_tol=1e-8)
    except ValueError:
        return False


def memory(text: str = ""):
    """A file in memory that holds a text, to be read from its start."""
    file = open(os.memfd_create("zoo"), "r+b", buffering=0)
    file.write(text.encode(errors="replace"))
    file.seek(0)
    return file


def content(file) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")
