"""What a compiled program sends between chips: read from its HLO text.

Loops are counted as often as they run, where the text tells (a counter against a constant);
those that end when the data says so are counted once. On a TPU one collective may stand in several
fusions, its start, what runs beside it and its end, by one channel: it is counted once.
"""

import math
import re
from collections import Counter
from dataclasses import dataclass

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
BITS = {"pred": 8, "bf16": 16, "f16": 16, "f32": 32, "f64": 64, "c64": 64, "token": 0}

_HEAD = re.compile(r"(?m)^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
_NAME = r"%?([\w.\-]+)"
_OP = re.compile(rf"^\s*(?:ROOT )?{_NAME} = (.*?) ([a-z][\w\-]*)\((.*)$")
_CALLED = re.compile(rf"(?:calls|to_apply|true_computation|false_computation)={_NAME}")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_LOOP = re.compile(rf"condition={_NAME}, body={_NAME}")
_CHANNEL = re.compile(r"channel_id=(\d+)")
_SCATTER = "all-reduce-scatter"  # libtpu's name of a fused sum of which each chip keeps a part
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')


@dataclass(frozen=True)
class Collective:
    """All collectives of one kind in one run of the program."""

    kind: str
    count: int  # times it is run
    sent: float  # bytes that each chip sends at least, all times together


def read(hlo: str) -> list[Collective]:
    """The collectives of a compiled program (`compiled.as_text()`), most bytes first."""
    parts = _HEAD.split(hlo)
    bodies = {name: text.splitlines() for name, text in zip(parts[1::2], parts[2::2], strict=True)}
    everyone = int((re.search(r"num_partitions=(\d+)", hlo) or [0, 1])[1])
    entry = re.search(rf"(?m)^ENTRY {_NAME} ", hlo).group(1)
    counts, sent = Counter(), Counter()

    def walk(name: str, times: int, fused: set | None = None) -> None:
        """`fused`: in a fusion, the collectives already seen in those of the same body."""
        inside = set() if fused is None else fused
        for line in bodies.get(name, ()):
            if not (op := _OP.match(line)):
                continue
            _, result, opcode, rest = op.groups()
            kind = opcode.removesuffix("-start")
            if kind in KINDS:
                channel = _CHANNEL.search(rest)
                if fused is not None and channel:
                    if (kind, channel[1]) in fused:
                        continue
                    fused.add((kind, channel[1]))
                n = _group(rest, everyone)
                whole = _whole(kind, result, opcode != kind, n)
                if name.startswith(_SCATTER):
                    kind = "reduce-scatter"
                counts[kind] += times
                sent[kind] += times * whole * _share(kind, n)
            elif opcode == "while":
                condition, body = _LOOP.search(rest).groups()
                walk(body, times * _trips(rest, bodies[condition], bodies[body]))
            elif opcode not in ("reduce", "scatter", "sort", "map"):
                called = _CALLED.findall(rest)
                for branches in _BRANCHES.findall(rest):
                    called += re.findall(_NAME, branches)
                for other in called:
                    walk(other, times, inside if opcode == "fusion" else None)

    walk(entry, 1)
    return [Collective(kind, counts[kind], sent[kind]) for kind, _ in sent.most_common()]


def _whole(kind: str, result: str, started: bool, n: int) -> float:
    """Bytes of what n chips gather, sum, scatter or exchange, by the type of the result."""
    tensors = re.findall(r"(\w+)\[([\d,]*)\]", result)
    if started and kind != "all-reduce":  # operands, results, and perhaps scalars of a context
        tensors = [(dtype, dims) for dtype, dims in tensors if dims or dtype not in ("u32", "s32")]
        half = len(tensors) // 2
        tensors = tensors[:half] if kind == "reduce-scatter" else tensors[half:]
    size = sum(
        math.prod(map(int, filter(None, dims.split(",")))) * _bits(dtype) / 8
        for dtype, dims in tensors
    )
    return size * n if kind == "reduce-scatter" and not started else size


def _share(kind: str, n: int) -> float:
    """Of the whole, what each of n chips sends by the cheapest algorithm."""
    return {"all-reduce": 2 * (n - 1) / n, "collective-permute": 1}.get(kind, (n - 1) / n)


def _bits(dtype: str) -> int:
    return BITS.get(dtype) or int(re.search(r"\d+|$", dtype).group() or 0)


def _group(rest: str, everyone: int) -> int:
    """Chips that take part together: one of {{0,1},{2,3}}, [2,2]<=[4] or mesh['x'=2,'y'=2] {'y'}"""
    if found := re.search(r"replica_groups=\[\d+,(\d+)\]", rest):
        return int(found.group(1))
    if found := re.search(r"replica_groups=\{\{([\d,]+)\}", rest):
        return len(found.group(1).split(","))
    if found := re.search(r"replica_groups=mesh\[(.*?)\][^{]*\{(.*?)\}", rest):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", found.group(1)))
        return math.prod(int(sizes[name]) for name in re.findall(r"'(\w+)'", found.group(2)))
    return everyone


def _trips(rest: str, condition: list[str], body: list[str]) -> int:
    """How often a loop runs: stated, or a counter from 0 to a constant; 1 where it is open."""
    if stated := _TRIPS.search(rest):
        return int(stated.group(1))
    if not any("ROOT" in line and " compare(" in line for line in condition):
        return 1  # it ends when the data says so
    limits = re.findall(r"[su]32\[\]\S* constant\((\d+)\)", "\n".join(condition))
    counter = re.search(r"get-tuple-element\(.*\), index=(\d+)", "\n".join(condition))
    if len(limits) != 1 or not counter:
        return 1
    return -(-int(limits[0]) // _step(body, int(counter.group(1))))


def _step(body: list[str], index: int) -> int:
    """What a turn adds to element `index` of the loop's tuple."""
    lines = {op.group(1): op for op in map(_OP.match, body) if op}
    root = next(op for line, op in zip(body, map(_OP.match, body), strict=True) if "ROOT" in line)
    names = re.findall(r"%([\w.\-]+)", root.group(4).partition(")")[0])
    added = lines.get(names[index]) if root.group(3) == "tuple" else None
    while added and added.group(3) == "copy":
        added = lines.get(re.match(_NAME, added.group(4)).group(1))
    if not added or added.group(3) != "add":
        return 1
    for name in re.findall(r"%([\w.\-]+)", added.group(4).partition(")")[0]):
        if name in lines and lines[name].group(3) == "constant":
            return int(lines[name].group(4).partition(")")[0])
    return 1
