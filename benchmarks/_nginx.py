"""
A server with minimal cost, so that a benchmark measures the client.

It is nginx, from Debian's package ``nginx-light``, or our own limited server if nginx is missing.
Both respond to a DELETE with a 204, to a GET with a profile and to a POST with a success, and count
requests.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from benchmarks._limit_models import LimitSettings, Rates
from benchmarks._limited_server import LimitedServer, ServerSettings, running
from benchmarks._machine import SERVER, pin
from benchmarks._samples import PROFILE_V1, PROFILE_V2, SAVED

__all__ = ("CheapServer", "serving")

_MOST_IDS = 1_000_000
# The environment variable with the certificates that OpenSSL trusts in the client processes.
_TRUSTED = "SSL_CERT_FILE"
_TRIES = 3
_START_SECONDS = 5.0
_CONFIG = """
daemon off; master_process off; worker_processes 1;
error_log {folder}/error.log; pid {folder}/pid;
events {{ worker_connections 4096; }}
http {{
  access_log off; default_type application/json;
  keepalive_requests 1000000000; keepalive_timeout 1h;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port} backlog=2048;
    {tls}
    location / {{
      if ($request_method = DELETE) {{ return 204; }}
      return 200 '{saved}';
    }}
    location /api/v1/server-side-api/profiles/ {{
      if ($request_method = DELETE) {{ return 204; }}
      return 200 '{v1}';
    }}
    location /api/v2/server-side-api/profile/ {{
      if ($request_method = DELETE) {{ return 204; }}
      return 200 '{v2}';
    }}
    location = /status {{ stub_status; }}
  }}
}}
"""


class CheapServer(msgspec.Struct, frozen=True):
    """
    A handle of a running server.

    Attributes:
        name: a description of the server.
        tls_url: the origin of the same server over TLS, None without TLS.
        count: returns the number of requests so far.
    """

    url: str
    name: str
    count: Callable[[], int]
    tls_url: str | None = None

    @contextlib.contextmanager
    def expecting(self, requests: int, about: str) -> Iterator[None]:
        """
        Check that exactly `requests` requests arrive within the block.

        Raises:
            SystemExit: more or fewer arrived.
        """
        before = self.count()
        yield
        came = self.count() - before
        if came != requests:
            raise SystemExit(f"{about}: {requests} requests as the clients say, {came} came")


@contextlib.contextmanager
def serving() -> Iterator[CheapServer]:
    """Run the cheapest available server, on a processor of its own if there are two."""
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit("interrupted")
    )  # otherwise the server survives
    binary = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
    with contextlib.ExitStack() as stack:
        if binary is not None:
            yield stack.enter_context(_nginx(binary))
        else:
            print("no nginx here (apt-get install nginx-light): a server in Python instead")
            yield stack.enter_context(_limited())


@contextlib.contextmanager
def _limited() -> Iterator[CheapServer]:
    settings = ServerSettings(
        items=_MOST_IDS,
        limit=LimitSettings(rates=Rates(((0.0, 1e9),)), burst=1e9),
        latency=0.0,
        retry_after=None,
        seed=1,
    )
    with running(settings) as server:
        pin(server.process, SERVER)
        yield CheapServer(server.url, "server in Python", lambda: _arrived(server))


def _arrived(server: LimitedServer) -> int:
    record = server.record()
    return record.arrivals + record.others


@contextlib.contextmanager
def _nginx(binary: str) -> Iterator[CheapServer]:
    said = subprocess.run([binary, "-v"], check=True, capture_output=True, text=True).stderr
    with tempfile.TemporaryDirectory() as folder:
        process, port, tls_port = _started(binary, Path(folder))
        try:
            url = f"http://127.0.0.1:{port}"
            tls_url = None if tls_port is None else f"https://127.0.0.1:{tls_port}"
            own = itertools.count(1)
            name = said.strip().rpartition(" ")[2]
            yield CheapServer(url, name, lambda: _handled(url) - next(own), tls_url)
        finally:
            os.environ.pop(_TRUSTED, None)
            process.terminate()
            process.wait()


def _handled(url: str) -> int:
    """Return the number of requests that nginx counts, including this one."""
    with urllib.request.urlopen(f"{url}/status") as response:  # loopback
        text = response.read().decode()
    return int(re.findall(r"\d+", text)[3])


def _started(binary: str, folder: Path) -> tuple[subprocess.Popen[bytes], int, int | None]:
    has_certificate = _make_certificate(folder)
    for _ in range(_TRIES):  # another process may bind the port before nginx does
        port = _free_port()
        tls_port = _free_port() if has_certificate else None
        config = folder / "nginx.conf"
        samples = {"saved": SAVED, "v1": PROFILE_V1, "v2": PROFILE_V2}
        responses = {name: sample.decode() for name, sample in samples.items()}
        config.write_text(
            _CONFIG.format(folder=folder, port=port, tls=_tls(folder, tls_port), **responses),
            "utf-8",
        )
        command = [binary, "-p", str(folder), "-c", str(config), "-e", str(folder / "error.log")]
        process = subprocess.Popen(command)
        pin(process.pid, SERVER)
        if _accepts(process, port):
            return process, port, tls_port

    raise SystemExit(f"nginx does not start: {(folder / 'error.log').read_text('utf-8')}")


def _make_certificate(folder: Path) -> bool:
    """Create a certificate that client processes trust; return whether openssl could."""
    binary = shutil.which("openssl")
    if binary is None:
        return False
    command = [binary, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-days", "1", "-subj", "/CN=benchmark"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1"]
    command += ["-keyout", str(folder / "key.pem"), "-out", str(folder / "certificate.pem")]
    subprocess.run(command, check=True, capture_output=True)
    os.environ[_TRUSTED] = str(folder / "certificate.pem")
    return True


def _tls(folder: Path, port: int | None) -> str:
    if port is None:
        return ""
    files = f"ssl_certificate {folder}/certificate.pem; ssl_certificate_key {folder}/key.pem;"
    return f"listen 127.0.0.1:{port} ssl backlog=2048; {files}"


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        port: int = one.getsockname()[1]
    return port


def _accepts(process: subprocess.Popen[bytes], port: int) -> bool:
    until = time.monotonic() + _START_SECONDS
    while process.poll() is None and time.monotonic() < until:
        with contextlib.suppress(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port)).close()
            return True
        time.sleep(0.01)
    return False
