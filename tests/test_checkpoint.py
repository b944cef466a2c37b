"""States on disk and back: bit for bit on any mesh, in no more host memory than there is room."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import psutil
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from medsjax import checkpoint, convert, train
from medsjax.checkpoint import Checkpoints
from medsjax.config import Config
from medsjax.errors import UserError
from medsjax.sharding import make_mesh

types = pytest.importorskip("orbax.checkpoint._src.serialization.types")
KB = 1024
PLENTY = 10**9


def state(mesh, seed: int = 0) -> dict[str, jax.Array]:
    """Leaves of 4 to 64 KB, split over both axes, over one, and whole on each device."""
    rng, specs = np.random.default_rng(seed), (P("fsdp", "tensor"), P(None, "tensor"), P())
    return {
        f"{kind}.{rows}.{i}": jax.device_put(
            rng.standard_normal((rows, 64)).astype(jnp.dtype(kind)), NamedSharding(mesh, spec)
        )
        for kind in ("float32", "bfloat16")
        for rows in (32, 256)
        for i, spec in enumerate(specs)
    }


def shapes(tree) -> dict:
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), tree)


def assert_restored(folder, expected: dict[str, np.ndarray], mesh) -> None:
    aim = shapes(state(mesh))
    step, found = Checkpoints(folder, 2, aim, PLENTY).restore(aim)
    assert step == 7 and list(found) == list(expected)
    for name, value in expected.items():
        assert found[name].sharding == aim[name].sharding
        assert np.asarray(found[name]).tobytes() == value.tobytes(), name


@pytest.fixture
def copies(monkeypatch) -> list[tuple[str, str]]:
    """What Orbax's handler tells, in order: ("copied" to the host or "written", a leaf's name)."""
    events = []

    def hear(method: str, word: str) -> None:
        def told(self, keypath):
            events.append((word, keypath[0].key))

        monkeypatch.setattr(types.DefaultSerializationStatusCallback, method, told)

    hear("on_transfer_end", "copied")
    hear("on_write_end", "written")
    return events


def test_a_state_larger_than_there_is_room_goes_in_batches(tmp_path, copies, caplog):
    """Two batches of half the room may be on the host; when `save` returns all is on the disk."""
    room = 150 * KB
    tree = state(make_mesh(4, 2))
    expected = jax.tree.map(np.asarray, tree)
    checkpoints = Checkpoints(tmp_path, 2, shapes(tree), room)
    assert checkpoints.in_batches and sum(map(checkpoint.held, tree.values())) > room
    checkpoints.save(7, tree)
    for leaf in tree.values():
        leaf.delete()  # as the next step does, to which the state is donated
    alive = most = 0
    for word, name in copies:
        alive += expected[name].nbytes * (1 if word == "copied" else -1)
        most = max(most, alive)
    sizes = [a.nbytes for a in expected.values()]
    assert alive == 0 and max(sizes) <= most <= room // 2 + min(sizes)
    assert sorted(name for word, name in copies if word == "written") == sorted(expected)
    assert [path.name for path in tmp_path.iterdir()] == ["7"]
    assert not [record for record in caplog.records if "prioritized" in record.getMessage()]
    assert_restored(tmp_path, expected, make_mesh(1, 1, jax.devices()[:1]))


def test_a_state_for_which_there_is_room_is_copied_before_save_returns(tmp_path, copies):
    tree = state(make_mesh(2, 4))
    expected = jax.tree.map(np.asarray, tree)
    checkpoints = Checkpoints(tmp_path, 2, shapes(tree), PLENTY)
    assert not checkpoints.in_batches
    checkpoints.save(7, tree)
    assert [word for word, _ in copies[: len(tree)]] == ["copied"] * len(tree)
    for leaf in tree.values():
        leaf.delete()
    checkpoints.close()
    assert_restored(tmp_path, expected, make_mesh(8, 1))


def test_where_orbax_has_other_names_all_is_copied_at_once(tmp_path, monkeypatch, copies):
    monkeypatch.delattr(ocp.type_handlers, "ArrayHandler")
    tree = state(make_mesh(4, 2))
    expected = jax.tree.map(np.asarray, tree)
    Checkpoints(tmp_path, 2, shapes(tree), 10 * KB).save(7, tree)
    assert [word for word, _ in copies[: len(tree)]] == ["copied"] * len(tree)
    assert_restored(tmp_path, expected, make_mesh(4, 2))


def test_what_was_saved_whole_is_restored_in_parts_where_there_is_little_room(tmp_path):
    tree = state(make_mesh(1, 1, jax.devices()[:1]))
    checkpoints = Checkpoints(tmp_path, 2, shapes(tree), PLENTY)
    checkpoints.save(7, tree)
    checkpoints.close()
    aim = shapes(state(make_mesh(8, 1)))
    _, found = Checkpoints(tmp_path, 2, aim, 1 * KB).restore(aim)
    assert all(np.array_equal(found[name], tree[name]) for name in tree)


def test_all_hosts_save_by_the_least_room_of_any(monkeypatch, tmp_path):
    """Orbax would wait for ever, were some to write in batches and some not."""
    seen = []

    def stop(folder, keep, state, space):
        seen.append(space)
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "Checkpoints", stop)
    monkeypatch.setattr(train, "abstract_start", lambda *args: ({}, None))
    cfg = Config(model="m", data=SimpleNamespace(open=None), workdir=str(tmp_path))
    us = SimpleNamespace(index=1, gather=lambda what, value: [value, 7, 9])
    with pytest.raises(KeyboardInterrupt):
        train.fit(cfg, us, None, None, 1, None, None)
    assert seen == [7]


def test_another_hosts_end_is_not_taken_for_a_full_disk(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path / "c", 2, {"a": jnp.zeros(3)}, PLENTY)

    def gone(*args, **settings):
        raise jax.errors.JaxRuntimeError("UNAVAILABLE: a peer is gone")

    monkeypatch.setattr(checkpoints.manager, "save", gone)
    with pytest.raises(jax.errors.JaxRuntimeError):
        checkpoints.save(3, {"a": jnp.zeros(3)})


def test_what_a_host_holds_counts_each_part_once():
    mesh = make_mesh(4, 2)
    for spec in (P("fsdp", "tensor"), P("tensor"), P()):
        sharding = NamedSharding(mesh, spec)
        assert checkpoint.held(jax.ShapeDtypeStruct((8, 6), jnp.bfloat16, sharding=sharding)) == 96


@pytest.mark.parametrize(
    ("backend", "free", "room"), [("tpu", 300, 100), ("gpu", 300, 48), ("gpu", 96, 32)]
)
def test_a_third_of_the_hosts_free_memory_is_room(backend, free, room, monkeypatch):
    """Of a GPU's host less than XLA pins, 64 GB."""
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    memory = psutil.virtual_memory()._replace(available=free * 10**9)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    assert checkpoint.room() == room * 10**9


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (ValueError("RESOURCE_EXHAUSTED: no space left on device"), "no space left"),
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: host memory"), "out of host memory"),
    ],
)
def test_a_checkpoint_that_cannot_be_written_is_one_line(error, why, tmp_path, monkeypatch):
    tree = {"a": jnp.zeros(3)}
    checkpoints = Checkpoints(tmp_path / "c", 2, tree, PLENTY)

    def full(*args, **settings):
        raise error

    monkeypatch.setattr(checkpoints.manager, "save", full)
    with pytest.raises(UserError, match=why):
        checkpoints.save(3, tree)


