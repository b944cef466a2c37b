"""Where a host of a run finds its place: in the environment, or by what a Cloud TPU tells."""

import json
import socket

import jax
import pytest

from medsjax import meeting
from medsjax.errors import UserError


def test_a_host_finds_its_place(monkeypatch):
    keys = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")

    def find(*values, **more):
        for key in (*keys, "JAX_COORDINATOR_PORT", "MEDSJAX_HOSTS_TIMEOUT"):
            monkeypatch.delenv(key, raising=False)
        for key, value in {**dict(zip(keys, values, strict=False)), **more}.items():
            monkeypatch.setenv(key, value)
        return meeting.find()

    assert find() is None and find("a", "1", "0") is None
    assert find("10.0.0.1:99", "4", "3") == ("10.0.0.1", 99, 4, 3, 300)
    assert find("a", "2", "0", MEDSJAX_HOSTS_TIMEOUT="9") == ("a", 8476, 2, 0, 9)
    assert find("[::1]:7", "2", "1", JAX_COORDINATOR_PORT="8") == ("[::1]", 7, 2, 1, 300)
    for values, line in {
        ("a", "2"): "JAX_PROCESS_ID is not set",
        ("a", "2", "2"): "JAX_PROCESS_ID=2: give 0 to 1",
        ("a:b", "2", "1"): "its port is 'b'",
        ("a", "two", "1"): "JAX_NUM_PROCESSES is 'two'",
    }.items():
        with pytest.raises(UserError, match=line):
            find(*values)


@pytest.mark.parametrize(
    "words",
    [
        b"GET / HTTP/1.1\r\n",
        b"[" * 998 + b"\n",
        b'{"medsjax": [], "hosts": 2, "name": "a"}\n',
        b'{"medsjax": 1, "hosts": 2}\n',
        b"[1]\n",
        b"\xff\n",
        b"",
    ],
)
def test_strangers_are_told_from_hosts(words):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(words)
        theirs.shutdown(socket.SHUT_WR)
        assert meeting._hello(ours) is None


def test_a_host_is_known_by_its_hello_in_whatever_pieces_it_comes():
    hello = {"medsjax": 1, "hosts": 2, "name": "box"}
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for piece in json.dumps(hello).partition(":"):
            theirs.sendall(piece.encode())
        theirs.sendall(b"\n")
        assert meeting._hello(ours) == hello


def test_a_host_of_a_tpu_slice_finds_its_place(monkeypatch):
    tpu = pytest.importorskip("jax._src.clusters.cloud_tpu_cluster")
    monkeypatch.setattr(tpu, "running_in_cloud_tpu_vm", True)
    monkeypatch.setenv("MEGASCALE_COORDINATOR_ADDRESS", "")
    monkeypatch.setenv("MEGASCALE_NUM_SLICES", "")
    monkeypatch.setenv("MEGASCALE_SLICE_ID", "")
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "127.0.0.1,10.0.0.2,10.0.0.3")
    monkeypatch.setenv("TPU_WORKER_ID", "2")
    assert meeting.find() is None  # JAX_PLATFORMS=cpu: no TPU is used
    platforms = jax.config.jax_platforms
    jax.config.update("jax_platforms", "tpu,cpu")
    try:
        assert meeting.find() == ("127.0.0.1", 8476, 3, 2, 300)
        monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "127.0.0.1")
        assert meeting.find() is None
        monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "127.0.0.1,10.0.0.2")
        monkeypatch.setattr(tpu, "GkeTpuCluster", None)
        with pytest.raises(UserError, match="set JAX_COORDINATOR_ADDRESS"):
            meeting.find()
    finally:
        jax.config.update("jax_platforms", platforms)
