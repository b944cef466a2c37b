"""Which file of a corpus with an official split trains and which tests."""

from collections.abc import Sequence
from pathlib import Path

from data.corpora.write import Split
from medsjax.errors import UserError


def split_files(source: Path, train: Sequence[str], test: Sequence[str]) -> dict[Split, Path]:
    """`source`: one of these files, or a folder with one or more of them.

    Of several names for one split the first that is there counts.
    """
    folder = source if source.is_dir() else source.parent
    names: dict[Split, Sequence[str]] = {"train": train, "test": test}
    found: dict[Split, Path] = {}
    for split, known in names.items():
        there = [folder / name for name in known if (folder / name).is_file()]
        if source != folder:
            there = [path for path in there if path == source]
        if there:
            found[split] = there[0]
    if not found:
        raise UserError(f"{source}: must be, or hold, {' or '.join((*train, *test))}")
    return found
