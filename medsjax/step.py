"""One update of the weights, and the arrays it works on: what `train` runs and `plan` compiles."""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from medsjax import config, convert, lora
from medsjax.accumulate import add_gradients
from medsjax.checkpoint import flat
from medsjax.loss import nll_sum
from medsjax.model import Llama


def loss_sum(trained, batch: dict, remat: str, base: Llama | None = None) -> jax.Array:
    """Summed negative log-likelihood of a packed batch's targets, float32.

    `trained`: the model, or the adapters of a `base`.
    """
    model = trained if base is None else lora.adapted(base, trained)
    rows = batch["tokens_BT"], batch["positions_BT"], batch["segments_BT"]
    x_BTD = model.hidden(*rows, remat=remat)
    return nll_sum(x_BTD, model.output_VD, batch["targets_BT"], batch["loss_mask_BT"])


def train_step(
    model,
    opt_state,
    batch: dict,
    base: Llama | None = None,
    *,
    optimizer,
    accumulate: int,
    remat: str,
):
    """One update of the model, or of the adapters of a `base`: loss = summed NLL / targets of the
    whole batch (the paper's equation 2).

    `accumulate` splits the rows into that many parts, whose gradients are summed in float32 before
    the one division, so the result does not depend on it.
    """
    value_and_grad = jax.value_and_grad(partial(loss_sum, remat=remat, base=base))
    if accumulate == 1:
        total, grads = value_and_grad(model, batch)
    else:

        def part(carry, micro):
            if remat == "full" and base is None:  # as it does anyway, with no second buffer
                return add_gradients(model, *carry, micro), None
            return jax.tree.map(jnp.add, carry, value_and_grad(model, micro)), None

        def split(a_BT):  # strided rows: each part has its share of every device's rows
            return a_BT.reshape(-1, accumulate, a_BT.shape[1]).swapaxes(0, 1)

        zeros = (jnp.zeros((), jnp.float32), jax.tree.map(jnp.zeros_like, model))
        (total, grads), _ = jax.lax.scan(part, zeros, jax.tree.map(split, batch))
    targets = jnp.maximum(batch["loss_mask_BT"].sum(), 1)
    grads = jax.tree.map(lambda g: g / targets, grads)
    updates, opt_state = optimizer.update(grads, opt_state, model)
    seen = {
        "loss": total / targets,
        "grad_norm": optax.global_norm(grads),
        "tokens": (batch["segments_BT"] > 0).sum(),
        "targets": batch["loss_mask_BT"].sum(),
    }
    return optax.apply_updates(model, updates), opt_state, seen


def abstract_start(cfg: config.Config, folder: Path, optimizer, mesh: Mesh):
    """(what is trained, optimizer state) and the base of adapters, or None, as `abstract_state`."""
    if not cfg.lora.rank:
        model = convert.abstract(folder, mesh, "float32", cfg.dtype)
        return abstract_state(model, optimizer, mesh), None
    base = convert.abstract(folder, mesh, cfg.dtype, cfg.dtype)
    return abstract_state(lora.abstract(base, cfg.lora, mesh), optimizer, mesh), base


def abstract_state(model, optimizer, mesh: Mesh):
    """(model, optimizer state) as shapes with shardings; moments lie where their parameters do."""
    specs = {name: leaf.sharding.spec for name, leaf in flat(model).items()}
    opt_state = jax.eval_shape(optimizer.init, model)

    def place(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        spec = next((s for n, s in specs.items() if name.endswith(f".{n}")), P())
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, spec))

    return model, jax.tree_util.tree_map_with_path(place, opt_state)


def init_opt(optimizer, abstract_opt, model: Llama):
    """Zero moments, made where they belong."""
    shardings = jax.tree.map(lambda a: a.sharding, abstract_opt)
    return jax.jit(optimizer.init, out_shardings=shardings)(model)


def jit_step(state, optimizer, accumulate: int, remat: str):
    """The compiled update; `state` fixes what goes out where it came in, and is donated."""
    shardings = jax.tree.map(lambda a: a.sharding, state)
    return jax.jit(
        partial(train_step, optimizer=optimizer, accumulate=accumulate, remat=remat),
        donate_argnums=(0, 1),
        out_shardings=(*shardings, None),
    )
