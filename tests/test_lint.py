"""data.lint: each planted fault is found where it is, nothing else is, and no text gets out."""

import gzip
import json
import sys
from pathlib import Path

import pytest

from data import lint, task_file
from data.lint_rules import RULES, Finding, findings
from medsjax.errors import run_main

MARK = "zebrafish"  # in every text of an example and nowhere else
NULL = "There is no related enetity"
HEADER = {
    **{"Contributors": ["me"], "Source": ["made up"], "URL": ["none"], "Reasoning": []},
    "Categories": ["Named Entity Recognition"],
    "Definition": [f'Name the gene. If there is none, output "{NULL}.".', "Which gene is named?"],
    **{f"{kind}_language": ["English"] for kind in ("Input", "Output", "Instruction")},
    **{"Domains": ["Medicine"], "Positive Examples": [], "Negative Examples": []},
}
INSTANCES = [{"input": f"{MARK} {i}", "output": f"{MARK} gene {i}"} for i in range(20)]


def write(tmp_path: Path, name: str = "task900_made_up.json", instances=INSTANCES, **header):
    document = {**HEADER, **header, "Instances": instances}
    document = {key: value for key, value in document.items() if value is not None}
    (tmp_path / name).write_text(json.dumps(document))
    return tmp_path / name


def with_instances(tmp_path: Path, **changed) -> list[Finding]:
    """The findings where instances differ: i7={...} changes the eighth."""
    values = [{**x, **changed.get(f"i{i}", {})} for i, x in enumerate(INSTANCES)]
    return list(findings(write(tmp_path, instances=values)))


def run(*files, capsys) -> tuple[int, str]:
    """Exit code and output of the command."""
    argv, sys.argv = sys.argv, ["lint", *map(str, files)]
    try:
        with pytest.raises(SystemExit) as stop:
            run_main(lint.main)
    finally:
        sys.argv = argv
    return stop.value.code, "".join(capsys.readouterr())


def test_a_right_file_has_no_findings_and_the_bundled_sample_no_errors(tmp_path, capsys):
    assert list(findings(write(tmp_path))) == []
    code, text = run("data/sample/train", "data/sample/test", capsys=capsys)
    assert code == 0 and "error data" not in text


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"Domains": None}, Finding("missing", "", "Domains")),
        ({"Source": None, "Reasoning": None}, Finding("missing", "", "Source, Reasoning")),
        ({"Source": 3}, Finding("type", "Source", "a string or a list of strings")),
        ({"URL": ["x", None]}, Finding("type", "URL", "a string or a list of strings")),
        ({"Positive Examples": "none"}, Finding("type", "Positive Examples", "a list")),
        ({"Contributors": [" "]}, Finding("empty", "Contributors")),
        ({"Definition": ["", "Name it."]}, Finding("empty", "Definition")),
        ({"Categories": ["named entity recognition"]}, Finding("category", "Categories", None)),
        ({"Categories": ["Cooking"]}, Finding("category", "Categories", None)),
        ({"Input_language": ["en"]}, Finding("language", "Input_language")),
        ({"Split Type": "Dev"}, Finding("split", "Split Type")),
        ({"Definition": ["Name it.", "Name it."]}, Finding("same_rewrite", "rewrite 0")),
        ({"Definition": ["Name it.", "A.", " "]}, Finding("blank_rewrite", "rewrite 1")),
        ({"Definition": ["Do.", "Rewrite the following instruction definition directly: do."]},
         Finding("leaked_rewrite", "rewrite 0")),
        ({"Definition": ["Do.", "Sure! Do it."]}, Finding("chat_rewrite", "rewrite 0")),
        ({"Definition": [HEADER["Definition"][0], 'Else output "There is no related entity".']},
         Finding("null_rewrite", "rewrite 0")),
        ({"instances": []}, Finding("empty", "Instances")),
        ({"instances": None}, Finding("missing", "", "Instances")),
        ({"instances": {}}, Finding("document", "", None)),
    ],
)  # fmt: skip
def test_each_fault_of_the_header_is_found_alone(tmp_path, change, expected):
    [found] = findings(write(tmp_path, **change))
    assert found[:2] == expected[:2]
    assert expected.word is None or found.word == expected.word


@pytest.mark.parametrize(
    ("instance", "rules"),
    [
        ({"input": None}, {"instance"}),
        ({"output": []}, {"instance", "output_type"}),
        ({"output": 7}, {"instance"}),
        ({"id": True}, {"instance"}),
        ({"input": " \n"}, {"no_input"}),
        ({"output": ""}, {"no_output"}),
        ({"input": f"{MARK} \t"}, {"spaces"}),
        ({"output": f" {MARK}"}, {"spaces"}),
        ({"output": "There is no related entity."}, {"null_output"}),
        ({"output": "there is no related enetity"}, {"null_output"}),
        ({"output": f"{NULL}."}, set()),
        ({"output": NULL}, set()),
        ({"output": "There are no genes at all."}, set()),
        ({"output": [f"{MARK} gene 7"]}, {"output_type"}),
        (dict(INSTANCES[3]), {"duplicate"}),
        ({"input": INSTANCES[3]["input"]}, {"conflict"}),
    ],
)
def test_each_fault_of_an_instance_is_found_where_it_is(tmp_path, instance, rules):
    found = with_instances(tmp_path, i7=instance)
    assert {(f.rule, f.place) for f in found} == {(rule, "instance 7") for rule in rules}


