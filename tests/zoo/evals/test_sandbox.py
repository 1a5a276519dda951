"""Every wall of the jail with a program that runs against it, and the refusal where a wall is missing."""

import os
import subprocess
import sys
import time
import tracemalloc

import pytest

from zoo.evals import sandbox
from zoo.evals.sandbox import Jail, Jails, Limits, Trial, Unavailable

TEST = "assert f(1) == 2\nassert f(2) == 3"
RIGHT = "def f(x):\n    return x + 1"
PATIENT = Limits(seconds=1, memory_mib=256, file_mib=2)
REASON = sandbox.available()
needs_jail = pytest.mark.skipif(REASON is not None, reason=str(REASON))


@pytest.fixture(scope="module")
def jail():
    with Jail(PATIENT) as jail:
        yield jail


def test_a_system_that_has_namespaces_has_a_jail():
    """So that a broken jail does not look like a system without one."""
    root = os.path.join(os.path.dirname(sandbox.__file__), "..", "..")
    walls = "from zoo.evals import kernel as k; k.unshare(k.NEW_USER | k.NEW_NS | k.NEW_PID); k.mount('x', '/tmp', 'tmpfs')"
    quiet = {"stderr": subprocess.DEVNULL, "cwd": root}
    if subprocess.run([sys.executable, "-c", walls], **quiet).returncode:
        pytest.skip("no namespaces here")
    assert REASON is None


@needs_jail
def test_right_and_wrong(jail):
    assert jail.check(RIGHT, TEST, ("f",)).passed
    wrong = jail.check(RIGHT.replace("1", "2"), TEST, ("f",))
    assert (wrong.status, wrong.detail) == ("failed", "AssertionError in: assert f(1) == 2")


EARLY = {
    "leaves with 0": "import sys\nsys.exit(0)",
    "leaves at once": "import os\nos._exit(0)",
    "leaves in the call": "import os\ndef f(x):\n    os._exit(0)",
    "raises SystemExit in the call": "def f(x):\n    raise SystemExit(0)",
    "prints the verdict": """import os
for i in (1, 2): os.write(i, b'{"status": "passed", "detail": ""}')
print('passed')""",
    "equals everything": "class E:\n    def __eq__(s, o): return True\ndef f(x): return E()",
    "a number that equals everything": "class E(int):\n    def __eq__(s, o): return True\ndef f(x): return E(0)",
    "patches assert": "import builtins as b\nb.AssertionError = ValueError\nb.compile = b.exec = print\ndef f(x): return 0",
    "replaces the runner": "import sys\nfor m in list(sys.modules.values()): vars(m)['test'] = print\ndef f(x): return 0",
    "answers unasked": """import os, struct, pickle
m = pickle.dumps(('value', 2)); m = struct.pack('=I', len(m)) + m
os.write(4, m * 9); os._exit(0)""",
    "sends code": """import os, struct, pickle
class E:
    def __reduce__(s): return exec, ("import json, os; os.write(2, json.dumps(dict(status='passed')).encode()); os._exit(0)",)
m = pickle.dumps(('value', E())); os.write(4, struct.pack('=I', len(m)) + m)""",
    "changes a class of the other side": """import io, os, pickle, struct
class Own(pickle.Pickler):
    def persistent_id(self, value): return 0 if value is Own else None
def say(data): os.write(4, struct.pack('=I', len(data)) + data)
def plain(value):
    file = io.BytesIO()
    Own(file, 4).dump(('value', value))
    return file.getvalue()
say(plain(None)), say(plain(Own))
counter = b'ccollections\\nCounter\\n'
while True:  # ('value', Counter()), after Counter.__eq__ = slice
    say(b'\\x80\\x04' + counter + b'N}\\x8c\\x06__eq__cbuiltins\\nslice\\ns\\x86b0\\x8c\\x05value' + counter + b')R\\x86.')""",
    "floods the line": "import os\nwhile True: os.write(4, b'\\xff' * 65536)",
    "recursion": "def f(x): return f(x)",
    "no such name": "g = 1",
    "no Python": "def f(x: return",
}
TAKING = {
    "loop": ("def f(x):\n    while True: pass", "timeout"),
    "loop at the top": ("while True: pass", "timeout"),
    "memory": ("x = []\nwhile True: x.append(bytearray(1 << 20))", "memory"),
    "memory that is not let go": (
        "x = []\nwhile True:\n    try: x.append(bytearray(1 << 20))\n    except MemoryError: pass",
        "timeout",
    ),
    "a fork bomb": ("import os\nwhile True: os.fork()", "failed"),
    "threads": ("import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(100,)).start()", "failed"),
    "disk": ("i = 0\nwhile True:\n    open(str(i), 'wb').write(bytes(1 << 20))\n    i += 1", "failed"),
    "a socket": ("import socket\nsocket.socket()", "forbidden"),
    "a netlink socket": ("import socket\nsocket.socket(16, 3)", "forbidden"),
    "a download": ("import urllib.request\nurllib.request.urlopen('http://127.0.0.1:1')", "forbidden"),
    "a shell": ("import os\nos.execv('/bin/sh', ['sh'])", "forbidden"),
    "a namespace": ("import ctypes\nctypes.CDLL(None).unshare(0x10000000)", "forbidden"),
    "a mount": ("import ctypes\nctypes.CDLL(None).mount(b'x', b'/tmp', b'tmpfs', 0, None)", "forbidden"),
    "another process": ("import ctypes\nctypes.CDLL(None).ptrace(16, 1, 0, 0)", "forbidden"),
    "a life after the jail's": ("import ctypes\nctypes.CDLL(None).prctl(1, 0, 0, 0, 0)", "forbidden"),
    "the network of the line's other end": ("import fcntl\nfcntl.ioctl(4, 0x8912, bytes(16))", "forbidden"),
    "the root": ("open('/x', 'w')", "forbidden"),
    "a higher limit": ("import resource\nresource.setrlimit(resource.RLIMIT_NPROC, (999, 999))", "failed"),
    "a crash": ("import ctypes\nctypes.string_at(0)", "failed"),
}


