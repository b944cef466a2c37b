"""HF or sentencepiece tokenizers behind one small class; turns become ids and loss mask here."""

import hashlib
import json
import os
import re
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from medsjax.errors import UserError

# Everything beside the weights that an export copies verbatim.
SIDECARS = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "generation_config.json",
)
Turns = list[tuple[str, str]]
# What stands around a turn's text: ids of its header, text glued to it, ids of its end, and of the
# gap before the next turn.
Frame = tuple[list[int], str, list[int], list[int]]


@dataclass
class Tokenizer:
    """`codec` does the work; `style` names the chat format; `stop_ids` end a generated answer."""

    codec: "HFCodec | SentencePieceCodec"
    stop_ids: tuple[int, ...]
    style: str  # llama3 | chatml | plain
    files: dict[str, bytes] = field(repr=False)  # name -> content, copied verbatim on export
    _frames: dict[str, Frame] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def load(cls, source: str | Path, model: str | Path | None = None) -> "Tokenizer":
        """Open an HF folder, a sentencepiece `.model`, or a llama2.c `tok*.bin` file.

        `model` is the folder whose config and generation_config say where an answer ends, where
        that is another one than the tokenizer's.
        """
        source = Path(source)
        folder = source if source.is_dir() else source.parent
        codec = _open_codec(source)
        model = Path(model or folder)
        origin = {n: model if n == "generation_config.json" else folder for n in SIDECARS}
        files = {n: (at / n).read_bytes() for n, at in origin.items() if (at / n).is_file()}
        if isinstance(codec, SentencePieceCodec):
            files["tokenizer.model"] = codec.proto
        style = "plain"
        if all(codec.id(t) is not None for t in ("<|start_header_id|>", "<|eot_id|>")):
            style = "llama3"
        elif codec.id("<|im_start|>") is not None:
            style = "chatml"
        ends = [codec.id("<|eot_id|>"), codec.id("<|im_end|>" if style == "chatml" else "")]
        stops = _config_stops(model) | {i for i in ends if i is not None}
        return cls(codec, tuple(sorted(stops or {codec.eos_id})), style, files)

    @property
    def bos_id(self) -> int | None:
        """The begin-of-text id where the tokenizer itself adds one, else None."""
        return self.codec.bos_id

    @property
    def vocab_size(self) -> int:
        """Largest id + 1."""
        return self.codec.vocab_size

    @property
    def fingerprint(self) -> str:
        """sha256 over everything that decides which ids a text becomes and where an answer ends."""
        parts = [self.codec.definition(), self.style.encode(), repr(self.stop_ids).encode()]
        return hashlib.sha256(b"\0".join(parts)).hexdigest()

    def encode(self, text: str) -> list[int]:
        """Ids of plain text: no begin-of-text, and control tokens written in it stay text."""
        return self.codec.encode(text)

    def decode(self, ids) -> str:
        """Text of ids, control tokens left out."""
        return self.codec.decode([int(i) for i in ids])

    def encode_turns(self, turns: Turns) -> tuple[np.ndarray, np.ndarray]:
        """Turns [(role, text), …] -> (ids int32[n], loss_mask bool[n]).

        `loss_mask[i]` marks token i as a target: the last assistant turn and its end token. Turns
        that end with the user's get an open assistant header and no targets. Texts are stripped.
        """
        ids = [] if self.bos_id is None else [self.bos_id]
        targets = 0
        for role, text in turns:
            head, glued, end, gap = self._frame(role)
            answer = self.encode(text.strip() + glued) + end
            ids += head + answer + gap
            targets = len(answer) if role == "assistant" else 0
        if targets:
            ids = ids[: len(ids) - len(gap)]  # an answer stops at its end token
        else:
            ids += self._frame("assistant")[0]
        mask = np.zeros(len(ids), bool)
        mask[len(ids) - targets :] = True
        return np.asarray(ids, np.int32), mask

    def _frame(self, role: str) -> Frame:
        if role not in self._frames:  # a handful of roles, and every example asks for them
            self._frames[role] = self._new_frame(role)
        return self._frames[role]

    def _new_frame(self, role: str) -> Frame:
        special = self.codec.id
        if self.style == "llama3":
            start, end = special("<|start_header_id|>"), special("<|end_header_id|>")
            head = [start, *self.encode(role), end, *self.encode("\n\n")]
            return head, "", [special("<|eot_id|>")], []
        if self.style == "chatml":
            head = [special("<|im_start|>"), *self.encode(f"{role}\n")]
            return head, "", [special("<|im_end|>")], self.encode("\n")
        return ([], "", [self.codec.eos_id], []) if role == "assistant" else ([], "\n\n", [], [])


