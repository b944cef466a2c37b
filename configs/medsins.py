"""The paper's run: MMed-Llama 3 (8B) tuned on MedS-Ins, 2048 tokens, batch 128, 1e-5, 5 epochs.

    MEDSINS_DIR=FOLDER python -m medsjax.train --config medsins.py

FOLDER holds MedS-Ins' task files, or what data.build made of them (data/README.md says how to get
them); --config.data.path=FOLDER names it too. What the model will see: python -m data.show with the
same settings. Hardware: by arithmetic 16 bytes a parameter for weights, gradient and moments, so at
least 128 GB of accelerator memory. It has not been run by us at this size. Expected result: the
paper's MMedIns-Llama 3.

`batch` counts packed rows, about five examples each; the paper counts padded examples. For the
paper's number of examples a step take --config.batch=32 (nearer) instead. The paper is silent on
few-shot share, schedule and decay: half zero-shot, 3 % warm-up, cosine to 10 %, AdamW, no decay. It
names no mixture and repairs nothing: every task comes as often as its files have it.
"""

import os

from data.medsins import MedSIns
from medsjax.config import Config, Optim, Run


def get_config() -> Config:
    return Config(
        model="Henrychur/MMed-Llama-3-8B",
        data=MedSIns(path=os.environ.get("MEDSINS_DIR", "")),
        length=2048,
        batch=128,
        epochs=5.0,
        optim=Optim(lr=1e-5),
        run=Run(save_every=500, remat="full"),
    )
