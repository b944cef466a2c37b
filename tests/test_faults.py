"""Faults of the official scorers, each with an answer that shows it and what `fixed` makes of it.

A catalogue: where a rule of `fixed` is questioned, its reason stands here.
"""

from typing import NamedTuple

import numpy as np
import pytest

from eval.scorers import fixed, official
from eval.tasks import HALLMARKS, TASKS

DIES = "dies"  # at this file: nothing of it gets a score
NULL, SPELT = "There is no related enetity.", "There is no related entity."
ROUGE = {official: "rougeL", fixed: "rouge1"}  # what the official scorers call ROUGE-1 is ROUGE-L
LONG = " ".join(f"w{i}" for i in range(9_992))


class Fault(NamedTuple):
    """Answers to a task's items, (prediction, gold or golds), and their score in percent."""

    task: str
    answers: list[tuple[str, str | tuple[str, ...]]]
    official: float | str
    fixed: float
    metric: str = ""  # the task's primary one


def one(task, prediction, gold, official, fixed, metric=""):
    return Fault(task, [(prediction, gold)], official, fixed, metric)


def half(task, empty, gold, official):
    """An empty answer, and then a right one."""
    return Fault(task, [(empty, gold), (gold, gold)], official, 50)


GOLD = "The right answer is B: Aspirin"
ZH, JA = "正确答案是 B: 阿司匹林", "正しい答えは B: アスピリン です"
DIAGNOSIS, TREATMENT = "The diagnosis result is ", "The treatment planning is: "
H1, H2, *_ = HALLMARKS

