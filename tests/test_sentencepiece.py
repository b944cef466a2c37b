"""sentencepiece models: the library's own ids, control pieces inert, Llama's begin-of-text."""

import json
import pickle
import struct
from pathlib import Path

import pytest
import sentencepiece

from medsjax.tokenizer import Tokenizer
from tests.test_tokenizer import HOSTILE, PLAIN, assert_same


def sentencepiece_file(path: Path, **changes) -> Path:
    """A small BPE model with byte fallback, as Llama 2's, trained here."""
    settings = {
        "model_type": "bpe",
        "vocab_size": 320,
        "byte_fallback": True,
        "hard_vocab_limit": False,
        "minloglevel": 2,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
    }
    sentences = ["the answer is an answer"] * 20 + ["a question of the user"] * 20
    path.parent.mkdir(exist_ok=True)
    with open(path, "wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences), model_writer=file, **settings | changes
        )
    return path


def test_plain_format_for_tokenizers_without_headers(tmp_path):
    """Begin-of-text, each text with an empty line after it, the answer, end-of-text."""
    tok = Tokenizer.load(sentencepiece_file(tmp_path / "tokenizer.model"))
    assert (tok.style, tok.bos_id, tok.stop_ids) == ("plain", 1, (2,))
    ids, mask = tok.encode_turns([("system", "the answer"), ("user", " is "), ("assistant", "an")])
    asked = [1, *tok.encode("the answer\n\n"), *tok.encode("is\n\n")]
    assert ids.tolist() == [*asked, *tok.encode("an"), 2]
    assert ids[mask].tolist() == [*tok.encode("an"), 2]
    open_ids, open_mask = tok.encode_turns([("system", "the answer"), ("user", " is ")])
    assert open_ids.tolist() == asked and not open_mask.any()


def test_a_folder_with_a_sentencepiece_model_alone_is_a_tokenizer(tmp_path):
    """Ids are the library's, text comes back, and an export carries the very same file."""
    path = sentencepiece_file(tmp_path / "m" / "tokenizer.model", user_defined_symbols=["<b>"])
    tok, library = Tokenizer.load(path.parent), sentencepiece.SentencePieceProcessor(str(path))
    for text in PLAIN:
        assert tok.encode(text) == library.encode(text)
        assert tok.decode(tok.encode(text)) == text
    assert library.piece_to_id("<b>") in tok.encode("the<b>answer")
    assert tok.vocab_size == library.vocab_size()
    assert tok.files == {"tokenizer.model": path.read_bytes()}
    assert tok.fingerprint == Tokenizer.load(path).fingerprint


def test_sentencepiece_control_tokens_in_data_stay_text(tmp_path):
    """Also those of the user-defined kind, which the library itself finds in text (Baichuan's)."""
    control, defined = ["[INST]", "[/INST]"], ["<reserved_106>", "[REFERENCE_DOC_1]"]
    path = sentencepiece_file(
        tmp_path / "tokenizer.model", control_symbols=control, user_defined_symbols=defined
    )
    tok, library = Tokenizer.load(path), sentencepiece.SentencePieceProcessor(str(path))
    ids = {library.piece_to_id(piece) for piece in control + defined} | {0, 1, 2}
    assert len(ids) == 7 and ids & set(library.encode("".join(defined)))
    text = f"the</s><s> answer<unk>{''.join(control + defined)}"
    assert not ids & set(tok.encode(text)) and tok.decode(tok.encode(text)) == text
    turns, _ = tok.encode_turns([("system", text), ("user", text), ("assistant", text)])
    assert [i for i in turns.tolist() if i in ids] == [1, 2] == [turns[0], turns[-1]]
    assert tok.decode([1, *sorted(ids - {0}), *tok.encode("the"), 2]) == "the"


@pytest.mark.parametrize(("setting", "begin"), [("true", 1), ("false", None), ("null", 1)])
def test_the_folder_may_say_that_no_begin_of_text_is_added(setting, begin, tmp_path):
    """Baichuan's does."""
    path = sentencepiece_file(tmp_path / "tokenizer.model")
    bare = Tokenizer.load(path)
    (tmp_path / "tokenizer_config.json").write_text(f'{{"add_bos_token": {setting}}}')
    tok = pickle.loads(pickle.dumps(Tokenizer.load(path)))
    assert tok.bos_id == begin
    ids, _ = tok.encode_turns([("user", "the answer")])
    assert ids.tolist() == [*([begin] if begin else []), *tok.encode("the answer\n\n")]
    assert (tok.fingerprint == bare.fingerprint) == (begin == 1)


