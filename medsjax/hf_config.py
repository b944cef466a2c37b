"""A checkpoint's config.json as Dims, and as an export's config.json and generation_config.json."""

import json
import sys
from functools import cache
from pathlib import Path

from medsjax.errors import UserError
from medsjax.model import Dims, RopeScaling
from medsjax.tokenizer import Tokenizer

FAMILIES = ("llama",)  # model_type that loads
OLD_THETA = 10000.0  # Llama 1's and 2's configs, written before the key existed, mean this


def read_config(folder: Path) -> tuple[str, Dims]:
    """config.json as text and as Dims. Theta, eps and scaling come from nowhere else."""
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"{folder}: no config.json; an HF model folder has one")
    try:
        text = path.read_text(encoding="utf-8")
        c = json.loads(text)
        kind = c.get("model_type")
    except (ValueError, AttributeError) as error:
        raise UserError(f"{path}: not a JSON object ({error})") from None
    if kind not in FAMILIES:
        raise UserError(f"{path}: model_type {kind!r} does not load; {', '.join(FAMILIES)} does")
    for key, wanted in {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False}.items():
        if c.get(key, wanted) != wanted:
            raise UserError(f"{path}: {key}={c[key]!r} is not supported; it must be {wanted!r}")
    try:
        dims, theta = _dims(c), _theta(c)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: missing or broken entry ({error!r})") from None
    if theta is None:
        _say(f"{path}: has no rope_theta; transformers' default, {OLD_THETA:g}, is taken")
    return text, dims


def _dims(c: dict) -> Dims:
    heads, width = _size(c, "num_attention_heads"), _size(c, "hidden_size")
    kv_heads = int(c.get("num_key_value_heads") or heads)
    if kv_heads < 1 or heads % kv_heads:
        raise ValueError(f"num_key_value_heads={kv_heads} does not divide {heads} query heads")
    theta = _theta(c)
    return Dims(
        V=_size(c, "vocab_size"),
        D=width,
        F=_size(c, "intermediate_size"),
        L=_size(c, "num_hidden_layers"),
        N=heads,
        K=kv_heads,
        H=int(c.get("head_dim") or width // heads),
        rope_theta=float(OLD_THETA if theta is None else theta),
        rope_scaling=_rope_scaling(_rope(c)),
        norm_eps=float(c["rms_norm_eps"]),
        tied=bool(c.get("tie_word_embeddings", False)),
    )


def _rope(c: dict) -> dict:
    """transformers 5 moves rope_theta and rope_scaling into rope_parameters.

    Where a config has both, they must say the same.
    """
    scaling, parameters = (dict(c.get(k) or {}) for k in ("rope_scaling", "rope_parameters"))
    for rope in (scaling, parameters):
        if "type" in rope:  # its name before transformers 4.43
            rope.setdefault("rope_type", rope.pop("type"))
    for key in scaling.keys() & parameters.keys():
        if scaling[key] != parameters[key]:
            raise ValueError(f"rope_scaling and rope_parameters name two values of {key}")
    return scaling | parameters


def _theta(c: dict) -> float | None:
    return _rope(c).get("rope_theta", c.get("rope_theta"))


@cache
def _say(line: str) -> None:
    """A folder's config is read more than once; the user is told once."""
    print(line, file=sys.stderr)


def _size(c: dict, key: str) -> int:
    if int(c[key]) < 1:
        raise ValueError(f"{key}={c[key]}; it must be at least 1")
    return int(c[key])


def _rope_scaling(rope: dict) -> RopeScaling | None:
    kind = rope.get("rope_type", "default")
    if kind == "default":
        return None
    if kind == "linear":
        return RopeScaling(factor=float(rope["factor"]))
    if kind != "llama3":
        raise ValueError(f"rope_type {kind}; default, linear and llama3 load")
    return RopeScaling(
        factor=float(rope["factor"]),
        low_freq_factor=float(rope["low_freq_factor"]),
        high_freq_factor=float(rope["high_freq_factor"]),
        original_length=int(rope["original_max_position_embeddings"]),
    )


def config_for(config_json: str, dtypes: dict[str, str]) -> str:
    """The source's config.json, untouched unless it names another dtype than is written."""
    config, written = json.loads(config_json), set(dtypes.values())
    stale = [k for k in ("dtype", "torch_dtype") if k in config and config[k] not in written]
    if len(written) > 1 or not stale:
        return config_json
    return json.dumps({**config, **dict.fromkeys(stale, written.pop())}, indent=2)


def generation_config(source: bytes | None, tokenizer: Tokenizer) -> bytes:
    """The source's generation_config.json, untouched where its end tokens are all there.

    Else `eos_token_id` lists them all: a base's has no end of turn, which a tuned model writes.
    """
    config = {} if source is None else json.loads(source)
    listed = config.get("eos_token_id")
    listed = listed if isinstance(listed, list) else [listed]
    if source is not None and set(tokenizer.stop_ids) <= set(listed):
        return source
    if source is None and tokenizer.bos_id is not None:
        config["bos_token_id"] = tokenizer.bos_id
    return json.dumps({**config, "eos_token_id": list(tokenizer.stop_ids)}, indent=2).encode()
