"""Hugging Face folders in and out: one table of names, streamed into the mesh, bit-exact both ways.

python -m medsjax.convert SRC DST [--dtype float32|bfloat16] [--random SEED]
"""

import argparse
import json
import os
import tempfile
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from tqdm import tqdm

from medsjax import safetensors_io
from medsjax.errors import UserError, run_main
from medsjax.model import Dims, Llama, RopeScaling
from medsjax.safetensors_io import Entry
from medsjax.sharding import check_divisible, one_device
from medsjax.tokenizer import Tokenizer

# HF name <-> parameter; {} is the layer, whose weights lie stacked in `blocks`.
LLAMA = {
    "model.embed_tokens.weight": "embed_VD",
    "model.layers.{}.self_attn.q_proj.weight": "q_NHD",
    "model.layers.{}.self_attn.k_proj.weight": "k_KHD",
    "model.layers.{}.self_attn.v_proj.weight": "v_KHD",
    "model.layers.{}.self_attn.o_proj.weight": "o_DNH",
    "model.layers.{}.mlp.gate_proj.weight": "gate_FD",
    "model.layers.{}.mlp.up_proj.weight": "up_FD",
    "model.layers.{}.mlp.down_proj.weight": "down_DF",
    "model.layers.{}.input_layernorm.weight": "attn_norm_D",
    "model.layers.{}.post_attention_layernorm.weight": "mlp_norm_D",
    "model.norm.weight": "norm_D",
    "lm_head.weight": "unembed_VD",
}
FAMILIES = {"llama": LLAMA}  # model_type -> table
OLD_THETA = 10000.0  # Llama 1's and 2's configs, written before the key existed, mean this
HUB_FILES = ("*.safetensors", "*.json", "tokenizer.model", "*.jinja", "merges.txt")


def load(
    source: str | Path,
    mesh: Mesh | None = None,
    dtype: str = "bfloat16",
    *,
    compute_dtype: str | None = None,
    tokenizer: str = "",
) -> tuple[Llama, Tokenizer]:
    """Open an HF folder or hub name as (model, tokenizer), its parameters in `dtype` on `mesh`.

    `mesh` None is one device; `compute_dtype` None is `dtype`; `tokenizer` names another folder or
    file than the model's own. Raises UserError for whatever is wrong with the folder.
    """
    folder = resolve(source)
    mesh = mesh or one_device()
    entries, opened = inspect(folder, tokenizer)
    model = abstract(folder, mesh, dtype, compute_dtype or dtype)
    with jax.set_mesh(mesh):
        _fill(model, entries, mesh)
    return model, opened


def inspect(folder: Path, tokenizer: str = "") -> tuple[dict[str, Entry], Tokenizer]:
    """An HF folder checked, all but the weights' bytes: where each tensor lies, the tokenizer."""
    _, dims = read_config(folder)
    entries = safetensors_io.entries(folder)
    _check_names(entries, expected(dims), dims, folder)
    opened = Tokenizer.load(tokenizer or folder, folder)
    if opened.vocab_size > dims.V:
        raise UserError(
            f"{tokenizer or folder}: the tokenizer has {opened.vocab_size} ids, but the embedding "
            f"in {folder} only {dims.V} rows; take the tokenizer the model was trained with"
        )
    return entries, opened


def random(folder: Path, seed: int, dtype: str) -> tuple[Llama, Tokenizer]:
    """A freshly initialised model (normal, fan-in) of a folder's config.json, and its tokenizer."""
    config_json, dims = read_config(folder)
    kinds = {"param_dtype": dtype, "compute_dtype": dtype, "config_json": config_json}
    with jax.set_mesh(one_device()):
        model = jax.jit(lambda: Llama(dims, key=jax.random.key(seed), **kinds))()
    return model, Tokenizer.load(folder)


def abstract(folder: Path, mesh: Mesh, dtype: str, compute_dtype: str) -> Llama:
    """The model of an HF folder as shapes, dtypes and shardings, with no weights."""
    config_json, dims = read_config(folder)
    kinds = {"param_dtype": dtype, "compute_dtype": compute_dtype, "config_json": config_json}
    with jax.set_mesh(mesh):
        model = nnx.eval_shape(lambda: Llama(dims, **kinds))

    def place(path, leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        name, spec = jax.tree_util.keystr(path, simple=True, separator="."), leaf.sharding.spec
        check_divisible(name, leaf.shape, spec, mesh)
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, spec))

    return jax.tree_util.tree_map_with_path(place, model)