@needs_jail
@pytest.mark.parametrize("program", EARLY.values(), ids=EARLY.keys())
def test_no_way_to_a_forged_verdict(jail, program):
    assert jail.check(program, TEST, ("f",)).status == "failed"


@needs_jail
@pytest.mark.parametrize("program, status", TAKING.values(), ids=TAKING.keys())
def test_contained_and_reported(jail, program, status):
    outcome = jail.check(program, TEST, ("f",))
    assert outcome.status == status and outcome.detail and "\n" not in outcome.detail
    assert jail.check(RIGHT, TEST, ("f",)).passed  # and the next one finds the jail as it was


@needs_jail
def test_a_test_that_swallows_everything_does_not_pass_a_dead_program(jail):
    test = "try:\n    f(1)\nexcept BaseException:\n    pass"
    assert jail.check(RIGHT, test, ("f",)).passed
    assert jail.check("import os\ndef f(x): os._exit(0)", test, ("f",)).status == "failed"


@needs_jail
def test_sleep_ends_by_the_clock():
    began = time.monotonic()
    with Jail(PATIENT) as jail:
        assert jail.check("import time\ntime.sleep(1000)", TEST, ("f",)).status == "timeout"
    assert time.monotonic() - began < 20


@needs_jail
def test_home_and_project_are_not_there(jail, tmp_path):
    for path in (os.path.expanduser("~/zoo-was-here"), tmp_path / "x", os.path.join(os.path.dirname(__file__), "x")):
        outcome = jail.check(f"open({str(path)!r}, 'w')", "")
        assert outcome.status in ("failed", "forbidden") and not os.path.exists(path)
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    assert jail.script(f"print(open({str(secret)!r}).read())")[0].status == "failed"
    outcome, world = jail.script(
        "import os\nfor f, _, n in os.walk('/'):\n    print(*(os.path.join(f, x) for x in n), sep='\\n')"
    )
    assert outcome.passed and "/heapq.py" in world  # the standard library, and nothing else
    assert not [line for line in world.splitlines() if "site-packages/" in line or "human" in line or "zoo/" in line]


@needs_jail
def test_a_program_finds_no_word_of_its_test(jail):
    """Neither among its objects, nor in frames, environment, arguments or descriptors."""
    word = "b52" + "9ce"  # in pieces, so that the program may look for it whole
    look = """import gc, os, sys
word = ''.join(('b52', '9ce'))
found = [repr(o)[:99] for o in gc.get_objects() if isinstance(o, (list, tuple, set)) and word in repr(o)[:9999]]
found += [k for k, v in os.environ.items() if word in k + v] + [w for w in sys.argv if word in w]
frame = sys._getframe()
while frame:
    found += [k for k, v in frame.f_locals.items() if isinstance(v, str) and word in v and k != 'word']
    frame = frame.f_back
for number in (0, 1, 2, 3, *range(5, 64)):
    try:
        found += [number] if word.encode() in os.read(number, 1 << 20) else []
    except OSError:
        pass
def f(x): return found
"""
    assert jail.check(look, f"# {word}\nassert f('{word}') == []", ("f",)).passed
    seen = look.replace("def f(x)", f"argument = ['{word}']\nfound += [o for o in gc.get_objects() if o == [word]]\ndef f(x)")
    assert jail.check(seen, "assert len(f(0)) == 0", ("f",)).status == "failed"  # what lies there is found


