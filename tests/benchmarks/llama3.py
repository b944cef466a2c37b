"""Llama 3's own tokenizer as an HF folder, from the package `llama-models` (pip, not gated)."""

import importlib.util
import json
from pathlib import Path

SPECIAL = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|reserved_special_token_0|>",
    "<|reserved_special_token_1|>",
    "<|finetune_right_pad_id|>",
    "<|step_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eom_id|>",
    "<|eot_id|>",
    "<|python_tag|>",
    *(f"<|reserved_special_token_{2 + i}|>" for i in range(245)),
)


def folder(into: Path) -> Path | None:
    """Write tokenizer.json and its settings under `into`; None where a package is missing."""
    if any(importlib.util.find_spec(name) is None for name in ("llama_models", "tiktoken")):
        return None
    from tokenizers import processors
    from transformers.convert_slow_tokenizer import TikTokenConverter

    package = Path(importlib.util.find_spec("llama_models").submodule_search_locations[0])
    ranks = str(package / "llama3" / "tokenizer.model")
    fast = TikTokenConverter(vocab_file=ranks, extra_special_tokens=list(SPECIAL)).converted()
    begin = SPECIAL[0]
    fast.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A", special_tokens=[(begin, fast.token_to_id(begin))]
    )
    assert fast.token_to_id("<|eot_id|>") == 128009, "as Meta numbers it"
    into.mkdir(parents=True, exist_ok=True)
    fast.save(str(into / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": begin,
        "eos_token": "<|eot_id|>",
        "clean_up_tokenization_spaces": False,
    }
    (into / "tokenizer_config.json").write_text(json.dumps(settings))
    return into
