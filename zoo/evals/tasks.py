"""lm-eval's tasks by name: on documents of local files, on the hub's, or as a YAML file of one's own."""

import contextlib
import importlib.metadata
import io
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from zoo.evals.layouts import KINDS, LAYOUTS, Documents, Layout, layout_of, read

SPLITS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}
FEWSHOT_SEED = 1234  # lm-eval's own


class Unavailable(ValueError):
    """What a task needs cannot be had here and now: lm-eval, another package, or a data set of the hub."""


class Loaded(NamedTuple):
    """One name of the command line, ready to run. found: as lm-eval's TaskManager gives it; source: for the record."""

    name: str
    found: dict[str, Any]
    source: dict[str, Any]


def load_tasks(names: Sequence[str], files: Sequence[str] = (), shots: int | None = None) -> list[Loaded]:
    """The named tasks, in order.

    Args:
        names: of lm-eval's tasks, tags and groups, or paths of YAML files in its format.
        files: folders, searched for the tasks' files, or TASK=FILE. Where any are given, nothing comes from the hub.
        shots: worked examples before each question; None leaves the task's own number.

    Raises ValueError or FileNotFoundError, in a sentence, for an unknown name, missing or unfit files, no connection to the hub
    (`Unavailable`), and tasks that run code.
    """
    _require_lm_eval()
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    doubled = next((name for name in names if names.count(name) > 1), None)
    if doubled is not None or not names:
        raise ValueError(f"the task {doubled!r} is named twice." if doubled else "no task is named: give --tasks lambada,piqa,…")
    loaded, manager = [], None
    for name in names:
        if name.endswith((".yaml", ".yml")):
            made = _from_yaml(name)
        elif files:
            made = _from_files(name, files)
        elif (layout := layout_of(name)) and layout.task == name:
            made = _from_hub(name, _manager(layout.folder))
        else:
            manager = manager or _everything()
            made = _from_hub(name, manager)
        for task in made.found["tasks"].values():
            _set_shots(task, shots)
        if not any(task.get_config("num_fewshot") for task in made.found["tasks"].values()):
            made.source.pop("shots_from", None)
        loaded.append(made)
    return loaded


# -- local files ---------------------------------------------------------------------------------------------------
def _from_files(name: str, given: Sequence[str]) -> Loaded:
    layout = layout_of(name)
    if layout is None:
        known = ", ".join(layout.task for layout in LAYOUTS)
        raise ValueError(
            f"{name!r} cannot be read from --files; these can: {known}. Give another task as a YAML file of lm-eval's format, "
            "or leave --files out to fetch it."
        )
    manager = _manager(layout.folder)
    own = manager.task_index[layout.task].cfg
    wanted = "test" if own.get("test_split") else "validation"  # what lm-eval evaluates, where it can choose
    found = find_files(layout, given)
    split = next((s for s in (wanted, "", "test", "validation") if s in found), None)
    if split is None:
        where = ", ".join(given)
        raise FileNotFoundError(
            f"{name}: no file of it is in {where}; its name begins with {' or '.join(layout.files)} and ends with "
            f"{', '.join(KINDS)}. Or name it: --files {name}=FILE."
        )
    documents = read(found[split], layout)
    examples = None
    for other in ("train", "validation", "test"):
        if examples is None and other in found and other != split:
            candidate = read(found[other], layout)
            examples = candidate if candidate.settings == documents.settings else None
    task = {"task": layout.task, **_settings(documents, examples)}
    loaded = manager.load([{"group": "files", "task": [task]}])
    source = {
        "file": documents.file.name,
        "sha256": documents.digest,
        "split": split or "unnamed",
        "documents": len(documents.docs),
    }
    if layout.task == "wikitext" and any("<unk>" in doc["page"] for doc in documents.docs):
        source["note"] = "words are replaced by <unk>: not comparable with numbers on the raw text"
    source["shots_from"] = examples.file.name if examples else documents.file.name
    return Loaded(name, {"tasks": loaded["tasks"], "groups": {}}, source)


def _settings(documents: Documents, examples: Documents | None) -> dict[str, Any]:
    """What makes lm-eval's task read these documents, its few-shot examples from `examples` or from the same file."""

    def dataset(**_) -> dict:
        from datasets import Dataset

        splits = {"test": documents} | ({"train": examples} if examples else {})
        return {split: Dataset.from_list(of.docs) for split, of in splits.items()}

    # lm-eval keeps a question out of its own examples only where both come from the same named split
    examples_split = {"training_split": "train" if examples else None, "fewshot_split": "train" if examples else "test"}
    splits = {**examples_split, "validation_split": None, "test_split": "test"}
    return {"custom_dataset": dataset, "dataset_kwargs": None, **splits, **documents.settings}