def test_a_fingerprint_sees_each_bit_and_place(tiny_folder, tiny_loaded):
    model, _ = convert.load(tiny_folder, dtype="float32")
    model.unstack()
    block = model.blocks[1]
    block.q_NHD.set_value(block.q_NHD[...].at[0, 0, 0].add(1.0))
    assert checkpoint.fingerprint(model) != checkpoint.fingerprint(tiny_loaded[0])


@pytest.mark.parametrize("unstacked", [False, True])
def test_a_fingerprint_sees_what_has_changed_places(unstacked, tiny_folder, tiny_loaded):
    """Layers of one weight, rows of the embedding: the same bits in all, another model."""
    prints = {checkpoint.fingerprint(tiny_loaded[0])}
    for swap in ("layers", "rows"):
        model, _ = convert.load(tiny_folder, dtype="float32")
        param = model.blocks.down_DF if swap == "layers" else model.embed_VD
        param.set_value(param[...][::-1])
        if unstacked:
            model.unstack()
        prints.add(checkpoint.fingerprint(model))
    assert len(prints) == 3


def test_a_fingerprint_is_the_same_however_the_layers_are_held_and_split(tiny_folder, tiny_loaded):
    prints = {checkpoint.fingerprint(tiny_loaded[0])}
    for shape in ((8, 1), (4, 2)):
        model, _ = convert.load(tiny_folder, make_mesh(*shape), "float32")
        prints.add(checkpoint.fingerprint(model))
        model.unstack()
        prints.add(checkpoint.fingerprint(model))
    assert len(prints) == 1
