"""The house's walls: who may import whom, what nothing is called, what no file may contain."""

import ast
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FORBIDDEN = {"utils", "util", "helpers", "helper", "common", "misc", "manager", "factory", "builder", "abstract"}
# the aim is 250 lines of code, 40 of a recipe, 80 of a spec
LINES = [("tests/", ".py", 600), ("", ".py", 400), ("recipes/", ".yaml", 60), ("benchmarks/specs/", ".yaml", 160)]
# Spelt in pieces, so that this file does not contain them.
MACHINE = re.compile(r"(?<![\w.])/" + r"(?:work|root|home/\w+|Users/\w+|mnt/\w+)/" + "|" + r"\.\./" + r"shared\b")
HOSTS = re.compile(r"https?://\S*(?:" + "py" + "pi|pythonho" + "sted|/sim" + "ple/|artifac" + "tory|ne" + "xus)|index-" + "url")


def imports(path: Path, root: Path) -> set[str]:
    """Dotted names of all modules that a file imports, anywhere in it; `from a import b` gives a and a.b."""
    package = list(path.relative_to(root).parts[:-1])
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join(base + ([node.module] if node.module else []))
            found |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return found


def inside(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


GROUND = {"lcm": {"sonar"}}  # what a paper stands on


def papers(root: Path) -> list[str]:
    """Folders of zoo with a net of their own."""
    return sorted({path.parent.name for path in (root / "zoo").glob("*/net*.py")})


def broken_arrows(root: Path) -> list[str]:
    """`file imports module` for each import that the house forbids."""
    wrong = []
    known = papers(root)
    for path in sorted((root / "zoo").rglob("*.py")):
        file = path.relative_to(root).as_posix()
        folder = file.split("/")[1]
        others = [f"zoo.{paper}" for paper in known if paper not in {folder, *GROUND.get(folder, ())}]
        for name in sorted(imports(path, root)):
            outside = name.split(".")[0] not in sys.stdlib_module_names
            bad = inside(name, "benchmarks") or inside(name, "tests")
            if folder == "nn":
                bad |= outside and not inside(name, "torch") and not inside(name, "zoo.nn") and name != "zoo"
            if folder in known:
                bad |= any(inside(name, paper) for paper in others)
                if path.name.startswith("net"):
                    own = name.startswith(f"zoo.{folder}.net")
                    bad |= outside and not own and not inside(name, "torch") and not inside(name, "zoo.nn") and name != "zoo"
            if folder == "data":
                bad |= any(inside(name, paper) for paper in others)
            if folder == "evals":
                bad |= any(inside(name, f"{paper}.module") for paper in others)
            if bad:
                wrong.append(f"{file} imports {name}")
    return wrong


def texts() -> list[Path]:
    """The project's own text files: what lies at the root and in its folders, without what is generated or installed."""
    folders = [ROOT / name for name in ("zoo", "recipes", "benchmarks", "tests", ".ci", "docs") if (ROOT / name).is_dir()]
    found = [path for folder in folders for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    found += [path for path in ROOT.iterdir() if path.is_file()]
    return sorted(path for path in found if path.suffix not in (".pyc", ".png", ".safetensors", ".npy", ".model"))


def bad_names(path: Path) -> list[str]:
    """File stem and class names that say nothing."""
    names = [path.stem, *(part for part in path.relative_to(ROOT).parts[:-1])] if path.is_relative_to(ROOT) else [path.stem]
    if path.suffix == ".py":
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names += [node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    # Common Crawl is the name of an archive
    words = [(name, re.findall(r"[A-Z]?[a-z]+", name.replace("CommonCrawl", "Crawl"))) for name in names]
    return [name for name, parts in words if {part.lower() for part in parts} & FORBIDDEN]


def test_arrows():
    assert broken_arrows(ROOT) == []


@pytest.mark.parametrize(
    "file, line, allowed",
    [
        ("zoo/nn/a.py", "import numpy", False),
        ("zoo/nn/a.py", "from zoo.data import order", False),
        ("zoo/nn/a.py", "from zoo import data", False),
        ("zoo/nn/a.py", "import math, torch.nn\nfrom zoo.nn.b import c", True),
        ("zoo/nn/a.py", "from . import b\nfrom .b import c", True),
        ("zoo/nn/a.py", "from ..data import b", False),
        ("zoo/one/net.py", "import lightning", False),
        ("zoo/one/net.py", "from zoo.nn import heads\nfrom torch import nn", True),
        ("zoo/one/net.py", "def f():\n    import transformers", False),
        ("zoo/one/module.py", "import lightning\nfrom zoo.optim import AdamW\nfrom zoo.one.net import N", True),
        ("zoo/one/module.py", "from zoo.two import N", False),
        ("zoo/lcm/module.py", "from zoo.sonar import Space", True),
        ("zoo/sonar/space.py", "from zoo.lcm import N", False),
        ("zoo/data/a.py", "from zoo.one.net import N", False),
        ("zoo/evals/a.py", "from zoo.one.module import M", False),
        ("zoo/evals/a.py", "import zoo.one.net", True),
        ("zoo/cli.py", "from benchmarks import run", False),
    ],
)
def test_the_walk_sees_a_broken_arrow(tmp_path, file, line, allowed):
    for name in ("zoo/one/net.py", "zoo/two/net.py", "zoo/lcm/net.py", "zoo/sonar/net.py", file):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / file).write_text(line)
    assert (broken_arrows(tmp_path) == []) is allowed


def test_names_say_what_things_are():
    assert {str(path.relative_to(ROOT)): names for path in texts() if (names := bad_names(path))} == {}


@pytest.mark.parametrize(
    "text, names", [("class DataManager: pass", ["DataManager"]), ("class CommonCrawlX: pass\nclass Normalizer: pass", [])]
)
def test_bad_names_are_seen(tmp_path, text, names):
    (tmp_path / "a.py").write_text(text)
    (tmp_path / "string_utils.py").write_text("")
    assert bad_names(tmp_path / "a.py") == names
    assert bad_names(tmp_path / "string_utils.py") == ["string_utils"]


def test_no_file_knows_this_machine_or_a_registry():
    found = []
    for path in texts():
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if MACHINE.search(line) or HOSTS.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert found == []


def test_machine_paths_and_hosts_are_seen():
    assert MACHINE.search('open("/' + 'work/x")') and MACHINE.search("/" + "home/me/x") and not MACHINE.search("runs/home/me/x")
    assert HOSTS.search("https://" + "py" + "pi.org/x") and not HOSTS.search("https://arxiv.org/abs/2404.19737")


def test_the_lock_holds_versions_only():
    lock = [line.strip() for line in (ROOT / "requirements.lock").read_text().splitlines()]
    pinned = re.compile(r"[\w.\-\[\],]+==[\w.!+]+( ;.*)?$")
    assert [line for line in lock if line and not line.startswith("#") and not pinned.match(line)] == []


def test_building_the_package_takes_setuptools_alone():
    """`pip install .` fetches what is named there into an environment that it throws away: torch would be of it."""
    built = re.search(r"^requires = \[(.*)\]$", (ROOT / "pyproject.toml").read_text(), re.M)[1]
    assert re.findall(r'"([\w.-]+)', built) == ["setuptools"]


def test_files_stay_readable():
    long = []
    for path in texts():
        name = path.relative_to(ROOT)
        limit = next((limit for start, end, limit in LINES if name.as_posix().startswith(start) and path.suffix == end), None)
        if limit and len(path.read_text(encoding="utf-8").splitlines()) > limit:
            long.append(f"{name}: more than {limit} lines")
    assert long == []