@needs_jail
def test_nothing_outlives_its_program(jail):
    child = "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0: time.sleep(77)\n    os._exit(0)\n"
    assert jail.check(child + RIGHT, TEST, ("f",)).passed
    assert jail.script("open('left', 'w').write('x')")[0].passed
    assert jail.script("import os\nprint(os.listdir('.'), os.getpid(), os.getuid())")[1] == "[] 1 1000\n"


@needs_jail
@pytest.mark.parametrize(
    "value",
    ["None", "(1, [2.5, 'a'], {3: {4}, 'b': b'c'})", "1 + 2j", "range(3)", "float('inf')", "__import__('decimal').Decimal('1.5')"]
    + [
        "__import__('collections').Counter('aab')",
        "__import__('collections').deque([1], 3)",
        "__import__('datetime').date(2024, 4, 30)",
    ],
)
def test_plain_values_cross_the_line(jail, value):
    program = f"def f(): return {value}\ndef g(x): return repr(x)"
    assert jail.check(
        program, f"assert f() == {value} and type(f()) is type({value})\nassert g(f()) == repr({value})", ("f", "g")
    ).passed


@needs_jail
def test_what_is_no_plain_value_stays_with_the_program(jail):
    program = """from collections import namedtuple, defaultdict
class Node:
    def __init__(self, value): self.value, self.next = value, None
    def twice(self): return self.value * 2
Pair = namedtuple('Pair', 'a b')
def follow(node): return node.next.value
def pair(): return Pair(1, 2)
def groups(): return defaultdict(list, {1: [2]})
def count():
    n = 0
    while True:
        yield n
        n += 1
def fails(): raise KeyError('gone')
class Own(Exception): pass
def own(): raise Own('mine')
"""
    test = """
a, b = Node(1), Node(2)
a.next = b
assert follow(a) == 2 and b.twice() == 4 and a.next.value == 2
assert pair() == (1, 2) and groups() == {1: [2]}
numbers = count()
assert [next(numbers) for _ in range(3)] == [0, 1, 2]
for call, error in ((fails, KeyError), (own, RuntimeError)):
    try:
        call()
        assert False
    except error:
        pass
"""
    outcome = jail.check(program, test, ("Node", "follow", "pair", "groups", "count", "fails", "own"))
    assert outcome.passed, outcome


@needs_jail
def test_the_tests_own_names_are_not_the_programs(jail):
    """A program that redefines a function of the prompt or a built-in does not change what its test calls."""
    cheat = "def poly(x): return 0\nabs = lambda x: 0\ndef root(): return 7"
    setup = "def poly(x):\n    return x - 3"
    assert jail.check(cheat, "assert abs(poly(root())) < 1e-4", ("root",), setup).status == "failed"
    assert jail.check(cheat.replace("7", "3"), "assert abs(poly(root())) < 1e-4", ("root",), setup).passed


@needs_jail
def test_what_a_test_prints_is_no_part_of_the_verdict(jail):
    shout = "import os, sys\nprint('loud', file=sys.stderr)\nos.write(2, b'loud')\n"
    assert jail.check(RIGHT, shout + TEST, ("f",)).passed
    assert jail.check(RIGHT, f"{shout}assert f(1) == 1", ("f",)).detail == "AssertionError in: assert f(1) == 1"


@needs_jail
def test_scripts_by_their_output(jail):
    double = "n = int(input())\nprint(*(2 * int(input()) for _ in range(n)))"
    cases = (("2\n1\n2\n", "2 4\n"), ("1\n5", "10"))
    assert jail.judge(Trial(double, cases=cases)).passed
    wrong = jail.judge(Trial(double, cases=(*cases, ("1\n1\n", "3"))))
    assert (wrong.status, wrong.detail) == ("failed", "case 3: wrong output: 2")
    assert jail.judge(Trial("import sys\nsys.exit(1)", cases=(("", ""),))).status == "failed"
    thread = (
        "import threading, atexit, sys\natexit.register(sys.stdout.write, '2')\nthreading.Thread(target=print, args=(1,)).start()"
    )
    assert jail.script(thread)[1] == "1\n2"
    assert jail.script("print(1 / 0)")[0].detail == "ZeroDivisionError: division by zero"
    assert jail.judge(Trial("print(0.1 + 0.2, 3)", cases=(("", "0.3 3"),))).passed
    assert not jail.judge(Trial("print(10000001)", cases=(("", "10000000"),))).passed
    assert not jail.judge(Trial("print('8' * 5000)", cases=(("", "9" * 5000),))).passed