def _open_codec(source: Path) -> "HFCodec | SentencePieceCodec":
    if source.is_dir():
        if (source / "tokenizer.model").is_file() and not (source / "tokenizer.json").is_file():
            return _open_codec(source / "tokenizer.model")
        if not any((source / n).is_file() for n in ("tokenizer.json", "vocab.json")):
            raise UserError(
                f"{source}: no tokenizer here (tokenizer.json or tokenizer.model); "
                "name one with --config.tokenizer"
            )
        return HFCodec(source)
    if not source.is_file():
        raise UserError(f"{source}: no such tokenizer folder or file")
    if source.suffix == ".bin":
        return SentencePieceCodec(_llama2c_proto(source))
    add_bos = _setting(source.parent / "tokenizer_config.json", "add_bos_token")
    try:
        return SentencePieceCodec(source.read_bytes(), add_bos is not False)
    except Exception:  # a RuntimeError of the library's, or protobuf's own kind
        raise UserError(f"{source}: not a sentencepiece model; fetch it again") from None


def _config_stops(folder: Path) -> set[int]:
    stops: set[int] = set()
    for name in ("config.json", "generation_config.json"):
        eos = _setting(folder / name, "eos_token_id")
        stops |= set(eos if isinstance(eos, list) else [] if eos is None else [eos])
    return stops


def _setting(path: Path, key: str) -> Any:
    """A value of the JSON object in `path`; None where there is no file or no such key."""
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text()).get(key)
    except (ValueError, AttributeError) as error:
        raise UserError(f"{path}: not a JSON object ({error})") from None


class HFCodec:
    """A `tokenizers` tokenizer as transformers sets it up from a folder."""

    def __init__(self, folder: Path):
        os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # that torch is not there
        from transformers import AutoTokenizer, logging

        logging.set_verbosity_error()  # what matters of its warnings is checked here and in convert

        try:
            tok = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
        except Exception as error:  # transformers raises many kinds for a broken folder
            message = f"{folder}: the tokenizer does not load ({type(error).__name__}: {error})"
            raise UserError(message) from None
        self.fast = tok.backend_tokenizer
        self.fast.no_padding()
        self.fast.no_truncation()
        self.fast.encode_special_tokens = False
        lead = self.fast.encode("a").ids
        plain = self.fast.encode("a", add_special_tokens=False).ids
        self.bos_id = lead[0] if lead[:1] != plain[:1] else None
        self.eos_id = tok.eos_token_id
        self.fast.encode_special_tokens = True
        self.vocab_size = max(self.fast.get_vocab().values()) + 1

    def encode(self, text: str) -> list[int]:
        # One text as a batch: `encode` itself would hold the interpreter lock, and count offsets.
        return self.fast.encode_batch_fast([text], add_special_tokens=False)[0].ids

    def decode(self, ids: list[int]) -> str:
        return self.fast.decode(ids, skip_special_tokens=True)

    def id(self, token: str) -> int | None:
        return self.fast.token_to_id(token)

    def definition(self) -> bytes:
        return self.fast.to_str().encode()

    def __getstate__(self) -> dict:
        return {**self.__dict__, "fast": self.fast.to_str()}

    def __setstate__(self, state: dict) -> None:
        from tokenizers import Tokenizer as Fast

        self.__dict__.update(state)
        self.fast = Fast.from_str(state["fast"])
        self.fast.encode_special_tokens = True


