"""MedS-Bench as the paper evaluates: 3-shot (0-shot for multiple choice), greedy, 2048 tokens.

    python -m eval.run --config medsbench.py --config.model FOLDER_OR_HUB_NAME \\
        --config.bench.path DIR_OF_TEST_FILES --config.bench.shots_from DIR_OF_TRAINING_FILES

As it stands it scores the bundled sample. Memory by arithmetic, for 8B in
bfloat16: 16 GB of weights and, for each of `bench.batch` prompts, 0.25 GB of KV cache at 2048
tokens.
"""

from eval.medsbench import MedSBench
from eval.run import Config


def get_config() -> Config:
    return Config(model="data/sample/base", bench=MedSBench())
