"""How the hosts of a run find each other: where each stands, and a connection to host 0.

By JAX's own environment variables, or what a Cloud TPU tells. JAX aborts with a stack trace where a
host is missing, so the hosts meet here first.
"""

import contextlib
import json
import os
import socket
import time
from typing import NamedTuple

import jax

from medsjax.errors import OnAll, UserError

PORT = "8476"  # JAX's own choice, 8482, is closed on some TPU VMs


class Place(NamedTuple):
    """Where host 0 listens, how many hosts there are, which is this, seconds to wait for others."""

    address: str
    port: int
    count: int
    index: int
    limit: float = 300.0


def find() -> Place | None:
    """This host's place: by environment, or by what a Cloud TPU says; None where it is alone."""
    keys = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
    given = {key: os.environ[key] for key in keys if os.environ.get(key)}
    if not given:
        return _cloud_tpu()
    for key in keys:
        if key not in given:
            raise UserError(f"{key} is not set; {', '.join(given)} and it belong together")
    address, colon, port = given[keys[0]].rpartition(":")
    if not colon:
        address, port = port, os.environ.get("JAX_COORDINATOR_PORT", PORT)
    numbers = {"its port": port, keys[1]: given[keys[1]], keys[2]: given[keys[2]]}
    for key, value in numbers.items():
        if not value.isdecimal():
            raise UserError(f"{keys[0]}={given[keys[0]]}: {key} is {value!r}; give a whole number")
    place = Place(address, *map(int, numbers.values()), _limit())
    if not 0 <= place.index < place.count:
        raise UserError(f"JAX_PROCESS_ID={place.index}: give 0 to {place.count - 1}")
    return place if place.count > 1 else None


def _cloud_tpu() -> Place | None:
    """Of several TPU VMs that make one slice, which is this; JAX knows the ways to ask."""
    if "tpu" not in (jax.config.jax_platforms or "tpu"):
        return None
    try:
        from jax._src.clusters.cloud_tpu_cluster import GceTpuCluster, GkeTpuCluster

        for kind in (GkeTpuCluster, GceTpuCluster):
            if kind.is_env_present():
                if kind.get_process_count() < 2:
                    return None
                port = os.environ.get("JAX_COORDINATOR_PORT", PORT)
                address = kind.get_coordinator_address(_limit(), port).rpartition(":")[0]
                n, i = kind.get_process_count(), kind.get_process_id()
                return Place(address, int(port), n, i, _limit())
    except Exception as error:  # private names, and a metadata server that may not answer
        if "," in os.environ.get("TPU_WORKER_HOSTNAMES", ""):
            raise UserError(
                f"TPU_WORKER_HOSTNAMES names several hosts, but jax {jax.__version__} did not find "
                f"them ({type(error).__name__}); set JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES "
                "and JAX_PROCESS_ID on each"
            ) from error
    return None


def _limit() -> float:
    text = os.environ.get("MEDSJAX_HOSTS_TIMEOUT", "300")
    if not text.isdecimal():
        raise UserError(f"MEDSJAX_HOSTS_TIMEOUT={text!r}: give a whole number of seconds")
    return float(text)


def call(place: Place, links: dict[int, socket.socket]) -> None:
    """Host 0 on the line."""
    hello = {"medsjax": place.index, "hosts": place.count, "name": socket.gethostname()}
    deadline = time.monotonic() + place.limit
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):  # it, or its name, is not up yet
            link = socket.create_connection((place.address.strip("[]"), place.port), 10)
            link.sendall(json.dumps(hello).encode() + b"\n")
            links[0] = _lasting(link)
            return
        time.sleep(0.2)
    raise UserError(
        f"host 0 is missing after {place.limit:.0f} s, at {place.address}:{place.port}; start the "
        "same command on every host, and see that the port is open between them"
    )


def answer(place: Place, links: dict[int, socket.socket]) -> None:
    """Fill `links` with every other host."""
    deadline = time.monotonic() + place.limit
    with _server(place) as server:
        while len(links) < place.count - 1:
            server.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                link = server.accept()[0]
            except TimeoutError:
                missing = sorted({*range(1, place.count)} - links.keys())
                raise OnAll(
                    f"{', '.join(f'host {i}' for i in missing)} of {place.count} missing after "
                    f"{place.limit:.0f} s; start the same command on every host, and see that port "
                    f"{place.port} is open between them"
                ) from None
            hello = _hello(link)
            if hello is None:  # not one of ours
                link.close()
                continue
            _check(place, hello, link, links)
            links[hello["medsjax"]] = _lasting(link)


def _server(place: Place) -> socket.socket:
    dual = socket.has_dualstack_ipv6()
    family = {"family": socket.AF_INET6, "dualstack_ipv6": True} if dual else {}
    try:
        return socket.create_server(("", place.port), backlog=place.count, **family)
    except OSError as error:
        raise UserError(
            f"port {place.port}: {error.strerror}; end what else runs on this host, or give all "
            "hosts another JAX_COORDINATOR_PORT"
        ) from None


def _check(place: Place, hello: dict, link: socket.socket, links: dict) -> None:
    """Refuse a caller, and the run, whose number is wrong or taken."""
    host, count = hello["medsjax"], hello["hosts"]
    if host not in links and 0 < host < place.count and count == place.count:
        return
    taken = " that has a host of that number" if host in links else ""
    error = OnAll(
        f"host {host} of {count} ({hello['name']}) came to a run of {place.count} hosts{taken}; "
        "give each host its own JAX_PROCESS_ID and all the same JAX_NUM_PROCESSES"
    )
    with contextlib.suppress(OSError):
        link.sendall(json.dumps({"failed": str(error)}).encode() + b"\n")
        while link.recv(4096):  # until it is gone: closing first could lose the line
            pass
    raise error


def _hello(link: socket.socket) -> dict | None:
    """How a caller names itself; None for a stranger."""
    line, deadline = b"", time.monotonic() + 5
    try:
        while not line.endswith(b"\n") and len(line) < 1000:
            link.settimeout(max(deadline - time.monotonic(), 0.001))
            line += link.recv(1) or b"\n"
        hello = json.loads(line)
        kinds = {"medsjax": int, "hosts": int, "name": str}
        return hello if {key: type(hello[key]) for key in kinds} == kinds else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _lasting(link: socket.socket) -> socket.socket:
    """A connection that stays up in silence, and notices within a minute a machine that is off."""
    link.settimeout(None)
    link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, seconds in {"TCP_KEEPIDLE": 20, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}.items():
        if hasattr(socket, name):  # Linux has them
            link.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), seconds)
    return link
