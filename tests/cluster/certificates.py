"""Certificates by openssl: an authority in a folder, and what it signs."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

DAYS = "3650"


def make_authority(folder: Path, name: str, organisation: str = "") -> None:
    """ca.crt and ca.key. The key is RSA in the older of the two formats, which all can read."""
    subject = f"/O={organisation}/CN={name}" if organisation else f"/CN={name}"
    make = [
        *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", DAYS),
        *("-subj", subject, "-addext", "basicConstraints=critical,CA:TRUE"),
        # The training operator makes a new authority if its name does not stand here as well.
        *("-addext", f"subjectAltName=DNS:{name}"),
        *("-addext", "keyUsage=critical,digitalSignature,keyEncipherment,keyCertSign"),
        *("-keyout", "ca.key", "-out", "ca.crt"),
    ]
    _run(make, folder)
    _run(["openssl", "rsa", "-in", "ca.key", "-traditional", "-out", "ca.key"], folder)


def sign(folder: Path, file: str, subject: str, names: Sequence[str] = ()) -> None:
    """FILE.crt and FILE.key, signed by the folder's authority.

    subject: as openssl takes it, /O=group/CN=user. names: of a server, DNS:… and IP:….
    """
    request = [
        *("openssl", "req", "-newkey", "rsa:2048", "-nodes", "-subj", subject),
        *("-keyout", f"{file}.key", "-out", f"{file}.csr"),
    ]
    usage = "serverAuth" if names else "clientAuth"
    lines = [f"extendedKeyUsage={usage}"]
    if names:
        lines.append(f"subjectAltName={','.join(names)}")
    (folder / f"{file}.ext").write_text("\n".join(lines) + "\n")
    signing = [
        *("openssl", "x509", "-req", "-in", f"{file}.csr", "-CA", "ca.crt", "-CAkey", "ca.key"),
        *("-CAcreateserial", "-days", DAYS, "-extfile", f"{file}.ext", "-out", f"{file}.crt"),
    ]
    _run(request, folder)
    _run(signing, folder)


def _run(command: Sequence[str], folder: Path) -> None:
    subprocess.run(command, check=True, capture_output=True, cwd=folder)
