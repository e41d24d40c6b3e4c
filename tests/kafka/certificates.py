"""Certificates made anew for a test by the openssl command: authorities, brokers' of several faults, a client's."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

SUBJECTS = "IP:127.0.0.1,DNS:localhost"
ELSEWHERE = "DNS:elsewhere.invalid"


class Authority:
    """A certificate authority in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        """Makes its key and its certificate, `ca.pem`."""
        folder.mkdir(parents=True)
        self.folder = folder
        self.pem = folder / "ca.pem"
        (folder / "index.txt").touch()
        (folder / "serial").write_text("1000\n")
        (folder / "ca.cnf").write_text(
            f"[ca]\ndefault_ca=own\n[own]\ndatabase={folder}/index.txt\nserial={folder}/serial\n"
            f"new_certs_dir={folder}\ndefault_md=sha256\npolicy=any\nunique_subject=no\ncopy_extensions=copy\n"
            "[any]\ncommonName=supplied\n"
        )
        _openssl(
            "req", "-x509", *_NEW_KEY, "-nodes", "-days", "2", "-subj", f"/CN={folder.name}",
            "-keyout", folder / "ca.key", "-out", self.pem,
        )  # fmt: skip

    def issue(self, name: str, subjects: str, *, expired: bool = False, password: str | None = None) -> Path:
        """A certificate with its key (PKCS #8, under the password if there is one) in one file, `name.pem`."""
        key, request, certificate = (self.folder / f"{name}.{kind}" for kind in ("key", "csr", "crt"))
        locked = ["-passout", "stdin"] if password else ["-nodes"]
        _openssl(
            "req", "-new", *_NEW_KEY, *locked, "-subj", f"/CN={name}", "-addext", f"subjectAltName={subjects}",
            "-keyout", key, "-out", request, said=password or "",
        )  # fmt: skip
        dates = ["-startdate", "20200101000000Z", "-enddate", "20200201000000Z"] if expired else ["-days", "2"]
        _openssl(
            "ca", "-batch", "-notext", "-config", self.folder / "ca.cnf", "-cert", self.pem, *dates,
            "-keyfile", self.folder / "ca.key", "-in", request, "-out", certificate,
        )  # fmt: skip
        both = self.folder / f"{name}.pem"
        both.write_text(key.read_text() + certificate.read_text())
        return both


_NEW_KEY = ("-newkey", "rsa:2048")


def _openssl(*arguments: str | Path, said: str = "") -> None:
    program = shutil.which("openssl")
    if program is None:
        pytest.fail("these tests make their certificates with the openssl command, and there is none", pytrace=False)
    done = subprocess.run([program, *map(str, arguments)], input=said, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
