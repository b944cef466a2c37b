"""Answers from a checkpoint: to the prompts of a file, or in a conversation on the terminal.

    python -m medsjax.generate --model DIR [--prompts FILE] [--system TEXT] [--temperature 0.7] …

FILE has one prompt a line: what the user says, as plain text, or in a .jsonl file an object with
"prompt" (the same), "turns" ([[role, text], …], ending with the user's) or "text" (continued as it
stands, without a chat format). Each answer is a JSON line {"id", "text"} on standard output, in the
file's order; id is the object's own or the line's number.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from tqdm import tqdm

from medsjax import convert, sampler
from medsjax.errors import Parser, UserError, run_main
from medsjax.tokenizer import Tokenizer, Turns

ROLES = ("system", "user", "assistant")
KINDS = ("prompt", "turns", "text")


def read_prompts(path: Path) -> list[tuple[object, str | Turns]]:
    """(id, text to continue or turns) of each line that is not empty."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a readable UTF-8 file ({type(error).__name__})") from None
    found: list[tuple[object, str | Turns]] = []
    for number, line in enumerate(lines, 1):
        if line.strip() and path.suffix == ".jsonl":
            found.append(_prompt_of(line, number, f"{path}: line {number}"))
        elif line.strip():
            found.append((number, [("user", line)]))
    if not found:
        raise UserError(f"{path}: no prompts; write one a line")
    return found


def _prompt_of(line: str, number: int, place: str) -> tuple[object, str | Turns]:
    """The prompt of one line of a .jsonl file."""
    try:
        item = json.loads(line)
        json.dumps(item, ensure_ascii=False).encode()  # half of a surrogate pair is no text
    except ValueError:
        raise UserError(f"{place}: not JSON; each line is one object") from None
    kinds = [k for k in KINDS if k in item] if isinstance(item, dict) else []
    if len(kinds) != 1:
        raise UserError(f'{place}: must be an object with one of "prompt", "turns" and "text"')
    kind, value = kinds[0], item[kinds[0]]
    if kind != "turns":
        if not isinstance(value, str) or not value:
            raise UserError(f'{place}: "{kind}" must be a text, and not empty')
        return item.get("id", number), value if kind == "text" else [("user", value)]
    if not (isinstance(value, list) and value and all(map(_is_turn, value))):
        raise UserError(f'{place}: "turns" must be [[role, text], …], roles {", ".join(ROLES)}')
    if value[-1][0] != "user":
        raise UserError(f"{place}: the last turn is {value[-1][0]}'s; it must be the user's")
    return item.get("id", number), [(role, text) for role, text in value]


def _is_turn(turn: object) -> bool:
    return (
        isinstance(turn, list) and len(turn) == 2 and turn[0] in ROLES and isinstance(turn[1], str)
    )


def prompt_ids(tokenizer: Tokenizer, prompt: str | Turns, system: str) -> list[int]:
    """Ids of a text as it stands, or of turns, which `system` leads where they have none."""
    if isinstance(prompt, str):
        return [
            *([] if tokenizer.bos_id is None else [tokenizer.bos_id]),
            *tokenizer.encode(prompt),
        ]
    lead = [("system", system)] if system and prompt[0][0] != "system" else []
    return tokenizer.encode_turns([*lead, *prompt])[0].tolist()


def answer_all(stream, tokenizer: Tokenizer, prompts: list[list[int]], new: int) -> Iterator[str]:
    """The answers in the prompts' order, each as soon as those before it are there."""
    waiting: dict[int, str] = {}
    given = 0
    bar = tqdm(total=len(prompts), desc="answers", unit="prompt", delay=2)
    for i, ids in stream(prompts, [new] * len(prompts)):
        waiting[i] = tokenizer.decode(ids)
        bar.update()
        while given in waiting:
            yield waiting.pop(given)
            given += 1
    bar.close()


def converse(stream, tokenizer: Tokenizer, system: str, new: int) -> None:
    """Read a line, answer it, remember both; end-of-file ends it."""
    print("An empty line is passed over; end with Ctrl-D.", file=sys.stderr)
    turns: Turns = []
    while True:
        try:
            text = input("> ").strip()
        except EOFError:
            print()
            return
        if not text:
            continue
        turns.append(("user", text))
        [(_, ids)] = stream([prompt_ids(tokenizer, turns, system)], [new])
        turns.append(("assistant", tokenizer.decode(ids).strip()))
        print(turns[-1][1], flush=True)


def main() -> None:
    parser = Parser(
        prog="python -m medsjax.generate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--model", required=True, help="HF folder, hub name, or a run's hf/")
    add("--tokenizer", default="", help="another folder or file than the model's own")
    add("--prompts", type=Path, metavar="FILE", help="without it: a conversation")
    add("--system", default="", metavar="TEXT", help="a system turn before the user's")
    add("--max-new-tokens", type=int, default=256, metavar="N")
    add("--temperature", type=float, default=0.0, help="0: the likeliest token (default)")
    add("--top-p", type=float, default=1.0, help="sample from the likeliest tokens of this mass")
    add("--seed", type=int, default=0)
    add("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    args = parser.parse_args()
    _check(args)
    prompts = read_prompts(args.prompts) if args.prompts else []
    folder = convert.resolve(args.model)
    model, tokenizer = convert.load_to_sample(folder, args.dtype, args.tokenizer)
    settings = {"temperature": args.temperature, "top_p": args.top_p, "seed": args.seed}
    stream = partial(sampler.stream, model, tokenizer, **settings)
    if not args.prompts:
        converse(stream, tokenizer, args.system, args.max_new_tokens)
        return
    ids = [prompt_ids(tokenizer, prompt, args.system) for _, prompt in prompts]
    answers = answer_all(stream, tokenizer, ids, args.max_new_tokens)
    for (name, _), text in zip(prompts, answers, strict=True):
        print(json.dumps({"id": name, "text": text}, ensure_ascii=False), flush=True)


def _check(args: argparse.Namespace) -> None:
    """Refuse settings that mean nothing."""
    if not 1 <= args.max_new_tokens <= sampler.SIZES[-1]:
        raise UserError(f"--max-new-tokens {args.max_new_tokens}: must be 1 to {sampler.SIZES[-1]}")
    if not 0 <= args.temperature < float("inf"):
        raise UserError(f"--temperature {args.temperature}: must be a number, 0 or more")
    if not 0 < args.top_p <= 1:
        raise UserError(f"--top-p {args.top_p}: must be above 0 and at most 1")
    if not 0 <= args.seed < 2**32:
        raise UserError(f"--seed {args.seed}: must be 0 to {2**32 - 1}")


if __name__ == "__main__":
    run_main(main)
