from benchmarks import record


def test_a_changed_file_makes_a_record_stale(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "CHECKOUT", tmp_path)
    (tmp_path / "a.py").write_text("x = 1")
    made = record.Record("r", "row", "desk", 0, "key", "zoo fit", "ok", "2026-01-01", code={"a.py": record._digest("x = 1")})
    assert not record.stale(made)
    (tmp_path / "a.py").write_text("x = 2")
    assert record.stale(made)
    (tmp_path / "a.py").unlink()
    assert record.stale(made)
