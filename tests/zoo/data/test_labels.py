"""Labels beside the windows of a store: what is written is read, what is missing is added, what does not fit is said."""

import errno
import pickle

import numpy as np
import pytest

from zoo.data import labels
from zoo.data.labels import WindowLabels, write

ABOUT = {"context": 3, "labels": 2, "teacher": "a", "score": "attribution"}


def made(split, numbers):
    ids = numbers[:, None, None] * 10 + np.arange(6).reshape(3, 2) + (split == "test") * 5
    ids[:, 2, 1] = -1
    return ids


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(labels, "SHARD", 4)


def test_what_is_written_is_read_in_any_order(tmp_path):
    wanted = {"train": np.array([7, 3, 900, 12, 5, 0]), "test": np.array([1])}
    told = []
    assert write(tmp_path, ABOUT, wanted, made, told.append) == 7
    assert told[1] == f"{tmp_path.name}: 6 of 6 windows of the train split"
    train = WindowLabels(tmp_path, "train", {"teacher": "a"})
    asked = np.array([900, 0, 7, 7])
    assert (train[asked] == made("train", asked)).all() and (
        WindowLabels(tmp_path, "test")[[1]] == made("test", np.array([1]))
    ).all()
    again = pickle.loads(pickle.dumps(train))
    assert (again[asked] == train[asked]).all() and (train[asked][:, 2, 1] == -1).all()


def test_more_windows_are_added_to_those_there_and_a_killed_run_goes_on(tmp_path):
    calls = []

    def dying(split, numbers):
        calls.append(numbers.tolist())
        if len(calls) == 2:
            raise KeyboardInterrupt
        return made(split, numbers)

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, ABOUT, {"train": np.arange(10)}, dying, lambda line: None)
    assert write(tmp_path, ABOUT, {"train": np.arange(12)}, dying, lambda line: None) == 8
    assert calls == [[0, 1, 2, 3], [4, 5, 6, 7], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert write(tmp_path, ABOUT, {"train": np.array([3, 11, 20])}, dying, lambda line: None) == 1 and calls[-1] == [20]
    everything = np.array([*range(12), 20])
    assert (WindowLabels(tmp_path, "train")[everything] == made("train", everything)).all()


def test_a_window_without_labels_is_named(tmp_path):
    write(tmp_path, ABOUT, {"train": np.array([2, 4])}, made, lambda line: None)
    for asked in ([2, 3], [5], [0]):
        with pytest.raises(ValueError, match=rf"window {asked[-1]} of the train split has no labels in .* run's seed"):
            WindowLabels(tmp_path, "train")[np.array(asked)]
    with pytest.raises(ValueError, match="window 1 of the test split"):
        WindowLabels(tmp_path, "test")[np.array([1])]


def test_other_labels_are_told_apart_by_every_difference(tmp_path):
    write(tmp_path, ABOUT, {"train": np.arange(2)}, made, lambda line: None)
    with pytest.raises(ValueError, match="are of teacher 'a', not 'b'; score 'attribution', not 'random': prepare labels"):
        WindowLabels(tmp_path, "train", {"teacher": "b", "score": "random", "context": 3})
    assert (
        write(tmp_path, ABOUT | {"flops": 7.0}, {"train": np.arange(2)}, made, lambda line: None) == 0
    )  # what they cost is no difference
    with pytest.raises(ValueError, match="teacher 'a', not 'b': give --out another folder, or delete this one"):
        write(tmp_path, ABOUT | {"teacher": "b"}, {"train": np.arange(9)}, made, lambda line: None)


def test_damage_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="there are no labels in"):
        WindowLabels(tmp_path, "train")
    write(tmp_path, ABOUT, {"train": np.arange(6)}, made, lambda line: None)
    shard = tmp_path / "train-00001.ids"
    shard.write_bytes(shard.read_bytes()[:-2])
    with pytest.raises(RuntimeError, match=r"train-00001\.ids is damaged: delete it"):
        WindowLabels(tmp_path, "train")
    shard.unlink()
    assert write(tmp_path, ABOUT, {"train": np.arange(6)}, made, lambda line: None) == 2
    for name, content in (("train-00001.windows", b""), ("train-00001.ids", b"")):  # one after the other: then both are empty
        (tmp_path / name).write_bytes(content)
        with pytest.raises(RuntimeError, match=r"train-00001\.ids is damaged: delete it"):
            WindowLabels(tmp_path, "train")
    (tmp_path / "train-00001.windows").unlink()
    with pytest.raises(RuntimeError, match=r"train-00001\.ids is damaged: delete it"):
        WindowLabels(tmp_path, "train")
    for content in ("{", "{}", "[]"):
        (tmp_path / labels.ABOUT).write_text(content)
        with pytest.raises(ValueError, match="is damaged: delete the folder"):
            WindowLabels(tmp_path, "train")


def test_numbers_of_no_concept_are_said(tmp_path):
    write(tmp_path, ABOUT | {"concepts": 2}, {"train": np.arange(6)}, lambda split, n: made(split, n) * 0 + 2, lambda line: None)
    with pytest.raises(RuntimeError, match="hold numbers of no concept: delete"):
        WindowLabels(tmp_path, "train")[np.arange(2)]


def test_ids_that_do_not_fit_and_a_full_disk_are_said(tmp_path, monkeypatch):
    for wrong in (lambda split, n: made(split, n) + 70_000, lambda split, n: made(split, n)[:, :2]):
        with pytest.raises(ValueError, match=r"are no labels: make them \(3, 3, 2\), below 65535"):
            write(tmp_path, ABOUT, {"train": np.arange(3)}, wrong, lambda line: None)

    def full(path, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(labels, "_whole", full)
    with pytest.raises(RuntimeError, match="is full; free some space and run the same command again"):
        write(tmp_path, ABOUT, {"train": np.arange(3)}, made, lambda line: None)
