"""What stands beside the weights in an export: the model card and the manifest."""

import hashlib
import json
import os
from pathlib import Path

from medsjax import metrics

NAMES = CARD, MANIFEST = "README.md", "manifest.sha256"
LICENCES = """\
## Licences

- The base model's licence holds for this model too. For one of the Llama 3 family that is Meta's
  community licence: pass on a copy of it with the weights, show "Built with Meta Llama 3" where the
  model is used, begin the model's name with "Llama 3", and keep to the acceptable use policy.
- Training data keep their own licences. MedS-Ins as a collection is CC BY-SA; each corpus in it has
  terms of its own, some of which forbid passing it on or commercial use.

For research. Not a medical device; its answers may be wrong and are no medical advice.
"""


def plain(base: str = "", what: str = "weights") -> str:
    """The card of a folder that was converted, not trained."""
    lead = f"{what.capitalize()}, from {_named(base)}" if base else "Weights"
    return f"{_head(base)}\n{lead}, written by medsjax.\n\n{LICENCES}"


def of_run(workdir: Path, step: int) -> str:
    """The card of a run's checkpoint: base, data, settings, and what is known of its scores."""
    base = _json(workdir / "config.json").get("model", "")
    who = _json(workdir / "identity.json")
    lines = [
        _head(base),
        f"{_named(base)}, tuned with medsjax for {step} steps.",
        "",
        "| what | value |",
        "|---|---|",
        f"| base model | {_named(base)} |",
    ]
    kinds = {"model": "base model, sha256", "tokenizer": "tokenizer, sha256"}
    kinds["data"] = "training data, fingerprint"
    lines += [f"| {kinds.get(key, key)} | {_code(value)} |" for key, value in who.items()]
    losses = [r for r in metrics.read(workdir / "metrics.jsonl") if r.get("heldout_loss")]
    losses = [r for r in losses if r["step"] <= step]
    if losses:
        first, last = (
            f"{losses[i]['heldout_loss']:.3f} (step {losses[i]['step']})" for i in (0, -1)
        )
        lines.append(f"| held-out loss | {first} → {last} |")
    scores = _json(workdir / "eval" / f"step_{step}" / "scores.json")
    return "\n".join([*lines, "", *_scores(scores), LICENCES])


def _scores(scores: dict) -> list[str]:
    """A table of the scores of each task, as scores.json holds them; none where it is not there."""
    if not scores.get("results"):
        return []
    lines = ["## Scores (percent)", "", "`trivial` is the best constant answer.", ""]
    lines += ["| task | metric | score | trivial | n |", "|---|---|---|---|---|"]
    for task, values in scores["results"].items():
        metric = scores.get("primary", {}).get(task, next(iter(values), ""))
        name, _, column = metric.partition(",")
        cells = [_number(values.get(key)) for key in (metric, f"trivial,{column}")]
        n = scores.get("n-samples", {}).get(task, "")
        lines.append(f"| {task} | {name}, {column} | {' | '.join(cells)} | {n} |")
    mean = scores.get("summary", {})
    cells = [_number(mean.get(key)) for key in ("mean", "trivial")]
    return [*lines, f"| mean | | {' | '.join(cells)} | |", ""]


def put(folder: Path, card: str) -> None:
    """Write README.md, and into manifest.sha256 the sha256 of every file not yet listed there.

    `sha256sum -c manifest.sha256` checks the folder.
    """
    _replace(folder / CARD, card)
    manifest = folder / MANIFEST
    lines = manifest.read_text().splitlines() if manifest.is_file() else []
    known = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
    known.pop(CARD, None)
    for path in sorted(folder.iterdir()):
        if path.name not in (*known, MANIFEST):
            with open(path, "rb") as file:
                known[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    _replace(manifest, "".join(f"{known[name]}  {name}\n" for name in sorted(known)))


def _replace(path: Path, text: str) -> None:
    temp = path.with_name(f".{path.name}.tmp")
    temp.write_text(text, encoding="utf-8")
    os.replace(temp, path)


def _head(base: str) -> str:
    """The hub's front matter and a title."""
    hub = f"base_model: {base}\n" if _on_hub(base) else ""
    return f"---\nlibrary_name: transformers\nlicense: other\n{hub}tags: [medsjax]\n---\n\n# " + (
        f"{Path(base).name}, by medsjax\n" if base else "A model written by medsjax\n"
    )


def _named(base: str) -> str:
    """A hub name as a link; of a folder only the last part, as the rest is nobody's business."""
    if _on_hub(base):
        return f"[{base}](https://huggingface.co/{base})"
    return _code(Path(base).resolve().name)


def _on_hub(base: str) -> bool:
    return bool(base) and len(Path(base).parts) == 2 and not Path(base).exists()


def _code(value) -> str:
    return f"`{value}`"


def _number(value) -> str:
    return f"{value:.1f}" if isinstance(value, int | float) else ""


def _json(path: Path) -> dict:
    return json.loads(path.read_text()) if path.is_file() else {}
