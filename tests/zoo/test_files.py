"""Files that are there whole or not at all, on any file system, and what is said where they cannot be written."""

import errno
import os
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from zoo.files import Unwritten, put, put_new
from zoo.nn.normalizer import Normalizer
from zoo.saved import opened, save


def text(content: str):
    return lambda draft: draft.write_text(content)


def raising(error: BaseException):
    def write(draft: Path) -> None:
        draft.write_text("ha")
        raise error

    return write


def test_put_takes_the_place_of_what_is_there(tmp_path):
    for content in ("one", "two"):
        put(tmp_path / "new" / "a.json", text(content))
        assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.json"]
        assert (tmp_path / "new" / "a.json").read_text() == content


@pytest.mark.parametrize("write", [put, put_new])
@pytest.mark.parametrize(
    ("error", "number"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), errno.ENOSPC),
        (SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"), errno.ENOSPC),
        (OSError("torn"), None),
    ],
)
def test_half_a_file_is_never_there(tmp_path, write, error, number):
    path = tmp_path / "a.json"
    put(path, text("whole"))
    with pytest.raises(Unwritten, match=r"a\.json could not be written: make room or give another folder \(.*\)\.$") as raised:
        write(path, raising(error))
    assert (raised.value.errno, raised.value.filename) == (number, str(path)) and "\n" not in str(raised.value)
    with pytest.raises(KeyboardInterrupt):
        write(path, raising(KeyboardInterrupt()))
    assert [each.name for each in tmp_path.iterdir()] == ["a.json"] and path.read_text() == "whole"


def test_a_folder_that_cannot_be_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(Unwritten, match="could not be written"):
        put(tmp_path / "file" / "a.json", text("x"))


@pytest.mark.parametrize("links", [True, False], ids=["links", "no links"])
def test_put_new_replaces_nothing(tmp_path, monkeypatch, links):
    if not links:
        monkeypatch.setattr(os, "link", lambda *names: (_ for _ in ()).throw(PermissionError(errno.EPERM, "no hard links here")))
    made = [put_new(tmp_path / "a.b.json", text(content)) for content in "xyz"]
    assert [path.name for path in made] == ["a.b.json", "a.b.2.json", "a.b.3.json"]
    assert [path.read_text() for path in made] == ["x", "y", "z"] and len(list(tmp_path.iterdir())) == 3
    assert {path.stat().st_mode & 0o777 for path in made} == {0o644}


def test_no_empty_file_is_left_where_neither_link_nor_rename_goes(tmp_path, monkeypatch):
    for name in ("link", "replace"):
        monkeypatch.setattr(os, name, lambda *names: (_ for _ in ()).throw(PermissionError(errno.EPERM, "not here")))
    with pytest.raises(Unwritten, match=r"a\.json could not be written"):
        put_new(tmp_path / "a.json", text("x"))
    assert list(tmp_path.iterdir()) == []


def test_a_killed_save_leaves_the_part_that_was_there(tmp_path, monkeypatch):
    path = tmp_path / "normalizer.safetensors"
    vectors = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    save(made := Normalizer.fitted(vectors), path)

    def half(state, place, metadata):
        Path(place).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("zoo.saved.save_file", half)
    with pytest.raises(KeyboardInterrupt):
        save(Normalizer.fitted(2 * vectors), path)
    assert torch.equal(opened(Normalizer, path).normalize(vectors), made.normalize(vectors))
