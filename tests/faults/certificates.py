"""Certificates for servers on this machine, created by openssl on first use."""

from __future__ import annotations

import atexit
import functools
import shutil
import ssl
import subprocess
import tempfile
from pathlib import Path

_REQUEST = ["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
_REQUEST += ["-subj", "/CN=test"]
_OUT = ("-keyout", "key.pem", "-out", "certificate.pem")
_EXPIRED = ("-startdate", "20200101000000Z", "-enddate", "20200102000000Z")
_AUTHORITY = """[ca]
default_ca = it
[it]
database = index.txt
serial = serial
new_certs_dir = .
default_md = sha256
policy = any
x509_extensions = address
copy_extensions = none
[any]
commonName = supplied
[address]
subjectAltName = IP:127.0.0.1
"""


def _run(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


def _self_signed(folder: Path, name: str) -> None:
    extension = f"subjectAltName={name}"
    _run(folder, *_REQUEST, "-x509", "-days", "1", "-addext", extension, *_OUT)


def _expired(folder: Path) -> None:
    for name, content in (("ca.cnf", _AUTHORITY), ("index.txt", ""), ("serial", "01")):
        (folder / name).write_text(content, encoding="ascii")
    _run(folder, *_REQUEST, "-keyout", "key.pem", "-out", "request.pem")
    _run(
        folder,
        *("ca", "-batch", "-config", "ca.cnf", "-selfsign", "-keyfile", "key.pem"),
        *("-in", "request.pem", "-out", "certificate.pem", "-notext", *_EXPIRED),
    )


@functools.cache
def _folder(kind: str) -> Path:
    path = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, path)
    if kind == "expired":
        _expired(path)
    else:
        _self_signed(path, "IP:127.0.0.1" if kind == "good" else "DNS:elsewhere.example")
    return path


def certificate(kind: str) -> Path:
    """Return the file with the certificate of a server, which a client may trust."""
    return _folder(kind) / "certificate.pem"


def server_context(kind: str) -> ssl.SSLContext:
    """Return a server context with a certificate that is "good", "expired" or for "elsewhere"."""
    folder = _folder(kind)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "certificate.pem", folder / "key.pem")
    return context


def trusting_context(kind: str, version: ssl.TLSVersion) -> ssl.SSLContext:
    """Return a client context that trusts the certificate's issuer, with a minimum TLS version."""
    context = ssl.create_default_context(cafile=certificate(kind))
    context.minimum_version = version
    return context


def are_to_be_had() -> bool:
    """Return whether this machine can create certificates."""
    try:
        _folder("good")
        _folder("expired")
    except (OSError, subprocess.CalledProcessError):
        return False
    return True
