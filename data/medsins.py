"""MedS-Ins, the training set, as a value for configs: which tasks, in what mixture, which rewrites,
how many shots, what is put right.

The paper says nothing of the share of few-shot prompts; here half of the examples have none and the
others one to three. Every choice depends on (seed, example id) alone, so an example stays the same
in every epoch, process and host.
"""

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from data import fixes, mixture
from data.build import Built, Record, TaskInfo, open_or_build
from data.prompts import LAYOUTS, Fitted, draw_shots, fit, number
from medsjax.errors import UserError

FORMAT = 2  # of what a source yields; part of its fingerprint


@dataclass(frozen=True)
class MedSIns:
    path: str = "data/sample/train"
    """A folder of task files, or one that data.build made."""
    tasks: tuple[str, ...] = ()
    """These only: task12 task130; empty: all."""
    few_shot: float = 0.5
    """Share of the examples that come with shots."""
    max_shots: int = 3
    """Shots of those: per_item 1 .. max_shots, fixed max_shots."""
    shots: Literal["per_item", "fixed"] = "per_item"
    """Drawn for each example, or as evaluation does: once a task. From all of the part, whatever
    the mixture."""
    rewrites: float = 1.0
    """Share of the examples whose definition is drawn evenly among the original and its rewrites;
    the others take the original."""
    layout: Literal["official", "paper"] = "official"
    """Of the prompt; see data/prompts.py."""
    loss_on: Literal["answer", "all"] = "answer"
    """all: pretraining, every token is a target."""
    part: Literal["all", "train", "heldout"] = "all"
    """Of each task's examples: the held-out ones stand last in its file. Weights, temperature and
    cap do not change how often they come, so that losses of different mixtures compare."""
    heldout_per_task: int = 20
    """Held-out examples of a task, a tenth of its file at most."""
    weights: tuple[str, ...] = ()
    """Times a task or a category comes in an epoch: task130=2 "Named Entity Recognition=0.5"; 0
    leaves it out, of every part."""
    temperature: float = 1.0
    """T: tasks come in proportion to n^(1/T), their total unchanged; see data/mixture.py."""
    cap: int = 0
    """Different examples of a task, at most; 0: all."""
    fixes: tuple[str, ...] = ()
    """What data.audit finds and is to be put right: leaked_rewrites null_answers …"""
    test_path: str = ""
    """The test set that the fix test_duplicates keeps out."""

    def open(self, tokenizer: Any, length: int, seed: int) -> "Source":
        """The examples in at most `length` tokens; builds the folder if `path` holds task files."""
        self.check()
        built = open_or_build(self.path, "ins")
        for task in self.tasks:
            if task not in built.tasks:
                hint = mixture.nearest(task, built.tasks)
                raise UserError(f"{self.path}: has no {task}; {hint}")
        return Source(self, built, tokenizer, length, seed)

    def check(self) -> None:
        """Refuse what could not be opened, as far as it shows without reading the data."""
        if not self.path:
            raise UserError(
                "data.path is empty: name the folder of MedS-Ins' task files, by"
                " --config.data.path=FOLDER or by MEDSINS_DIR=FOLDER for configs/medsins.py"
            )
        for name in ("few_shot", "rewrites"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name}={getattr(self, name)}: a share; give 0 to 1")
        if self.max_shots < 1:
            raise UserError(f"max_shots={self.max_shots}: give 1 or more; few_shot=0 asks for none")
        for name in ("heldout_per_task", "cap"):
            if getattr(self, name) < 0:
                raise UserError(f"{name}={getattr(self, name)}: give 0 or more")
        if not self.temperature >= 1:
            raise UserError(
                f"temperature={self.temperature}: give 1, which changes nothing, or more"
            )
        for field in dataclasses.fields(self):
            choices = getattr(field.type, "__args__", ())
            value = getattr(self, field.name)
            if isinstance(value, str) and choices and value not in choices:
                raise UserError(f"{field.name}={value!r}: choose among {', '.join(choices)}")
        fixes.check(self.fixes, self.test_path)


@dataclass(frozen=True)
class Part:
    """The records of one task that are in use, as a sequence; shots come from these too."""

    built: Built
    info: TaskInfo
    definitions: tuple[str, ...]  # the original, then its rewrites
    records: Sequence[int] | np.ndarray  # their places in `built`, ascending

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, i: int) -> Record:
        return self.built[int(self.records[i])]


