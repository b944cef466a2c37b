"""The real tasks at hand as a training and a test set: python -m tests.real_tasks DIR OUT

DIR holds corpora_medsins/, natural_instructions/, official/ and corpora/. Test items come from
corpora whose own test part is there, from the queries of the 300 published prompts (51-56; their
shots are to train on), else from the last tenth in file order, which is the paper's rule.
"""

import argparse
import csv
import gzip
import json
import shutil
import sys
import tempfile
from pathlib import Path

from data.corpora import CORPORA
from data.corpora.write import build
from medsjax.errors import UserError, run_main

TO_TRAIN = ("task38", "task65", "task115")
TO_TEST = ("task60", "task122", "task123", "task126", "task127")
NINE_TO_ONE = ("task46", "task114")
NATURAL = {  # file -> MedS-Ins task
    "task179_participant_extraction": "task1",
    "task1447_drug_extraction_ade": "task26",
    "task1448_disease_entity_extraction_ncbi_dataset": "task27",
    "task1481_gene_extraction_bc2gm_dataset": "task31",
}
EXPLANATIONS = tuple(f"task{n}" for n in range(51, 57))
PREDICTIONS = "eval_results_Rationale_1_context_1_oriINS_MMedS-Llama 3.csv"


def make(source: Path, out: Path) -> None:
    """Write out/train/*.json and out/test/*.json; `out` must not exist."""
    for name in (*TO_TRAIN, *TO_TEST, *NINE_TO_ONE):
        with gzip.open(source / "corpora_medsins" / f"{name}.json.gz") as file:
            task = json.load(file)
        n = len(task["Instances"])
        _write(out, name, task, 0 if name in TO_TEST else n if name in TO_TRAIN else int(0.9 * n))
    for file, name in NATURAL.items():
        task = json.loads((source / "natural_instructions" / f"{file}.json").read_text())
        n = len(task["Instances"])
        _write(out, name, task, int(0.9 * n) if name == "task1" else n)
    queries = _queries(source / "official" / PREDICTIONS)
    for name in EXPLANATIONS:
        file = f"{name}_mmedbench_explanation.recovered.json"
        task = json.loads((source / "official" / file).read_text(encoding="utf-8"))
        task["Instances"].sort(key=lambda i: i["input"].strip() in queries)
        shots = sum(i["input"].strip() not in queries for i in task["Instances"])
        _write(out, name, task, shots)
    with tempfile.TemporaryDirectory() as temp:  # its development part, to train on
        shutil.copy(source / "corpora" / "BC5CDR-chem-IOB" / "devel.tsv", Path(temp, "train.tsv"))
        corpus = CORPORA["task126"]
        build(corpus, Path(temp), out, [corpus.definition])


def _write(out: Path, name: str, task: dict, train: int) -> None:
    """The first `train` instances to train on, the others to test."""
    parts = {"train": task["Instances"][:train], "test": task["Instances"][train:]}
    for part, instances in parts.items():
        if instances:
            (out / part).mkdir(parents=True, exist_ok=True)
            text = json.dumps({**task, "Instances": instances}, ensure_ascii=False)
            (out / part / f"{name}_real.json").write_text(text, encoding="utf-8")


def _queries(path: Path) -> set[str]:
    """What stands between the last "Input:" of each prompt and its end."""
    csv.field_size_limit(sys.maxsize)
    with open(path, encoding="utf-8", newline="") as file:
        prompts = [row["input"].partition("\nOutput:<|eot_id|>")[0] for row in csv.DictReader(file)]
    return {prompt.rpartition("Input:")[2].strip() for prompt in prompts}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.real_tasks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", type=Path, metavar="DIR", help="the folder of real corpora")
    parser.add_argument("out", type=Path, metavar="OUT", help="a new folder for train/ and test/")
    args = parser.parse_args()
    if args.out.exists():
        raise UserError(f"{args.out}: exists already; name a new folder")
    make(args.source, args.out)
    for path in sorted(args.out.glob("*/*.json")):
        print(f"{path}: {len(json.loads(path.read_text(encoding='utf-8'))['Instances']):,}")


if __name__ == "__main__":
    run_main(main)