FAULTS = {
    "choice: the first character is the answer, whatever it begins": [
        one("task57", "Because of age: C", GOLD, 100, 0),
        one("task57", "Answer: B", GOLD, 0, 100),
        one("task57", "Answer: B", "The right answer is A: Heparin", 100, 0),
        one("task57", "Definitely A", "The right answer is D: Digoxin", 100, 0),
    ],
    "choice: a letter in brackets, in bold or behind a word is none": [
        one("task57", "(B)", GOLD, 0, 100),
        one("task57", "**B**", GOLD, 0, 100),
        one("task57", "Option B", GOLD, 0, 100),
        one("task57", "\\boxed{B}", GOLD, 0, 100),
        one("task57", "The answer is (B), since it helps.", GOLD, 0, 100),
        one("task57", "I think the answer is B", GOLD, 0, 100),
    ],
    "choice: the option's own words are another option": [
        one("task57", "Aspirin", GOLD, 0, 100),
        one("task57", "The right answer is aspirin.", GOLD, 0, 100),
        one("task57", "Bisoprolol", GOLD, 100, 0),
    ],
    "choice: only the English opening is known": [
        one("task58", ZH, ZH, 0, 100),
        one("task59", JA, JA, 0, 100),
        one("task60", "Les bonnes réponses est B", "Les bonnes réponses est B: x", 0, 100),
        one("task61", "Правильные ответ: B", "Правильные ответ: B: да", 0, 100),
        one("task129", "La respuesta correcta es: B", "La respuesta correcta es: B: x", 0, 100),
        one("task57", "Correct answer: B", GOLD, 0, 100),
    ],
    "choice: letters beyond D are never right": [
        one("task57", "E", "The right answer is E: Insulin", 0, 100),
        one("task57", "(h)", "H: Insulin", 0, 100),
    ],
    "choice: of several letters only the first counts": [
        one("task57", "B or C", GOLD, 100, 0),
        one("task57", "B: Aspirin\nC: Heparin", GOLD, 100, 0),
        one("task57", "B", "B: x, C: y", 100, 0),
    ],
    "choice: maybe is never right, and silence is no": [
        one("task123", "maybe", "maybe", 0, 100),
        one("task123", "", "no", 100, 0),
        one("task123", "None", "no", 100, 0),
        one("task123", "Not clear", "no", 100, 0),
    ],
    "label: it may stand inside another word": [
        one("task130", "Measles", f"{DIAGNOSIS}SLE.", 100, 0),
        one("task130", "Unstable angina", f"{DIAGNOSIS}Stable angina.", 100, 0),
        one("task12", "I do not know", "no", 100, 0),
        one("task12", "Normal.", "no", 100, 0),
        one("task16", "12", "2", 100, 0),
        one("task16", "In 2019", "0", 100, 0),
        one("task117", "Untrue", "True", 100, 0),
    ],
    "label: one that is denied is right": [
        one("task130", "It is not pneumonia", f"{DIAGNOSIS}Pneumonia.", 100, 0),
        one("task130", "Pneumonia is unlikely", f"{DIAGNOSIS}Pneumonia.", 100, 0),
        one("task41", "non-entailment", "Entailment", 100, 0),
        one("task117", "Not true", "True", 100, 0),
    ],
    "label: a list of all of them is right": [
        one("task41", "entailment, contradiction, neutral", "Neutral", 100, 0),
        one("task130", "Croup or SLE", f"{DIAGNOSIS}SLE.", 100, 0),
        one("task12", "yes or no", "no", 100, 0),
        one("task16", "0 1 2", "1", 100, 0),
    ],
    "label: an empty gold is part of every answer": [
        one("task130", "Croup", ".", 100, 0),
        one("task131", "surgery", TREATMENT, 100, 0),
        one("task41", "pregnant", "", 100, 0),  # read as nan
    ],
    "label: dots leave the gold, but not the answer": [
        one("task130", "E. coli", f"{DIAGNOSIS}E. coli.", 0, 100),
        one("task131", "2.5 Gy", f"{TREATMENT}2.5 Gy.", 0, 100),
        one("task131", "25 Gy", f"{TREATMENT}2.5 Gy.", 100, 0),
        one("task117", "True.", "True.", 0, 100),
    ],
    "label: the gold's opening goes in one spelling only": [
        one("task130", "Croup", "the diagnosis result is croup.", 0, 100),
        one(
            "task131",
            "Radiation after surgery",
            TREATMENT.lower() + "radiation after surgery",
            0,
            100,
        ),
    ],
    "label: the answer is not read to its end": [
        one("task16", "The verdict is:\n1", "1", 0, 100),
        one("task12", "\nno", "no", 0, 100),
        one("task12", "no\nOn the whole: yes", "no", 100, 0),
    ],
    "span: it may stand inside another one": [
        one("task29", "110 mg", "10 mg", 100, 0),
        one("task74", "Age: 7; high fever", "high", 100, 0),
        one("task1", "not found, or 43 women", "not found", 100, 0),
    ],
    "span: a cell without text is the word nan": [
        one("task1", "pregnant women", "", 100, 0),
        one("task1", "", "", 100, 0),
    ],
    "span: white space, quotes and dots make answers differ": [
        one("task2", "metformin\nplacebo", "metformin placebo", 0, 100),
        one("task2", "metformin  placebo", "metformin placebo", 0, 100),
        one("task2", "Crohn’s disease", "Crohn's disease", 0, 100),
        one("task2", "metformin", "metformin.", 0, 100),
    ],
    "entities: the last one loses its last letter": [
        one("task126", "vitamin B1", "vitamin B2.", 100, 0),
        one("task126", "aspirin, ibuprofen.", "ibuprofen, aspirin.", 0, 100),
        one("task126", "K", "O.", 100, 0),
    ],
    "entities: only a comma and a space part them": [
        one("task126", "aspirin\nheparin", "aspirin, heparin.", 0, 100),
        one("task126", "aspirin,heparin", "aspirin, heparin.", 0, 100),
        one("task126", "aspirin; heparin", "aspirin, heparin.", 0, 100),
        one("task126", "1. aspirin\n2. heparin", "aspirin, heparin.", 0, 100),
    ],
    "entities: all dots go": [
        one("task126", "vitamin D 15, aspirin", "vitamin D 1.5, aspirin", 100, 50),
    ],
    "entities: the null answer is null in its wrong spelling only": [
        Fault("task126", [(SPELT, NULL), ("aspirin", "aspirin.")], 200 / 3, 100),
        Fault("task126", [(SPELT, SPELT), ("aspirin", "heparin.")], 50, 0),
    ],
    "entities: to find nothing where nothing is, is worth nothing": [
        one("task126", NULL, NULL, 0, 100),
    ],
    "entities: an empty answer does not count": [
        Fault("task126", [("", "heparin."), ("aspirin", "aspirin.")], 100, 200 / 3),
        Fault("task126", [("", NULL), ("aspirin", "aspirin.")], 100, 200 / 3),
        one("task126", "NA", "NA.", 0, 100),  # sodium
    ],
    "hallmarks: one may stand in a denial": [
        Fault("task106", [(f"not {H1}", H1), (H2, H2)], 20, 50),
    ],
    "hallmarks: those that no item has count as missed": [
        one("task106", f"{H1}, {H2}.", f"{H2}, {H1}", 20, 100),
    ],
    "text: tokens keep their capitals and punctuation": [
        one("task114", "Fever, cough", "fever cough", 50, 100, "ROUGE"),
        one("task114", "No fever.", "no fever", 50, 100, "ROUGE"),
    ],
    "text: what is called ROUGE-1 is ROUGE-L": [
        one("task114", "cough and fever", "fever and cough", 100 / 3, 100, "ROUGE"),
    ],
    "text: repetition is free": [
        one("task114", "fever fever fever", "fever", 100, 50, "ROUGE"),
    ],
    "text: every dot ends a sentence, and what follows the last one is a word": [
        one("task114", "0.5 mg", "5.0 mg", 100, 200 / 3, "rougeL"),
        one("task114", "fever. ", "cough. ", 50, 0, "rougeL"),
    ],
    "text: one task's gold loses its capitals and dots": [
        one("task100", "It helps. It does.", "It helps. It does.", 200 / 3, 100),
    ],
    "text: a long sentence is fatal": [
        one("task114", LONG, "one two three four five", DIES, 0),
    ],
    "all: only the first gold counts": [
        one("task29", "ten milligrams", ("10 mg", "ten milligrams"), 0, 100),
        one("task57", "C", ("B", "C"), 0, 100),
        one("task41", "Neutral", ("Entailment", "Neutral"), 0, 100),
        one("task126", "aspirin", ("ibuprofen.", "aspirin."), 0, 100),
        one("task106", H2, (H1, H2), 0, 100),
        one("task114", "a b c", ("x y z", "a b c"), 0, 100),
    ],
    "all: an empty answer, or one of dots, is fatal or does not count": [
        half("task130", "", "Croup", DIES),
        half("task131", "", "surgery", DIES),
        half("task12", "", "no", DIES),
        half("task57", " ", "B", DIES),
        half("task114", "", "a b", DIES),
        half("task42", "", "a b", DIES),
        half("task52", "", "a b", DIES),
        half("task52", " ", "a b", 100),
        half("task18", "", "a b", 100),
        half("task18", "None", "a b", 100),
        half("task18", "...", "a b", DIES),
        half("task100", ".", "a b", DIES),
    ],
}


