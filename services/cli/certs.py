"""`earshot certs`: a private authority and one certificate for each process, for mutual TLS between rooms.

Written once into a directory, a folder a process, each with what that process reads (`EARSHOT_TLS`) and nothing else's
key. Studios with an authority of their own issue certificates from it instead; `tls.py` says what they must name.
"""

from __future__ import annotations

import argparse
import datetime
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from services.common.errors import BadInput
from services.common.settings import ROOMS
from services.common.tls import CA, CERT, KEY, name_of

AUTHORITY = "authority"
_AUTHORITY_DAYS = 3650
# Clocks of two machines may differ.
_BACKDATED = datetime.timedelta(hours=1)


def issue(directory: Path, processes: Sequence[Sequence[str]], now: datetime.datetime, days: int) -> list[Path]:
    """Make the authority where it is missing, and a certificate for each process; the folders written.

    processes: the rooms that each hosts, all of one process in one certificate; its folder is named "state+cluster".
    days: how long certificates hold. A folder that has a certificate gets a new one. Raises BadInput (BAD_CERTS).
    """
    if not 1 <= days <= _AUTHORITY_DAYS:
        raise BadInput(f"certificates may hold 1 to {_AUTHORITY_DAYS} days", reason="BAD_CERTS")
    try:
        authority, key = _authority(directory / AUTHORITY, now)
        return [_process(directory, rooms, authority, key, now, days) for rooms in processes]
    except (OSError, ValueError) as error:
        raise BadInput(
            f"certificates cannot be made in {directory.name}: {type(error).__name__}", reason="BAD_CERTS"
        ) from error


def _authority(folder: Path, now: datetime.datetime) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    if (folder / KEY).exists():
        key = serialization.load_pem_private_key((folder / KEY).read_bytes(), password=None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ValueError("not an EC key")
        return x509.load_pem_x509_certificate((folder / CA).read_bytes()), key
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Earshot rooms")])
    usage = x509.KeyUsage(
        digital_signature=False, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    certificate = (
        _builder(name, name, key.public_key(), now, _AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .sign(key, hashes.SHA256())
    )
    _write(folder, {CA: _pem(certificate), KEY: _pem_key(key)})
    return certificate, key


def _process(
    directory: Path,
    rooms: Sequence[str],
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
    now: datetime.datetime,
    days: int,
) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "+".join(rooms))])
    names = [x509.DNSName(name_of(room)) for room in rooms]
    both_ways = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    certificate = (
        _builder(name, authority.subject, key.public_key(), now, days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.ExtendedKeyUsage(both_ways), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    folder = directory / "+".join(rooms)
    _write(folder, {CA: _pem(authority), CERT: _pem(certificate), KEY: _pem_key(key)})
    return folder


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime.datetime, days: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + datetime.timedelta(days=days))
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _pem_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for name, data in files.items():
        # Never readable by others, not even for the moment between making and restricting it.
        handle = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(data)


def add(commands: Any) -> None:
    """Add the subcommand to a parser's subcommands."""
    certs = commands.add_parser("certs", help="make certificates for mutual TLS between rooms on several machines")
    certs.add_argument("directory", type=Path, help="where; a folder for each process, and one for the authority")
    certs.add_argument(
        "processes", nargs="*", default=list(ROOMS), help="rooms, or state+cluster for two in one process (default all)"
    )
    certs.add_argument("--days", type=int, default=825, help="how long they hold (default 825)")
    certs.set_defaults(run=_certs)


def _certs(arguments: argparse.Namespace) -> int:
    processes = [tuple(name.split("+")) for name in arguments.processes]
    unknown = sorted({room for rooms in processes for room in rooms} - set(ROOMS))
    if unknown:
        raise BadInput(f"no room {', '.join(unknown)}; rooms: {', '.join(ROOMS)}", reason="BAD_CERTS")
    for folder in issue(arguments.directory, processes, datetime.datetime.now(datetime.UTC), arguments.days):
        print(f"EARSHOT_TLS={folder}")
    print(
        f"Give each process its own folder. Keep {arguments.directory / AUTHORITY} away from all of them.",
        file=sys.stderr,
    )
    return 0
