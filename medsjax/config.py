"""A run as a value: frozen dataclasses, the file that names them, and how a command reads it.

A config file defines `get_config()`, which returns `Config` (or any other frozen dataclass); it
only names things and builds nothing. `load` runs the file, applies `--config.a.b=value` (see
overrides.py) and gives the value back. The file's docstring describes it in --help; its first line
stands in the list of configs.
"""

import ast
import contextlib
import difflib
import importlib.util
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from medsjax import overrides
from medsjax.errors import UserError
from medsjax.settings import LoRA, Optim, Run, check, number, whole

ROOT = Path(__file__).resolve().parent.parent
"""The checkout: configs/ lies beside this package."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """One training run. Everything but heldout, bench, workdir and run is its identity."""

    model: str
    """Start weights: a Hugging Face folder, a hub name, or a run's hf/ folder."""
    tokenizer: str = ""
    """A folder with a tokenizer, or a tokenizer file; empty: the model's own."""
    data: Any
    """What to train on: has .open(tokenizer, length, seed) -> source."""
    heldout: Any = None
    """Data whose mean loss is measured, never trained on."""
    bench: Any = None
    """Benchmark to run: called with (model, tokenizer, step, out_dir), gives {name: number}."""
    length: int = 2048
    """Tokens in a row; several examples share one."""
    batch: int = 128
    """Rows in a global step, over all devices and accumulation parts."""
    epochs: float = 1.0
    """Passes over the data."""
    seed: int = 0
    """Keys every random choice: order, shots, rewrites."""
    optim: Optim = Optim()  # noqa: RUF009  (frozen)
    """The optimizer and its schedule."""
    lora: LoRA = LoRA()  # noqa: RUF009  (frozen)
    """Train adapters in place of all weights; lora.rank=0: all weights."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Of the computation; the master weights are float32."""
    workdir: str = ""
    """Where the run's files go; empty: runs/NAME of the config file."""
    run: Run = Run()  # noqa: RUF009  (frozen)
    """How the run is operated."""

    def __post_init__(self) -> None:
        check(self, "model", lambda x: isinstance(x, str) and x != "", "a folder or a hub name")
        local = lambda x: isinstance(x, str) and "://" not in x  # noqa: E731
        check(self, "workdir", local, "a folder; mount a bucket and name its folder")
        check(self, "length", whole(2), "a whole number above 1")
        check(self, "batch", whole(1), "a whole number above 0")
        check(self, "seed", whole(0), "a whole number, 0 or more")
        check(self, "epochs", lambda x: number(x) and x > 0, "a number above 0")
        check(self, "dtype", lambda x: x in ("bfloat16", "float32"), "bfloat16 or float32")
        parts = self.run.accumulate
        check(self, "batch", lambda x: x % parts == 0, f"divisible by run.accumulate={parts}")
        rule = "a dataset: a dataclass with an open method"
        check(self, "data", lambda x: hasattr(x, "open"), rule)
        check(self, "heldout", lambda x: x is None or hasattr(x, "open"), rule)
        rule = "an evaluator: a dataclass that can be called"
        check(self, "bench", lambda x: x is None or callable(x), rule)


def load(
    argv: Sequence[str] | None = None,
    *,
    prog: str = "python -m medsjax.train",
    about: str = "",
    expect: type | None = None,
) -> Any:
    """The config that a command line asks for: `--config NAME_OR_PATH [--config.a.b=value ...]`.

    argv: without the program's name; None: this process's. expect: the class that the command takes
    (None: any frozen dataclass). An empty `workdir` becomes runs/NAME. `--help` prints and exits 0.
    Raises UserError for whatever a user can get wrong.
    """
    name, rest = _take_config(sys.argv[1:] if argv is None else list(argv))
    asks_help = any(arg in ("-h", "--help") for arg in rest)
    if name is None and asks_help:
        print(_usage(prog, about))
        sys.exit(0)
    if name is None:
        raise UserError(f"--config is missing; there are {_known()}")
    path = _find(name)
    cfg = _execute(path)
    if expect is not None and _class(expect) not in map(_class, type(cfg).__mro__):
        raise UserError(
            f"{path}: get_config() returns {_class(type(cfg))}, but {prog} takes {_class(expect)}"
        )
    if asks_help:
        overrides.print_help(cfg, prog, f"{about}\n\n{path}: {_docstring(path)}".strip())
        sys.exit(0)
    to_dict(cfg)  # refuses values that are not the same in every process
    cfg = overrides.apply(cfg, rest)
    if getattr(cfg, "workdir", None) == "":
        cfg = replace(cfg, workdir=f"runs/{path.stem}")
    return cfg