def find_files(layout: Layout, given: Sequence[str]) -> dict[str, Path]:
    """Split ("train", "validation", "test", or "" where the name tells none) -> the task's file of it.

    given: folders or TASK=FILE, which goes before all that is in folders. A file's name, or that of its folder, begins with one
    of the layout's; two of one split are a ValueError.
    """
    named = [item.split("=", 1) for item in given if "=" in item]
    own = [Path(path) for task, path in named if layout_of(task) is layout]
    wrong = next((task for task, _ in named if layout_of(task) is None), None)
    if wrong is not None:
        raise ValueError(f"--files {wrong}=…: there is no task {wrong!r} that is read from a file.")
    if len(own) > 1:
        raise ValueError(f"--files names two files for {layout.task}: {own[0]} and {own[1]}.")
    if own:
        return {"": own[0]}
    folders = [Path(item).expanduser() for item in given if "=" not in item]
    absent = next((folder for folder in folders if not folder.is_dir()), None)
    if absent is not None:
        raise FileNotFoundError(f"--files: there is no folder {absent}; a single file is given as TASK=FILE.")
    paths = sorted({p for folder in folders for kind in KINDS for p in folder.rglob(f"*{kind}") if p.is_file()})
    for beginning in layout.files:
        begins = re.compile(rf"{beginning}(?![a-z])")
        found: dict[str, Path] = {}
        for path in paths:
            inside = begins.match(path.name) is None
            if inside and begins.match(path.parent.name) is None:
                continue
            words = re.split("[^a-z]+", path.name if inside else path.name[len(beginning) :])
            split = next((SPLITS[word] for word in words if word in SPLITS), "")
            if split in found:
                raise ValueError(
                    f"{layout.task}: {found[split]} and {path} are both its {split or 'only'} file; name one: "
                    f"--files {layout.task}=FILE."
                )
            found[split] = path
        if found:
            return found
    return {}


# -- lm-eval's own data sets, and YAML files -----------------------------------------------------------------------
def _from_hub(name: str, manager) -> Loaded:
    entry = manager.task_index.get(name)
    if entry is None:
        import difflib

        near = difflib.get_close_matches(name, manager.all_tasks, 3)
        raise ValueError(f"lm-eval has no task {name!r}{'; did you mean ' + ', '.join(near) + '?' if near else '.'}")
    leaves = _leaves(entry, manager.task_index)
    for leaf in leaves:
        _refuse_code(leaf.name, leaf.cfg or {})
    return Loaded(name, _load(name, manager), {"hub": sorted({str((leaf.cfg or {}).get("dataset_path")) for leaf in leaves})})


def _from_yaml(path: str) -> Loaded:
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no task file {path}.")
    made = Loaded(path, _load(path, _manager()), {"yaml": Path(path).name})
    for task in made.found["tasks"].values():
        _refuse_code(path, {"unsafe_code": getattr(task, "UNSAFE_CODE", False)})
    return made


def _leaves(entry, index: dict) -> list:
    """The tasks that a task, tag or group of the index comes down to."""
    listed = (entry.cfg or {}).get("task")
    members = sorted(entry.tags) if entry.kind.name == "TAG" else listed if isinstance(listed, list) else None
    if members is None:
        return [entry]
    names = [m if isinstance(m, str) else m.get("task") or m.get("group") for m in members]
    return [leaf for name in names if isinstance(name, str) and name in index for leaf in _leaves(index[name], index)]


def _refuse_code(name: str, config: dict) -> None:
    if config.get("unsafe_code"):
        raise ValueError(
            f"{name} runs the code that a net writes, which lm-eval does unguarded, with a metric fetched from the hub: use "
            "zoo solve, which runs it in a sandbox (HumanEval, MBPP, APPS)."
        )


def _load(name: str, manager) -> dict:
    """A task with its data set; whatever fails in there comes out as one sentence."""
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # the hub client reports each of its attempts
            found = manager.load([name])
    except ImportError as error:
        raise Unavailable(f"{name} needs the package {error.name}, which is not installed: install it.") from error
    except FileNotFoundError as error:
        reason = str(error).splitlines()[0]
        raise FileNotFoundError(f"{name}: {reason} (a relative path in a task file counts from the working folder).") from error
    except OSError as error:
        raise Unavailable(
            f"{name}: its data set cannot be had from the hub ({str(error).splitlines()[0]}): check the network, or give local "
            "files with --files DIR."
        ) from error
    except Exception as error:  # a task is YAML and code of many authors
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"{name}: lm-eval cannot load this task ({type(error).__name__}: {reason}).") from error
    return {"tasks": found["tasks"], "groups": found.get("groups", {}), "group_map": found.get("group_map", {})}


def _require_lm_eval() -> None:
    try:
        importlib.metadata.version("lm_eval")
    except importlib.metadata.PackageNotFoundError:
        raise Unavailable("The package lm_eval, whose tasks these are, is not installed: pip install 'zoo[eval]'.") from None


def _set_shots(task, shots: int | None) -> None:
    """Fix the number of worked examples, by lm-eval's rules, and how they are drawn."""
    own = task.get_config("num_fewshot")
    if shots is not None and own == 0 != shots:
        raise ValueError(f"{task.task_name} is defined with 0 shots: leave --shots out.")
    if shots is not None or own is None:
        task.set_config(key="num_fewshot", value=shots or 0)
    task.set_fewshot_seed(seed=FEWSHOT_SEED)
    wanted = task.get_config("num_fewshot")
    if wanted and (there := len(list(task.fewshot_docs()))) <= wanted:
        raise ValueError(
            f"{task.task_name}: {wanted} shots need more than the {there} documents they are drawn from: lower --shots."
        )


def _manager(folder: str | None = None):
    """lm-eval's TaskManager that knows the tasks of one of its own folders only, or none (all of them take twelve seconds)."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    home = [str(Path(lm_eval.__file__).parent / "tasks" / folder)] if folder else None
    return TaskManager(include_path=home, include_defaults=False)


def _everything():
    from lm_eval.tasks import TaskManager

    return TaskManager()