CASES = [
    pytest.param(fault, id=f"{rule} ({i})")
    for rule, faults in FAULTS.items()
    for i, fault in enumerate(faults, 1)
]


@pytest.mark.parametrize("fault", CASES)
def test_what_the_official_scorer_gets_wrong_and_fixed_right(fault):
    assert score(official, fault) == (
        DIES if fault.official == DIES else pytest.approx(fault.official, abs=1e-5)
    )
    assert score(fixed, fault) == pytest.approx(fault.fixed)
    assert fault.official == DIES or abs(fault.official - fault.fixed) > 1


def test_every_kind_of_task_has_its_faults():
    kinds = {TASKS[fault.task].kind for faults in FAULTS.values() for fault in faults}
    assert kinds == {task.kind for task in TASKS.values()}


def score(column, fault: Fault) -> float | str:
    task = TASKS[fault.task]
    golds = [(gold,) if isinstance(gold, str) else gold for _, gold in fault.answers]
    said = [prediction for prediction, _ in fault.answers]
    if column is official:
        pairs = zip([its[0] for its in golds], said, strict=True)
        cells = [map(official.cell, pair) for pair in pairs]
        if any(official.judge(task.id, *its).status == "crash" for its in cells):
            return DIES
    statistics = column.score_rows(task, said, golds)
    metric = ROUGE[column] if fault.metric == "ROUGE" else fault.metric or task.primary
    return float(column.aggregate(task, statistics, np.ones(len(said)))[metric])
