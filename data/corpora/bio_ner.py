"""Corpora in BIO columns: BC4CHEMD, BC5CDR chemicals and diseases, Species-800.

One token and its tag (O, B-…, I-…) a line, a blank line after each sentence. As in the published
files, tokens are joined by spaces, but none before . , ; : ? ! in the input; mentions keep the
spaces ("sp . nov ."), the order of the sentence and their repetitions, and are joined by ", " with
a full stop after the last. A mention that holds a comma is therefore cut in two by any scorer.

train.tsv trains and test.tsv tests; devel.tsv goes nowhere, as the published sizes show. Diseases
(task127) were held out of training by the authors: test only.

The authors' own script for Species-800 writes "There is no related entity." where definition and
scorer say "enetity", so that a right answer would count as a wrong mention; here the gold is the
benchmark's. It also drops an I- tag that follows no B- of its kind; here that begins a mention.
Definitions: MedS-Ins, CC BY-SA. Task127 has none there: its sibling's, with "disease".
"""

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from data.corpora import read as raw
from data.corpora.write import Corpus, Item, Split
from medsjax.errors import UserError

NULL = "There is no related enetity."  # sic: the definitions and the official scorer
MTL = "https://github.com/cambridgeltl/MTL-Bioinformatics-2016"
S800 = "https://huggingface.co/datasets/spyysalo/species_800"
_TAG = re.compile(r"O|[BI](?:-\S+)?")
_CLOSE = frozenset(".,;:?!")

Tagged = list[tuple[str, str]]  # (token, tag) of one sentence


def read(source: Path, splits: tuple[Split, ...]) -> Iterator[Item]:
    """`source`: a folder with train.tsv, test.tsv or both, or one of these files."""
    names = {split: f"{split}.tsv" for split in splits}
    folder, files = source.parent, [source.name]
    if source.is_dir():
        folder, files = source, [name for name in names.values() if (source / name).is_file()]
    if not files or not set(files) <= set(names.values()):
        raise UserError(f"{source}: must be {' or '.join(names.values())}, or a folder with them")
    for split, name in names.items():
        if name in files:
            for sentence in sentences(folder / name):
                yield Item(split, join([token for token, _ in sentence]), (gold(sentence),))


def sentences(path: Path) -> Iterator[Tagged]:
    sentence: Tagged = []
    for number, line in raw.lines(path):
        if not line.strip():
            if sentence:
                yield sentence
            sentence = []
            continue
        token, *tags = line.split("\t" if "\t" in line else " ")
        if not token or len(tags) != 1 or not _TAG.fullmatch(tags[0]):
            raise UserError(
                f"{path}, line {number}: must be a token, a tab and a tag O, B-… or I-…;"
                " take the corpus in its IOB form"
            )
        sentence.append((token, tags[0]))
    if sentence:
        yield sentence


def join(tokens: list[str]) -> str:
    """The tokens as the published input has them."""
    return tokens[0] + "".join(t if t in _CLOSE else f" {t}" for t in tokens[1:])


def mentions(sentence: Tagged) -> list[str]:
    found: list[list[str]] = []
    before = "O"
    for token, tag in sentence:
        if tag != "O":
            inside = tag[0] == "I" and before != "O" and before[1:] == tag[1:]
            if not inside:
                found.append([])
            found[-1].append(token)
        before = tag
    return [" ".join(tokens) for tokens in found]


def gold(sentence: Tagged) -> str:
    found = mentions(sentence)
    return ", ".join(found) + "." if found else NULL


def _corpus(task: str, train: str, test: str, kind: str, url: str, place: str) -> Corpus:
    return Corpus(
        task=task,
        train=train and f"{task}_{train}_named_enetity_recognition",
        test=f"{task}_{test}_named_enetity_recognition",
        url=url,
        fetch=f"{place}, with {'train.tsv and test.tsv' if train else 'test.tsv'}",
        split="official: train.tsv, test.tsv" if train else "official: test.tsv, none to train on",
        definition=(
            f"Given a sentence, you need to recognize the name of the {kind}. There might be"
            f' several correct answers. If it does not exist, you need to output "{NULL}".'
        ),
        read=partial(read, splits=("train", "test") if train else ("test",)),
    )


CORPORA = (
    _corpus("task125", "bc4chem", "test_bc4chem", "chemical", MTL, "data/BC4CHEMD-IOB"),
    _corpus("task126", "bc5chem", "test_bc5chem", "chemical", MTL, "data/BC5CDR-chem-IOB"),
    _corpus("task127", "", "test_bc5disease", "disease", MTL, "data/BC5CDR-disease-IOB"),
    _corpus("task128", "species800", "test_species800", "organism", S800, "data/s800.zip unpacked"),
)
