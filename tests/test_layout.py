"""The shape of the repository: which way imports go, what is declared, how long things are."""

import ast
import re
import sys
import tomllib
from importlib.metadata import requires
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAY_IMPORT = {
    "medsjax": {"medsjax"},
    "data": {"medsjax", "data"},
    "eval": {"medsjax", "data", "eval"},
    "configs": {"medsjax", "data", "eval", "configs"},
    "tests": {"medsjax", "data", "eval", "configs", "tests"},
}
DISTRIBUTION = {
    "orbax": "orbax-checkpoint",
    "absl": "absl-py",
}  # where the name to import is not the name to install
OURS = set(MAY_IMPORT)
PRODUCT = sorted(OURS - {"tests"})
MODULES = [path for package in sorted(OURS) for path in sorted((ROOT / package).rglob("*.py"))]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imported(path: Path) -> set[str]:
    """Top-level names that a module imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(path.relative_to(ROOT).parts[0] if node.level else node.module.split(".")[0])
    return found


def declared(requirements: list[str]) -> set[str]:
    return {re.match(r"[\w-]+", line).group().lower().replace("_", "-") for line in requirements}


def test_there_is_something_to_look_at():
    assert {path.relative_to(ROOT).parts[0] for path in MODULES} == OURS


@pytest.mark.parametrize("package", sorted(OURS))
def test_imports_go_one_way(package):
    wrong = {
        name(path): sorted(imported(path) & OURS - MAY_IMPORT[package])
        for path in (ROOT / package).rglob("*.py")
    }
    assert {path: names for path, names in wrong.items() if names} == {}


def test_what_the_product_imports_is_declared():
    """By pyproject.toml, or by a package that it names (jax brings ml_dtypes)."""
    dependencies = declared(PROJECT["dependencies"])
    for package in tuple(dependencies):
        brought = [line for line in requires(package) or [] if "extra ==" not in line]
        dependencies |= declared(brought)
    missing = {}
    for path in MODULES:
        if path.is_relative_to(ROOT / "tests"):
            continue
        for module in imported(path) - OURS - sys.stdlib_module_names:
            if DISTRIBUTION.get(module, module.lower().replace("_", "-")) not in dependencies:
                missing[name(path)] = module
    assert missing == {}


def test_neither_torch_nor_tensorflow_comes_with_dev():
    plain = declared(PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"])
    assert not plain & {"torch", "tensorflow"}
    assert not [name(path) for path in MODULES if "tensorflow" in imported(path)]


def test_the_builtin_eval_is_never_shadowed():
    shadow = re.compile(r"^\s*import eval\b(?! as)(?!\.\w+ as)", re.MULTILINE)
    assert not [name(path) for path in MODULES if shadow.search(path.read_text())]


def test_every_folder_with_modules_is_a_package():
    folders = {path.parent for path in MODULES}
    assert not [name(folder) for folder in folders if not (folder / "__init__.py").is_file()]
    assert not [name(path) for path in MODULES if path.stem == "utils"]


def test_no_machine_paths():
    machine = re.compile(r"(?<![\w.~}])/(work|tmp|home|root|Users)/|\bshared/")
    texts = [*MODULES, *ROOT.glob("*.md"), *ROOT.glob("*.toml")]
    for folder in ("data", "eval", "tpu_scripts"):
        texts += [*(ROOT / folder).rglob("*.md"), *(ROOT / folder).rglob("*.sh")]
    here = Path(__file__)
    assert not [name(path) for path in texts if machine.search(path.read_text()) and path != here]


def test_files_and_functions_stay_readable():
    too_long = {}
    for path in MODULES:
        text = path.read_text()
        if len(text.splitlines()) > 350:
            too_long[name(path)] = len(text.splitlines())
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                lines = node.end_lineno - node.lineno + 1
                if lines > 60:
                    too_long[f"{name(path)}:{node.name}"] = lines
    assert too_long == {}
