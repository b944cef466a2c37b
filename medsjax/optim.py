"""AdamW with clipping, linear warm-up and a cosine, on float32 master weights."""

import jax
import jax.numpy as jnp
import optax

from medsjax.config import Optim


def schedule(optim: Optim, steps: int) -> optax.Schedule:
    """Learning rate of each step: linear to `lr` over `warmup` of the steps, cosine to `final`."""
    warmup = max(round(optim.warmup * steps), 1)
    rise = optax.linear_schedule(optim.lr / warmup, optim.lr, warmup - 1)
    fall = optax.cosine_decay_schedule(optim.lr, max(steps - warmup, 1), alpha=optim.final)
    return optax.join_schedules([rise, fall], [warmup - 1])


def make(optim: Optim, steps: int) -> optax.GradientTransformation:
    """The optimizer. Weight decay leaves norms alone (they are the only parameters called norm)."""

    def decayed(params):
        return jax.tree_util.tree_map_with_path(
            lambda path, _: "norm" not in jax.tree_util.keystr(path), params
        )

    return optax.chain(
        optax.clip_by_global_norm(optim.clip),
        adam(optim),
        optax.add_decayed_weights(optim.weight_decay, mask=decayed)
        if optim.weight_decay
        else optax.identity(),
        optax.scale_by_learning_rate(schedule(optim, steps)),
    )


def adam(optim: Optim) -> optax.GradientTransformation:
    """Adam, computed in float32; its moments are kept as `optim` says."""
    inner = optax.scale_by_adam(optim.b1, optim.b2, optim.eps)

    def cast(state, m_dtype, v_dtype):
        mu = jax.tree.map(lambda m: m.astype(m_dtype), state.mu)
        return state._replace(mu=mu, nu=jax.tree.map(lambda v: v.astype(v_dtype), state.nu))

    def init(params):
        return cast(inner.init(params), optim.m_dtype, optim.v_dtype)

    def update(grads, state, params=None):
        updates, state = inner.update(grads, cast(state, jnp.float32, jnp.float32), params)
        return updates, cast(state, optim.m_dtype, optim.v_dtype)

    return optax.GradientTransformation(init, update)
