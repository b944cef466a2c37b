"""data.fixes: each fix does what it says to rewrites and examples, and nothing else."""

import json
from pathlib import Path

import numpy as np
import pytest

from data import fixes
from data.build import TaskInfo, build, find
from medsjax.errors import UserError

NER = 'Name the chemicals. If there is none, you need to output "There is no related enetity.".'
PROMPT = "Rewrite the following instruction definition directly. You can change the wording."
LEAKED = (
    PROMPT,
    "Sure, here's the rewritten version:\n\nName every chemical.",
    "Revise the following definition of instruction directly, then name every chemical.",
)
CHAT = (
    "Got it, I'm ready for the next part when you are.",
    "Sure, I can help with that! Please provide the sentence.",
    "Reword the following definition. Present the rephrased definition without anything else.",
)
PLAIN = (
    "Name every chemical in a sentence.",
    "Rewrite the report in simple words; here is what a patient should learn from it.",
    "You will be given a definition. Paraphrase it, keeping its meaning.",
    "Surely the sentence names a chemical: which?",
    "Certain sentences name a chemical. List them all.",
)


def info(definition: str = "Name it.", rewrites=(), task: str = "task12") -> TaskInfo:
    return TaskInfo(task, "", (), (), "", definition, tuple(rewrites), 1, 0)


def write(folder: Path, number: int, instances: list[tuple[str, str]]) -> Path:
    folder.mkdir(exist_ok=True)
    document = {"Definition": "d", "Instances": [{"input": i, "output": o} for i, o in instances]}
    (folder / f"task{number}_made_up.json").write_text(json.dumps(document))
    return folder


def test_unknown_fixes_and_a_missing_test_set_are_refused():
    fixes.check(fixes.FIXES, "somewhere")
    with pytest.raises(UserError, match="did you mean null_answers"):
        fixes.check(["null_answer"])
    with pytest.raises(UserError, match="choose among leaked_rewrites, "):
        fixes.check(["xyz"])
    with pytest.raises(UserError, match="test_path"):
        fixes.check(["test_duplicates"])


def test_nothing_changes_unasked():
    texts = (*LEAKED, *CHAT, *PLAIN, *PLAIN, 'If none, output "No entity."')
    assert fixes.rewrites(info(NER, texts), ()) == texts
    assert fixes.keep_task("task39", ())


def test_leaked_prompts_and_chat_are_told_from_definitions():
    of = info(rewrites=(*LEAKED, *CHAT, *PLAIN))
    assert fixes.rewrites(of, ("leaked_rewrites",)) == (*CHAT, *PLAIN)
    assert fixes.rewrites(of, ("chat_rewrites",)) == (*LEAKED, *PLAIN)
    assert fixes.rewrites(of, ("leaked_rewrites", "chat_rewrites")) == PLAIN


@pytest.mark.parametrize(
    ("rewrite", "expected"),
    [
        ('If none, output "There is no related entity."', '"There is no related enetity."'),
        ("If none, say 'There is no related entity'.", "'There is no related enetity'."),
        ("the organism's name; else state “No related entity”.", "“There is no related enetity”."),
        ('respond with "no chemical entities detected!"', '"There is no related enetity!"'),
        ('output "There is no related enetity.".', '"There is no related enetity.".'),
    ],
)
def test_the_null_answer_is_spelt_as_in_the_definition(rewrite, expected):
    (repaired,) = fixes.rewrites(info(NER, [rewrite]), ("null_answers",))
    assert repaired.endswith(expected)
    assert repaired.split(expected)[0] == rewrite[: len(repaired) - len(expected)]


def test_what_is_no_null_answer_stays():
    quoted = 'The drug\'s name. Say "aspirin" or "nothing". It isn\'t none of these, it\'s "no".'
    assert fixes.rewrites(info(NER, [quoted]), ("null_answers",)) == (quoted,)
    choices = "Pick one of ['Radiation', 'No radiation or surgery', 'Not known']."
    assert fixes.null_answer(choices) == ""
    other = "Choose 'No radiation', 'No surgery'."
    assert fixes.rewrites(info(choices, [other]), ("null_answers",)) == (other,)


