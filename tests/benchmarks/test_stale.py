from dataclasses import replace

import pytest

from benchmarks import record

CODE = """import os


def f(x):
    return x + 1
"""
SAME = [
    '"""About.\n\nMore → about."""\n' + CODE,
    CODE.replace("import os\n", "import os  # because é\n\n\n# and more\n"),
    CODE.replace("f(x):\n", 'f(x):\n    """Adds one → x.\n\n    Always."""  # so\n'),
    CODE.replace("import os", "import os   "),
    CODE.rstrip("\n"),
]
OTHER = [
    CODE.replace("1", "2"),
    CODE.replace("    return", "     return"),
    CODE.replace("import os", 'import os\nx = "# no comment"'),
    CODE.replace("import os", 'import os\nx = """\nno docstring"""'),
    CODE.replace("x + 1", "x + 1, 'a'"),
]


@pytest.fixture
def digest(tmp_path):
    def of(text):
        (tmp_path / "a.py").write_text(text, encoding="utf-8")
        record.code_hash.cache_clear()
        return record.code_hash(tmp_path / "a.py")

    return of


@pytest.mark.parametrize("text", SAME)
def test_words_change_no_number(digest, text):
    assert digest(text) == digest(CODE)


@pytest.mark.parametrize("text", OTHER)
def test_code_does(digest, text):
    assert digest(text) != digest(CODE)


def test_strings_that_differ_in_what_looks_like_a_comment_differ(digest):
    assert digest('x = "# a"\n') != digest('x = "# b"\n') and digest("x = 1  # a\n") == digest("x = 1  # b\n")


def test_a_measurement_of_a_saved_net_does_not_hang_on_what_trains(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "CHECKOUT", tmp_path)
    code = {"zoo/meter.py": "older", "zoo/module.py": "older"}
    trained = record.Record("r", "row", "desk", 0, "key", "zoo fit", "ok", "2026-01-01", code=code, config={"trainer": {}})
    measured = replace(trained, config={"trainer": {"max_steps": 0}})
    assert record.changed(trained) == ["zoo/meter.py", "zoo/module.py"] and record.changed(measured) == ["zoo/module.py"]


def test_a_changed_or_lost_file_makes_a_record_stale(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "CHECKOUT", tmp_path)
    for name in ("a.py", "b.py"):
        (tmp_path / name).write_text("x = 1\n")
    code = {name: record.code_hash(tmp_path / name) for name in ("a.py", "b.py")}
    made = record.Record("r", "row", "desk", 0, "key", "zoo fit", "ok", "2026-01-01", code=code)
    record.code_hash.cache_clear()
    assert record.changed(made) == []
    (tmp_path / "b.py").write_text("x = 2\n")
    record.code_hash.cache_clear()
    assert record.changed(made) == ["b.py"]
    (tmp_path / "a.py").unlink()
    assert record.changed(made) == ["a.py", "b.py"]
