"""Real weights on real task files: stories260K tuned on PICO and gene extraction, on CPU.

    MEDSJAX_REALDATA=DIR python -m medsjax.train --config real.py

DIR holds models/stories260K (hf/ and tok512.bin, the weights by Andrej Karpathy) and
natural_instructions/ (Super-NaturalInstructions task files). Expected: the held-out loss falls;
transformers loads runs/real/hf. A model of 260,000 parameters answers nothing right.
"""

import os
from dataclasses import replace
from pathlib import Path

from data.medsins import MedSIns
from medsjax.config import Config, Optim, Run
from medsjax.errors import UserError


def get_config() -> Config:
    root = os.environ.get("MEDSJAX_REALDATA")
    if not root:
        raise UserError(
            "MEDSJAX_REALDATA is not set: set it to the folder that holds models/stories260K "
            "and natural_instructions"
        )
    stories = Path(root) / "models" / "stories260K"
    data = MedSIns(
        path=str(Path(root) / "natural_instructions"),
        tasks=("task179", "task1481"),
        few_shot=0.25,
        part="train",
    )
    return Config(
        model=str(stories / "hf"),
        tokenizer=str(stories / "tok512.bin"),
        data=data,
        heldout=replace(data, part="heldout"),
        length=512,
        batch=8,
        epochs=1.0,
        optim=Optim(lr=1e-3),
        dtype="float32",
        run=Run(log_every=5, save_every=100, remat="none"),
    )
