"""A real small model on the real tasks at hand: SmolLM2-135M-Instruct, on CPU, in about an hour.

    python -m tests.smollm2 runs/smollm2_base
    python -m tests.real_tasks $MEDSJAX_REALDATA runs/real_tasks
    python -m medsjax.train --config smollm2.py

Two CPU cores, 9 GB. What came out, and what it shows: eval/results/README.md.
"""

from data.medsins import MedSIns
from eval.medsbench import MedSBench
from medsjax.config import Config, Optim, Run

TASKS = "runs/real_tasks"


def get_config() -> Config:
    data = MedSIns(path=f"{TASKS}/train", part="train", few_shot=0.25, cap=100)
    bench = MedSBench(
        path=f"{TASKS}/test",
        shots_from=f"{TASKS}/train",
        **{"limit": 100, "length": 1024, "max_new_tokens": 64, "batch": 50},
    )
    return Config(
        model="runs/smollm2_base",
        data=data,
        heldout=MedSIns(path=f"{TASKS}/train", part="heldout", few_shot=0.25, heldout_per_task=5),
        bench=bench,
        length=1024,
        batch=4,
        epochs=1.0,
        optim=Optim(lr=1e-4),
        dtype="float32",
        run=Run(log_every=1, save_every=10, bench_at="both", accumulate=4, remat="none"),
    )
