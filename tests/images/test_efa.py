"""The stage for the AWS fabric, with a stand-in for the installer that has its layout and flags.

AWS' own is hundreds of MB behind an address that tests need not reach. What the stand-in installs
is as the real one's: a package by apt, libraries in /opt/amazon, their folder in ld.so.conf.d.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.conftest import absent
from tests.images.build import RUNTIME_EFA, build
from tests.images.engine import Engine, Unavailable
from tests.images.test_images import POD

FOLDER = "aws-efa-installer"
LIBRARY = "opt/amazon/efa/lib/libfabric.so.1"
INSTALLER = """#!/bin/bash
# The flags that the real one knows; it asks a person where --yes is missing.
set -euo pipefail
[ "$(id -u)" = 0 ] || { echo "run as root" >&2; exit 1; }
yes="" kmod=1 limits=1 verify=1
for flag in "$@"; do
    case "$flag" in
        -y|--yes) yes=1 ;;
        -k|--skip-kmod) kmod="" ;;
        -l|--skip-limit-conf) limits="" ;;
        -n|--no-verify) verify="" ;;
        *) echo "unknown flag $flag" >&2; exit 1 ;;
    esac
done
[ -n "$yes" ] || { echo "nobody to ask" >&2; exit 1; }
[ -z "$kmod$limits$verify" ] || { echo "no kernel module or device in a container" >&2; exit 1; }
# A dependency comes from the distribution: its lists have to be there.
apt-get install -y -qq --no-install-recommends ./DEBS/*/libfabric-aws_1_amd64.deb
"""
CONTROL = """Package: libfabric-aws
Version: 1
Architecture: amd64
Maintainer: tests <tests@example.invalid>
Depends: libnl-3-200
Description: stand-in for libfabric
"""
CODE = "int fi_version(void) { return 0x20001; }\n"
PROBE = """
import ctypes, json, os, pathlib
print(json.dumps({
    "user": os.getuid(),
    "version": ctypes.CDLL("libfabric.so.1").fi_version(),
    "left": [str(each) for each in pathlib.Path("/opt").iterdir() if each.name != "amazon"],
    "lists": os.listdir("/var/lib/apt/lists"),
}))
"""


def write_installer(folder: Path) -> Path:
    """A tar as AWS publishes it: the script, and packages for each distribution."""
    package = folder / "package"
    for name, text in (
        ("DEBIAN/control", CONTROL),
        ("etc/ld.so.conf.d/000_efa.conf", "/opt/amazon/efa/lib\n"),
        ("code.c", CODE),
    ):
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text)
    library = package / LIBRARY
    library.parent.mkdir(parents=True)
    code = package / "code.c"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", str(library), str(code)], check=True)
    code.unlink()
    whole = folder / FOLDER
    debs = whole / "DEBS" / "DEBIAN12"
    debs.mkdir(parents=True)
    made = debs / "libfabric-aws_1_amd64.deb"
    flags = ("--root-owner-group", "--build")
    subprocess.run(["dpkg-deb", *flags, str(package), str(made)], check=True, capture_output=True)
    (whole / "efa_installer.sh").write_text(INSTALLER)
    (whole / "efa_installer.sh").chmod(0o755)
    target = folder / "served" / f"{FOLDER}-1.0.0.tar.gz"
    target.parent.mkdir()
    with tarfile.open(target, "w:gz") as archive:
        archive.add(whole, FOLDER)
    return target


class Quiet(SimpleHTTPRequestHandler):
    """Serves files without a word."""

    def log_message(self, *_: object) -> None: ...


@pytest.fixture(scope="module")
def installer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The stage's arguments: where the stand-in is served, and its SHA-256."""
    try:
        archive = write_installer(tmp_path_factory.mktemp("efa"))
    except FileNotFoundError as error:
        absent(f"no program {error.filename}")
    handler = partial(Quiet, directory=str(archive.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.1,))
        thread.start()
        yield {
            "EFA_INSTALLER": f"http://127.0.0.1:{server.server_address[1]}/{archive.name}",
            "EFA_SHA256": hashlib.sha256(archive.read_bytes()).hexdigest(),
        }
        server.shutdown()
        thread.join()


def made(running: Engine, arguments: dict[str, str]) -> str:
    try:
        return build(running, RUNTIME_EFA, **arguments)
    except Unavailable as error:
        absent(str(error))


@pytest.mark.parametrize(
    ("sha256", "told"),
    [("0" * 64, "computed checksum did NOT match"), ("", "no properly formatted checksum lines")],
    ids=["wrong", "none"],
)
def test_an_installer_of_another_checksum_is_not_run(
    sha256: str, told: str, installer: dict[str, str], running: Engine
) -> None:
    with pytest.raises(AssertionError) as caught:
        made(running, installer | {"EFA_SHA256": sha256})
    assert told in str(caught.value)


def test_the_fabric_is_installed_for_nobody_special(
    installer: dict[str, str], running: Engine
) -> None:
    tag = made(running, installer)
    flags = (*POD, "--entrypoint=python3")
    answer = json.loads(running.run(tag, "-c", PROBE, flags=flags).stdout)
    assert answer == {"user": 10001, "version": 0x20001, "left": [], "lists": []}
    config = json.loads(running.docker("image", "inspect", tag).stdout)[0]["Config"]
    assert config["User"] == "10001:10001"
    assert config["Entrypoint"] == ["python", "-m", "trainer.train"]
    history = running.docker("history", "--no-trunc", "--format={{.CreatedBy}}", tag).stdout
    assert "efa_installer.sh --yes --skip-kmod" in history
