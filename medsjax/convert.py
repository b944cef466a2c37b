"""Hugging Face folders in and out: streamed into the mesh, bit-exact both ways.

python -m medsjax.convert SRC DST [--dtype float32|bfloat16] [--random SEED] [--verify]
"""

import contextlib
import fcntl
import glob
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jax
from flax import nnx
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding

from medsjax import attention, cards, checkpoint, lora, safetensors_io, sharding, verify, weights
from medsjax import workdir as workdirs
from medsjax.checkpoint import Checkpoints
from medsjax.config import LoRA
from medsjax.errors import Parser, UserError, run_main
from medsjax.hf_config import config_for, generation_config, read_config
from medsjax.hub import resolve
from medsjax.model import Llama
from medsjax.safetensors_io import DTYPES, Entry
from medsjax.sharding import check_divisible, one_device
from medsjax.tokenizer import Tokenizer
from medsjax.weights import expected

GENERATION, EMBED = "generation_config.json", "model.embed_tokens.weight"


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
    weights.fill(model, entries)
    return model, opened


def load_to_sample(
    folder: Path, dtype: str, tokenizer: str = "", mesh: Mesh | None = None
) -> tuple[Llama, Tokenizer]:
    """An HF folder as the sampler wants it: its layers one by one, on the mesh that suits it best.

    Before, this machine's attention kernel is compared with the plain one.
    """
    dims = read_config(folder)[1]
    attention.check(dims.N, dims.K, dims.H, dtype)
    mesh = mesh or sharding.sampling_mesh(dims.K, dims.F, dims.V)
    model, opened = load(folder, mesh, dtype, tokenizer=tokenizer)
    model.unstack()
    return model, opened


def inspect(folder: Path, tokenizer: str = "") -> tuple[dict[str, Entry], Tokenizer]:
    """An HF folder checked, all but the weights' bytes: where each tensor lies, the tokenizer."""
    _, dims = read_config(folder)
    entries = safetensors_io.entries(folder)
    weights.check_names(entries, dims, folder)
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


def save(
    model: Llama,
    tokenizer: Tokenizer,
    out_dir: str | Path,
    dtype: str | dict[str, str] | None = None,
    card: str | None = None,
) -> None:
    """Write an HF folder that transformers and vLLM load; it appears in one rename.

    Shards of at most 5 GB, config.json, the tokenizer's files as they came, generation_config.json
    with every end token, README.md (`card`) and manifest.sha256. An old folder is replaced.
    `dtype`: of all tensors, or by HF name; None keeps the parameters'.
    On several hosts all call it; process 0 writes.
    """
    shapes = expected(model.dims)
    dtype = dtype or model.embed_VD[...].dtype.name
    dtypes = dtype if isinstance(dtype, dict) else dict.fromkeys(shapes, dtype)

    def fetch(name: str):
        return weights.fetch(model, name, shapes[name], dtypes[name])

    if jax.process_index() == 0:
        files = dict(tokenizer.files)
        files["config.json"] = config_for(model.config_json, dtypes).encode()
        files[GENERATION] = generation_config(files.get(GENERATION), tokenizer)
        _write(Path(out_dir), shapes, dtypes, fetch, files, card or cards.plain())
    else:
        for name in shapes:
            fetch(name)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("medsjax.convert.save")


def _write(out: Path, shapes, dtypes, fetch, files: dict[str, bytes], card: str) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{out.name}.part-"
    for left in out.parent.glob(f"{glob.escape(prefix)}*"):
        with contextlib.suppress(FileNotFoundError), _held(left) as alone:
            if alone:  # an export that was killed
                shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=prefix) as temp, _held(temp):
        folder = Path(temp) / "hf"
        folder.mkdir()
        safetensors_io.write(folder, shapes, dtypes, fetch)
        for name, content in files.items():
            (folder / name).write_bytes(content)
        cards.put(folder, card)
        if out.exists():
            os.rename(out, Path(temp) / "old")
        os.rename(folder, out)


@contextlib.contextmanager
def _held(folder: str | Path) -> Iterator[bool]:
    """Lock a folder until the block ends or the process dies; whether no other has it locked."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        alone = True
    except OSError:  # another has it, or a mounted bucket knows no locks
        alone = False
    try:
        yield alone
    finally:
        os.close(handle)


def stored_dtype(folder: Path) -> str:
    """The dtype of a folder's embedding, which its export keeps; float32 where that is broken."""
    return _stored(safetensors_io.entries(folder).get(EMBED))


def _stored(entry: Entry | None) -> str:
    """A tensor's dtype as a parameter: float64 has none, and becomes float32."""
    name = DTYPES[entry.dtype].name if entry is not None and entry.dtype in DTYPES else ""
    return name if name in ("float16", "bfloat16") else "float32"


