"""How fast a task file is read, and in how much memory.

    python -m tests.benchmarks.reader [--megabytes 500] [--folder DIR]

A file of 900-byte instances with ids is written to a temporary folder and read on one core by
data.task_file (all instances looked at), by json.load and by ijson.items alone, each in a process
of its own.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

READERS = ("data.task_file", "json.load", "ijson.items")
WORDS = [
    *(
        "the",
        "patient",
        "was",
        "admitted",
        "with",
        "fever,",
        "haemoglobin",
        "of",
        "9.8 g/dl",
        "and",
    ),
    *("no evidence", "daily", "20 mg", "études cliniques:", "高血压", "кашель", '"quoted"\t', "\n"),
]


def write(path: Path, megabytes: int) -> int:
    """A task file of this size; its number of instances."""
    rng = random.Random(0)
    texts = [
        " ".join(rng.choices(WORDS, k=200)).encode()[:760].decode(errors="ignore")
        for _ in range(500)
    ]
    header = {"Definition": ["Say what it is.", "What is it?"], "Domains": ["Medicine"]}
    n = 0
    with open(path, "w", encoding="utf-8") as file:
        file.write(json.dumps(header)[:-1] + ', "Instances": [')
        while file.tell() < megabytes * 10**6:
            lines = []
            for _ in range(1000):
                output = [rng.choice(WORDS), f"case {n}"]
                instance = {"id": f"task12-{n:032x}", "input": rng.choice(texts), "output": output}
                lines.append(json.dumps(instance, ensure_ascii=False))
                n += 1
            file.write(",\n" * (n > 1000) + ",\n".join(lines))
        file.write("]}")
    return n


def read(reader: str, path: str) -> int:
    """Read the file in the given way; the number of its instances."""
    if reader == "json.load":
        with open(path, encoding="utf-8") as file:
            return len(json.load(file)["Instances"])
    if reader == "ijson.items":
        import ijson

        with open(path, "rb") as file:
            return sum(1 for _ in ijson.items(file, "Instances.item", use_float=True))
    from data import task_file

    return task_file.read(path).n


def report(reader: str, path: str) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    wall, cpu = time.perf_counter(), time.process_time()
    n = read(reader, path)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    megabytes = os.path.getsize(path) / 1e6
    peak = Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]
    print(
        f"{reader:14} {megabytes / wall:6.0f} MB/s by the clock, {megabytes / cpu:6.0f} MB/s of"
        f" processor time, {n / cpu:9,.0f} instances/s, peak {int(peak) // 1024:5} MB"
    )


def main() -> None:
    parser = argparse.ArgumentParser("python -m tests.benchmarks.reader", description=__doc__)
    parser.add_argument("--megabytes", type=int, default=500)
    parser.add_argument("--folder", help="for the temporary folder (default: the system's)")
    parser.add_argument("--readers", nargs="+", choices=READERS, default=READERS)
    parser.add_argument("--file", help=argparse.SUPPRESS)  # one reader, in this very process
    args = parser.parse_args()
    if args.file:
        return report(args.readers[0], args.file)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        path = Path(folder) / "task12_benchmark.json"
        n = write(path, args.megabytes)
        size = path.stat().st_size
        print(f"{size / 1e6:,.0f} MB, {n:,} instances of {size / n:.0f} bytes")
        for reader in args.readers:
            command = [sys.executable, "-m", "tests.benchmarks.reader", "--readers", reader]
            subprocess.run([*command, "--file", str(path)], check=True)


if __name__ == "__main__":
    main()
