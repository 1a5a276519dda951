"""`zoo prepare sentences`: a recipe's store, whoever builds it, with a normalizer beside it."""

import json
import os
import re
from pathlib import Path

import pytest
import torch
import yaml
from omegaconf import OmegaConf

from zoo.__main__ import main
from zoo.data import scale
from zoo.data.crawl import CommonCrawlSentences
from zoo.data.segment import Capped
from zoo.data.sentence_store import SentenceStore
from zoo.nn.normalizer import Normalizer
from zoo.sonar import SpaceEncoder
from zoo.sonar.folder import write_folder


@pytest.fixture(scope="module")
def home(tmp_path_factory, harbour):
    """A space, texts, and a recipe of both with sections that are no data."""
    home = tmp_path_factory.mktemp("home")
    lines, parts = harbour(home)
    write_folder(home / "space", *parts)
    rows = [" ".join(lines[i : i + 10]) for i in range(0, 400, 10)]
    (home / "texts.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    encoder = {"class_path": "zoo.sonar.SpaceEncoder", "init_args": {"space": "elsewhere", "device": "cpu"}}
    given = {"source": "hub", "hub": "none/such", "encoder": encoder, "files": None}
    data = {"class_path": "zoo.data.crawl.CommonCrawlSentences", "init_args": given}
    (home / "recipe.yaml").write_text(
        yaml.safe_dump({"model": {"class_path": "not.Here"}, "data": data, "trainer": {"max_steps": 3}})
    )
    overlay = {"data": {"init_args": {"source": "files", "files": [f"{home}/texts.jsonl"], "hub_config": None}}}
    (home / "overlay.yaml").write_text(yaml.safe_dump(overlay))
    return home


def words(home, root, *more):
    given = [f"--data.init_args.root={root}", f"--data.init_args.encoder.init_args.space={home / 'space'}"]
    return ["prepare", "sentences", "-c", str(home / "recipe.yaml"), "-c", str(home / "overlay.yaml"), *given, *more]


def content(root):
    [folder] = Path(root).glob("CommonCrawlSentences-*")
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file() and path.name[0] != "."}


def test_a_recipes_store_whoever_builds_it(home, tmp_path, capsys):
    found = main(words(home, tmp_path / "loop"))
    encoder = SpaceEncoder(str(home / "space"), device="cpu")
    data = CommonCrawlSentences(source="files", files=[f"{home}/texts.jsonl"], encoder=encoder, root=str(tmp_path / "loop"))
    data.prepare_data()  # which is there already
    data.setup()
    splits = data.stores["train"].manifest["splits"]
    assert found == {name: sum(each[name] for each in splits.values()) for name in ("sentences", "documents")}
    assert found["documents"] == 40 and "left out: nothing" in capsys.readouterr().out
    pytest.importorskip("datatrove", reason="datatrove is in the extra `scale`")
    assert main(words(home, tmp_path / "other", "--executor", "local")) == found
    assert "1 tasks of SentenceShards, local" in capsys.readouterr().out
    assert content(tmp_path / "other") == content(tmp_path / "loop") and "normalizer.safetensors" in content(tmp_path / "loop")
    assert main(words(home, tmp_path / "other", "--executor=local")) == found
    assert "tasks of" not in capsys.readouterr().out


def test_a_stores_normalizer_is_fitted_once(home, tmp_path):
    encoder = SpaceEncoder(str(home / "space"), device="cpu")
    data = CommonCrawlSentences(source="files", files=[f"{home}/texts.jsonl"], encoder=encoder, root=str(tmp_path))
    data.prepare_data()
    vectors = torch.from_numpy(SentenceStore(data.folder, "train").sample(10**6))
    wanted = Normalizer.fitted(vectors)
    assert data.normalizer.center.equal(wanted.center) and data.normalizer.scale.equal(wanted.scale)
    path = data.folder / "normalizer.safetensors"
    before, fingerprint = path.read_bytes(), data.fingerprint
    path.unlink()
    lone = CommonCrawlSentences(source="store", files=[str(data.folder)])  # a store of old gets its own
    lone.prepare_data()
    assert path.read_bytes() == before and lone.fingerprint == fingerprint
    stamp = path.stat().st_mtime_ns
    data.prepare_data()
    assert path.stat().st_mtime_ns == stamp and not list(data.folder.glob("*.tmp"))


