"""Benchmark files and how they spell what lm-eval's tasks read: original fields, llm-foundry's ("mosaic") form, plain text.

Prompts, metrics and filters are lm-eval's own: a form only turns a record into the fields of the task's data set on the hub.
"""

import gzip
import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

KINDS = (".jsonl", ".jsonl.gz", ".txt", ".txt.gz")
ARTICLE = re.compile(r" ?= (?!= ).* = ?")  # the line of WikiText above an article; sections have "= = "


class Form(NamedTuple):
    """One spelling: the keys that tell it, the task's fields of a record, settings of the task that must differ."""

    keys: tuple[str, ...]
    fields: Callable[[dict], dict] = dict
    settings: dict[str, Any] = {}


class Layout(NamedTuple):
    """One of lm-eval's tasks: its name and folder there, beginnings of its files' names, and the forms they may have."""

    task: str
    folder: str
    files: tuple[str, ...]
    forms: tuple[Form, ...]


def _lambada(doc: dict) -> dict:
    return {"text": f"{doc['context']} {doc['continuation']}"}


def _arc(doc: dict) -> dict:
    labels = [chr(ord("A") + i) for i in range(len(doc["choices"]))]
    choices = {"text": doc["choices"], "label": labels}
    return {"question": doc["query"].removeprefix("Question: "), "choices": choices, "answerKey": labels[doc["gold"]]}


def _trivia(doc: dict) -> dict:
    question = doc["context"].removeprefix("Question: ").removesuffix("\nAnswer:")
    return {"question": question, "answer": {"value": doc["answer"], "aliases": doc["aliases"]}}


def _winograd(doc: dict) -> dict:
    return {**doc, "continuation": f" {doc['continuation']}"}  # lm-eval's own text begins with the space too


ARC = (Form(("question", "choices", "answerKey")), Form(("query", "choices", "gold"), _arc))
# the text before the pronoun and a candidate in its place, and the text after it: lm-eval's own partial scoring
WINOGRAD = {"process_docs": None, "doc_to_text": "gold", "doc_to_choice": "context_options", "doc_to_target": "continuation"}
HELLASWAG = {"process_docs": None, "doc_to_target": "gold"}  # such a file is cleaned already

LAYOUTS = (
    Layout(
        "lambada_openai", "lambada", ("lambada_openai", "lambada"), (Form(("text",)), Form(("context", "continuation"), _lambada))
    ),
    Layout("piqa", "piqa", ("piqa",), (Form(("goal", "sol1", "sol2", "label")),)),
    Layout("arc_easy", "arc", ("arc_easy",), ARC),
    Layout("arc_challenge", "arc", ("arc_challenge",), ARC),
    Layout(
        "hellaswag",
        "hellaswag",
        ("hellaswag",),
        (
            Form(("ctx_a", "ctx_b", "activity_label", "endings", "label")),
            Form(("query", "choices", "gold"), settings=HELLASWAG),
        ),
    ),
    Layout("winogrande", "winogrande", ("winogrande_xl", "winogrande"), (Form(("sentence", "option1", "option2", "answer")),)),
    Layout("copa", "super_glue/copa", ("copa",), (Form(("premise", "choice1", "choice2", "question", "label")),)),
    Layout(
        "social_iqa",
        "siqa",
        ("social_iqa", "siqa"),
        (Form(("context", "question", "answerA", "answerB", "answerC", "label")),),
    ),
    Layout(
        "wsc273",
        "wsc273",
        ("wsc273", "winograd_wsc", "winograd"),
        (
            Form(("text", "pronoun", "pronoun_loc", "options", "label")),
            Form(("context_options", "continuation", "gold"), _winograd, WINOGRAD),
        ),
    ),
    Layout("nq_open", "nq_open", ("nq_open",), (Form(("question", "answer")),)),
    Layout(
        "triviaqa", "triviaqa", ("triviaqa",), (Form(("context", "answer", "aliases"), _trivia), Form(("question", "answer")))
    ),
    Layout("gsm8k", "gsm8k", ("gsm8k",), (Form(("question", "answer")),)),
    Layout("wikitext", "wikitext", ("wikitext",), (Form(("page",)),)),
)


def layout_of(name: str) -> Layout | None:
    """The layout of a task, by lm-eval's name or by the beginning of its files' names ("lambada", "siqa")."""
    return next((layout for layout in LAYOUTS if name in (layout.task, *layout.files)), None)


class Documents(NamedTuple):
    """What a file holds, in the fields of its task. settings: of the task, where they must differ. digest: of the file."""

    file: Path
    digest: str
    docs: list[dict]
    settings: dict[str, Any]


def read(file: Path, layout: Layout) -> Documents:
    """The documents of a file of this layout; FileNotFoundError or ValueError, in a sentence, where it holds none."""
    if not file.is_file():
        raise FileNotFoundError(f"{layout.task}: there is no file {file}.")
    raw = file.read_bytes()
    try:
        text = (gzip.decompress(raw) if file.suffix == ".gz" else raw).decode("utf-8")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is damaged or no utf-8 text ({error}): fetch it again.") from None
    if ".jsonl" in file.suffixes:
        records = _records(file, text)
    elif ("page",) in [form.keys for form in layout.forms]:
        records = [{"page": page} for page in pages(text)]
    else:
        raise ValueError(f"{layout.task} is not read from plain text ({file}): give a .jsonl or .jsonl.gz file.")
    if not records:
        raise ValueError(f"{file} is empty: fetch it again.")
    form = next((form for form in layout.forms if set(form.keys) <= set(records[0])), None)
    if form is None:
        known = ", or ".join(", ".join(form.keys) for form in layout.forms)
        raise ValueError(f"{file} does not look like {layout.task}: its records need the keys {known}.")
    docs = []
    for number, record in enumerate(records, 1):
        try:
            docs.append(form.fields({key: record[key] for key in (form.keys if form.fields is not dict else record)}))
            absent = set(form.keys) - set(record)
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise ValueError(f"{file}, record {number}, is damaged ({type(error).__name__}: {error}): fetch it again.") from None
        if absent:
            raise ValueError(f"{file}, record {number}, has no {sorted(absent)[0]!r}: fetch it again.")
    return Documents(file, hashlib.sha256(raw).hexdigest(), docs, form.settings)


def _records(file: Path, text: str) -> list[dict]:
    records = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                records.append(json.loads(line))
            except ValueError:
                records.append(None)
            if not isinstance(records[-1], dict):
                raise ValueError(f"{file}, line {number}, is no JSON object: fetch it again.")
    return records


def pages(text: str) -> list[str]:
    """The articles of a WikiText file, headings included, as the hub's wikitext_document_level cuts them."""
    found: list[list[str]] = [[]]
    for line in text.split("\n"):
        if ARTICLE.fullmatch(line):
            found.append([])
        found[-1].append(line)
    return [page for page in map("\n".join, found) if page.strip()]
