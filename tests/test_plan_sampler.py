"""Planning the sampler: its parts are the bytes of real arrays; a larger batch does not fit."""

import json
import re
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from medsjax import (
    bounds,
    convert,
    decoding,
    fitting_sampler,
    plan,
    plan_report,
    plan_table,
    topologies,
)
from medsjax.errors import UserError
from medsjax.sharding import make_mesh
from tests.test_plan import on_first, place, planned, run  # noqa: F401  (place: a fixture)


@pytest.mark.usefixtures("place")
def test_what_the_sampler_holds_are_the_bytes_of_real_arrays():
    n = fitting_sampler.need(Path("model"), "v5e:2x2", (2, 2), "float32", 4, 64)
    mesh = make_mesh(2, 2, jax.devices()[:4])
    model, _ = convert.load("model", mesh, "float32")
    model.unstack()
    with jax.set_mesh(mesh):
        tokens, starts = np.zeros((4, 32), np.int32), np.zeros(4, np.int32)
        _, cache = decoding.prefill(model, list(model.blocks), None, tokens, starts, 64)
    assert (n.weights, n.cache) == (on_first(model), on_first(cache))
    assert (
        n.fits and min(n.prefill, n.decode) > 0 and n.cache // 64 <= n.grow <= n.cache // n.dims.L
    )
    assert n.peak == n.weights + n.cache + max(n.prefill, n.decode, n.grow)
    assert n.collectives


