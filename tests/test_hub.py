"""Models by name from a hub: a small server here speaks as much of its protocol as is asked."""

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from huggingface_hub import constants

from medsjax import convert, hub
from medsjax.errors import UserError, run_main
from tests.test_convert import assert_same_bits, read_all

COMMIT = "c0ffee" + "0" * 34
EXTRA = ("pytorch_model.bin", "modeling.py", "original/consolidated.00.pth", "original/params.json")


class Hub(ThreadingHTTPServer):
    """Serves `repos`: name -> {file: content}; those in `gated` give no files."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repos: dict[str, dict[str, bytes]] = {}
        self.gated: dict[str, int] = {}  # name -> HTTP status, without a token or with one
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args) -> None:
        pass

    def do_GET(self) -> None:
        path = self.path.split("?")[0].strip("/").split("/")
        if path[:2] == ["api", "models"]:
            self.api("/".join(path[2:4]), path[4])
        elif path[2:3] == ["resolve"]:
            self.file("/".join(path[:2]), "/".join(path[4:]))
        else:
            self.answer(b"", 404, {})

    do_HEAD = do_GET

    def api(self, name: str, what: str) -> None:
        if name not in self.server.repos:
            return self.answer(b"", 401, {"X-Error-Code": "RepoNotFound"})
        files = self.server.repos[name]
        listing = {"id": name, "sha": COMMIT, "siblings": [{"rfilename": f} for f in files]}
        if what == "tree":
            listing = [
                {"type": "file", "path": f, "size": len(c), "oid": hashlib.sha1(c).hexdigest()}
                for f, c in files.items()
            ]
        self.answer(json.dumps(listing).encode(), 200, {"Content-Type": "application/json"})

    def file(self, name: str, file: str) -> None:
        self.server.asked.append(file)
        if name in self.server.gated:
            return self.answer(b"", self.server.gated[name], {"X-Error-Code": "GatedRepo"})
        content = self.server.repos.get(name, {}).get(file)
        if content is None:
            return self.answer(b"", 404, {"X-Error-Code": "EntryNotFound"})
        tag = hashlib.sha1(content).hexdigest()
        self.answer(content, 200, {"ETag": f'"{tag}"', "X-Repo-Commit": COMMIT})

    def answer(self, body: bytes, code: int, headers: dict) -> None:
        self.send_response(code)
        for key, value in {**headers, "Content-Length": len(body)}.items():
            self.send_header(key, str(value))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


def ask(url: str, monkeypatch) -> None:
    """The client reads HF_ENDPOINT when it is imported, which is past."""
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.removeprefix(constants.ENDPOINT)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + template)
    monkeypatch.setattr(constants, "ENDPOINT", url)


@pytest.fixture
def server(tiny_folder, tmp_path, monkeypatch):
    """The hub that the client asks, with an empty cache; it holds the tiny model as ours/tiny."""
    with Hub() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        files = {f.name: f.read_bytes() for f in tiny_folder.iterdir()}
        server.repos["ours/tiny"] = files | dict.fromkeys(EXTRA, b"not to be fetched")
        ask(server.url, monkeypatch)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield server
        server.shutdown()


def test_a_model_by_name_and_nothing_that_could_run(server, tiny_folder, tmp_path):
    model, tokenizer = convert.load("ours/tiny", dtype="float32")
    convert.save(model, tokenizer, tmp_path / "out")
    assert_same_bits(read_all(tiny_folder), read_all(tmp_path / "out"))
    fetched = {f.name for f in hub.resolve("ours/tiny").iterdir()}
    assert fetched == {f.name for f in tiny_folder.iterdir()} == set(server.asked)


def test_what_was_fetched_once_is_there_without_the_hub(server, monkeypatch):
    folder = hub.resolve("ours/tiny")
    server.asked.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert hub.resolve("ours/tiny") == folder and not server.asked


def pickled(server: Hub) -> None:
    server.repos["ours/tiny"].pop("model.safetensors")


REFUSED = {
    "no such name": ("ours/absent", lambda s: None, "nor such a model on the hub; check the name"),
    "no name at all": ("ours/not a name", lambda s: None, "nor a name of the hub's kind"),
    "gated, no token": (
        "ours/tiny",
        lambda s: s.gated.update({"ours/tiny": 401}),
        "behind a form .* then set HF_TOKEN",
    ),
    "gated, no access": (
        "ours/tiny",
        lambda s: s.gated.update({"ours/tiny": 403}),
        "behind a form .* then set HF_TOKEN",
    ),
    "pickled": ("ours/tiny", pickled, r"no \*.safetensors of it, and pickled weights are never"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_hub_does_not_give_is_one_line_with_the_remedy(
    name, server, tmp_path, monkeypatch, capsys
):
    """And exit code 2 of the command."""
    model, prepare, message = REFUSED[name]
    prepare(server)
    monkeypatch.setattr(sys, "argv", ["convert", model, str(tmp_path / "out")])
    with pytest.raises(SystemExit) as ended:
        run_main(convert.main)
    assert ended.value.code == 2 and not (tmp_path / "out").exists()
    line = capsys.readouterr().err.splitlines()[-1]  # before it, the client's bars
    assert line.startswith(f"error: {model}: ") and re.search(message, line)
    assert not set(EXTRA) & set(server.asked)


@pytest.mark.parametrize("how", ["told so", "nobody answers"])
def test_offline_is_one_line(how, server, monkeypatch, caplog):
    if how == "told so":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    else:
        ask("http://127.0.0.1:9", monkeypatch)  # the port that discards; nothing listens
    with pytest.raises(UserError, match=r"the hub does not answer .* check the network"):
        hub.resolve("ours/tiny")
    assert not caplog.records


def test_the_command_asks_the_hub_that_the_environment_names(server, tmp_path):
    settings = {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-m", "medsjax.convert", "ours/absent", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **settings})
    assert done.returncode == 2 and done.stdout == ""
    lines = done.stderr.strip().splitlines()
    assert lines[-1].startswith("error: ours/absent: no such folder, nor such a model on the hub")
    assert not any("Traceback" in line for line in lines) and not (tmp_path / "out").exists()
