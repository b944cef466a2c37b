"""Small random checkpoints and a small Llama-3-style tokenizer, written as HF folders."""

import json
from functools import cache
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer

from medsjax import convert
from medsjax.model import Llama

SPECIAL = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
)
VOCAB = 288  # bytes, a few merges, the special tokens last
BEGIN, END, START_HEADER, END_HEADER, EOT = range(VOCAB - len(SPECIAL), VOCAB)
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Llama 3's own.
CHAT_TEMPLATE = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    "+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}"
    "{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "hidden_act": "silu",
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "rope_scaling": None,
    "tie_word_embeddings": False,
    "bos_token_id": BEGIN,
    "eos_token_id": END,
    "torch_dtype": "float32",
}
# Of the eight frequencies of a head of 16, these keep one, blend one and slow six.
SCALING = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
# What each family changes in CONFIG; None leaves the key out. Both spellings of rope's settings.
CASES = {
    "llama2": {"num_key_value_heads": None, "rope_theta": None, "rms_norm_eps": 1e-6},
    "llama3": {},
    "llama3.1": {"rope_scaling": SCALING, "head_dim": 16},
    "llama3.2": {
        "rope_scaling": None,
        "rope_theta": None,
        "rope_parameters": {**SCALING, "factor": 32.0, "rope_theta": 500000.0},
        "head_dim": 16,
        "tie_word_embeddings": True,
    },
    "linear": {"rope_scaling": {"type": "linear", "factor": 4.0}, "head_dim": 4},
}


def config(**changes) -> dict:
    """CONFIG with changes; a key changed to None is left out."""
    return {k: v for k, v in {**CONFIG, **changes}.items() if v is not None}


def weights(config: dict, seed: int = 0) -> dict[str, np.ndarray]:
    """Random float32 tensors of a checkpoint. RandomState's stream is fixed for good.

    The embedding is small, so that the norms' eps shows in the logits.
    """
    c, rng = config, np.random.RandomState(seed)
    V, D, F = c["vocab_size"], c["hidden_size"], c["intermediate_size"]
    N = c["num_attention_heads"]
    K, H = c.get("num_key_value_heads", N), c.get("head_dim", D // N)

    def normal(*shape, std=None):
        return (rng.standard_normal(shape) * (std or shape[1] ** -0.5)).astype(np.float32)

    def scale():
        return (1 + 0.1 * rng.standard_normal(D)).astype(np.float32)

    tensors = {"model.embed_tokens.weight": normal(V, D, std=0.05), "model.norm.weight": scale()}
    for i in range(c["num_hidden_layers"]):
        attention, mlp = f"model.layers.{i}.self_attn", f"model.layers.{i}.mlp"
        tensors |= {
            f"model.layers.{i}.input_layernorm.weight": scale(),
            f"model.layers.{i}.post_attention_layernorm.weight": scale(),
            f"{attention}.q_proj.weight": normal(N * H, D),
            f"{attention}.k_proj.weight": normal(K * H, D),
            f"{attention}.v_proj.weight": normal(K * H, D),
            f"{attention}.o_proj.weight": normal(D, N * H),
            f"{mlp}.gate_proj.weight": normal(F, D),
            f"{mlp}.up_proj.weight": normal(F, D),
            f"{mlp}.down_proj.weight": normal(D, F),
        }
    if not c.get("tie_word_embeddings"):
        tensors["lm_head.weight"] = normal(V, D)
    return tensors


@cache
def tokenizer_files() -> dict[str, str]:
    """tokenizer.json and tokenizer_config.json in Llama 3's manner: byte-level BPE, headers."""
    tok = Tokenizer(models.BPE(ignore_merges=True))
    split = pre_tokenizers.Split(Regex(SPLIT), "isolated")
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tok.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_])
    tok.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    size = VOCAB - len(SPECIAL)
    trainer = BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    tok.train_from_iterator(["user assistant system the answer is an answer\n\n"] * 9, trainer)
    tok.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in SPECIAL])
    assert tok.token_to_id(SPECIAL[-1]) == EOT, "the text must give enough merges"
    tok.post_processor = processors.TemplateProcessing(
        single=f"{SPECIAL[0]} $A", special_tokens=[(SPECIAL[0], BEGIN)]
    )
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": SPECIAL[0],
        "eos_token": SPECIAL[1],
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
    }
    return {"tokenizer.json": tok.to_str(), "tokenizer_config.json": json.dumps(settings)}


def write(folder: Path, *, seed: int = 0, dtype: str = "float32", **changes) -> Path:
    """An HF folder of random weights: CONFIG with `changes`, and the tokenizer."""
    folder.mkdir(parents=True)
    c = config(**changes)
    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    tensors = {name: value.astype(kind) for name, value in weights(c, seed).items()}
    (folder / "config.json").write_text(json.dumps(c))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    for name, text in tokenizer_files().items():
        (folder / name).write_text(text)
    return folder


def load(folder: Path, dtype: str = "float32") -> Llama:
    """The model alone."""
    return convert.load(folder, dtype=dtype)[0]


def tokens(rows: int, length: int, seed: int = 0) -> np.ndarray:
    """Random ids int32[rows, length], control tokens among them."""
    return np.random.RandomState(seed).randint(0, VOCAB, (rows, length)).astype(np.int32)
