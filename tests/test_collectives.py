"""Collectives of compiled programs whose traffic is known beforehand."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from medsjax import collectives
from medsjax.collectives import Collective
from medsjax.sharding import make_mesh

SUM = Collective("all-reduce", 1, 2 * 4096 * 7 / 8)  # 1024 float32 over eight devices


ALL = P()


def compiled(body, shape=(1024,), spec=ALL, out=ALL, tensor=1) -> list[Collective]:
    mesh = make_mesh(8 // tensor, tensor)
    mapped = jax.shard_map(body, mesh=mesh, in_specs=spec, out_specs=out, check_vma=False)
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    return collectives.read(jax.jit(mapped).lower(x).compile().as_text())


def times(collective: Collective, n: int) -> Collective:
    return Collective(collective.kind, n * collective.count, n * collective.sent)


def add(x):
    return jax.lax.psum(x, "fsdp") * 0.1


CASES = {
    "none": (lambda x: x * 2, [], {}),
    "a sum": (add, [SUM], {}),
    "a loop": (lambda x: jax.lax.fori_loop(0, 5, lambda _, c: add(c), x), [times(SUM, 5)], {}),
    "loops in a loop": (
        lambda x: jax.lax.scan(
            lambda c, _: (jax.lax.fori_loop(0, 4, lambda _, c: add(c), add(c)), None),
            x,
            length=3,
        )[0],
        [times(SUM, 15)],
        {},
    ),
    "a branch": (
        lambda x: jax.lax.cond(x.sum() > 0, add, lambda x: x, x),
        [SUM],
        {},
    ),
    "a gather": (
        lambda x: jax.lax.all_gather(x, "fsdp", tiled=True),
        [Collective("all-gather", 1, 4096 * 7 / 8)],
        {"spec": P("fsdp")},
    ),
    "a scattered sum": (
        lambda x: jax.lax.psum_scatter(x, "fsdp", tiled=True),
        [Collective("reduce-scatter", 1, 4096 * 7 / 8)],
        {"out": P("fsdp")},
    ),
    "a turn": (
        lambda x: jax.lax.ppermute(x, "fsdp", [(i, (i + 1) % 8) for i in range(8)]),
        [Collective("collective-permute", 1, 512)],
        {"spec": P("fsdp"), "out": P("fsdp")},
    ),
    "a sum over pairs": (
        lambda x: jax.lax.psum(x, "tensor"),
        [Collective("all-reduce", 1, 2 * 4096 / 2)],
        {"tensor": 2},
    ),
    "a sum over both axes": (lambda x: jax.lax.psum(x, ("fsdp", "tensor")), [SUM], {"tensor": 2}),
    "all to all": (
        lambda x: jax.lax.all_to_all(x, "fsdp", 1, 0, tiled=True),
        [Collective("all-to-all", 1, 512 * 7 / 8)],
        {"shape": (8, 128), "spec": P("fsdp", None), "out": P(None, "fsdp")},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_sent_is_counted(name):
    body, expected, places = CASES[name]
    assert compiled(body, **places) == expected


# As libtpu writes a loop: no trip count, a counter that goes up by two, a start with its operand.
TPU = """HloModule m, is_scheduled=true

%body (p: (bf16[4,8], u32[])) -> (bf16[4,8], u32[]) {
  %p = (bf16[4,8]{1,0:T(8,128)(2,1)S(1)}, u32[]{:T(128)}) parameter(0)
  %two = u32[]{:T(128)} constant(2)
  %x = bf16[4,8]{1,0:T(8,128)(2,1)} get-tuple-element(%p), index=0
  %i = u32[]{:T(128)} get-tuple-element(%p), index=1
  %start = (bf16[4,8]{1,0}, bf16[4,8]{1,0}, u32[]{:S(2)}, u32[]{:S(2)}) \
collective-permute-start(%x), channel_id=1, source_target_pairs={{0,1},{1,0}}
  %done = bf16[4,8]{1,0} collective-permute-done(%start)
  %next = u32[]{:T(128)} add(%i, %two), metadata={op_name="jit(f)/add"}
  ROOT %tuple = (bf16[4,8]{1,0}, u32[]{:T(128)}) tuple(%done, %next)
}

%cond (q: (bf16[4,8], u32[])) -> pred[] {
  %limit = u32[]{:T(128)} constant(16), metadata={op_name="jit(f)/while"}
  %q = (bf16[4,8]{1,0}, u32[]{:T(128)}) parameter(0)
  %j = u32[]{:T(128)} get-tuple-element(%q), index=1
  ROOT %lt = pred[]{:T(512)} compare(%j, %limit), direction=LT
}