def test_equal_rewrites_are_kept_once_after_their_repair():
    texts = ('Output "No entity."', "b", 'Output "There is no related entity."', "b")
    kept = fixes.rewrites(info(NER, texts), ("null_answers", "duplicate_rewrites"))
    assert kept == ('Output "There is no related enetity."', "b")
    assert fixes.rewrites(info(NER, texts), ("duplicate_rewrites",)) == texts[:3]


def test_only_tasks_known_as_not_medical_are_left_out():
    kept = {task: fixes.keep_task(task, ("non_medical",)) for task in ("task12", "task9999")}
    assert all(kept.values())
    assert not fixes.keep_task("task39", ("non_medical",))


def test_examples_are_left_out_as_asked(tmp_path):
    shared = "the patient came with fever and a cough of four days without any rash"
    labels = [(f"text number {i}", ["yes", "no"][i % 2]) for i in range(40)]
    labels[3:6] = [("same  TEXT", "yes"), ("Same text", "no"), ("other", " ")]
    labels[7] = (shared.upper(), "yes")
    ins = write(tmp_path / "ins", 12, labels)
    write(ins, 13, [(f"question {i}", "always") for i in range(5)])
    write(ins, 14, [("one", "a free answer"), ("one", "another free answer"), ("two", "b")])
    bench = write(tmp_path / "bench", 16, [(shared, "1"), ("question", "2")])
    built = build(find(ins), "ins", tmp_path / "built")

    def out(*names: str) -> list[int]:
        return fixes.excluded(built, names, str(bench), tmp_path / "cache").tolist()

    assert out("leaked_rewrites", "non_medical") == []
    assert out("test_duplicates") == [7]
    assert out("conflicting_answers") == [3, 4]
    assert out("empty_answers") == [5]
    assert out("constant_answers") == [40, 41, 42, 43, 44]
    assert out(*fixes.OF_EXAMPLES) == [3, 4, 5, 7, 40, 41, 42, 43, 44]
    remembered = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").glob("scan-*")}
    assert len(remembered) == 2  # with the test set, and without
    assert out(*fixes.OF_EXAMPLES) == [3, 4, 5, 7, 40, 41, 42, 43, 44]
    assert {path: path.stat().st_mtime_ns for path in remembered} == remembered


def test_the_identity_follows_the_fixes_and_the_test_set(tmp_path):
    def of(*names: str, text: str = "t") -> str:
        bench = write(tmp_path / "bench", 16, [(text, "1")])
        return fixes.identity(names, str(bench), tmp_path / "cache")

    assert of("null_answers", "non_medical") == of("non_medical", "null_answers", text="u")
    several = [of(), of("null_answers"), of("test_duplicates"), of("test_duplicates", text="u")]
    assert len(set(several)) == 4


def test_the_authors_rewrites(realdata):
    path = realdata / "official" / "RewriteDefinitions.json"
    read = json.loads(path.read_text(encoding="utf-8"))
    tasks = {
        task: info(entry["original_def"], entry["auto_rewrite_def"], task)
        for task, entry in read.items()
    }

    def dropped(task: TaskInfo, fix: str) -> int:
        return len(task.rewrites) - len(fixes.rewrites(task, (fix,)))

    leaked = {task: n for task, i in tasks.items() if (n := dropped(i, "leaked_rewrites"))}
    numbers = [12, 13, 16, 43, 50, 69, 70, 71, 78, 81, 82, 99, *range(101, 106), 124]
    assert sorted(int(task[4:]) for task in leaked) == numbers
    assert sum(leaked.values()) == 29
    assert sum(dropped(i, "chat_rewrites") for i in tasks.values()) == 30
    assert sum(dropped(i, "duplicate_rewrites") for i in tasks.values()) == 18_996 - 17_730
    originals = [i.definition for i in tasks.values()]
    assert not any(fixes.is_leaked(text) or fixes.is_chat(text) for text in originals)
    respelt = {
        task: np.count_nonzero(
            [a != b for a, b in zip(i.rewrites, fixes.rewrites(i, ("null_answers",)), strict=True)]
        )
        for task, i in tasks.items()
    }
    assert {t: n for t, n in respelt.items() if n} == dict.fromkeys(
        ("task125", "task126", "task128"), 161
    )
    for task in ("task125", "task126", "task128"):
        repaired = fixes.rewrites(tasks[task], ("null_answers",))
        assert all("There is no related enetity" in text for text in repaired)
