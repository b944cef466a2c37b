"""Public corpora become MedS-Ins task files: one small module for each corpus format.

    python -m data.corpora list
    python -m data.corpora build task126 --source FOLDER --out FOLDER

No corpus lies here: the user fetches it and keeps its licence. The one-paragraph definitions are
the authors' (MedS-Ins, CC BY-SA); they are a task's interface, and stand beside its converter.
"""

from data.corpora import (
    bio_ner,
    ctnlp,
    do_obo,
    frenchmedmcqa,
    icd10,
    igakuqa,
    liveqa,
    medicationqa,
    medmcqa,
    meqsum,
    mmedbench,
    pubmedqa,
)
from data.corpora.write import Corpus

CORPORA: dict[str, Corpus] = {
    corpus.task: corpus
    for module in (
        *(bio_ner, ctnlp, do_obo, frenchmedmcqa, icd10, igakuqa),
        *(liveqa, medicationqa, medmcqa, meqsum, mmedbench, pubmedqa),
    )
    for corpus in module.CORPORA
}
