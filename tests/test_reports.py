"""What reports on data share: nothing half-written, nothing of a file's words as markup."""

import json

import pytest
from rich.console import Console

from data import reports
from medsjax.errors import UserError

HOSTILE = "<b>[red]\x1b[31m"


def test_numbers_and_page_are_written(tmp_path):
    out = reports.make(tmp_path / "new" / "out")
    reports.write("told", {"é": 1}, "<p>", out)
    assert {file.name for file in out.iterdir()} == {"told.json", "told.html"}
    assert json.loads((out / "told.json").read_text()) == {"é": 1}
    assert (out / "told.html").read_text() == "<p>"


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be made"):
        reports.make(tmp_path / "file")
    (tmp_path / "out" / "told.html").mkdir(parents=True)
    with pytest.raises(UserError, match="cannot be written"):
        reports.write("told", {}, "", tmp_path / "out")
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.startswith(".")]


def test_a_page_escapes_what_it_is_given(tmp_path):
    (tmp_path / "x.html.j2").write_text("{{ n|count }} {{ word }}")
    shown = reports.page(tmp_path / "x.html.j2", n=1234, word=HOSTILE)
    assert shown == "1,234 &lt;b&gt;[red]\x1b[31m"


def test_a_table_shows_words_of_files_as_they_are(capsys):
    Console(width=80, force_terminal=False).print(reports.table("t", ["a"], [[HOSTILE]], [0]))
    assert "<b>[red]�[31m" in capsys.readouterr().out
