"""The Human Disease Ontology in OBO: task46, explain a disease.

Name -> definition of every term that has one, in file order, 9:1. Terms that the ontology has
withdrawn (is_obsolete) are skipped: their definitions are no longer held to be right. Of several
files in a folder each term counts once, by id and by name, the first file by name deciding.

The authors' file cannot be had from OBO releases alone: its first test instance is a term that
those of 2016 to 2026 leave without a definition. Task47 (the relation of two terms) is not made:
how its pairs were drawn is unknown. Definition: MedS-Ins, CC BY-SA.
"""

import gzip
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

from data.corpora.write import Corpus, Item, Skip, nine_to_one
from medsjax.errors import UserError

SUFFIXES = (".obo", ".obo.gz")
_KEYS = ("id", "name", "def", "is_obsolete")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
_ESCAPE = re.compile(r"\\(.)")


def read(source: Path) -> Iterator[Item | Skip]:
    """`source`: an .obo or .obo.gz file, or a folder of them."""
    paths = [source]
    if source.is_dir():
        paths = sorted(p for p in source.iterdir() if p.name.endswith(SUFFIXES))
    if not paths or not all(path.name.endswith(SUFFIXES) for path in paths):
        raise UserError(f"{source}: must be an .obo or .obo.gz file, or a folder with one")
    items = []
    seen: set[str] = set()
    for path in paths:
        for term in terms(path):
            if term.get("is_obsolete", "").startswith("true"):
                yield Skip("obsolete term")
            elif "def" not in term:
                yield Skip("term without a definition")
            elif seen & {term["id"], term["name"]}:
                yield Skip("term given before")
            else:
                seen |= {term["id"], term["name"]}
                items.append((term["name"], (term["def"],), term["id"]))
    yield from nine_to_one(items)


def terms(path: Path) -> Iterator[dict[str, str]]:
    """The `_KEYS` that each [Term] has; id and name stand in all that are yielded."""
    term: dict[str, str] | None = None  # None: in the header or in a stanza of another kind
    for number, line in enumerate(_lines(path), 1):
        if line.startswith("["):
            if term is not None:
                yield _checked(f"{path}, term before line {number}", term)
            term = {} if line == "[Term]" else None
            continue
        key, colon, value = line.partition(": ")
        if term is not None and colon and key in _KEYS:
            if key in term:
                raise UserError(f"{path}, line {number}: the term has {key} twice; correct it")
            term[key] = _definition(f"{path}, line {number}", value) if key == "def" else value
    if term is not None:
        yield _checked(f"{path}, last term", term)


def _checked(place: str, term: dict[str, str]) -> dict[str, str]:
    if not term.get("id") or not term.get("name"):
        raise UserError(f"{place}: a term needs id and name; fetch the file again")
    return term


def _definition(place: str, value: str) -> str:
    """`"text" [sources]` -> text, its escapes undone."""
    quoted = _QUOTED.match(value)
    if quoted is None or not quoted[1].strip():
        raise UserError(f"{place}: def must be a text in double quotes; correct it")
    return _ESCAPE.sub(lambda m: {"n": "\n", "t": "\t", "W": " "}.get(m[1], m[1]), quoted[1])


def _lines(path: Path) -> Iterator[str]:
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8-sig") as f:
            for line in f:
                yield line.rstrip()
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8; fetch it again") from None
    except (EOFError, gzip.BadGzipFile, zlib.error):
        raise UserError(f"{path}: the gzip file is damaged or cut short; fetch it again") from None


CORPORA = (
    Corpus(
        task="task46",
        train="task46_do_entity_explanation",
        test="task46_do_entity_explanation",
        url="https://github.com/DiseaseOntology/HumanDiseaseOntology",
        fetch="src/ontology/releases/doid.obo of the repository",
        split="9:1 in file order",
        definition=(
            "Assuming you are a doctor, please explan the following given medical professional"
            " entity for me."
        ),
        read=read,
    ),
)
