"""The mixture: how many examples of each task an epoch holds, and which.

A task t with n_t examples gives m_t to an epoch:

    c_t = min(n_t, cap)                                          or n_t without a cap
    m_t = w_t * (sum of all c) * c_t^(1/T) / (sum of all c^(1/T))

rounded to the nearest whole, at least one where c_t and w_t are not 0. So a cap bounds the
different examples of a task, a temperature T > 1 moves the tasks' shares towards equal ones and
keeps their total, and weights w_t then multiply. Cap and temperature are T5's mixing (Raffel et
al. 2020, section 3.5.2: examples-proportional with a limit, temperature-scaled).
"""

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from data.build import TaskInfo
from data.catalog import CATALOG
from data.prompts import number
from medsjax.errors import UserError


def counts(
    sizes: Mapping[str, int], weights: Mapping[str, float], temperature: float, cap: int
) -> dict[str, int]:
    """m of each task, from its n in `sizes`; `weights` has all of them, cap 0 is none."""
    capped = {task: min(n, cap) if cap else n for task, n in sizes.items()}
    scaled = {task: c ** (1 / temperature) if c else 0.0 for task, c in capped.items()}
    unit = sum(capped.values()) / (sum(scaled.values()) or 1.0)
    return {
        task: max(math.floor(weights[task] * unit * scaled[task] + 0.5), 1)
        if capped[task] and weights[task]
        else 0
        for task in sizes
    }


def choose(n: int, m: int, cap: int, key: Sequence[object]) -> np.ndarray:
    """Which of a task's n examples are its m: int64 [m] in 0..n-1, ascending.

    A permutation drawn by `key` is laid end to end, its first `cap` places if there is a cap. So
    numbers of copies differ by one at most, and more examples never change those already there.
    """
    distinct = min(n, cap) if cap else n
    if m == n == distinct:
        return np.arange(n)
    drawn = np.random.default_rng(number(*key, "mixture")).permutation(n)[:distinct]
    return np.sort(np.resize(drawn, m))


def categories(info: TaskInfo) -> tuple[str, ...]:
    """A task's categories: the catalog's, then those that its file states."""
    known = [CATALOG[info.task].category] if info.task in CATALOG else []
    return tuple(dict.fromkeys([*known, *filter(None, info.category.split(", "))]))


def weights(settings: Iterable[str], infos: Sequence[TaskInfo]) -> dict[str, float]:
    """Each task's weight from settings such as "task130=2" and "Named Entity Recognition=0.5".

    A task's own weight goes before its category's, the first given before others; else it is 1.
    Raises `UserError` for what is no number, or names none of these tasks and their categories.
    """
    tasks = [info.task for info in infos]
    names = dict.fromkeys([*tasks, *(name for info in infos for name in categories(info))])
    given: dict[str, float] = {}
    for setting in settings:
        name, weight = _parse(setting)
        if name not in names:
            raise UserError(
                f"weights: {name!r} is no task or category in use; {nearest(name, names)}"
            )
        if given.setdefault(name, weight) != weight:
            raise UserError(f"weights: {name} has two; keep one")
    found = {}
    for info in infos:
        own = [info.task, *(name for name in given if name in categories(info))]
        found[info.task] = next((given[name] for name in own if name in given), 1.0)
    return found


def _parse(setting: str) -> tuple[str, float]:
    name, equals, text = setting.rpartition("=")
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not equals or not 0 <= weight < math.inf:
        raise UserError(f"weights: {setting!r} is no weight; write NAME=NUMBER, as in task130=2")
    return name.strip(), weight


def nearest(name: str, names: Iterable[str]) -> str:
    """What a user may have meant, in words."""
    by_small = {known.lower(): known for known in names}
    near = difflib.get_close_matches(name.lower(), by_small, 1)
    if near:
        return f"did you mean {by_small[near[0]]}?"
    return f"there are {', '.join(by_small.values())}"
