"""MedS-Bench as a value for configs: prompts, generation, predictions on disk, scores.

A prompt is the task's original definition, shots from its training file, and the item's input;
0-shot for multiple choice. What a killed evaluation left is used; what is finished is not redone.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from data import prompts
from data.build import Built, Record, open_or_build
from eval import predictions, scores
from eval.predictions import Key, Row
from eval.tasks import TASKS
from medsjax import checkpoint, sampler
from medsjax.errors import UserError

PAPER_N = 1500  # items of a task, where the paper does not tell


@dataclass(frozen=True)
class MedSBench:
    """Scores a model on those of the benchmark's 53 tasks that `path` holds."""

    path: str = "data/sample/test"  # test items: a built folder or a folder of task files
    shots_from: str = "data/sample/train"  # training items; "" or a task not there: leave-one-out
    shots: int = 3  # at most; multiple choice always has none
    layout: Literal["official", "paper"] = "official"  # of the prompt; see data/prompts.py
    draw: Literal["fixed", "per_item"] = "fixed"  # the same shots for all items of a task, or not
    limit: int = 0  # items of each task, drawn by seed; 0: as many as the paper's, -1: all
    seed: int = 0  # of the draws of shots and of items, and of the bootstrap
    length: int = 2048  # tokens of prompt and answer together
    max_new_tokens: int = 1000  # a cap over each task's own number
    batch: int = 64  # prompts generated side by side
    tasks: tuple[str, ...] = ()  # "task130", …; empty: all that are there

    def __call__(self, model, tokenizer, step: int, out_dir: str | Path) -> dict[str, float]:
        """Write out_dir/predictions.jsonl and scores.json; return `bench/…` numbers in percent.

        The same call again continues; once scores.json is there it reads it and generates nothing.
        With other settings, data or weights it is a UserError.
        """
        folder = Path(out_dir)
        bench, pools, names = self.check()
        settings = {
            **{name: getattr(self, name) for name in ("layout", "draw", "shots", "limit", "seed")},
            **{"length": self.length, "max_new_tokens": self.max_new_tokens, "tasks": names},
            **{"data": bench.fingerprint, "shots_data": pools.fingerprint if pools else ""},
            **{"model": checkpoint.fingerprint(model), "tokenizer": tokenizer.fingerprint},
        }
        predictions.claim(folder, settings)
        if (folder / "scores.json").exists():
            found = predictions.read_json(folder / "scores.json")
        else:
            timing = Timing(_device(model))
            rows = self._predict(model, tokenizer, bench, pools, names, folder, timing)
            config = {"path": self.path, "shots_from": self.shots_from, "step": step, **settings}
            predictions.write_leaderboard(
                folder, rows, lambda row: _record(bench, row["task"], row["index"]).input
            )
            found = self._score(rows, config, bench, pools, names)
            found |= {"timing": asdict(timing)} if timing.requests else {}
            predictions.write_atomic(folder / "scores.json", json.dumps(found, indent=1) + "\n")
        start = folder.parent / "step_0" / "scores.json"
        compare = step > 0 and folder.name == f"step_{step}" and start.exists()
        scores.print_table(found, predictions.read_json(start) if compare else None)
        return scores.numbers(found)

    def check(self) -> tuple[Built, Built | None, list[str]]:
        """The test items, the training items, the tasks to score; refuses what could not run."""
        lowest = {"shots": 0, "limit": -1, "length": 2, "max_new_tokens": 1, "batch": 1}
        for name, low in lowest.items():
            if getattr(self, name) < low:
                raise UserError(f"bench.{name}: {getattr(self, name)} is below {low}")
        bench = open_or_build(self.path, "bench")
        pools = open_or_build(self.shots_from, "ins") if self.shots_from and self.shots else None
        names = _scored_tasks(bench, self.path, self.tasks)
        for name in names:
            self._new_tokens(name)
        return bench, pools, names

    def report(self, workdir: str | Path) -> None:
        """Write WORKDIR/report.html about a run and its evaluations."""
        from eval import report  # matplotlib; an evaluation alone has no need of it

        out = Path(workdir) / "report.html"
        report.write([Path(workdir)], out)
        print(out)

    def _predict(
        self,
        model,
        tokenizer,
        bench: Built,
        pools: Built | None,
        names: list[str],
        folder: Path,
        timing: "Timing",
    ) -> list[Row]:
        """All rows in the order of tasks and items; what is missing is generated and appended."""
        keys = [(name, i) for name in names for i in self._items(bench, name)]
        rows = predictions.read(folder)
        missing = [key for key in keys if key not in rows]
        if missing:
            predictions.write(folder, [rows[key] for key in keys if key in rows])
            with open(folder / "predictions.jsonl", "a", encoding="utf-8") as file:
                made = self._generate(model, tokenizer, bench, pools, missing, timing)
                for row in made:
                    rows[row["task"], row["index"]] = row
                    file.write(predictions.line(row))
                    file.flush()
        ordered = [rows[key] for key in keys]
        predictions.write(folder, ordered)
        return ordered

    def _new_tokens(self, name: str) -> int:
        new = min(TASKS[name].max_new_tokens, self.max_new_tokens)
        if new >= self.length:
            raise UserError(
                f"bench.length: {self.length} tokens have no room for the {new} that {name} may"
                " answer with; raise it or lower bench.max_new_tokens"
            )
        return new

    def _items(self, bench: Built, name: str) -> list[int]:
        """The numbers of the items to score, in the file's order."""
        n, wanted = bench.tasks[name].n, self.limit or TASKS[name].n or PAPER_N
        if wanted < 0 or wanted >= n:
            return list(range(n))
        rng = np.random.default_rng(prompts.number("items", self.seed, name))
        return sorted(rng.permutation(n)[:wanted].tolist())

    def _generate(
        self,
        model,
        tokenizer,
        bench: Built,
        pools: Built | None,
        keys: list[Key],
        timing: "Timing",
    ) -> Iterator[Row]:
        """The rows of `keys`, in the order in which the sampler's batches finish."""
        bar = tqdm(keys, desc="prompts", unit="item", delay=2, leave=False)
        items = [self._prompt(tokenizer, bench, pools, key) for key in bar]
        limits = [item.max_new_tokens for item in items]
        read = sum(len(item.ids) for item in items)
        print(
            f"bench: {len(items):,} requests, {read:,} prompt tokens, {sum(limits):,} new at most"
        )
        start, first = time.monotonic(), min(self.batch, len(items))
        outputs = sampler.stream(
            model,
            tokenizer,
            [item.ids for item in items],
            limits,
            batch_size=self.batch,
            groups=[(item.row["task"], item.row["n_shots"]) for item in items],
        )
        for i, ids in tqdm(outputs, "bench", len(items), unit="item"):
            answer = {"new_tokens": len(ids), "prediction": tokenizer.decode(ids).strip()}
            yield timing.add({**items[i].row, **answer}, time.monotonic() - start)
            if timing.requests == first < len(items):
                all_of_it = timing.seconds * len(items) / first / 60
                tqdm.write(
                    f"bench: the first {first} took {timing.seconds:.0f} s with compiling; "
                    f"at that pace {all_of_it:.0f} min in all"
                )

    def _prompt(self, tokenizer, bench: Built, pools: Built | None, key: Key) -> "Item":
        """One item's prompt, in what its answer leaves of `length`.

        Whole shots go first, from the front; then the input loses its beginning.
        """
        name, index = key
        record, new = _record(bench, name, index), self._new_tokens(name)
        shots, layout = self._shots(bench, pools, key), prompts.LAYOUTS[self.layout]
        query = (bench.tasks[name].definition, shots, record.input, None, self.length - new)
        try:
            fitted = prompts.fit(tokenizer, layout, *query)
        except UserError as error:
            raise UserError(f"{self.path}: {name}, item {index}: {error}") from None
        row = {
            "task": name,
            "index": index,
            "id": record.id,
            "n_shots": len(shots) - fitted.dropped_shots,
            "dropped_shots": fitted.dropped_shots,
            "cut_chars": fitted.cut_chars,
            "prompt_tokens": len(fitted.ids),
            "gold": list(record.outputs),
        }
        return Item(row, fitted.ids, new)

    def _shots(self, bench: Built, pools: Built | None, key: Key) -> list[tuple[str, str]]:
        """The (input, output) of the shots drawn for an item."""
        name, index = key
        k = min(TASKS[name].shots, self.shots)
        pool = Pool.of(pools if pools and name in pools.tasks else bench, name)
        drawn_by = (self.seed, name, *([index] if self.draw == "per_item" else []))
        drawn = prompts.draw_shots(drawn_by, pool, k, _record(bench, name, index).input)
        return [(shot.input, shot.outputs[0]) for shot in drawn.values()]

    def turns(self, bench: Built, pools: Built | None, row: Row) -> prompts.Turns:
        """The prompt that `row` answers, made again: what was dropped or cut to fit is left out."""
        key = name, index = row["task"], row["index"]
        shots = self._shots(bench, pools, key)[row["dropped_shots"] :]
        query = _record(bench, name, index).input[row["cut_chars"] :]
        return prompts.LAYOUTS[self.layout](bench.tasks[name].definition, shots, query)

    def _score(
        self, rows: list[Row], config: dict, bench: Built, pools: Built | None, names: list[str]
    ) -> dict[str, Any]:
        n_shot = {name: min(TASKS[name].shots, self.shots) for name in names}
        own = [name for name in names if n_shot[name] and not (pools and name in pools.tasks)]
        found = scores.build(rows, config, n_shot, own)
        for name in names:
            found["tasks"][name]["source"] = bench.tasks[name].source
        unscored = sorted(bench.tasks.keys() - TASKS.keys())
        return {**found, **({"unscored": unscored} if unscored else {})}


