"""Says in one sentence what a node lacks for the bundle it holds; else prints what run.sh runs: spec, scale, place of records.

Any Python 3.6 must be able to read this file, so that an old one can be told that it is old.
"""

import json
import sys
from pathlib import Path

BUNDLE = Path(__file__).resolve().parents[2] / "bundle.json"


def main() -> str:
    if not (3, 10) <= sys.version_info[:2] <= (3, 12):
        here = ".".join(map(str, sys.version_info[:2]))
        sys.exit(f"run.sh: this Python is {here}, but 3.10 to 3.12 are needed: say PYTHON=/path/to/python3.11")
    from importlib import import_module
    from importlib.metadata import version

    import_module("benchmarks")  # puts site/ on the path
    from packaging.requirements import Requirement
    from packaging.version import Version

    bundle = json.loads(BUNDLE.read_text())
    found = {}
    for name in ("torch", "numpy", *bundle["binaries"]):
        try:
            found[name] = getattr(import_module(name), "__version__", None)
        except ImportError as error:
            made = f"; the one in this bundle is for {bundle['platform']}" if name in bundle["binaries"] else ""
            sys.exit(f"run.sh: this Python cannot import {name} ({error}{made}): install it, or say PYTHON=/path/to/another")
    for line in bundle["requires"]:
        asked = Requirement(line)
        here = Version(found.get(asked.name) or version(asked.name)).base_version  # 2.9.0 of a 2.9.0a0+build
        if here not in asked.specifier:
            cure = "" if asked.name in ("torch", "numpy") else ", or say ZOO_SITE=first: the packages of this bundle"
            sys.exit(f"run.sh: this node has {asked.name} {here}, but {asked} is needed: install that{cure}")
    cuda = import_module("torch").cuda
    gpus = f"{cuda.device_count()} GPUs" if cuda.is_available() else "no GPU that torch can use"
    print(f"{sys.executable}, torch {found['torch']}, {gpus}", file=sys.stderr)
    return f"{bundle['spec']} {bundle['scale']} {bundle['records']}"


print(main())
