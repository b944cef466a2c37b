"""MedS-Ins, the training set, as a value for configs: which tasks, which rewrites, how many shots.

The paper says nothing of the share of few-shot prompts; here half of the examples have none and the
others one to three. Every choice depends on (seed, example id) alone, so an example stays the same
in every epoch, process and host.
"""

import dataclasses
import hashlib
import itertools
from bisect import bisect_right
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from data.build import Built, Record, TaskInfo, open_or_build
from data.prompts import LAYOUTS, Fitted, draw_shots, fit, number
from medsjax.errors import UserError

FORMAT = 1  # of what a source yields; part of its fingerprint


@dataclass(frozen=True)
class MedSIns:
    path: str = "data/sample/train"  # a folder of task files, or one that data.build made
    tasks: tuple[str, ...] = ()  # these only, "task12 task130"; () takes all
    few_shot: float = 0.5  # share of the examples that come with shots
    max_shots: int = 3  # those have 1 .. max_shots of them
    rewrites: bool = True  # draw among the definition and its rewrites, or take it as it is
    layout: Literal["official", "paper"] = "official"  # of the prompt; see data/prompts.py
    loss_on: Literal["answer", "all"] = "answer"  # all: pretraining, every token is a target
    part: Literal["all", "train", "heldout"] = "all"  # of each task's examples
    heldout_per_task: int = 20  # heldout: a task's last 20 examples, a tenth at most; train: others

    def open(self, tokenizer: Any, length: int, seed: int) -> "Source":
        """The examples in at most `length` tokens; builds the folder if `path` holds task files."""
        self._check()
        built = open_or_build(self.path, "ins")
        if absent := [task for task in self.tasks if task not in built.tasks]:
            raise UserError(
                f"{self.path}: has no {', '.join(absent)}; it holds {', '.join(built.tasks)}"
            )
        return Source(self, built, tokenizer, length, seed)

    def _check(self) -> None:
        if not 0 <= self.few_shot <= 1:
            raise UserError(f"few_shot={self.few_shot}: a share; give 0 to 1")
        if self.max_shots < 1:
            raise UserError(f"max_shots={self.max_shots}: give 1 or more; few_shot=0 asks for none")
        if self.heldout_per_task < 0:
            raise UserError(f"heldout_per_task={self.heldout_per_task}: give 0 or more")
        if self.layout not in LAYOUTS:
            raise UserError(f"layout={self.layout!r}: choose among {', '.join(LAYOUTS)}")
        if self.loss_on not in ("answer", "all"):
            raise UserError(f"loss_on={self.loss_on!r}: choose answer or all")
        if self.part not in ("all", "train", "heldout"):
            raise UserError(f"part={self.part!r}: choose among all, train, heldout")


@dataclass(frozen=True)
class Part:
    """The records of one task that are in use, as a sequence; shots come from these too."""

    built: Built
    info: TaskInfo
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, i: int) -> Record:
        return self.built[self.start + i]


class Source:
    """Grain's random access: `source[i]` -> (ids int32[n], loss_mask bool[n]), n <= length."""

    def __init__(self, settings: MedSIns, built: Built, tokenizer: Any, length: int, seed: int):
        self.settings, self.tokenizer, self.length, self.seed = settings, tokenizer, length, seed
        infos = [info for task, info in built.tasks.items() if task in settings.tasks]
        parts = [_part(settings, built, info) for info in infos or built.tasks.values()]
        self.parts = [part for part in parts if len(part)]
        self._ends = list(itertools.accumulate(map(len, self.parts)))
        if not self.parts:
            raise UserError(f"{settings.path}: its {settings.part} part is empty; add files")
        choices = dataclasses.asdict(settings)
        del choices["path"]  # content counts, not where it lies
        identity = (FORMAT, built.fingerprint, choices, tokenizer.fingerprint, length, seed)
        self.fingerprint: str = hashlib.sha256(repr(identity).encode()).hexdigest()

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        fitted = self.item(i)
        if self.settings.loss_on == "all":
            return fitted.ids, np.ones_like(fitted.loss_mask)
        return fitted.ids, fitted.loss_mask

    LOSSES = ("lost shots", "lost the beginning of their text", "lost the end of their answer")

    def measure(self, i: int) -> tuple[int, int, int, int]:
        """Example `i`'s tokens, and what it lost to fit, in the order of LOSSES."""
        fitted = self.item(i)
        return len(fitted.ids), fitted.dropped_shots, fitted.cut_chars, int(fitted.answer_cut)

    def item(self, i: int) -> Fitted:
        """Example `i`, with what it lost to fit. Raises `UserError` where its frame is too long."""
        part, record = self.record(i)
        settings, key = self.settings, (self.seed, record.task, record.id)
        definitions = (part.info.definition, *(part.info.rewrites if settings.rewrites else ()))
        definition = definitions[number(*key, "definition") % len(definitions)]
        k = 0
        if number(*key, "few-shot") < settings.few_shot * 2**64:
            k = 1 + number(*key, "how many") % settings.max_shots
        drawn = (part[j] for j in draw_shots(key, part, k, record.input))
        shots = [(shot.input, shot.outputs[0]) for shot in drawn]
        layout, answer = LAYOUTS[settings.layout], record.outputs[0]
        try:
            return fit(self.tokenizer, layout, definition, shots, record.input, answer, self.length)
        except UserError as error:
            raise UserError(f"{record.task}, {record.id}: {error}") from None

    def record(self, i: int) -> tuple[Part, Record]:
        """Example `i` as text, and the part of its task that it lies in."""
        if not 0 <= i < len(self):
            raise IndexError(i)
        at = bisect_right(self._ends, i)
        part = self.parts[at]
        return part, part[i - self._ends[at] + len(part)]


def _part(settings: MedSIns, built: Built, info: TaskInfo) -> Part:
    """A task's records that are in use; the held-out ones are the last in its file."""
    heldout = min(settings.heldout_per_task, info.n // 10)
    border, stop = info.start + info.n - heldout, info.start + info.n
    spans = {"all": (info.start, stop), "train": (info.start, border), "heldout": (border, stop)}
    return Part(built, info, *spans[settings.part])