def save(model: Llama, tokenizer: Tokenizer, out_dir: str | Path, dtype: str | None = None) -> None:
    """Write an HF folder (safetensors, config, tokenizer) that transformers and vLLM load.

    `dtype` None keeps the parameters'. The folder appears in one rename; an old one is replaced.
    """
    out = Path(out_dir)
    out.parent.mkdir(parents=True, exist_ok=True)
    dtype = dtype or model.embed_VD[...].dtype.name
    params, shapes = {}, {}
    for hf_name, shape in expected(model.dims).items():
        params[hf_name], shapes[hf_name] = _locate(model, hf_name), shape

    def fetch(name: str) -> np.ndarray:
        value, layer = params[name]
        value = value[...] if layer is None else value[...][layer]
        return np.asarray(value.astype(dtype)).reshape(shapes[name])

    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as temp:
        folder = Path(temp) / "hf"
        folder.mkdir()
        safetensors_io.write(folder, shapes, dtype, fetch)
        (folder / "config.json").write_text(_config_for(model.config_json, dtype))
        for name, content in tokenizer.files.items():
            (folder / name).write_bytes(content)
        if out.exists():
            os.rename(out, Path(temp) / "old")
        os.rename(folder, out)


def resolve(source: str | Path) -> Path:
    """A folder as it is; anything else is a hub name, of which safetensors and json are fetched."""
    if Path(source).is_dir():
        return Path(source)
    if Path(source).exists() or len(Path(source).parts) != 2 or str(source).startswith((".", "/")):
        raise UserError(f"{source}: no such model folder (config.json and *.safetensors)")
    import huggingface_hub

    try:
        return Path(huggingface_hub.snapshot_download(str(source), allow_patterns=list(HUB_FILES)))
    except Exception as error:  # the hub's client raises many kinds; the user needs one line
        raise UserError(
            f"{source}: no such folder, and the hub did not give it "
            f"({type(error).__name__}); check the name, the network or HF_TOKEN"
        ) from None


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
        return text, _dims(c)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: missing or broken entry ({error!r})") from None


