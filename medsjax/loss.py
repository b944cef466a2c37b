"""Next-token loss over the answer tokens (the paper's equation 2), never holding all logits.

B batch, T tokens, D model, V vocab.
"""

import jax
import jax.numpy as jnp

CHUNK_LOGITS = 2**26  # logits alive at a time: 256 MiB in float32


def nll_sum(x_BTD: jax.Array, output_VD: jax.Array, targets_BT: jax.Array, mask_BT: jax.Array):
    """Sum over masked positions of -log p(target | hidden state), a float32 scalar.

    The caller divides by the number of targets in the *global* batch. Logits are made in chunks of
    T and made again backward; log-softmax is float32.
    """
    output_VD = output_VD.astype(x_BTD.dtype)

    @jax.checkpoint
    def chunk_sum(x_BTD, targets_BT, mask_BT):
        logits_BTV = jnp.einsum("BTD,VD->BTV", x_BTD, output_VD, preferred_element_type=jnp.float32)
        picked_BT = jnp.take_along_axis(logits_BTV, targets_BT[..., None], axis=-1)[..., 0]
        nll_BT = jax.nn.logsumexp(logits_BTV, axis=-1) - picked_BT
        return jnp.sum(nll_BT * mask_BT)

    B, T, V = *targets_BT.shape, output_VD.shape[0]
    chunks = 1
    while B * (T // chunks) * V > CHUNK_LOGITS and T % (2 * chunks) == 0:
        chunks *= 2
    if chunks == 1:
        return chunk_sum(x_BTD, targets_BT, mask_BT)

    def split(a):
        return a.reshape(B, chunks, T // chunks, *a.shape[2:]).swapaxes(0, 1)

    def add(total, chunk):
        return total + chunk_sum(*chunk), None

    parts = (split(x_BTD), split(targets_BT), split(mask_BT))
    return jax.lax.scan(add, jnp.zeros((), jnp.float32), parts)[0]