def test_numbers_count_the_instances_that_the_reader_refuses_too(tmp_path):
    found = with_instances(tmp_path, i2={"input": 5}, i4={"output": ""}, i9=dict(INSTANCES[0]))
    places = {f.rule: f.place for f in found}
    assert places == {
        "instance": "instance 2",
        "no_output": "instance 4",
        "duplicate": "instance 9",
    }


@pytest.mark.parametrize(
    ("name", "rule", "word"),
    [
        ("task900.json", "name", ""),
        ("genes_made_up.json", "name", ""),
        ("task900_made_up.txt", "name", ""),
        ("task900_made_up.jsonl", "suffix", ""),
        ("task126_made_up.json", "taken", "bc5chem_named_enetity_recognition"),
        ("task900_participant_extraction.json", "number", "task1"),
        ("task57_medqa_question_answering_en.json", "other_category", "Question Answering"),
        ("task126_test_bc5chem_named_enetity_recognition.json", None, ""),
        ("task900_test_set.json", None, ""),
    ],
)
def test_the_name_is_held_against_the_rule_and_the_catalog(tmp_path, name, rule, word):
    found = list(findings(write(tmp_path, name)))
    assert found == ([Finding(rule, found[0].place, word)] if rule else [])


def test_what_has_no_errors_the_reader_takes_and_the_other_way_round(tmp_path):
    taken = task_file.read(write(tmp_path))
    assert taken.n == len(INSTANCES)
    for change in ({"instances": []}, {"Definition": []}, {"instances": [{"input": "x"}]}):
        path = write(tmp_path, **change)
        with pytest.raises(task_file.UserError):
            task_file.read(path)
        assert any(RULES[f.rule].severity == "error" for f in findings(path))


def test_all_problems_of_all_files_each_in_a_line_and_the_exit_code(tmp_path, capsys):
    many = [{"input": f"{MARK} {i} ", "output": MARK} for i in range(50)]
    spaces = write(tmp_path, "task901_made_up.json", many)
    code, text = run(spaces, capsys=capsys)
    assert code == 0, "warnings are no errors"
    assert text.count("strip it") == lint.SHOWN and "47 more" in text
    wrong = write(tmp_path, Domains=None, Input_language=["en"], Source=[])
    broken = tmp_path / "task902_made_up.json"
    broken.write_text('{"Definition": "' + MARK)
    code, text = run(spaces, wrong, capsys=capsys)
    assert code == 1
    for part in ("has no Domains", "Input_language: no name", "Source: says nothing", "47 more"):
        assert part in text
    code, text = run(broken, wrong, tmp_path / "task903_not_there.json", capsys=capsys)
    assert code == 2 and "has no Domains" in text, "the others are still checked"
    lines = [line for line in text.splitlines() if str(tmp_path) in line]
    assert [line.split()[0] for line in lines] == ["unreadable", *["error"] * 3, "unreadable"]
    assert all(line.count("; ") == 1 for line in lines), "a rule and its remedy"


def test_no_text_of_an_example_is_printed(tmp_path, capsys):
    values = [{"input": f"{MARK} ", "output": [MARK, ""]}, {"input": MARK}, {MARK: MARK}, MARK]
    path = write(tmp_path, instances=values, Categories=[MARK], Input_language=[MARK])
    path.write_text(path.read_text().replace("Name the gene", f"Name the {MARK}"))
    _, text = run(path, capsys=capsys)
    assert "instance 3" in text and MARK not in text


def test_a_folder_and_a_gzip_file_are_taken_and_an_empty_folder_is_refused(tmp_path, capsys):
    path = write(tmp_path)
    (tmp_path / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    code, text = run(tmp_path, capsys=capsys)
    assert code == 0 and text.count("task900_made_up.json") == 2
    (tmp_path / "empty").mkdir()
    code, text = run(tmp_path / "empty", capsys=capsys)
    assert code == 2 and "holds no task files" in text


def test_real_task_files(realdata, tmp_path):
    folder = realdata / "natural_instructions"
    found = {path.name: list(findings(path)) for path in folder.glob("task*.json")}
    errors = {name for name, its in found.items() for f in its if RULES[f.rule].severity == "error"}
    assert errors == {"task352_coda-19_classification.json"}  # "Section Classification"
    numbers = {f.word for its in found.values() for f in its if f.rule == "number"}
    assert numbers == {"task1", "task26", "task27", "task31"}


def test_real_rewrites(realdata, tmp_path):
    tasks = json.loads((realdata / "official" / "RewriteDefinitions.json").read_text())
    rules: dict[str, int] = {}
    for task in tasks.values():
        texts = [task["original_def"], *task["auto_rewrite_def"]]
        for found in findings(write(tmp_path, Definition=texts)):
            rules[found.rule] = rules.get(found.rule, 0) + 1
    assert rules["leaked_rewrite"] == 29 and rules["same_rewrite"] == 1268
    assert rules["null_rewrite"] > 400  # "entity" for "enetity"
