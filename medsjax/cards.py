"""What stands beside the weights in an export: the model card and the manifest."""

import hashlib
import json
import os
import re
from collections.abc import Collection
from pathlib import Path

from tqdm import tqdm

from medsjax import metrics
from medsjax.errors import UserError

NAMES = CARD, MANIFEST = "README.md", "manifest.sha256"
CHECK = f"`sha256sum -c {MANIFEST}` checks the files."
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
    return f"{_head(base)}\n{lead}, written by medsjax. {CHECK}\n\n{LICENCES}"


def of_run(workdir: Path, step: int) -> str:
    """The card of a run's checkpoint: base, data, settings, and what is known of its scores."""
    base = _json(workdir / "config.json").get("model", "")
    who = _json(workdir / "identity.json")
    lines = [
        _head(base),
        f"{_named(base)}, tuned with medsjax for {step} steps. {CHECK}",
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

    `sha256sum -c manifest.sha256` checks the folder, and so does `check`.
    """
    _replace(folder / CARD, card)
    known = _listed(folder)
    known.pop(CARD, None)
    rest = {path.name for path in folder.iterdir()} - {*known, MANIFEST}
    known |= _sha256(folder, sorted(rest))
    _replace(folder / MANIFEST, "".join(f"{known[name]}  {name}\n" for name in sorted(known)))


def check(folder: Path) -> None:
    """Compare a folder with its manifest; raises UserError that names the files that differ."""
    listed = _listed(folder)
    for name in listed:
        if not (folder / name).is_file():
            raise UserError(f"{folder / MANIFEST}: lists {name}, which is not there; copy it again")
    found = _sha256(folder, listed)
    wrong = [name for name, digest in listed.items() if found[name] != digest]
    if wrong:
        raise UserError(
            f"{folder}: {', '.join(wrong)} differs from {MANIFEST} there; copy the folder again "
            f"from where it is whole, or delete {MANIFEST} if you changed it on purpose"
        )


def _listed(folder: Path) -> dict[str, str]:
    """Name -> sha256, by a folder's manifest; empty where there is none."""
    path = folder / MANIFEST
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    found = [re.fullmatch(r"([0-9a-f]{64})  ([^/]+)", line) for line in lines]
    if None in found:
        raise UserError(f"{path}: line {found.index(None) + 1} is no `sha256  name`; delete it")
    return {match[2]: match[1] for match in found}


def _sha256(folder: Path, names: Collection[str]) -> dict[str, str]:
    """Name -> sha256 of the file."""
    size, digests = sum((folder / name).stat().st_size for name in names), {}
    look = {"unit": "B", "unit_scale": True, "leave": False, "disable": size < 1e9}
    with tqdm(total=size, desc="sha256", **look) as bar:
        for name in names:
            digest = hashlib.sha256()
            with open(folder / name, "rb") as file:
                while block := file.read(1 << 24):
                    digest.update(block)
                    bar.update(len(block))
            digests[name] = digest.hexdigest()
    return digests


def _replace(path: Path, text: str) -> None:
    temp = path.with_name(f".{path.name}.tmp")
    temp.write_text(text, encoding="utf-8")
    os.replace(temp, path)


def _head(base: str) -> str:
    """The hub's front matter and a title."""
    hub = f"base_model: {base}\n" if _on_hub(base) else ""
    return f"---\nlibrary_name: transformers\nlicense: other\n{hub}tags: [medsjax]\n---\n\n# " + (
        f"{_last(base)}, by medsjax\n" if base else "A model written by medsjax\n"
    )


def _named(base: str) -> str:
    """A hub name as a link; of a folder only the last part, as the rest is nobody's business."""
    if _on_hub(base):
        return f"[{base}](https://huggingface.co/{base})"
    return _code(_last(base))


def _last(base: str) -> str:
    """A name of a model without its folder; a run's export, RUN/hf, has the run's."""
    path = Path(base).resolve()
    return path.parent.name if path.name == "hf" else path.name


def _on_hub(base: str) -> bool:
    return bool(base) and len(Path(base).parts) == 2 and not Path(base).exists()


def _code(value) -> str:
    return f"`{value}`"


def _number(value) -> str:
    return f"{value:.1f}" if isinstance(value, int | float) else ""


def _json(path: Path) -> dict:
    return json.loads(path.read_text()) if path.is_file() else {}