# Pieces the library finds in text although they steer a chat: `<reserved_106>` is Baichuan's user.
CONTROL_LIKE = re.compile(r"<\|.*\|>|<\w+_\w+>|\[/?[A-Z0-9_]+\]")


class SentencePieceCodec:
    """A sentencepiece model. `add_bos`: one begin-of-text where the model has it (Llama's habit).

    Ids of a text are the library's own, but for user-defined pieces that look like control tokens.
    """

    def __init__(self, proto: bytes, add_bos: bool = True):
        import sentencepiece

        self.proto, self.add_bos = proto, add_bos
        self.sp = sentencepiece.SentencePieceProcessor()
        self.sp.LoadFromSerializedProto(_inert(proto))
        self.bos_id = self.sp.bos_id() if add_bos and self.sp.bos_id() >= 0 else None
        self.eos_id = self.sp.eos_id()
        self.vocab_size = self.sp.vocab_size()

    def encode(self, text: str) -> list[int]:
        return self.sp.encode(text)

    def decode(self, ids: list[int]) -> str:
        # A checkpoint may have rows beyond the model's pieces (MEDITRON has 17).
        return self.sp.decode([i for i in ids if i < self.vocab_size])

    def id(self, token: str) -> int | None:
        found = self.sp.piece_to_id(token)
        return None if found == self.sp.unk_id() else found

    def definition(self) -> bytes:
        return self.proto + (b"" if self.add_bos else b"no begin-of-text")

    def __reduce__(self) -> tuple:
        return SentencePieceCodec, (self.proto, self.add_bos)


def _inert(proto: bytes) -> bytes:
    """The model with its control-like user-defined pieces as control pieces, found in no text."""
    from sentencepiece import sentencepiece_model_pb2 as pb

    model, kind = pb.ModelProto.FromString(proto), pb.ModelProto.SentencePiece
    for piece in model.pieces:
        if piece.type == kind.USER_DEFINED and CONTROL_LIKE.fullmatch(piece.piece):
            piece.type = kind.CONTROL
    return model.SerializeToString()


def _llama2c_proto(path: Path) -> bytes:
    """A llama2.c tokenizer file (scores and pieces) as a sentencepiece model.

    Ids 0, 1, 2 are <unk>, <s>, </s>, then 256 byte pieces, then the BPE pieces in merge order.
    """
    from sentencepiece import sentencepiece_model_pb2 as pb

    raw, at, pieces = path.read_bytes(), 4, []
    try:
        while at < len(raw):
            score, size = struct.unpack_from("<fi", raw, at)
            pieces.append((raw[at + 8 : at + 8 + size].decode(), score))
            at += 8 + size
    except (struct.error, UnicodeDecodeError):
        raise UserError(f"{path}: not a llama2.c tokenizer file (broken at byte {at})") from None
    kind = pb.ModelProto.SentencePiece
    model = pb.ModelProto()
    model.trainer_spec.model_type = pb.TrainerSpec.BPE
    model.trainer_spec.vocab_size = len(pieces)
    model.trainer_spec.byte_fallback = True
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.add_dummy_prefix = True
    model.normalizer_spec.remove_extra_whitespaces = False
    for i, (piece, score) in enumerate(pieces):
        if i < 3:
            piece, type_ = ("<unk>", "<s>", "</s>")[i], kind.UNKNOWN if i == 0 else kind.CONTROL
        elif i < 259:
            piece, type_ = f"<0x{i - 3:02X}>", kind.BYTE
        else:
            piece, type_ = piece.replace(" ", "▁"), kind.NORMAL
        model.pieces.add(piece=piece, score=score, type=type_)
    return model.SerializeToString()