def from_run(
    workdir: Path, step: int | None, mesh: Mesh, dtype: str | None = None
) -> tuple[Llama, Tokenizer, str, int]:
    """A checkpoint of a run (None: its last): model, tokenizer, dtype to export in, step.

    The model is in float32, or in that dtype (None: the base's) where adapters were merged into it.
    """
    try:
        run, who = (
            json.loads((workdir / name).read_text()) for name in ("config.json", "identity.json")
        )
        base, tokenizer, fingerprint = run["model"], run["tokenizer"], who["tokenizer"]
        settings = run.get("lora") or {"rank": 0}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{workdir}: not a run's folder: its config.json or identity.json does not read "
            f"({type(error).__name__})"
        ) from None
    folder = resolve(base)
    _, opened = inspect(folder, tokenizer)
    if opened.fingerprint != fingerprint:
        raise UserError(
            f"{tokenizer or folder}: not the tokenizer that {workdir} was trained with; put back "
            "the base that its config.json names"
        )
    if settings["rank"] and workdirs.weights_sha256(folder) != who.get("model"):
        raise UserError(
            f"{folder}: not the weights whose adapters {workdir} holds; put back the base that its "
            "config.json names"
        )
    trained = abstract(folder, mesh, "float32", "float32")
    if settings["rank"]:
        settings = {
            "targets": tuple(settings["targets"]),
            **{k: settings[k] for k in ("rank", "alpha")},
        }
        trained = lora.abstract(trained, LoRA(**settings), mesh)
    checkpoints = Checkpoints(workdir / "checkpoints", None, trained, checkpoint.room())
    step, (model,) = checkpoints.restore((trained,), step, part=True)
    checkpoints.close()
    dtype = dtype or stored_dtype(folder)
    if settings["rank"]:
        model = merged(folder, mesh, model, dtype)
    return model, opened, dtype, step


def merged(folder: Path, mesh: Mesh, adapters: lora.Adapters, dtype: str) -> Llama:
    """A folder's model with adapters in its weights, each added in float32 and rounded once."""
    model = abstract(folder, mesh, dtype, dtype)
    weights.fill(model, safetensors_io.entries(folder))
    with jax.set_mesh(mesh):
        lora.fold(model, adapters)
    return model


def _split_run(source: str) -> tuple[Path, int | None] | None:
    """RUN or RUN@STEP, where RUN is a workdir with checkpoints; None for anything else."""
    name, at, step = source.rpartition("@")
    if (Path(source) / "checkpoints").is_dir():
        return Path(source), None
    if not at or not (Path(name) / "checkpoints").is_dir():
        return None
    if not step.isdecimal():
        raise UserError(f"{source}: what stands after @ is a step, a number")
    return Path(name), int(step)


def _convert(source: str, out: str, dtype: str | None, seed: int | None) -> None:
    """Write `source` (folder, hub name or run) as an HF folder."""
    run = _split_run(source)
    if run and seed is None:
        model, tokenizer, dtype, step = from_run(*run, one_device(), dtype)
        return save(model, tokenizer, out, dtype, cards.of_run(run[0], step))
    folder = resolve(source)
    if seed is not None:
        model, tokenizer = random(folder, seed, dtype or "float32")
        return save(model, tokenizer, out, card=cards.plain(source, f"random weights, seed {seed}"))
    entries, _ = inspect(folder)
    kept = {name: _stored(entries[name]) for name in expected(read_config(folder)[1])}
    exact = kept[EMBED] if len(set(kept.values())) == 1 else "float32"
    model, tokenizer = load(folder, dtype=dtype or exact)
    same = dtype is None and all(entries[name].dtype != "F64" for name in kept)
    what = "the same weights" if same else f"weights in {dtype or 'float32'}"
    save(model, tokenizer, out, dtype or kept, cards.plain(source, what))


def _verify(out: Path) -> None:
    """Check an export's bytes, then its logits; one float32 copy of it in memory at a time."""
    cards.check(out)
    model, tokenizer = load(out, dtype="float32")
    ids_BT = verify.random_ids(tokenizer.vocab_size)
    logits_BTV = verify.logits(model, ids_BT)
    del model
    print(f"{out}: {verify.against_transformers(logits_BTV, ids_BT, out)}")


def main() -> None:
    parser = Parser(
        prog="python -m medsjax.convert",
        description="Write a Llama checkpoint as an HF folder that transformers and vLLM load, "
        "checked tensor by tensor; without --dtype every tensor keeps its bits (float64 becomes "
        "float32). Works on the CPU. `sha256sum -c manifest.sha256`, in DST, checks its files.",
    )
    parser.add_argument(
        "source", metavar="SRC", help="HF folder, hub name, or a run: its last checkpoint, RUN@STEP"
    )
    parser.add_argument("out", metavar="DST", help="folder to write; must not exist")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), help="default: the source's, a run's base's"
    )
    parser.add_argument(
        "--random", type=int, metavar="SEED", help="random weights for SRC's config and tokenizer"
    )
    parser.add_argument(
        "--verify",
        action="store_true",
        help="check each file of SRC and DST against manifest.sha256 there, then load DST here and "
        "in transformers, both in float32, and print the largest difference of their logits and "
        "the KL (needs torch, and 4 bytes a parameter of host memory)",
    )
    args = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")  # the accelerator may be taken, and is not needed
    if Path(args.out).exists():
        raise UserError(f"{args.out}: exists already; name a new folder")
    if args.random is not None and not 0 <= args.random < 2**32:
        raise UserError(f"--random {args.random}: must be 0 to {2**32 - 1}")
    if args.verify:
        verify.need_torch()
        if (Path(args.source) / cards.MANIFEST).is_file():
            cards.check(Path(args.source))
    _convert(args.source, args.out, args.dtype, args.random)
    out = Path(args.out)
    size = sum(f.stat().st_size for f in out.iterdir())
    n = len(safetensors_io.entries(out))
    print(f"{out}: {n} tensors, {stored_dtype(out)}, {size / 1e6:.1f} MB")
    if args.verify:
        _verify(out)


if __name__ == "__main__":
    run_main(main)
