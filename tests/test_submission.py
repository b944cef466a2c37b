"""Reading a leaderboard CSV: what pandas 2.2.3 makes of its columns, and what is refused."""

import json
import math

import numpy as np
import pytest

from eval import predictions, submission
from medsjax.errors import UserError

HEADER = "task_id,input,GT,output\n"


def read(tmp_path, text, name="preds.csv"):
    file = tmp_path / name
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return submission.read(file)


@pytest.mark.parametrize(
    ("texts", "kind", "values"),
    [  # each as pandas 2.2.3 read it
        (["1", "007", " +5 "], "int64", [1, 7, 5]),
        (["1", ""], "float64", [1.0, math.nan]),
        (["0.50", "1e3", ".5", "-2."], "float64", [0.5, 1000.0, 0.5, -2.0]),
        (["inf", "-Infinity"], "float64", [math.inf, -math.inf]),
        (["None", "N/A", "nan", "<NA>"], "float64", [math.nan] * 4),
        (["True", "FALSE", "tRue"], "bool", [True, False, True]),
        (["True", ""], "object", [True, math.nan]),
        (["True", "1"], "object", ["True", "1"]),
        (["1", "1 2"], "object", ["1", "1 2"]),
        (["none", " None", "None."], "object", ["none", " None", "None."]),
        ([" ", "1"], "object", [" ", "1"]),
        ([" True"], "object", [" True"]),
        (["1_0", "0x1", "٣", ".", "1e"], "object", ["1_0", "0x1", "٣", ".", "1e"]),
        (["99999999999999999999", "1.5"], "object", ["99999999999999999999", "1.5"]),
        (["1e400"], "object", ["1e400"]),
        (["9007199254740993", ""], "float64", [9007199254740992.0, math.nan]),
        (["0.1234567890123456789"], "float64", [0.1234567890123456]),  # not the nearest
        (["3.14159265358979323846"], "float64", [3.1415926535897927]),
    ],
)
def test_a_columns_type_is_pandas(texts, kind, values):
    found = submission.typed(texts)
    assert found.dtype == kind
    for got, want in zip(found.tolist(), values, strict=True):
        assert type(got) is type(want)
        assert got == want or (got != got and want != want)


def test_types_are_decided_for_each_piece_of_a_long_column():
    n = submission.PIECE
    found = submission.typed(["007"] * n + ["007", "x"])
    assert found[0] == 7 and found[n - 1] == 7 and type(found[0]) is int
    assert found[n] == "007"
    assert submission.typed(["7"] * n + ["1.5"])[0].dtype == np.float64


def test_cells_by_name_are_numpys_and_by_position_pythons(tmp_path):
    found = read(tmp_path, HEADER + "task1,i,5,\ntask1,j,6,0.5\n")
    assert isinstance(found.named.golds[0], np.int64)
    assert type(found.placed.golds[0]) is int
    assert isinstance(found.named.outputs[0], np.float64)
    assert type(found.placed.outputs[0]) is float
    assert found.outputs == ["", "0.5"] and found.golds == [("5",), ("6",)]


def test_positions_are_the_files_not_the_names(tmp_path):
    found = read(tmp_path, "task_id,input,output,GT,more\ntask130,i,said,meant,x\n")
    assert found.named == (["task130"], ["meant"], ["said"])
    assert found.placed == (["task130"], ["said"], ["meant"])