@dataclass
class Timing:
    """What this process generated and how long it took, compiling included."""

    device: str
    seconds: float = 0.0
    requests: int = 0
    prompt_tokens: int = 0
    new_tokens: int = 0

    def add(self, row: Row, seconds: float) -> Row:
        """Count the row, which came `seconds` after the start."""
        self.seconds = seconds
        self.requests += 1
        self.prompt_tokens += row["prompt_tokens"]
        self.new_tokens += row["new_tokens"]
        return row


def _device(model) -> str:
    """The devices that the model lies on: "4 x TPU v4"."""
    devices = jax.tree.leaves(model)[0].sharding.device_set
    return f"{len(devices)} x {next(iter(devices)).device_kind}"


class Item(NamedTuple):
    row: Row  # all of it but the prediction
    ids: np.ndarray  # int32[prompt tokens]
    max_new_tokens: int


@dataclass(frozen=True)
class Pool:
    """One task's records of a built folder, as a sequence."""

    built: Built
    start: int
    n: int

    @classmethod
    def of(cls, built: Built, task: str) -> "Pool":
        return cls(built, built.tasks[task].start, built.tasks[task].n)

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> Record:
        return self.built[self.start + i]


def _record(bench: Built, name: str, index: int) -> Record:
    return bench[bench.tasks[name].start + index]


def _scored_tasks(bench: Built, path: str, wanted: tuple[str, ...]) -> list[str]:
    """The tasks to score, in the benchmark's order; all must be in its table and in `bench`."""
    for name in wanted:
        if name not in TASKS:
            raise UserError(f"bench.tasks: {name} is none of the {len(TASKS)} scored tasks")
        if name not in bench.tasks:
            raise UserError(f"bench.tasks: {name} is not in {path}; leave it out")
    names = [name for name in TASKS if name in bench.tasks and (not wanted or name in wanted)]
    if not names:
        raise UserError(f"{path}: none of the {len(TASKS)} scored tasks is here; give test files")
    return names