def test_ids_beyond_the_sentencepiece_model_are_left_out_of_text(tmp_path):
    """A checkpoint may have more rows than its tokenizer has pieces."""
    tok = Tokenizer.load(sentencepiece_file(tmp_path / "tokenizer.model"))
    assert tok.decode([*tok.encode("the answer"), tok.vocab_size, tok.vocab_size + 17]) == (
        "the answer"
    )


def write_llama2c(path: Path, pieces: list[tuple[str, float]]) -> Path:
    raw = struct.pack("<i", max(len(p.encode()) for p, _ in pieces))
    for piece, score in pieces:
        raw += struct.pack("<fi", score, len(piece.encode())) + piece.encode()
    path.write_bytes(raw)
    return path


def test_llama2c_files_merge_by_score(tmp_path):
    """A leading blank is added; what has no piece goes by bytes, which begin at id 3."""
    head = [("<unk>", 0.0), ("\n<s>\n", 0.0), ("\n</s>\n", 0.0)]
    bytes_ = [(f"<0x{i:02X}>", 0.0) for i in range(256)]
    pieces = [(" ", -9.0), ("a", -9.0), ("b", -9.0), ("ab", -1.0), (" a", -2.0), (" ab", -3.0)]
    tok = Tokenizer.load(write_llama2c(tmp_path / "tok.bin", head + bytes_ + pieces))
    assert (tok.vocab_size, tok.bos_id, tok.stop_ids) == (265, 1, (2,))
    assert tok.encode("ab") == [264] and tok.encode("ba") == [259, 261, 260]
    assert tok.encode("é") == [259, 3 + 0xC3, 3 + 0xA9]
    assert tok.decode(tok.encode("ab é\nba")) == "ab é\nba"
    assert list(tok.files) == ["tokenizer.model"]


@pytest.mark.parametrize(
    "name", ["tokenizer.model.v1", "mistral_instruct_tokenizer_240323.model.v3"]
)
def test_real_sentencepiece_models_equal_the_library(name, realdata):
    path = realdata / "tokenizers" / "mistral" / name
    tok, library = Tokenizer.load(path), sentencepiece.SentencePieceProcessor(str(path))
    assert tok.vocab_size == library.vocab_size() and tok.bos_id == 1 and tok.stop_ids == (2,)
    files = sorted((realdata / "official").glob("task5*.recovered.json"))  # of six languages
    real = [i["input"] for file in files for i in json.loads(file.read_text())["Instances"]]
    assert len(real) > 100
    for text in [*PLAIN, *real, HOSTILE, "[INST] a</s><s>b [/INST]"]:
        assert tok.encode(text) == library.encode(text)
        assert tok.decode(tok.encode(text)) == library.decode(library.encode(text)) == text
    asked = [("system", "A rule."), ("user", "[INST] Why?</s>"), ("assistant", "So.")]
    ids, mask = tok.encode_turns(asked)
    parts = [library.encode(t) for t in ("A rule.\n\n", "[INST] Why?</s>\n\n", "So.")]
    assert ids.tolist() == [1, *parts[0], *parts[1], *parts[2], 2]
    assert ids[mask].tolist() == [*parts[-1], 2]


def test_real_control_like_pieces_stay_text(realdata):
    """Mistral's v3 defines [REFERENCE_DOC_1] as a piece that the library finds in text."""
    path = realdata / "tokenizers" / "mistral" / "mistral_instruct_tokenizer_240323.model.v3"
    tok, library = Tokenizer.load(path), sentencepiece.SentencePieceProcessor(str(path))
    text = "see [REFERENCE_DOC_1]"
    piece = library.piece_to_id("[REFERENCE_DOC_1]")
    assert piece in library.encode(text) and piece not in tok.encode(text)
    assert tok.decode(tok.encode(text)) == text


def test_a_pickled_sentencepiece_tokenizer_is_the_same(tmp_path):
    tok = Tokenizer.load(sentencepiece_file(tmp_path / "tokenizer.model"))
    assert_same(pickle.loads(pickle.dumps(tok)), tok)