def test_a_store_that_cannot_be_written_to_is_read_all_the_same(home, tmp_path, capsys, monkeypatch):
    encoder = SpaceEncoder(str(home / "space"), device="cpu")
    data = CommonCrawlSentences(source="files", files=[f"{home}/texts.jsonl"], encoder=encoder, root=str(tmp_path))
    data.prepare_data()
    (data.folder / "normalizer.safetensors").unlink()

    def refused(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("zoo.data.sentences.locked", refused)
    CommonCrawlSentences(source="store", files=[str(data.folder)]).prepare_data()
    assert "has no normalizer.safetensors and takes none (Permission denied): fit one on a copy" in capsys.readouterr().out
    with pytest.raises(FileNotFoundError, match="there is no Normalizer"):
        _ = data.normalizer


def test_slurm_is_handed_the_work_and_the_next_call_ends_it(home, tmp_path, capsys, monkeypatch):
    pytest.importorskip("datatrove", reason="datatrove is in the extra `scale`")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "sbatch").write_text(f'#!/bin/sh\nfor last; do :; done\ncp "$last" {tmp_path}/job\necho Submitted 7\n')
    (tmp_path / "bin" / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin{os.pathsep}{os.environ['PATH']}")
    given = ["--executor", "slurm", "--partition", "gpu", "--gpus", "1", "--gigabytes", "64", "--setup", "source here"]
    assert main(words(home, tmp_path / "data", *given)) == {}
    assert "submitted, with logs in" in capsys.readouterr().out
    script = (tmp_path / "job").read_text()
    assert "--partition=gpu" in script and "source here" in script and "array=0-0" in script
    assert main(words(home, tmp_path / "data"))["documents"] == 40


def test_archives_are_extracted_and_encoded_by_the_executor(home, tmp_path, capsys):
    for name in ("datatrove", "warcio", "justext"):
        pytest.importorskip(name, reason=f"{name} is in the extra `scale` or `sentences`")
    text = lambda i: f"The man said that he would not be there, and that it was all she had to say about him, number {i}. " * 2
    for name, numbers in (("a", range(20)), ("b", range(15, 30))):
        records = (text(i).encode() for i in numbers)
        head = "WARC/1.0\r\nWARC-Type: conversion\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n"
        (tmp_path / f"{name}.wet").write_bytes(b"".join(head.format(len(r)).encode() + r + b"\r\n\r\n" for r in records))
    given = ["--data.init_args.source=warc", f"--data.init_args.files=['{tmp_path}/*.wet']", "--data.init_args.similar=1.0"]
    found = main(words(home, tmp_path / "data", *given, "--executor", "local"))
    said = capsys.readouterr().out
    assert said.index("2 tasks of Extracts") < said.index("2 tasks of SentenceShards")
    assert found["documents"] == 30 and "left out: 5 exact duplicate" in said
    assert main(words(home, tmp_path / "loop", *given)) == found and content(tmp_path / "loop") == content(tmp_path / "data")


def test_the_words_of_a_recipe_of_files_show_samples_by_its_own_space():
    root = Path(__file__).parents[3]
    said = (root / "recipes/sentences/files.yaml").read_text()
    [words] = re.findall(r"^#   zoo fit (.*?) …", said, re.M)
    merged = OmegaConf.merge(*map(OmegaConf.load, [root / word for word in words.split() if word != "-c"]))
    [board] = [each for each in merged.trainer.callbacks if each.class_path.endswith("SentenceBoard")]
    assert board.init_args.space == merged.data.init_args.encoder.init_args.space == "zoo/sonar/small"
    assert merged.data.init_args.source == "files"


@pytest.mark.parametrize("recipe", sorted((Path(__file__).parents[3] / "recipes/sentences").glob("*.yaml")), ids=lambda p: p.stem)
def test_recipes_name_a_store(recipe):
    data, given = scale._parsed(["-c", str(recipe), "--executor", "slurm"])
    assert data.view == "sentences" and given.executor == "slurm" and data.segmenter.fingerprint
    assert isinstance(data.encoder, SpaceEncoder) and data.context == 128
    assert recipe.stem == "files" or data.encoder.fingerprint
    assert data.encoder.space == ("zoo/sonar/small" if recipe.stem == "files" else "text_sonar_basic_encoder")
    capped = next(each for each in inside(data.segmenter) if isinstance(each, Capped))
    assert capped.characters == (100 if recipe.stem == "files" else 256)


def inside(segmenter):
    yield segmenter
    if hasattr(segmenter, "segmenter"):
        yield from inside(segmenter.segmenter)


def test_mistakes_are_named(home, tmp_path):
    def said(*given):
        with pytest.raises(SystemExit) as end:
            main(["prepare", "sentences", *given])
        return str(end.value)

    assert "there is no recipe nowhere.yaml; recipes are under recipes/" in said("-c", "nowhere.yaml")
    (tmp_path / "none.yaml").write_text("model: {class_path: a}")
    assert "names no data (data.class_path)" in said("-c", str(tmp_path / "none.yaml"))
    (tmp_path / "bad.yaml").write_text("a: [")
    assert "is no YAML of sections" in said("-c", str(tmp_path / "bad.yaml"))
    view = ["--data.init_args.view=tokens", f"--data.init_args.encoder.init_args.space={home / 'space'}"]
    assert "its data are no CommonCrawlSentences" in said(
        "-c", str(home / "recipe.yaml"), "-c", str(home / "overlay.yaml"), *view
    )
    assert "needs the name of a partition" in said(*words(home, tmp_path / "data", "--executor=slurm")[2:])
