"""A user's mistake is one line and exit code 2; anything else is our fault, with its traceback."""

import argparse
import contextlib
import difflib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path


class UserError(Exception):
    """Bad input. The message is one line: the place (file, task, item), the rule, the remedy."""


class OnAll(UserError):
    """One that every host of a run ends with; its line names the host it is about."""


class Parser(argparse.ArgumentParser):
    """Mistakes on the command line are one line, too."""

    def error(self, message: str) -> None:
        raise UserError(f"{message.removeprefix('argument ')}; --help tells more")

    def parse_known_args(self, args=None, namespace=None):
        """As argparse's, but a misspelt option is named first, not what is missing without it."""
        options = list(self._option_string_actions)
        for word in sys.argv[1:] if args is None else args:
            name = word.partition("=")[0]
            known = any(option.startswith(name) for option in options)  # whole or shortened
            if known or not name.startswith("--") or name.startswith("--config."):
                continue
            if near := difflib.get_close_matches(name, options, n=1, cutoff=0.75):
                raise UserError(f"{name}: no such option; did you mean {near[0]}?")
        return super().parse_known_args(args, namespace)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Name the file in an error of writing to it (no space is told without a name)."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.strerror is not None:
            error.filename = str(path)
        raise


def run_main(main: Callable[[], None]) -> None:
    """Run a command's `main`; a `UserError` or an `OSError` becomes one line and exit code 2."""
    try:
        main()
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # `… --help | head`: the reader has what it wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0 if "--help" in sys.argv else 141)
    except OSError as error:  # no permission, no space, a file for a folder
        if error.strerror is None:
            raise
        place = error.filename if error.filename is not None else "writing or reading"
        remedy = "check the path, its permissions and the free space"
        print(f"error: {place}: {error.strerror}; {remedy}", file=sys.stderr)
        sys.exit(2)