def test_outputs_are_compared_without_a_list_of_their_words():
    """A program may print many millions, in every jail at once."""
    output = "1 " * 500_000
    tracemalloc.start()
    assert not sandbox.same(output, "1 1") and not sandbox.same("1", "1 1") and not sandbox.same("1 1 ", "1")
    assert tracemalloc.get_traced_memory()[1] < 5 * len(output)
    tracemalloc.stop()
    assert sandbox.same(" 1\n 1 \n\n", "1 1") and sandbox.same("", "\n")


@needs_jail
def test_equal_programs_have_equal_outcomes(jail):
    """Hash order and random numbers are the same in every jail."""
    program = "import random\nprint({'a', 'b', 'c', 'd', 'e', 'f'}, random.random())"
    with Jail(PATIENT) as other:
        assert jail.script(program)[1] == other.script(program)[1] != ""


@needs_jail
def test_a_program_inherits_nothing(jail, monkeypatch):
    """No descriptor but its own, no variable of the caller."""
    monkeypatch.setenv("SECRET_TOKEN", "secret")
    look = """import os
def opened():
    found = []
    for number in range(1024):
        try:
            os.fstat(number)
            found.append(number)
        except OSError:
            pass
    return found
def variables(): return sorted(os.environ)"""
    with Jail(PATIENT) as fresh:
        assert fresh.check(look, "assert opened() == [0, 1, 2, 4], opened()", ("opened",)).passed
        own = ["HOME", "LC_CTYPE", "PYTHONHASHSEED", "PYTHONINTMAXSTRDIGITS", "PYTHONUTF8"]
        assert fresh.check(look, f"assert variables() == {own}", ("variables",)).passed


@needs_jail
def test_many_trials_keep_their_order():
    with Jails(PATIENT, workers=2) as jails:
        outcomes = jails.judge(Trial(f"def f(x): return {i} % 3", "assert f(1) == 0", ("f",)) for i in range(12))
    assert [o.passed for o in outcomes] == [i % 3 == 0 for i in range(12)]


# -- refusal ---------------------------------------------------------------------------------------------------------
def test_other_systems_are_refused(monkeypatch):
    monkeypatch.setattr(sandbox.sys, "platform", "darwin")
    with pytest.raises(Unavailable, match="only on Linux"):
        Jail()
    assert "only on Linux" in sandbox.available()


def test_without_namespaces_nothing_runs(monkeypatch):
    weaken(monkeypatch, "kernel.unshare = lambda flags: (_ for _ in ()).throw(PermissionError(1, 'unshare: not permitted'))")
    reason = sandbox.available()
    assert "unshare: not permitted" in reason and "user.max_user_namespaces" in reason
    with pytest.raises(Unavailable), Jails(workers=2):
        pass


@needs_jail
@pytest.mark.parametrize(
    "weakness, wall",
    [
        ("kernel.forbid_calls = lambda: None", "filter of system calls"),
        ("kernel.read_only = lambda path: None", "read-only world"),
        ("kernel.NEW_PID = 0", "process namespace"),
        (
            "set = resource.setrlimit; resource.setrlimit = lambda n, v: None if n == resource.RLIMIT_AS else set(n, v)",
            "of memory",
        ),
        (
            "set = resource.setrlimit; resource.setrlimit = lambda n, v: None if n == resource.RLIMIT_FSIZE else set(n, v)",
            "of files",
        ),
        (
            "set = resource.setrlimit; resource.setrlimit = lambda n, v: None if n == resource.RLIMIT_NPROC else set(n, v)",
            "of processes",
        ),
    ],
)
def test_a_missing_wall_is_found_before_anything_runs(monkeypatch, weakness, wall):
    weaken(monkeypatch, weakness)
    with pytest.raises(Unavailable, match=wall):
        Jail(Limits(seconds=1, memory_mib=64))


def weaken(monkeypatch, line: str) -> None:
    """Have jails start with a wall taken away."""
    begin, end = sandbox.START.split("jail.main")
    monkeypatch.setattr(sandbox, "START", f"{begin}import resource; from zoo.evals import kernel; {line}; jail.main{end}")


def test_limits_that_make_no_sense():
    with pytest.raises(ValueError, match="at least"):
        Limits(seconds=0)
