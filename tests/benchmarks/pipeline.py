"""From a built folder to batches on one core, beside a padded Hugging Face pipeline.

    python -m tests.benchmarks.pipeline [--data DIR] [--examples 6000] [--batch 16]

Ours reads ArrayRecord, draws definition and shots, renders, tokenizes and packs. The other one is
given the same examples as conversations, so it draws nothing: `datasets` reads them, the tokenizer
renders its chat template and turns a batch into ids at once, and transformers' own collator pads
(`datasets` is in the extra `bench`). Useful tokens are those that are not padding; the share of
places that hold one is what an accelerator gets. The tokenizer is Llama 3's own where
`llama-models` and `tiktoken` are installed, else the small one of the sample.
"""

import argparse
import os
import platform
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from data.medsins import MedSIns
from medsjax import packing
from medsjax.input_pipeline import batches
from medsjax.tokenizer import Tokenizer
from tests import tiny
from tests.benchmarks import llama3

SAMPLE = Path(__file__).parents[2] / "data" / "sample"


class Some:
    """Some examples of a source."""

    fingerprint = "some"

    def __init__(self, source, indices: np.ndarray):
        self.source, self.indices = source, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        return self.source[int(self.indices[i])]


def packed(source: Some, lengths: np.ndarray, length: int, batch: int) -> Iterator[np.ndarray]:
    """Which places of each of our batches hold a token."""
    rows = packing.pack(lengths, length)
    hosts = {"process_index": 0, "process_count": 1, "start_step": 0, "workers": 0}
    settings = {"length": length, "batch": batch, "epochs": 1, "seed": 0}
    for element in batches(source, rows, lengths, **settings, **hosts):
        filled = element["segments_BT"] > 0
        yield filled[filled.any(1)]  # the last batch of all may have empty rows


def padded(texts, tokenizer, batch: int, padding: str, length: int) -> Iterator[np.ndarray]:
    """Which places of each padded batch hold a token."""
    from transformers import DataCollatorForSeq2Seq

    def tokenize(rows: dict) -> dict:
        ids, labels = [], []
        prompts = tokenizer.apply_chat_template(
            rows["messages"], add_generation_prompt=True, return_dict=False
        )
        answers = tokenizer(rows["answer"], add_special_tokens=False)["input_ids"]
        for prompt, answer in zip(prompts, answers, strict=True):
            ids.append((prompt + answer)[:length])
            labels.append(([-100] * len(prompt) + answer)[:length])
        return {"input_ids": ids, "attention_mask": [[1] * len(i) for i in ids], "labels": labels}

    collate = DataCollatorForSeq2Seq(
        tokenizer, padding=padding, max_length=length, return_tensors="np"
    )
    read = texts.with_transform(tokenize)
    for first in range(0, len(read), batch):
        rows = read[first : first + batch]
        values = zip(*rows.values(), strict=True)
        features = [dict(zip(rows, one, strict=True)) for one in values]
        yield np.asarray(collate(features)["attention_mask"]) > 0


def conversations(source: Some, fast) -> dict[str, list]:
    """The same examples as messages and the answer, its end token written as text."""
    turn = re.compile(r"<\|start_header_id\|>(\w+)<\|end_header_id\|>\n\n(.*?)<\|eot_id\|>", re.S)
    out: dict[str, list] = {"messages": [], "answer": []}
    for ids, loss_mask in map(source.__getitem__, range(len(source))):
        start = int(np.argmax(loss_mask))
        turns = turn.findall(fast.decode(ids[:start]))
        out["messages"].append([{"role": role, "content": text} for role, text in turns])
        out["answer"].append(fast.decode(ids[start:]))
    return out


def timed(passes: dict[str, Callable[[], Iterator[np.ndarray]]]) -> dict[str, tuple[float, float]]:
    """Useful tokens a second of processor time, and the share of places that hold one.

    The best of five passes, in turns. Processor time, as neighbours may share the core.
    """
    found = dict.fromkeys(passes, (0.0, 0.0))
    for _ in range(5):
        for name, make in passes.items():
            start, useful, places = time.process_time(), 0, 0
            for mask in make():
                useful, places = useful + int(mask.sum()), places + mask.size
            rate = useful / (time.process_time() - start)
            found[name] = max(found[name], (rate, useful / places))
    return found


def tokenizer_alone(tokenizer: Tokenizer, texts: list[str]) -> Iterator[np.ndarray]:
    yield np.ones(sum(len(tokenizer.encode(text)) for text in texts), bool)


def hugging_face(some: Some, folder: Path, temporary: Path, args) -> dict[str, Callable]:
    from datasets import Dataset, disable_progress_bars, load_from_disk
    from transformers import PreTrainedTokenizerFast

    disable_progress_bars()
    fast = PreTrainedTokenizerFast.from_pretrained(str(folder))
    fast.pad_token, fast.chat_template = fast.eos_token, tiny.CHAT_TEMPLATE
    Dataset.from_dict(conversations(some, fast)).save_to_disk(temporary / "texts")
    texts = load_from_disk(temporary / "texts")
    modes = {"padded to the batch's longest": "longest", "padded to a row": "max_length"}
    return {
        name: partial(padded, texts, fast, args.batch, padding, args.length)
        for name, padding in modes.items()
    }


def run(args: argparse.Namespace, temporary: Path) -> None:
    folder = llama3.folder(temporary / "llama3")
    tokenizer = Tokenizer.load(folder or SAMPLE / "base")
    source = MedSIns(path=str(args.data)).open(tokenizer, args.length, seed=0)
    drawn = np.random.default_rng(0).permutation(len(source))[: args.examples]
    some = Some(source, drawn)
    lengths, _ = packing.measure(some, temporary, "measuring lengths")
    texts = [tokenizer.decode(some[i][0]) for i in range(len(some))]
    passes = {
        "the tokenizer alone": partial(tokenizer_alone, tokenizer, texts),
        "read, rendered, packed": partial(packed, some, lengths, args.length, args.batch),
    }
    if find_spec("datasets"):
        passes |= hugging_face(some, folder or SAMPLE / "base", temporary, args)
    results = timed(passes)
    ours = results["read, rendered, packed"][0]
    names = (
        "jax",
        "grain",
        "tokenizers",
        "transformers",
        *["datasets"] * bool(find_spec("datasets")),
    )
    print(
        f"one core of {os.cpu_count()} ({platform.machine()}), Python {platform.python_version()}, "
        + ", ".join(f"{name} {version(name)}" for name in names)
        + f"\n{len(lengths):,} examples of {lengths.mean():.0f} tokens (longest {lengths.max()}), "
        + (
            "Llama 3's tokenizer"
            if folder
            else "the sample's tokenizer, as llama-models is missing"
        )
    )
    table = Table("", "useful tokens/s", "places filled", "packed, relative to it")
    for name, (rate, share) in results.items():
        table.add_row(name, f"{rate:,.0f}", f"{share:.1%}", f"{ours / rate:.2f}x")
    Console(width=100).print(table)


def main() -> None:
    parser = argparse.ArgumentParser("python -m tests.benchmarks.pipeline", description=__doc__)
    parser.add_argument("--data", default=SAMPLE / "train", help="a built folder or task files")
    parser.add_argument("--examples", type=int, default=6000, help="so many, drawn at random")
    parser.add_argument("--length", type=int, default=2048, help="tokens of a row")
    parser.add_argument("--batch", type=int, default=16, help="rows; or examples, where padded")
    args = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as temporary:
        run(args, Path(temporary))


if __name__ == "__main__":
    main()
