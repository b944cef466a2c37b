"""An exported folder beside transformers: the same ids in, logits compared."""

import importlib.util
from pathlib import Path

import jax
import numpy as np

from medsjax.errors import UserError
from medsjax.model import Llama

ROWS, LENGTH = 2, 128


def need_torch() -> None:
    """Refuse where transformers could not run the model."""
    if importlib.util.find_spec("torch") is None:
        raise UserError("--verify: torch is not installed; pip install -e '.[parity]'")


def random_ids(vocab_size: int) -> np.ndarray:
    """int64[ROWS, LENGTH], always the same."""
    return np.random.default_rng(0).integers(0, vocab_size, (ROWS, LENGTH))


def logits(model: Llama, ids_BT: np.ndarray) -> np.ndarray:
    """Our side: float32[B, T, V] on the host."""
    return np.asarray(jax.jit(lambda m, ids: m(ids))(model, ids_BT.astype(np.int32)))


def against_transformers(ours_BTV: np.ndarray, ids_BT: np.ndarray, folder: str | Path) -> str:
    """Largest difference of float32 logits and the mean KL(transformers || ours), in words."""
    theirs_BTV = _transformers(folder, ids_BT)
    apart = max(float(np.abs(a - b).max()) for a, b in zip(ours_BTV, theirs_BTV, strict=True))
    kl = np.mean([_kl(a, b) for a, b in zip(theirs_BTV, ours_BTV, strict=True)])
    return (
        f"against transformers in float32, on {ids_BT.size} random tokens: largest difference of a "
        f"logit {apart:.2g}, KL {kl:.2g} nats a token"
    )


def _transformers(folder: str | Path, ids_BT: np.ndarray) -> np.ndarray:
    from transformers import AutoModelForCausalLM, BatchEncoding

    settings = {"dtype": "float32", "use_safetensors": True, "trust_remote_code": False}
    model = AutoModelForCausalLM.from_pretrained(str(folder), **settings).eval()
    ids = BatchEncoding({"input_ids": ids_BT}, tensor_type="pt")
    return model.requires_grad_(False)(**ids).logits.numpy()


def _kl(p_TV: np.ndarray, q_TV: np.ndarray) -> float:
    """Mean KL(p || q) over positions, from logits; float64."""
    p, q = (_log_softmax(x.astype(np.float64)) for x in (p_TV, q_TV))
    return float((np.exp(p) * (p - q)).sum(-1).mean())


def _log_softmax(x_TV: np.ndarray) -> np.ndarray:
    x_TV = x_TV - x_TV.max(-1, keepdims=True)
    return x_TV - np.log(np.exp(x_TV).sum(-1, keepdims=True))
