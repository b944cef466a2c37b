"""What transformers computes for the small checkpoints of tests/tiny.py, stored for plain pytest.

python -m tests.make_references   (needs the extra `parity`) writes tests/references/.
"""

import json
import tempfile
from pathlib import Path

import numpy as np

from tests import tiny

FOLDER = Path(__file__).parent / "references"
PROMPTS = [list(map(int, tiny.tokens(1, n, seed=n)[0])) for n in (1, 5, 33, 12)]
NEW_TOKENS = 24


def positions(length: int) -> dict[str, np.ndarray]:
    """Positions a model is asked at: in order, and spread far beyond what scaling starts from."""
    steps = np.random.RandomState(1).randint(1, 60, (1, length))
    return {"plain": np.arange(length)[None], "stretched": np.cumsum(steps, axis=1)}


def reference_logits(model, tokens: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """transformers' float32 logits [B, T, V]."""
    import torch

    with torch.no_grad():
        return model(torch.tensor(tokens), position_ids=torch.tensor(positions)).logits.numpy()


def reference_greedy(model, prompt: list[int], stop_ids: list[int], limit: int) -> list[int]:
    """transformers' greedy continuation, without its stop id."""
    import torch

    ids = torch.tensor([prompt])
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=limit,
        eos_token_id=stop_ids,
        pad_token_id=0,
    )
    new = out[0, len(prompt) :].tolist()
    return new[:-1] if new and new[-1] in stop_ids else new


def open_reference(folder: Path):
    """transformers' model of an HF folder, float32, as its own loader reads it."""
    import torch
    from transformers import LlamaForCausalLM

    return LlamaForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()


def main() -> None:
    tokens, logits, greedy = tiny.tokens(1, 20), {}, {}
    with tempfile.TemporaryDirectory() as temp:
        for case, changes in tiny.CASES.items():
            model = open_reference(tiny.write(Path(temp) / case, **changes))
            for kind, at in positions(tokens.shape[1]).items():
                logits[f"{case}/{kind}"] = reference_logits(model, tokens, at)
            greedy[case] = [reference_greedy(model, p, [tiny.END], NEW_TOKENS) for p in PROMPTS]
    FOLDER.mkdir(exist_ok=True)
    np.savez_compressed(FOLDER / "logits.npz", **logits)
    (FOLDER / "greedy.json").write_text(json.dumps(greedy) + "\n")


if __name__ == "__main__":
    main()
