"""A user's mistake is one line and exit code 2; anything else is our fault, with its traceback."""

import argparse
import os
import sys
from collections.abc import Callable


class UserError(Exception):
    """Bad input. The message is one line: the place (file, task, item), the rule, the remedy."""


class OnAll(UserError):
    """One that every host of a run ends with; its line names the host it is about."""


class Parser(argparse.ArgumentParser):
    """Mistakes on the command line are one line, too."""

    def error(self, message: str) -> None:
        raise UserError(f"{message.removeprefix('argument ')}; --help tells more")


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
