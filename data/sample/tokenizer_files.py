"""The base's HF folder but for its weights: a small tokenizer in Llama 3's manner, and settings."""

import json

from tokenizers import AddedToken, Regex, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split
from tokenizers.processors import ByteLevel as ByteLevelProcessor
from tokenizers.processors import Sequence as Processors
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer

VOCAB = 1024
SPECIAL = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
)
# How often a text counts, so that the sample's words and the spans it copies are few tokens.
SAMPLE_WEIGHT, WORD_WEIGHT = 6, 600
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHAT_TEMPLATE = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    "+ message['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}"
    "{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
# What prompts add around the task files' texts.
FRAME = (
    "system\n\nuser\n\nassistant\n\nInput:\n \n\nOutput:\n \n\n"
    "Please learn from the few-shot cases to see what content you have to output."
)


def train_tokenizer(texts: list[str]) -> Tokenizer:
    """Byte-level BPE over `texts`: merges and bytes first, Llama 3's special tokens last."""
    tokenizer = Tokenizer(BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = Sequence(
        [
            Split(Regex(LLAMA3_SPLIT), "isolated"),
            ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = ByteLevelDecoder()
    trainer = BpeTrainer(
        vocab_size=VOCAB - len(SPECIAL),
        initial_alphabet=sorted(ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in SPECIAL])
    begin = SPECIAL[0]
    tokenizer.post_processor = Processors(
        [
            ByteLevelProcessor(trim_offsets=False),
            TemplateProcessing(
                single=f"{begin} $A",
                pair=f"{begin} $A {begin}:1 $B:1",
                special_tokens=[(begin, tokenizer.token_to_id(begin))],
            ),
        ]
    )
    return tokenizer


def settings(ids: dict[str, int]) -> dict[str, dict]:
    """The JSON files beside tokenizer.json; the model has about 0.9 million parameters."""
    begin, end = SPECIAL[:2]
    return {
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": begin,
            "eos_token": end,
            "chat_template": CHAT_TEMPLATE,
            "clean_up_tokenization_spaces": False,
            "model_input_names": ["input_ids", "attention_mask"],
            "model_max_length": 2048,
        },
        "special_tokens_map.json": {"bos_token": begin, "eos_token": end},
        "generation_config.json": {
            "bos_token_id": ids[begin],
            "eos_token_id": [ids[end], ids["<|eot_id|>"]],
            "do_sample": False,
        },
        "config.json": {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": VOCAB,
            "hidden_size": 128,
            "intermediate_size": 384,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 32,
            "hidden_act": "silu",
            "max_position_embeddings": 2048,
            "rope_theta": 500000.0,
            "rope_scaling": None,
            "rms_norm_eps": 1e-05,
            "attention_bias": False,
            "attention_dropout": 0.0,
            "mlp_bias": False,
            "initializer_range": 0.02,
            "tie_word_embeddings": True,
            "use_cache": True,
            "bos_token_id": ids[begin],
            "eos_token_id": ids[end],
            "torch_dtype": "bfloat16",
        },
    }


def build(sample: dict[str, dict], base: dict[str, dict], words: list[str]) -> dict[str, dict]:
    """File name -> JSON document, from the training files, the base's text and the lexicon."""
    train = [task for name, task in sample.items() if name.startswith("train/")]
    texts = [FRAME] * sum(len(task["Instances"]) for task in train)
    texts += [f" {word}" for word in words] * WORD_WEIGHT
    for task in train:
        texts += task["Definition"] * (len(task["Instances"]) // 8)
    for task in [*train * SAMPLE_WEIGHT, *base.values()]:
        for item in task["Instances"]:
            output = item["output"]
            texts += [item["input"], output if isinstance(output, str) else output[0]]
    tokenizer = train_tokenizer(texts)
    ids = {token: tokenizer.token_to_id(token) for token in SPECIAL}
    return {"tokenizer.json": json.loads(tokenizer.to_str()), **settings(ids)}
