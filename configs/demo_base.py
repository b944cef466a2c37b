"""The demo's base: a 0.9 M-parameter Llama pretrained on generated text, from random weights.

Once, to make data/sample/base/model.safetensors (10 minutes on two CPU cores, seed 0, 2026-11-22;
held-out loss 7.488 -> 0.714 over 1325 steps):

    python -m data.sample.generate --base runs/demo_base_text
    python -m medsjax.convert data/sample/base runs/demo_base_init --random 0 --dtype float32
    python -m medsjax.train --config demo_base.py
    python -m medsjax.convert runs/demo_base/hf runs/demo_base_bf16 --dtype bfloat16
    cp runs/demo_base_bf16/model.safetensors data/sample/base/

The text teaches copying, recall and in-context patterns over the sample's words. It holds none of
the sample's tasks and none of its test inputs.
"""

from dataclasses import replace

from data.medsins import MedSIns
from medsjax.config import Config, Optim, Run


def get_config() -> Config:
    text = MedSIns(path="runs/demo_base_text", loss_on="all", part="train")
    return Config(
        model="runs/demo_base_init",
        data=text,
        heldout=replace(text, loss_on="answer", part="heldout"),
        length=512,
        batch=8,
        epochs=1.0,
        optim=Optim(lr=3e-3, final=0.05),
        dtype="float32",
        run=Run(log_every=20, save_every=500, eval_every=500, remat="none"),
    )