def test_rows_with_quotes_line_ends_and_blank_lines(tmp_path):
    text = (
        "\ufeff\r\n" + HEADER + 'task52,"a\r\nb, ""c""\n",x"y",  \r\n\r\n \t\r\n'
        'task52,"' + "long " * 100_000 + '",g,"said" so'
    )
    found = read(tmp_path, text)
    assert found.tasks == ["task52", "task52"]
    assert found.golds == [('x"y"',), ("g",)] and found.outputs == ["  ", "said so"]
    assert found.lines == [3, 8]
    assert found.items[0] != found.items[1]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "no column task_id, input, GT, output (of 0 columns)"),
        ("task_id,input,gt,output\n1,2,3,4\n", "no column GT (of 4 columns)"),
        ("task_id;input;GT;output\n1;2;3;4\n", "with commas between"),
        (HEADER, "no rows"),
        (HEADER + "\n  \n", "no rows"),
        (HEADER + "task1,i,g,o\ntask1,i,g\n", "line 3: a row of 3 fields under a header of 4"),
        (HEADER + "task1,i,g,o,p\n", "line 2: a row of 5 fields"),
        (HEADER + 'task1,"a\nb",g,o\ntask1,"i,g,o\ntask1,i,g,o\n', "line 4: a quote opens"),
        (HEADER + "task1,i,g,\0\n", "line 2: a NUL character"),
        (HEADER.encode() + b"task1,\xff,g,o\n", "byte 30 is not UTF-8"),
        ((HEADER + "task1,i,g,o\n").encode("utf-16"), "byte 0 is not UTF-8"),
        (b"PK\x03\x04\x14\x00\x06\x00", "NUL"),
    ],
)
def test_what_is_no_submission_is_refused_in_one_line(tmp_path, text, told):
    with pytest.raises(UserError) as error:
        read(tmp_path, text)
    assert told in str(error.value) and "preds.csv" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        submission.read(tmp_path / "none.csv")
    with pytest.raises(UserError, match="cannot be read"):
        submission.read(tmp_path)
    with pytest.raises(UserError, match=r"predictions\.jsonl"):
        submission.read(tmp_path / "other.jsonl")


def test_errors_tell_no_text_of_the_file(tmp_path):
    secret = "Patient has"
    for text in (f"{secret},a\n", f"{HEADER}task1,{secret}\n", f'{HEADER}task1,"{secret}\n'):
        with pytest.raises(UserError) as error:
            read(tmp_path, text)
        assert secret not in str(error.value)


def test_an_item_answered_twice_is_refused_also_in_two_files(tmp_path):
    row = "task52,i,g,said\n"
    one = read(tmp_path, f"{HEADER}{row}task52,i,h,said\ntask53,i,g,said\n", "a.csv")
    submission.check_items([one])
    again = read(tmp_path, f"{HEADER}{row}task52,j,g,o\ntask52,i,g,other\n", "b.csv")
    with pytest.raises(UserError, match=r"b\.csv: line 4: repeats .* of b\.csv line 2;"):
        submission.check_items([again])
    with pytest.raises(UserError, match=r"b\.csv: line 2: repeats .* a\.csv line 2, and 1 more"):
        submission.check_items([one, again])
    with pytest.raises(UserError, match=r"a\.csv: line 2: repeats"):
        submission.check_items([one, one])


def test_a_task_without_any_gold_is_refused(tmp_path):
    rows = "task52,i,,o\ntask52,j,g,o\ntask53,i, ,o\ntask53,j,,o\ntask999,i,,o\n"
    with pytest.raises(UserError, match="task53: no row has a gold answer"):
        submission.check_golds([read(tmp_path, HEADER + rows)])


def test_predictions_of_an_evaluation_are_the_same_columns(tmp_path):
    rows = [
        {"task": "task29", "index": i, "prediction": said, "gold": golds}
        for i, (said, golds) in enumerate([("5 mg", ["5", "five"]), ("7", ["7"])])
    ]
    predictions.write(tmp_path, rows)
    found = submission.read(tmp_path / "predictions.jsonl")
    assert found.golds == [("5", "five"), ("7",)] and found.outputs == ["5 mg", "7"]
    assert found.named.golds == [5, 7] and found.placed.outputs == ["5 mg", "7"]
    submission.check_items([found])
    (tmp_path / "predictions.jsonl").write_text(json.dumps({"no": "row"}))
    with pytest.raises(UserError, match="no rows"):
        submission.read(tmp_path / "predictions.jsonl")


def test_only_text_that_a_spreadsheet_would_run_is_neutralised():
    for cell in ("=1+1", "+1", "-1", "@x"):
        assert submission.neutral(cell) == f"'{cell}"
    for cell in ("a=1", "", "'x", -1.5, -1):
        assert submission.neutral(cell) == cell
