"""Measurements, side by side with other tools: python -m tests.benchmarks NAME [arguments]

Every NAME is a module of this folder and tells more with --help. They print; they assert nothing.
"""

import sys
from importlib import import_module
from pathlib import Path

from medsjax.errors import UserError, run_main


def main() -> None:
    files = sorted(Path(__file__).parent.glob("[a-z]*.py"))
    names = [file.stem for file in files if "\ndef main(" in file.read_text("utf-8")]
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print(f"{__doc__}\n{' '.join(names)}")
        return
    name = sys.argv.pop(1)
    if name not in names:
        raise UserError(f"tests.benchmarks: no {name!r}; there are {', '.join(names)}")
    sys.argv[0] = f"python -m tests.benchmarks {name}"
    import_module(f"tests.benchmarks.{name}").main()


if __name__ == "__main__":
    run_main(main)