class Source:
    """Grain's random access: `source[i]` -> (ids int32[n], loss_mask bool[n]), n <= length."""

    def __init__(self, settings: MedSIns, built: Built, tokenizer: Any, length: int, seed: int):
        self.settings, self.built, self.tokenizer = settings, built, tokenizer
        self.length, self.seed = length, seed
        infos = _tasks(settings, built)
        weights = mixture.weights(settings.weights, infos)
        self.parts = _parts(settings, built, [info for info in infos if weights[info.task]])
        sizes = {task: len(part) for task, part in self.parts.items()}
        natural = settings.part == "heldout"
        cap = 0 if natural else settings.cap
        counts = sizes if natural else mixture.counts(sizes, weights, settings.temperature, cap)
        self.counts: dict[str, int] = counts  # examples of each task, in the order they stand
        self._places = _places(self.parts, counts, cap, seed)
        if not len(self._places):
            raise UserError(
                f"{settings.path}: its {settings.part} part is empty; add files, or ask for other"
                " tasks, weights or fixes"
            )
        self._fixed: dict[str, list[Record]] = {}
        choices = dataclasses.asdict(settings)
        del choices["path"], choices["test_path"]  # content counts, not where it lies
        repaired = fixes.identity(settings.fixes, settings.test_path)
        content = (FORMAT, built.fingerprint, repaired, choices, tokenizer.fingerprint)
        self.fingerprint: str = hashlib.sha256(repr((*content, length, seed)).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self._places)

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
        record, copy = self.record(i)
        part, settings = self.parts[record.task], self.settings
        key = (self.seed, record.task, record.id, *([copy] if copy else []))
        definitions = part.definitions
        if not _happens(settings.rewrites, *key, "rewrite"):
            definitions = definitions[:1]
        definition = definitions[number(*key, "definition") % len(definitions)]
        shots = []
        if _happens(settings.few_shot, *key, "few-shot"):
            shots = [(shot.input, shot.outputs[0]) for shot in self._shots(key, part, record)]
        layout, answer = LAYOUTS[settings.layout], record.outputs[0]
        try:
            return fit(self.tokenizer, layout, definition, shots, record.input, answer, self.length)
        except UserError as error:
            without = f"leave the task out: --config.data.weights {record.task}=0"
            raise UserError(f"{record.task}, {record.id}: {error}, or {without}") from None

    def record(self, i: int) -> tuple[Record, int]:
        """Example `i` as text, and which copy of it this is, from 0: copies draw on their own."""
        if not 0 <= i < len(self):
            raise IndexError(i)
        place = self._places[i]
        return self.built[int(place)], int(i - np.searchsorted(self._places, place))

    def _shots(self, key: tuple, part: Part, record: Record) -> list[Record]:
        most = self.settings.max_shots
        if self.settings.shots == "per_item":
            k = 1 + number(*key, "how many") % most
            return list(draw_shots(key, part, k, record.input).values())
        if record.task not in self._fixed:  # one more than needed, as an item must not see itself
            drawn = draw_shots((self.seed, record.task), part, most + 1, None)
            self._fixed[record.task] = list(drawn.values())
        return [shot for shot in self._fixed[record.task] if shot.input != record.input][:most]


def _happens(share: float, *key: object) -> bool:
    """True for that share of all keys."""
    return number(*key) < share * 2**64


def _tasks(settings: MedSIns, built: Built) -> list[TaskInfo]:
    """The tasks in use, in the order of their records."""
    return [
        info
        for task, info in built.tasks.items()
        if (not settings.tasks or task in settings.tasks) and fixes.keep_task(task, settings.fixes)
    ]


def _parts(settings: MedSIns, built: Built, infos: list[TaskInfo]) -> dict[str, Part]:
    left_out = np.empty(0, np.int64)
    if settings.fixes:
        left_out = fixes.excluded(built, settings.fixes, settings.test_path)
    parts = {}
    for info in infos:
        definitions = (info.definition, *fixes.rewrites(info, settings.fixes))
        parts[info.task] = Part(built, info, definitions, _records(settings, info, left_out))
    return parts


def _records(settings: MedSIns, info: TaskInfo, left_out: np.ndarray) -> Sequence[int] | np.ndarray:
    """A task's records that are in use; the held-out ones are the last in its file."""
    heldout = min(settings.heldout_per_task, info.n // 10)
    start, stop = info.start, info.start + info.n
    border = stop - heldout
    spans = {"all": (start, stop), "train": (start, border), "heldout": (border, stop)}
    records = range(*spans[settings.part])
    mine = left_out[np.searchsorted(left_out, start) : np.searchsorted(left_out, stop)]
    return np.setdiff1d(records, mine) if len(mine) else records


def _places(parts: dict[str, Part], counts: dict[str, int], cap: int, seed: int) -> np.ndarray:
    """The record of each example, int64, ascending; a repeated one stands there several times."""
    chosen = [np.empty(0, np.int64)]
    for task, part in parts.items():
        drawn = mixture.choose(len(part), counts[task], cap, (seed, task))
        chosen.append(np.asarray(part.records, np.int64)[drawn])
    return np.concatenate(chosen)
