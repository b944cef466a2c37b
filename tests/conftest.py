"""Eight virtual CPU devices for the mesh tests, and what several tests share."""

import os

# Both are read when jax starts, so they stand before anything that imports it.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Tests compile far more than they compute: without LLVM's passes they take half the time.
FLAGS = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FLAGS}".strip()

from functools import cache  # noqa: E402
from pathlib import Path  # noqa: E402

import pytest  # noqa: E402

from medsjax import convert  # noqa: E402
from tests import tiny  # noqa: E402


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory) -> Path:
    """A random Llama 3 HF folder of two layers in float32; read it, never write to it."""
    return tiny.write(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def tiny_loaded(tiny_folder):
    """(model, tokenizer) of `tiny_folder`, float32 on one device."""
    return convert.load(tiny_folder, dtype="float32")


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """Family name of tests/tiny.py -> model, each loaded from its folder once."""
    return cache(
        lambda case: tiny.load(tiny.write(tmp_path_factory.mktemp(case) / "m", **tiny.CASES[case]))
    )


@pytest.fixture(scope="session")
def realdata() -> Path:
    """The folder of real corpora and weights."""
    path = os.environ.get("MEDSJAX_REALDATA", "")
    if not path:
        pytest.skip("real data: set MEDSJAX_REALDATA to its folder")
    return Path(path)