ENTRY %main (a: (bf16[4,8], u32[])) -> (bf16[4,8], u32[]) {
  %a = (bf16[4,8]{1,0}, u32[]{:T(128)}) parameter(0)
  ROOT %while = (bf16[4,8]{1,0}, u32[]{:T(128)}) while(%a), condition=%cond, body=%body
}
"""


# A gather that a TPU begins, computes beside and ends in three fusions, and another on its channel;
# a sum of which each chip keeps a part.
FUSED = """HloModule m, is_scheduled=true, num_partitions=4

%begin (a: f32[1,8]) -> (f32[1,8], f32[4,8]) {
  %a = f32[1,8]{1,0} parameter(0)
  %g.1 = f32[4,8]{1,0} all-gather(%a), channel_id=7, replica_groups=[1,4]<=[4], dimensions={0}
  ROOT %c.1 = (f32[1,8]{1,0}, f32[4,8]{1,0}) custom-call(%g.1)
}

%async_collective_fusion.3 (b: f32[1,8]) -> f32[4,8] {
  %b = f32[1,8]{1,0} parameter(0)
  ROOT %g.2 = f32[4,8]{1,0} all-gather(%b), channel_id=7, replica_groups=[1,4]<=[4], dimensions={0}
}

%end (c: f32[1,8]) -> f32[4,8] {
  %c = f32[1,8]{1,0} parameter(0)
  ROOT %g.3 = f32[4,8]{1,0} all-gather(%c), channel_id=7, replica_groups=[1,4]<=[4], dimensions={0}
}

%all-reduce-scatter.5 (d: f32[100]) -> f32[25] {
  %d = f32[100]{0} parameter(0)
  %s = f32[100]{0} all-reduce(%d), channel_id=9, replica_groups=[1,4]<=[4], to_apply=%add
  ROOT %part = f32[25]{0} dynamic-slice(%s), dynamic_slice_sizes={25}
}

ENTRY %main (x: f32[1,8], y: f32[100]) -> f32[4,8] {
  %x = f32[1,8]{1,0} parameter(0)
  %y = f32[100]{0} parameter(1)
  %f.1 = (f32[1,8]{1,0}, f32[4,8]{1,0}) fusion(%x), kind=kCustom, calls=%begin
  %f.2 = f32[4,8]{1,0} fusion(%x), kind=kCustom, calls=%async_collective_fusion.3
  %f.3 = f32[4,8]{1,0} fusion(%x), kind=kCustom, calls=%end
  %f.4 = f32[25]{0} fusion(%y), kind=kCustom, calls=%all-reduce-scatter.5
  %other = f32[4,8]{1,0} all-gather(%x), channel_id=7, replica_groups=[1,4]<=[4], dimensions={0}
  ROOT %out = f32[4,8]{1,0} add(%f.3, %other)
}
"""


def test_a_collective_in_several_fusions_of_a_tpu_is_one():
    assert collectives.read(FUSED) == [
        Collective("reduce-scatter", 1, 300.0),
        Collective("all-gather", 2, 2 * 96.0),
    ]


@pytest.mark.parametrize(
    ("types", "kind", "sent"),
    [
        ("((f32[1000],f32[1000]),(f32[250],f32[250]))", "reduce-scatter", 6000),
        ("(f32[1000],f32[1000])", "all-reduce", 12000),
        ("((f32[25],f32[25],f32[250]),(f32[100],f32[100],f32[1000]))", "all-gather", 3600),
        ("(f32[25],f32[100])", "all-gather", 300),
        ("(f32[100],f32[100],u32[],u32[])", "collective-permute", 400),
    ],
)
def test_collectives_that_a_gpu_starts_together_are_all_counted(types, kind, sent):
    """By hand, for four chips: 3/4 of the whole is sent, of a sum twice that."""
    line = f"  ROOT %s = {types} {kind}-start(%x), channel_id=1, replica_groups={{{{0,1,2,3}}}}"
    assert collectives.read(f"ENTRY %main (x: f32[1]) -> f32[1] {{\n{line}\n}}\n") == [
        Collective(kind, 1, sent)
    ]


def test_a_loop_of_a_tpu_is_counted_by_its_counter():
    assert collectives.read(TPU) == [Collective("collective-permute", 8, 8 * 64)]