def to_dict(value: Any, key: str = "config") -> Any:
    """A config as JSON-able values: a dataclass is a dict with its class's name under `_type`.

    Raises UserError for what has no repr that is equal in every process (functions, sets, objects).
    """
    if is_dataclass(value) and not isinstance(value, type):
        if not value.__dataclass_params__.frozen:
            raise UserError(f"{key}: {_class(type(value))} must be a frozen dataclass")
        values = {f.name: to_dict(getattr(value, f.name), f"{key}.{f.name}") for f in fields(value)}
        return {"_type": type(value).__name__} | values
    if isinstance(value, dict):
        return {str(k): to_dict(v, f"{key}[{k!r}]") for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [to_dict(item, f"{key}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, str | int | float):
        return value
    kinds = "frozen dataclass, text, number, tuple or dict"
    raise UserError(f"{key}: a {type(value).__name__} cannot stand in a config; use a {kinds}")


def _take_config(argv: list[str]) -> tuple[str | None, list[str]]:
    """Split `--config NAME` (or `--config=NAME`) from the other arguments."""
    name, rest, args = None, [], iter(argv)
    for arg in args:
        if arg != "--config" and not arg.startswith("--config="):
            rest.append(arg)
            continue
        if name is not None:
            raise UserError("--config is given twice: one run has one config file")
        name = arg.removeprefix("--config=") if "=" in arg else next(args, "")
        if not name or name.startswith("-"):
            raise UserError(f"--config needs a name or a path; there are {_known()}")
    return name, rest


def _find(name: str) -> Path:
    """The config file: a path, or a name in configs/ (here, then the checkout's), `.py` or not."""
    file = name if name.endswith(".py") else f"{name}.py"
    for folder in (Path(), Path("configs"), ROOT / "configs"):
        if (folder / file).is_file():
            return folder / file
    stems = [path.stem for path in _config_files()]
    near = difflib.get_close_matches(Path(file).stem, stems, n=1)
    hint = f"did you mean {near[0]}.py?" if near else f"there are {_known()}"
    raise UserError(f"--config {name}: no such config file; {hint}")


def _config_files() -> list[Path]:
    """configs/*.py here, then in the checkout; a name is listed once."""
    found: dict[str, Path] = {}
    for folder in (Path("configs"), ROOT / "configs"):
        for path in sorted(folder.glob("*.py")):
            if path.stem != "__init__":
                found.setdefault(path.stem, path)
    return list(found.values())


def _docstring(path: Path) -> str:
    """A file's docstring, without running it; empty if there is none."""
    with contextlib.suppress(SyntaxError, ValueError):  # a broken file is still listed
        return ast.get_docstring(ast.parse(path.read_bytes())) or ""
    return ""


def _first_line(path: Path) -> str:
    return _docstring(path).partition("\n")[0]


def _known() -> str:
    """All configs in one line, each with the first line of its docstring."""
    names = [f"{path.name} ({_first_line(path)})" for path in _config_files()]
    return ", ".join(names) or "no configs/*.py here"


def _usage(prog: str, about: str) -> str:
    listed = [f"  {path.name:16}  {_first_line(path)}" for path in _config_files()]
    lines = [
        f"usage: {prog} --config NAME_OR_PATH [--config.a.b=value ...]",
        about,
        "",
        "A config is a Python file, given by its path or by its name in configs/:",
        *listed,
        "",
        "Any setting can be overridden: --config.optim.lr=3e-5; a switch is bare:",
        "--config.run.force_resume; a tuple takes spaces: --config.run.mesh 4 2.",
        f"All settings of one config: {prog} --config NAME_OR_PATH --help",
    ]
    return "\n".join(lines)


def _execute(path: Path) -> Any:
    """What the file's get_config() returns; its errors become one line that names file and line."""
    try:
        module = _import(path)
        if not callable(getattr(module, "get_config", None)):
            raise UserError(f"{path}: has no get_config(); a config file defines one")
        cfg = module.get_config()
    except UserError:
        raise
    except SyntaxError as error:
        place = f"{error.filename or path}:{error.lineno}"
        raise UserError(f"{place}: SyntaxError: {error.msg}") from error
    except Exception as error:
        raise UserError(f"{_place(path, error)}: {type(error).__name__}: {error}") from error
    if not is_dataclass(cfg) or isinstance(cfg, type):
        what = _class(cfg if isinstance(cfg, type) else type(cfg))
        raise UserError(f"{path}: get_config() returns {what}; it must return a frozen dataclass")
    return cfg


def _import(path: Path) -> ModuleType:
    """Run a config file as a module; one of configs/ bears the name that `import` gives it."""
    in_configs = path.resolve().parent == ROOT / "configs"
    name = f"configs.{path.stem}" if in_configs else f"medsjax_config_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses defined in the file look themselves up here
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _place(path: Path, error: Exception) -> str:
    """FILE:LINE, the last line of the config file that the error went through."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename) == path.absolute()]
    return f"{path}:{lines[-1]}" if lines else str(path)


def _class(kind: type) -> str:
    """The class by module and name; one of `python -m a.b` is a.b's here, not __main__'s."""
    module = kind.__module__
    if module == "__main__" and (spec := sys.modules["__main__"].__spec__):
        module = spec.name
    return f"{module}.{kind.__qualname__}".removeprefix("builtins.")
