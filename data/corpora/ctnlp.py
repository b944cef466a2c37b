"""Eligibility criteria of ClinicalTrials.gov, their entities and relations as JSON: task77.

train.json trains and test.json tests; dev.json goes nowhere. The corpus draws its splits line by
line, so the lines of one trial lie in all three. The authors' script pairs a trial's whole text
with the training lines alone: every other line is taught as empty, and the corpus' line numbers,
which count sentences, do not always meet the text's lines. Here an instance is the lines of one
trial in one split, in their order, and LineN is line N of this input, counted from 0. Entities and
relations stand in the order of the text, as the definition asks, not in the corpus'.

The rest is the authors' gold: {entity: type} and [head, tail, type] with the corpus' own labels
("Condition-Name", "Acuteness___chronic"), tokens joined by spaces. Definition: MedS-Ins, CC BY-SA.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from data.corpora import read as raw
from data.corpora.split_files import split_files
from data.corpora.write import Corpus, Item, Skip, Split
from medsjax.errors import UserError

_ID = re.compile(r"(\d+)_(\S+)")  # the line's number and its trial's


class Line(NamedTuple):
    number: int
    text: str
    gold: dict[str, list]  # Entities and Relations


def read(source: Path) -> Iterator[Item | Skip]:
    """`source`: a folder with train.json, test.json or both, or one of these files."""
    for split, path in split_files(source, ["train.json"], ["test.json"]).items():
        yield from _trials(split, path)


def _trials(split: Split, path: Path) -> Iterator[Item | Skip]:
    rows = raw.document(path)
    if not isinstance(rows, list):
        raise UserError(f"{path}: must be a list of lines; fetch it again")
    trials: dict[str, list[Line]] = {}
    for ordinal, row in enumerate(rows):
        trial, line = _line(f"{path}, entry {ordinal}", row)
        if line.text:
            trials.setdefault(trial, []).append(line)
        else:
            yield Skip("blank line")
    for trial, lines in trials.items():
        lines.sort(key=lambda line: line.number)
        gold = {f"Line{i}": line.gold for i, line in enumerate(lines)}
        text = "\n".join(line.text for line in lines)
        yield Item(split, text, (json.dumps(gold, ensure_ascii=False, indent=4),), trial)


def _line(place: str, row: Any) -> tuple[str, Line]:
    if not isinstance(row, dict):
        raise UserError(f"{place}: must be an object; fetch the file again")
    match = _ID.fullmatch(raw.text(place, row, "orig_id"))
    tokens = row.get("tokens")
    if match is None or not isinstance(tokens, list) or not all(isinstance(t, str) for t in tokens):
        raise UserError(f"{place}: needs orig_id line_trial and tokens, a list of strings")
    gold = _gold(place, tokens, row.get("entities"), row.get("relations"))
    return match[2], Line(int(match[1]), _join(tokens), gold)


def _join(tokens: list[str]) -> str:
    return " ".join(" ".join(tokens).split())


def _gold(place: str, tokens: list[str], entities: Any, relations: Any) -> dict[str, list]:
    try:
        spans = [(e["start"], e["end"], str(e["type"])) for e in entities]
        if not all(0 <= start < end <= len(tokens) for start, end, _ in spans):
            raise IndexError
        named = [{_join(tokens[start:end]): kind} for start, end, kind in spans]
        order = sorted(range(len(spans)), key=lambda i: spans[i][:2])
        rank = {entity: i for i, entity in enumerate(order)}
        linked = [(r["head"], r["tail"], str(r["type"])) for r in relations]
        linked.sort(key=lambda link: (rank[link[0]], rank[link[1]]))
    except (TypeError, KeyError, IndexError):
        raise UserError(
            f"{place}: entities need type, start and end within the tokens, and relations type,"
            " head and tail within the entities; fetch the file again"
        ) from None
    return {
        "Entities": [named[i] for i in order],
        "Relations": [[named[head], named[tail], kind] for head, tail, kind in linked],
    }


DEFINITION = (
    "Identifying cohorts of patients based on eligibility criteria such as medical "
    "conditions, procedures, and medication use is critical to recruitment for clinical "
    "trials. Such criteria are often most naturally described in free-text, using language "
    "familiar to clinicians and researchers. In order to identify potential participants at "
    "scale, these criteria must first be translated into queries on clinical databases, "
    "which can be labor-intensive and error-prone. Thus, in the following task, I hope you "
    "can help me structure the report ciriterias. In detail, you have to recognize the vital "
    "medical entities from the free-texts, together with their relationships. For entities, "
    "you need pick a type for them from the following list: \n\n "
    "Clinical - Allergy, Condition, Condition-Type, Code, Contraindication, Drug, Encounter, "
    "Indication, Immunization, Observation, Organism, Specimen, Procedure, Provider. \n\n "
    "Demographic - Age, Birth, Death, Ethnicity, Family-Member, Language, "
    "Life-Stage-And-Gender. \n\n "
    "Logical - Exception, Negation. \n\n "
    "Qualifiers - Acuteness, Assertion, Modifier, Polarity, Risk, Severity, Stability. \n\n "
    "Temporal and Comparative - Criteria-Count, Eq-Comparison (an abbreviation of “Equality "
    "Comparison”), Eq-Operator, Eq-Temporal-Period, Eq-Temporal-Recency, Eq-Temporal-Unit, "
    "Eq-Unit, Eq-Value. \n\n "
    "Other - Coreference, Insurance, Location, Other, Study. \n\n "
    "And for relationship, you need to pick one from \n\n "
    "Alternatives and Examples - Abbrev-Of, Equivalent-To, Example-Of. \n\n "
    "Clinical - Code, Contraindicates, Indication-For, Name, Provider, Specimen, Stage, "
    "Type. \n\n "
    "Dependent - Caused-By, Found-By, Treatment-For, Using. \n\n "
    "Logical - And, If-Then, Negates, Or. \n\n "
    "Qualifier - Acuteness, Asserted, Dose, Modifies, Polarity, Risk-For, Severity, "
    "Stability. \n\n "
    "Temporal and Comparative - After, Before, Criteria, Duration, During, Max-Value, "
    "Min-Value, Minimum-Count, Numeric-Filter, Operator, Per, Temporal-Period, "
    "Temporal-Recency, Temporal-Unit, Temporality, Unit, Value. \n\n "
    "Other - From, Except, Has, Is-Other, Location, Refers-To, Study-Of. \n\n "
    "I hope you organize your answer as the json file format so that I can editor it "
    "flexibly. In detail, the first level is indexed by line number. For each line, you have "
    "to output two elements, the first is 'Entities' which is a list contain some tuples, "
    "like (entity, entity_type), and the second is 'Relations' which is also a tuple list "
    "while its each tuple should be likr (start_entity, end_entity, entity_type). All the "
    "element order should follow the its appearing order in the original free-text."
)

CORPORA = (
    Corpus(
        task="task77",
        train="task77_clinical_trials_gov_data_named_entity_recognition",
        test="task77_clinical_trials_gov_data_named_entity_recognition",
        url="https://github.com/uw-bionlp/clinical-trials-gov-data",
        fetch="data/ner/spert of the repository, with train.json and test.json",
        split="official: train.json, test.json",
        definition=DEFINITION,
        read=read,
        domains=("Medicine", "Clinical Trials", "Eligibility Criteria"),
    ),
)