def _dims(c: dict) -> Dims:
    heads, width = _size(c, "num_attention_heads"), _size(c, "hidden_size")
    kv_heads = int(c.get("num_key_value_heads") or heads)
    if kv_heads < 1 or heads % kv_heads:
        raise ValueError(f"num_key_value_heads={kv_heads} does not divide {heads} query heads")
    # transformers 5 moves rope_theta and rope_scaling into rope_parameters
    rope = {**(c.get("rope_scaling") or {}), **(c.get("rope_parameters") or {})}
    theta = rope.get("rope_theta", c.get("rope_theta", OLD_THETA))
    return Dims(
        V=_size(c, "vocab_size"),
        D=width,
        F=_size(c, "intermediate_size"),
        L=_size(c, "num_hidden_layers"),
        N=heads,
        K=kv_heads,
        H=int(c.get("head_dim") or width // heads),
        rope_theta=float(theta),
        rope_scaling=_rope_scaling(rope),
        norm_eps=float(c["rms_norm_eps"]),
        tied=bool(c.get("tie_word_embeddings", False)),
    )


def _size(c: dict, key: str) -> int:
    if int(c[key]) < 1:
        raise ValueError(f"{key}={c[key]}; it must be at least 1")
    return int(c[key])


def _rope_scaling(rope: dict) -> RopeScaling | None:
    kind = rope.get("rope_type", rope.get("type", "default"))
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


def expected(dims: Dims) -> dict[str, tuple[int, ...]]:
    """Every HF tensor name of a checkpoint with its shape there, in the order they are written."""
    d = {letter: getattr(dims, letter) for letter in "VDFNKH"}
    shapes = {}
    for template, name in LLAMA.items():
        sides = [d[letter] for letter in name.rsplit("_", 1)[1]]
        if "NH" in name or "KH" in name:  # heads are one side in HF
            at = name.rsplit("_", 1)[1].index("H")
            sides[at - 1 : at + 1] = [sides[at - 1] * sides[at]]
        for layer in range(dims.L) if "{}" in template else [0]:
            if not (template == "lm_head.weight" and dims.tied):
                shapes[template.format(layer)] = tuple(sides)
    return shapes


def stored_dtype(folder: Path) -> str:
    """The dtype of a folder's embedding, which its export keeps; float32 where that is broken."""
    entry = safetensors_io.entries(folder).get("model.embed_tokens.weight")
    known = entry is not None and entry.dtype in safetensors_io.DTYPES
    return safetensors_io.DTYPES[entry.dtype].name if known else "float32"


def _locate(model: Llama, hf_name: str) -> tuple[nnx.Param, int | None]:
    """The parameter behind an HF name, and the layer where it is stacked."""
    if not hf_name.startswith("model.layers."):
        return getattr(model, LLAMA[hf_name]), None
    layer = hf_name.split(".")[2]
    return getattr(model.blocks, LLAMA[hf_name.replace(f".{layer}.", ".{}.", 1)]), int(layer)


def _check_names(entries: dict, wanted: dict, dims: Dims, folder: Path) -> None:
    for name, shape in wanted.items():
        if name not in entries:
            raise UserError(f"{folder}: tensor {name} is missing from the weights")
        if entries[name].shape != shape:
            have = entries[name].shape
            raise UserError(f"{folder}: tensor {name} is {have}; config.json asks for {shape}")
        entries[name].check_floating(name)
    for name in entries.keys() - wanted.keys():
        harmless = name.endswith("rotary_emb.inv_freq") or (dims.tied and name == "lm_head.weight")
        if not harmless:
            raise UserError(f"{folder}: tensor {name} belongs to no part of a {dims.L}-layer llama")


def _fill(model: Llama, entries: dict, mesh: Mesh) -> None:
    """Read tensor by tensor; a layer's is written into its donated stack, so one copy lives."""
    wanted = expected(model.dims)
    size = sum(int(np.prod(s)) for s in wanted.values())
    for name in tqdm(wanted, desc="weights", unit="tensor", disable=size < 5e7, leave=False):
        param, layer = _locate(model, name)
        whole = param.get_value()
        shape, spec = whole.shape[layer is not None :], whole.sharding.spec[layer is not None :]
        value = entries[name].read(name).astype(whole.dtype).reshape(shape)
        part = jax.device_put(value, NamedSharding(mesh, P(*spec)))
        if layer is None:
            param.set_value(part)
            continue
        if isinstance(whole, jax.ShapeDtypeStruct):
            zeros = partial(jnp.zeros, whole.shape, whole.dtype)
            whole = jax.jit(zeros, out_shardings=whole.sharding)()
        param.set_value(_write_layer(whole, part, layer))


@partial(jax.jit, donate_argnums=0)
def _write_layer(whole: jax.Array, part: jax.Array, layer: int) -> jax.Array:
    return jax.lax.dynamic_update_index_in_dim(whole, part, layer, 0)


def _config_for(config_json: str, dtype: str) -> str:
    """The source's config.json, untouched unless it names another dtype than is written."""
    config = json.loads(config_json)
    stale = [k for k in ("dtype", "torch_dtype") if config.get(k, dtype) != dtype]
    if not stale:
        return config_json
    return json.dumps({**config, **dict.fromkeys(stale, dtype)}, indent=2)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m medsjax.convert",
        description="Check an HF Llama checkpoint tensor by tensor and write it again, "
        "in another dtype if asked; same dtype means same bits.",
    )
    parser.add_argument("source", help="HF folder or hub name")
    parser.add_argument("out", help="folder to write; must not exist")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="default: the source's")
    parser.add_argument(
        "--random", type=int, metavar="SEED", help="random weights for SRC's config and tokenizer"
    )
    args = parser.parse_args()
    if Path(args.out).exists():
        raise UserError(f"{args.out}: exists already; name a new folder")
    folder = resolve(args.source)
    if args.random is None:
        model, tokenizer = load(folder, dtype=args.dtype or stored_dtype(folder))
    else:
        model, tokenizer = random(folder, args.random, args.dtype or "float32")
    save(model, tokenizer, args.out)
    size = sum(f.stat().st_size for f in Path(args.out).iterdir())
    dtype = model.embed_VD[...].dtype.name
    print(f"{args.out}: {len(expected(model.dims))} tensors, {dtype}, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    run_main(main)
