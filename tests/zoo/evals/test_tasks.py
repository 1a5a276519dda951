"""lm-eval's tasks on local files: prompts and metrics are lm-eval's, no spelling matters, nothing reaches for a network."""

import gzip
import json
import socket

import pytest

from zoo.evals.layouts import LAYOUTS, layout_of, pages, read
from zoo.evals.tasks import find_files, load_tasks

ARC = {
    "id": "1",
    "question": "Which is warm?",
    "choices": {"text": ["ice", "the sun", "snow", "rain"], "label": ["A", "B", "C", "D"]},
    "answerKey": "B",
}
WINOGRAD = {
    "text": "The cat chased the dog because it was angry.",
    "pronoun": "it",
    "pronoun_loc": 31,
    "quote": "",
    "quote_loc": 0,
    "options": ["The cat", "The dog"],
    "label": 0,
    "source": "",
}
# per task and spelling: file name, record, and the first requests that lm-eval makes of it
CASES = [
    ("lambada", "lambada_openai.jsonl", {"text": "He sat on a mat"}, [("He sat on a", " mat")]),
    ("lambada_openai", "lambada.jsonl", {"context": "He sat on a", "continuation": "mat"}, [("He sat on a", " mat")]),
    (
        "piqa",
        "piqa_valid.jsonl",
        {"goal": "Warm up.", "sol1": "Run.", "sol2": "Sleep.", "label": 1},
        [("Question: Warm up.\nAnswer:", " Run."), ("Question: Warm up.\nAnswer:", " Sleep.")],
    ),
    ("arc_easy", "arc_easy.test.jsonl", ARC, [("Question: Which is warm?\nAnswer:", f" {c}") for c in ARC["choices"]["text"]]),
    (
        "arc_easy",
        "arc_easy_test_mosaic.jsonl",
        {"query": "Question: Which is warm?", "choices": ARC["choices"]["text"], "gold": 1},
        [("Question: Which is warm?\nAnswer:", f" {c}") for c in ARC["choices"]["text"]],
    ),
    (
        "hellaswag",
        "hellaswag_val.jsonl",
        {"activity_label": "Baking", "ctx_a": "A man stirs.", "ctx_b": "he", "endings": ["bakes [x].", "flies."], "label": "0"},
        [("Baking: A man stirs. He", " bakes ."), ("Baking: A man stirs. He", " flies.")],
    ),
    (
        "hellaswag",
        "hellaswag_1000.jsonl",
        {"query": "Baking: A man stirs. He", "choices": ["bakes .", "flies."], "gold": 0},
        [("Baking: A man stirs. He", " bakes ."), ("Baking: A man stirs. He", " flies.")],
    ),
    (
        "winogrande",
        "winogrande_xl_validation.jsonl",
        {"sentence": "Ann saw Eve and _ waved.", "option1": "Ann", "option2": "Eve", "answer": "2"},
        [("Ann saw Eve and Ann", " waved."), ("Ann saw Eve and Eve", " waved.")],
    ),
    (
        "copa",
        "copa_validation.jsonl",
        {"premise": "It rained.", "choice1": "He got wet.", "choice2": "He flew.", "question": "effect", "label": 0},
        [("It rained therefore", "  he got wet."), ("It rained therefore", "  he flew.")],
    ),
    (
        "siqa",
        "siqa_validation.jsonl",
        {"context": "Al fell.", "question": "Why?", "answerA": "ice", "answerB": "fun", "answerC": "joy", "label": "1"},
        [("Q: Al fell. Why?\nA:", " ice"), ("Q: Al fell. Why?\nA:", " fun"), ("Q: Al fell. Why?\nA:", " joy")],
    ),
    (
        "wsc273",
        "wsc273.jsonl",
        WINOGRAD,
        [
            ("The cat chased the dog because the cat", "  was angry."),
            ("The cat chased the dog because the dog", "  was angry."),
        ],
    ),
    (
        "wsc273",
        "winograd_wsc_mosaic.jsonl",
        {
            "context_options": ["The cat chased the dog because the cat", "The cat chased the dog because the dog"],
            "continuation": "was angry.",
            "gold": 0,
        },
        [
            ("The cat chased the dog because the cat", "  was angry."),
            ("The cat chased the dog because the dog", "  was angry."),
        ],
    ),
    (
        "nq_open",
        "nq_open_validation.jsonl",
        {"question": "who fell", "answer": ["Al"]},
        [("Answer these questions:\n\nQ: who fell?\nA:",)],
    ),
    (
        "triviaqa",
        "triviaqa_small.jsonl",
        {"context": "Question: Who fell?\nAnswer:", "answer": "Al", "aliases": ["Al", "Albert"]},
        [("Question: Who fell??\nAnswer:",)],
    ),
    (
        "triviaqa",
        "triviaqa_validation.jsonl",
        {"question": "Who fell?", "answer": {"value": "Al", "aliases": ["Al", "Albert"]}},
        [("Question: Who fell??\nAnswer:",)],
    ),
    ("wikitext", "wikitext_test.jsonl", {"page": " = A = \n It rained , then not . "}, [(" = A =\nIt rained, then not. ",)]),
]


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("something reached for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def write(path, records) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "\n".join(json.dumps(record) for record in records) + "\n"
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return str(path.parent)


def requests(task) -> list[tuple]:
    task.build_all_requests(limit=1)
    made = [r.args for r in task.instances]
    return [args[:1] if r.request_type.startswith("generate") else args for r, args in zip(task.instances, made)]


@pytest.mark.parametrize("name, file, record, wanted", CASES, ids=[case[1] for case in CASES])
def test_requests_of_every_spelling(tmp_path, name, file, record, wanted):
    loaded = load_tasks([name], [write(tmp_path / file, [record] * 2)])[0]
    (task,) = loaded.found["tasks"].values()
    assert requests(task) == wanted
    assert task.task_name == layout_of(name).task and loaded.source["file"] == file and loaded.source["documents"] == 2


def test_every_layout_has_a_case():
    told = {layout_of(case[0]).task for case in CASES}
    assert told == {layout.task for layout in LAYOUTS} - {"gsm8k", "arc_challenge"}  # the one is below, the other arc_easy's


@pytest.mark.parametrize("name, file, record, wanted", CASES, ids=[case[1] for case in CASES])
def test_the_right_answer_scores(tmp_path, name, file, record, wanted):
    """Metrics are lm-eval's own: a perfect answer has accuracy 1, the opposite 0."""
    (task,) = load_tasks([name], [write(tmp_path / file, [record])])[0].found["tasks"].values()
    task.build_all_requests(limit=1)
    doc = task.eval_docs[0]
    kind = task.OUTPUT_TYPE
    if kind == "multiple_choice":
        gold = {"arc_easy": 1, "piqa": 1, "winogrande": 1}.get(task.task_name, 0)
        right = [(-1.0 if i == gold else -9.0, False) for i in range(len(wanted))]
        wrong = [(-9.0 if i == gold else -1.0, False) for i in range(len(wanted))]
        assert task.process_results(doc, right)["acc"] == 1 and task.process_results(doc, wrong)["acc"] == 0
    elif kind == "loglikelihood":
        assert task.process_results(doc, [(-1.0, True)]) == {"perplexity": -1.0, "acc": 1}
    elif kind == "generate_until":
        assert task.process_results(doc, ["Al"])["exact_match"] == 1 and task.process_results(doc, ["Bo"])["exact_match"] == 0
    else:
        # words of the text before lm-eval rewrites it, split at white space
        assert task.process_results(doc, [-1.0])["word_perplexity"] == (-1.0, 11)
        assert task.process_results(doc, [-1.0])["byte_perplexity"] == (-1.0, len(record["page"]))


def test_shots_come_from_another_file(tmp_path):
    question = lambda n: {"question": f"{n} plus 0?", "answer": f"{n} is {n}.\n#### {n}"}
    folder = write(tmp_path / "gsm8k_test.jsonl.gz", [question(i) for i in range(3)])
    write(tmp_path / "gsm8k_train.jsonl", [question(i) for i in range(10, 20)])
    loaded = load_tasks(["gsm8k"], [folder])[0]
    task = loaded.found["tasks"]["gsm8k"]
    (prompt,) = requests(task)[0]
    assert task.get_config("num_fewshot") == 5 and loaded.source["shots_from"] == "gsm8k_train.jsonl"
    assert prompt.count("plus 0?") == 6 and prompt.endswith("Question: 0 plus 0?\nAnswer:")
    assert all(f"Question: {n} plus" not in prompt for n in (1, 2))
    fewer = load_tasks(["gsm8k"], [folder], shots=1)[0].found["tasks"]["gsm8k"]
    assert requests(fewer)[0][0].count("plus 0?") == 2
    none = load_tasks(["gsm8k"], [folder], shots=0)[0]
    assert requests(none.found["tasks"]["gsm8k"])[0][0].count("plus 0?") == 1 and "shots_from" not in none.source


def test_shots_never_show_the_question_itself(tmp_path):
    docs = [{"goal": f"Goal {i}.", "sol1": "a", "sol2": "b", "label": 0} for i in range(4)]
    loaded = load_tasks(["piqa"], [write(tmp_path / "piqa_validation.jsonl", docs)], shots=3)[0]
    prompt = requests(loaded.found["tasks"]["piqa"])[0][0]
    assert [prompt.count(f"Goal {i}.") for i in range(4)] == [1, 1, 1, 1] and prompt.endswith("Goal 0.\nAnswer:")


TEXT = " \n = Cats = \n \n Cats sat . \n = = Paws = = \n \n = = = Left = = = \n soft \n = Dogs = \n \n Dogs <unk> = 2 . \n"


def test_wikitext_is_cut_into_articles(tmp_path):
    cats = " = Cats = \n \n Cats sat . \n = = Paws = = \n \n = = = Left = = = \n soft "
    assert pages(TEXT) == [cats, " = Dogs = \n \n Dogs <unk> = 2 . \n"]
    file = tmp_path / "wikitext-2" / "test.txt.gz"
    file.parent.mkdir()
    file.write_bytes(gzip.compress(TEXT.encode()))
    loaded = load_tasks(["wikitext"], [str(tmp_path)])[0]
    assert loaded.source["documents"] == 2 and "<unk>" in loaded.source["note"]
    (request,) = requests(loaded.found["tasks"]["wikitext"])
    assert request == (" = Cats =\n\nCats sat.\n== Paws ==\n\n=== Left ===\nsoft ",)


def test_file_of_the_split_that_lm_eval_takes(tmp_path):
    layout = layout_of("arc_easy")
    for name in ("arc_easy_validation.jsonl", "arc_easy_test_mosaic.jsonl.gz", "arc_easyish.jsonl", "notes.txt"):
        write(tmp_path / "a" / name, [ARC])
    found = find_files(layout, [str(tmp_path)])
    assert {split: path.name for split, path in found.items()} == {
        "validation": "arc_easy_validation.jsonl",
        "test": "arc_easy_test_mosaic.jsonl.gz",
    }
    own = tmp_path / "mine.jsonl"
    write(own, [ARC])
    assert find_files(layout, [str(tmp_path), f"arc_easy={own}"]) == {"": own}
    write(tmp_path / "b" / "arc_easy_test.jsonl", [ARC])
    with pytest.raises(ValueError, match="both its test file; name one: --files arc_easy=FILE"):
        find_files(layout, [str(tmp_path)])


def test_yaml_file_of_ones_own(tmp_path):
    write(tmp_path / "mine.jsonl", [{"q": "two", "a": "three"}])
    (tmp_path / "mine.yaml").write_text(
        f"task: mine\ndataset_path: json\ndataset_kwargs: {{data_files: '{tmp_path}/mine.jsonl', cache_dir: '{tmp_path}'}}\n"
        "test_split: train\noutput_type: loglikelihood\ndoc_to_text: '{{q}}'\ndoc_to_target: '{{a}}'\n"
        "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
    )
    loaded = load_tasks([str(tmp_path / "mine.yaml")])[0]
    assert requests(loaded.found["tasks"]["mine"]) == [("two", "three")]


def test_each_mistake_gets_its_sentence(tmp_path):
    folder = write(tmp_path / "piqa_validation.jsonl", [{"goal": "g", "sol1": "a", "sol2": "b", "label": 0}])

    def says(kind, text, *args, **more):
        with pytest.raises(kind, match=text) as found:
            load_tasks(*args, **more)
        assert "\n" not in str(found.value)

    says(FileNotFoundError, "copa: no file of it is in .*begins with copa", ["copa"], [folder])
    says(FileNotFoundError, "no folder .*nowhere", ["piqa"], [str(tmp_path / "nowhere")])
    says(FileNotFoundError, "there is no file", ["piqa"], [f"piqa={tmp_path}/nothing.jsonl"])
    says(FileNotFoundError, "no task file", [str(tmp_path / "no.yaml")])
    says(ValueError, "no task 'pica'", ["piqa"], ["pica=x.jsonl"])
    says(ValueError, "'mmlu' cannot be read from --files; these can: lambada_openai", ["mmlu"], [folder])
    says(ValueError, "named twice", ["piqa", "piqa"], [folder])
    says(ValueError, "no task is named", [], [folder])
    says(ValueError, "2 shots need more than the 1 documents", ["piqa"], [folder], shots=2)
    (tmp_path / "p.txt").write_text("x")
    says(ValueError, "plain text", ["piqa"], [f"piqa={tmp_path}/p.txt"])
    for text, reason in (
        ("", "is empty"),
        ('{"goal": 1}\n', "needs? the keys goal, sol1, sol2, label"),
        ("{\n", "line 1, is no JSON object"),
        ('{"goal": "g", "sol1": "a", "sol2": "b", "label": 0}\n{"goal": "g"}\n', "record 2, has no 'label'"),
    ):
        (tmp_path / "bad.jsonl").write_text(text)
        says(ValueError, reason, ["piqa"], [f"piqa={tmp_path}/bad.jsonl"])
    (tmp_path / "bad.jsonl.gz").write_bytes(gzip.compress(b"{}" * 1000)[:20])
    says(ValueError, "is damaged", ["piqa"], [f"piqa={tmp_path}/bad.jsonl.gz"])
    (tmp_path / "gold.jsonl").write_text('{"query": "q", "choices": ["a"], "gold": 7}\n')
    says(ValueError, "record 1, is damaged", ["arc_easy"], [f"arc_easy={tmp_path}/gold.jsonl"])


def test_tasks_that_run_code_are_refused(tmp_path):
    write(tmp_path / "x.jsonl", [{"q": "two", "a": "three"}])
    (tmp_path / "code.yaml").write_text(
        f"task: code\ndataset_path: json\ndataset_kwargs: {{data_files: '{tmp_path}/x.jsonl', cache_dir: '{tmp_path}'}}\n"
        "test_split: train\noutput_type: loglikelihood\ndoc_to_text: q\ndoc_to_target: a\nunsafe_code: true\n"
    )
    with pytest.raises(ValueError, match="use zoo solve"):
        load_tasks([str(tmp_path / "code.yaml")])


@pytest.fixture
def few(monkeypatch):
    """lm-eval's manager with three of its folders (all of them take twelve seconds)."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    from zoo.evals import tasks

    home = tasks.Path(lm_eval.__file__).parent / "tasks"
    folders = [str(home / name) for name in ("humaneval", "piqa", "lambada")]
    monkeypatch.setattr(tasks, "_everything", lambda: TaskManager(include_path=folders, include_defaults=False))


def test_names_without_files_are_lm_evals_own(few):
    with pytest.raises(ValueError, match=r"^humaneval runs the code"):
        load_tasks(["humaneval"])
    with pytest.raises(ValueError, match="no task 'piqq'; did you mean piqa"):
        load_tasks(["piqq"])
    with pytest.raises(ValueError, match=r"^piqa: its data set cannot be had from the hub .* with --files DIR.$"):
        load_tasks(["piqa"])
    with pytest.raises(ValueError, match=r"^lambada: its data set cannot be had"):  # a tag
        load_tasks(["lambada"])


def test_read_keeps_what_the_task_reads(tmp_path):
    write(tmp_path / "arc.jsonl", [ARC])
    documents = read(tmp_path / "arc.jsonl", layout_of("arc_challenge"))
    assert documents.docs == [ARC] and len(documents.digest) == 64
