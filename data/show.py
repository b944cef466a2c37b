"""What the model sees: the first rows of a run, as they are trained on, and the counts.

    python -m data.show --config medsins.py --n 5 [--examples N] [--config.data.few_shot=0.3 ...]

--n N         rows to print, in the order in which training takes them; 0 prints the counts alone
--examples N  of larger data, measure and pack a sample of N examples (20,000); 0 measures all of
              it, as training does, which then finds it done

It prints examples: training text, which may be patients'. No other command does.
"""

import hashlib
import itertools
import re
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from data import mixture
from data.medsins import MedSIns, Source
from medsjax import config, convert, input_pipeline
from medsjax.errors import Parser, UserError, run_main
from medsjax.train import Plan

CONTROLS = (
    *("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    *("<|end_of_text|>", "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<s>", "</s>"),
)
UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # a terminal would obey them
TARGET, CONTROL = "bold green", "dim"


@dataclass(frozen=True)
class Sample:
    """A dataset of `n` examples of another, drawn by seed; all of them where there are no more."""

    dataset: MedSIns
    n: int  # 0: all

    def open(self, tokenizer: Any, length: int, seed: int) -> "Source | Some":
        source = self.dataset.open(tokenizer, length, seed)
        return Some(source, self.n, seed) if 0 < self.n < len(source) else source


class Some:
    """A sample of a source, itself a source."""

    LOSSES = Source.LOSSES

    def __init__(self, source: Source, n: int, seed: int):
        self.source = source
        self.chosen = np.sort(np.random.default_rng(seed).permutation(len(source))[:n])
        self.fingerprint = hashlib.sha256(repr((source.fingerprint, n, seed)).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        return self.source[int(self.chosen[i])]

    def measure(self, i: int) -> tuple[int, int, int, int]:
        return self.source.measure(int(self.chosen[i]))


def whole(source: Source | Some) -> tuple[Source, np.ndarray]:
    """The source itself, and which of its examples are measured."""
    if isinstance(source, Some):
        return source.source, source.chosen
    return source, np.arange(len(source))


def mixture_table(plan: Plan) -> Table:
    """Each task: its examples in the files, in use, in an epoch; tokens of one, and their share."""
    source, measured = whole(plan.source)
    ends = np.cumsum(list(source.counts.values()))
    task_of = np.searchsorted(ends, measured, side="right")
    n, tokens = (np.bincount(task_of, w, len(ends)) for w in (None, plan.lengths))
    before, after = sum(map(len, source.parts.values())), len(source)
    table = Table(box=box.SIMPLE, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("task", no_wrap=True)
    table.add_column("category")
    for name in ("files", "in use", "share", "epoch", "share", "tokens", "share"):
        table.add_column(name, justify="right", no_wrap=True)
    for k, (task, part) in enumerate(source.parts.items()):
        table.add_row(
            *(task, ", ".join(mixture.categories(part.info)[:1])),
            *(f"{part.info.n:,}", f"{len(part):,}", f"{len(part) / before:.2%}"),
            *(f"{source.counts[task]:,}", f"{source.counts[task] / after:.2%}"),
            *(f"{tokens[k] / n[k]:.0f}" if n[k] else "-", f"{tokens[k] / tokens.sum():.2%}"),
        )
    return table


def summary(plan: Plan, cfg: config.Config) -> str:
    """What Plan says, and how far it goes."""
    source, _ = whole(plan.source)
    times = len(source) / len(plan.lengths)
    steps = input_pipeline.n_steps(round(len(plan.rows) * times), cfg.batch, cfg.epochs)
    lines = [f"{plan.describe()}; {'about ' if times > 1 else ''}{steps:,} steps of {cfg.batch}"]
    absent = [t for t in source.settings.tasks or source.built.tasks if t not in source.parts]
    if absent:
        lines.append(f"not in use: {', '.join(absent)}")
    if times > 1:
        lines.append(
            f"a sample of {len(plan.lengths):,} of {len(source):,} examples is measured: tokens,"
            " rows and losses are the sample's, the rows are packed from it; --examples 0 takes all"
        )
    return "\n".join(lines)


def rendered(tokenizer: Any, ids: np.ndarray, targets: np.ndarray) -> Text:
    """Ids as text: what carries loss stands in ⟦⟧ and colour, control tokens by their names."""
    names = {tokenizer.codec.id(name): name for name in CONTROLS}
    text = Text()
    for target, run in itertools.groupby(range(len(ids)), lambda i: bool(targets[i])):
        text.append("⟦" if target else "", TARGET)
        for control, part in itertools.groupby(run, lambda i: int(ids[i]) in names):
            these = [int(ids[i]) for i in part]
            if control:
                shown = "".join(names[i] for i in these)
            else:
                shown = UNPRINTABLE.sub("\ufffd", tokenizer.decode(these))
            text.append(shown, TARGET if target else CONTROL if control else "")
        text.append("⟧" if target else "", TARGET)
    return text


def heading(source: Source, i: int) -> str:
    """Which example it is, and what it lost to fit."""
    record, copy = source.record(i)
    fitted = source.item(i)
    lost = [f"{fitted.dropped_shots} shots"] if fitted.dropped_shots else []
    lost += [f"{fitted.cut_chars} characters"] if fitted.cut_chars else []
    lost += ["the end of its answer"] if fitted.answer_cut else []
    return (
        f"{record.task}, {record.id}"
        + (f", copy {copy}" if copy else "")
        + (f", lost {' and '.join(lost)}" if lost else "")
    )


def print_rows(console: Console, plan: Plan, tokenizer: Any, seed: int, n: int) -> None:
    """The first `n` rows of the first epoch, from the very batch that training assembles."""
    source, measured = whole(plan.source)
    n = min(n, len(plan.rows))
    shape = {"length": plan.length, "batch": n, "epochs": 1, "seed": seed}
    hosts = {"process_index": 0, "process_count": 1}
    parts = {"source": plan.source, "rows": plan.rows, "lengths": plan.lengths}
    batch = input_pipeline.StepSource(**parts, **shape, **hosts)[0]
    # The mask tells of the token that a position predicts: the next one.
    targets_BT = np.roll(batch["loss_mask_BT"], 1, axis=1)
    plain = {"markup": False, "highlight": False}
    for b, row in enumerate(input_pipeline.epoch_rows(len(plan.rows), 0, seed)[:n]):
        segments, examples = batch["segments_BT"][b], plan.rows.examples(row)
        used = f"{np.count_nonzero(segments)} of {plan.length} tokens"
        title = f"row {row}: {len(examples)} in it, {used}, {targets_BT[b].sum()} carry loss"
        console.print(Rule(title, style="bold"))
        for segment, example in enumerate(examples, 1):
            here = segments == segment
            ids, targets = batch["tokens_BT"][b][here], targets_BT[b][here]
            counts = f"{len(ids)} tokens, {targets.sum()} carry loss"
            title = f"{segment}. {heading(source, int(measured[example]))}: {counts}"
            console.print(title, style="bold cyan", **plain)
            console.print(rendered(tokenizer, ids, targets))


def main() -> None:
    parser = Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("--n", type=int, default=5)
    parser.add_argument("--examples", type=int, default=20_000)
    args, rest = parser.parse_known_args(sys.argv[1:])
    cfg = config.load(rest, prog="python -m data.show", about=__doc__, expect=config.Config)
    if not isinstance(cfg.data, MedSIns):
        raise UserError(
            f"config.data: {type(cfg.data).__name__} cannot be shown; it must be MedSIns"
        )
    if args.n < 0 or args.examples < 0:
        raise UserError(f"--n {args.n} --examples {args.examples}: give 0 or more")
    _, tokenizer = convert.inspect(convert.resolve(cfg.model), cfg.tokenizer)
    plan = Plan.of(Sample(cfg.data, args.examples), tokenizer, cfg, "data")
    console = Console()
    console.print(mixture_table(plan))
    console.print(summary(plan, cfg), highlight=False)
    if args.n:
        console.print(
            "What follows is training text, which may be patients'. ⟦Green⟧ carries loss.",
            style="bold red",
        )
        print_rows(console, plan, tokenizer, cfg.seed, args.n)


if __name__ == "__main__":
    run_main(main)
