"""The embedded default: a 0.9 M-parameter base tuned on the bundled sample, on CPU, in minutes.

    python -m medsjax.train --config demo.py

Two CPU cores, 3 GB: about 4 minutes with both evaluations. Expected: the mean primary score over
the 14 tasks of the sample ends well over 15 points above the best constant answer's (22.5).
The sample is generated (data/sample/README.md): its scores say nothing about medicine.
"""

from data.medsins import MedSIns
from eval.medsbench import MedSBench
from medsjax.config import Config, Optim, Run


def get_config() -> Config:
    sample = "data/sample/train"
    return Config(
        model="data/sample/base",
        data=MedSIns(path=sample, part="train", few_shot=0.25),
        heldout=MedSIns(path=sample, part="heldout", few_shot=0.25),
        bench=MedSBench(limit=-1, length=512, max_new_tokens=64),
        length=512,
        batch=8,
        epochs=2.0,
        optim=Optim(lr=3e-3),
        dtype="float32",
        run=Run(log_every=10, save_every=100, eval_every=50, remat="none"),
    )
