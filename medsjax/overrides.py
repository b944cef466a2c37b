"""Settings of a frozen dataclass from the command line: `--config.a.b=value`.

tyro gives each value its type; the names are checked here first, so that an error is one line.
"""

import contextlib
import difflib
import io
import typing
from collections.abc import Sequence
from dataclasses import fields, is_dataclass, make_dataclass
from typing import Any, Literal

import tyro

from medsjax.errors import UserError


def apply(cfg: Any, args: Sequence[str]) -> Any:
    """`cfg` with `args` (["--config.optim.lr=1e-4", "--config.run.mesh", "4", "2"]) applied.

    A field annotated Any takes the type of the value in it; a switch is bare (`--config.x.on`,
    `--config.x.no_on`); a tuple takes spaces. Raises UserError naming the key.
    """
    groups, kinds = _groups(args), _settings(cfg)
    for key, values in groups:
        _check_key(kinds, key, values)
    if not groups:
        return cfg
    with contextlib.suppress(SystemExit), contextlib.redirect_stderr(io.StringIO()):
        return _parse(cfg, args)
    for key, values in groups:  # tyro refused: which one is it?
        try:
            with contextlib.redirect_stderr(io.StringIO()):
                _parse(cfg, [key, *values])
        except SystemExit:
            expected = _say(kinds[_plain(key)])
            raise UserError(f"{key}={' '.join(values)}: expected {expected}") from None
    raise UserError(f"{' '.join(args)}: these settings do not go together")


def print_help(cfg: Any, prog: str, description: str) -> None:
    """Print every setting of `cfg` with its meaning, type and value."""
    with contextlib.suppress(SystemExit):
        _parse(cfg, ["--help"], prog, description)


def _parse(cfg: Any, args: Sequence[str], prog: str = "", description: str = "") -> Any:
    """tyro's reading of the arguments; raises SystemExit after printing an error or the help."""
    wrapper = make_dataclass("Args", [("config", type(cfg))])
    parsed = tyro.cli(
        wrapper,
        args=args,
        default=wrapper(cfg),
        prog=prog,
        description=description,
        use_underscores=True,
    )
    return parsed.config


def _groups(args: Sequence[str]) -> list[tuple[str, list[str]]]:
    """['--a=1', '--b', '2', '3'] -> [('--a', ['1']), ('--b', ['2', '3'])]."""
    groups: list[tuple[str, list[str]]] = []
    for arg in args:
        if arg.startswith("--"):
            key, equals, value = arg.partition("=")
            groups.append((key, [value] if equals else []))
        elif groups:
            groups[-1][1].append(arg)
        else:
            raise UserError(f"{arg}: stray argument; a setting is written --config.a.b=value")
    return groups


def _plain(key: str) -> str:
    return key.removeprefix("--").replace("-", "_")


def _settings(cfg: Any, prefix: str = "config") -> dict[str, Any]:
    """Dotted name -> type of every setting; a switch also under its `no_` name."""
    hints = typing.get_type_hints(type(cfg))
    kinds: dict[str, Any] = {}
    for field in fields(cfg):
        value, kind = getattr(cfg, field.name), hints[field.name]
        kind = type(value) if kind is Any else kind
        if is_dataclass(value):
            kinds |= _settings(value, f"{prefix}.{field.name}")
        else:
            kinds[f"{prefix}.{field.name}"] = kind
        if kind is bool:
            kinds[f"{prefix}.no_{field.name}"] = kind
    return kinds


def _check_key(kinds: dict[str, Any], key: str, values: list[str]) -> None:
    """Refuse an unknown name, a group of settings, a setting with no type, values too many."""
    name = _plain(key)
    inside = [f"--{other}" for other in kinds if other.startswith(f"{name}.")]
    if inside:
        raise UserError(f"{key}: holds several settings; set one of {', '.join(inside)}")
    if name not in kinds:
        raise UserError(f"{key}: no such setting; {_nearest(name, kinds)}")
    if kinds[name] is type(None):
        raise UserError(f"{key}: is empty in this config; only the config file can fill it")
    if kinds[name] is bool and values:
        raise UserError(f"{key}={' '.join(values)}: is a switch; write {key} without a value")
    takes_many = typing.get_origin(kinds[name]) in (tuple, list, dict)
    if len(values) > 1 and not takes_many:
        raise UserError(f"{values[1]}: stray argument; {key} takes one value")


def _nearest(name: str, kinds: dict[str, Any]) -> str:
    """The right dotted name: the same last word, else the most similar whole, then last word."""
    name = name.removeprefix("config.")
    by_name = {key.removeprefix("config."): key for key in kinds}
    by_word = {key.rpartition(".")[2]: key for key in kinds}
    word = name.rpartition(".")[2]
    if word in by_word:
        return f"did you mean --{by_word[word]}?"
    for found, wanted in ((by_name, name), (by_word, word)):
        if near := difflib.get_close_matches(wanted, found, n=1):
            return f"did you mean --{found[near[0]]}?"
    return "--help lists the settings"


def _say(kind: Any) -> str:
    """A type in words: int, one of ('a', 'b'), tuple[int, int]."""
    if typing.get_origin(kind) is Literal:
        return f"one of {typing.get_args(kind)}"
    return kind.__name__ if type(kind) is type else str(kind)