@pytest.mark.parametrize("first", [8, 160])
@pytest.mark.parametrize(("fsdp", "limit"), [(1, 100.5), (8, 100.5), (8, 9.1), (8, 8.9), (1, 1.0)])
def test_the_largest_batch(first, fsdp, limit, tiny_folder):
    """A row takes 1 of memory, the weights 1: it fits, and a sixteenth more does not."""
    asked = []

    def measure(rows: int) -> fitting_sampler.Need:
        asked.append(rows)
        why = "" if rows + 1 <= limit else "too large"
        held = {"weights": 1000, "cache": 1000 * rows, "limit": 1000 * limit, "why": why}
        held |= dict.fromkeys(("prefill", "decode", "grow"), 0)
        mesh = {"fsdp": fsdp, "tensor": 1}
        kind = {"topology": "", "device_kind": "", "dims": convert.read_config(tiny_folder)[1]}
        return fitting_sampler.Need(**kind, mesh=mesh, batch=rows, length=1, **held)

    found = fitting_sampler.largest(measure, measure(first))
    rows = found.batch if found else 0
    assert rows + 1 <= limit < rows + max(rows // 16, fsdp) + 1
    assert len(asked) <= 8 and all(n % fsdp == 0 for n in asked)


@pytest.mark.usefixtures("place")
def test_the_report_of_the_sampler_holds_what_help_documents(monkeypatch, capsys):
    monkeypatch.setattr(fitting_sampler, "largest", lambda measure, first: first)
    assert run(monkeypatch, "--job", "eval", "--batch", "4", "--length", "160") == 0
    found = json.loads(Path("out.json").read_text())
    assert list(found) == list(plan_report.SAMPLER_KEYS)
    assert found["settings"] == {"mesh": [4, 2], "batch": 4, "length": 160, "dtype": "bfloat16"}
    capsys.readouterr()
    assert run(monkeypatch, "--help") == 0
    said = capsys.readouterr().out
    assert all(f"  {key} " in said for key in plan_report.SAMPLER_KEYS)


@pytest.mark.usefixtures("place")
def test_a_sampler_without_a_program_has_a_cache_all_the_same(monkeypatch):
    """By arithmetic; what only a program can tell is null, and no rate rests on nothing."""

    def full(*args):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Ran out of memory in HBM.")

    args = ("--job", "eval", "--batch", "8", "--length", "160")
    assert run(monkeypatch, *args) == 0
    whole = json.loads(Path("out.json").read_text())
    monkeypatch.setattr(fitting_sampler, "_compiled", full)
    assert run(monkeypatch, *args) == 1
    found = json.loads(Path("out.json").read_text())
    nulls = {key for key, value in found.items() if value is None}
    parts = {f"{part}_temporaries_gib" for part in ("prefill", "decode", "grow")}
    assert nulls == {*parts, "decode_share", "peak_gib", "largest_batch", "largest_peak_gib"}
    assert found["cache_gib"] == whole["cache_gib"]
    memory = (f["decode_bounds_s"]["memory"] for f in (found, whole))
    assert len(set(memory)) == 1
    assert "does not compile" in plan_table.sampler_row(found)


def test_an_embedding_that_is_looked_up_is_not_read(tmp_path):
    """Llama-3-8B, one row: the weights but for the embedding's 128,256 x 4,096, once a token."""
    dims = convert.read_config(plan_report.config_folder("llama-3-8b", tmp_path)[0])[1]
    kind = {"topology": "h200", "device_kind": "NVIDIA H200", "mesh": {"fsdp": 1, "tensor": 1}}
    need = fitting_sampler.Need(
        **kind, dims=dims, batch=1, length=1, weights=2 * 8_030_261_248, cache=0, limit=1.0
    )
    seconds = bounds.sampling(need)["decode_bounds_s"]["memory"]
    assert seconds == pytest.approx(2 * (8_030_261_248 - 128256 * 4096) / 4800e9, abs=1e-6)


@pytest.mark.slow
def test_decoding_8b_needs_little_beside_its_cache(tmp_path):
    """On an H200, 128 rows of 2048: temporaries of at most a hundredth of the cache."""
    pytest.importorskip("jax_cuda13_plugin", reason="needs the extra gpu-plan")
    found = planned(tmp_path, "h200", "--job", "eval", "--config.model=llama-3-8b")
    assert found["cache_gib"] == 32.0 and 0 < found["decode_share"] < 0.01
    assert found["largest_batch"] >= 128


@pytest.mark.usefixtures("place")
def test_the_table_keeps_what_is_compiled_and_leaves_out_what_cannot_be(monkeypatch, capsys):
    """A machine without its compiler is left out; a second call compiles nothing."""

    def devices(name: str) -> list:
        if name == "h200":
            raise UserError("its compiler is not installed")
        return jax.devices()[:4]

    monkeypatch.setattr(topologies, "devices", devices)
    monkeypatch.setattr(sys, "argv", ["plan", "--config", "exp.py", "--table", "plans"])
    monkeypatch.setattr(plan_report, "SHAPES", {"model": {}})
    monkeypatch.setattr(plan_table, "MACHINES", ("v5e:2x2", "h200"))
    monkeypatch.setattr(plan_table, "BATCH", 8)
    monkeypatch.setattr(plan_table, "LENGTH", 160)
    monkeypatch.setattr(fitting_sampler, "largest", lambda measure, first: first)
    plan.main()
    assert re.search(r"eval_model_h200_\w{8}.json: its compiler", capsys.readouterr().err)
    table = Path("plans/table.md").read_text()
    parts = [part.splitlines() for part in table.split("\n\n")]
    assert [len(lines) for lines in parts] == [3, 3]
    for lines in parts:
        assert len({line.count("|") for line in lines}) == 1
        assert lines[2].startswith("| model | v5e:2x2 | ")
    (path,) = Path("plans").glob("train_model_v5e_2x2_*.json")
    found = json.loads(path.read_text())
    assert f"| {found['peak_gib']} | 1.0 |" in table and f"| {found['tokens_per_s']:,} |" in table
    monkeypatch.setattr(plan_report, "report", None)
    monkeypatch.setattr(plan_report, "sampler_report", None)
    monkeypatch.setattr(plan_table, "MACHINES", ("v5e:2x2",))
    plan.main()
    assert Path("plans/table.md").read_text() == table
    path.write_text("[]")
    with pytest.raises(UserError, match=f"{path}: not a plan; delete it"):
        plan.main()
    monkeypatch.setattr(
        sys, "argv", [*sys.argv, "--config.batch=64"]
    )  # other settings, other plans
    with pytest.raises(TypeError):
        plan.main()


def test_a_row_is_of_the_nearest_setting_that_fits():
    chosen = {
        **{"peak_gib": 7.5, "tokens_per_s": 1000, "flags": "--config.run.accumulate=2"},
        **{"settings": {"mesh": [2, 1]}, "bounds_s": {"compute": 1, "memory": 2, "links": 0.25}},
    }
    asked = {"model": "m", "topology": "v4:2x2x1", "hbm_gib": 31.25, "fits": False}
    row = plan_table.train_row(asked | {"nearest": chosen})
    numbers = ("1.00", "2.00", "0.25", "1,000", f"{2e6 / 3600:,.0f}")
    assert row == ("m", "v4:2x2x1", "`--config.run.accumulate=2`", 7.5, 31.25, *numbers)
    none = plan_table.train_row(asked | {"nearest": None})
    assert none[2] == "none fits" and len(none) == len(row) == len(plan_table.TRAINING)
