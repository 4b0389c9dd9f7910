"""Signing keys: files with a password, or a URI of a hardware token or a key service.

A key is two files: ``NAME.pem`` (PKCS#8, encrypted) and ``NAME.pub``, a JSON document with the
public key as TUF writes it. Who only gives others a say (a root key of a colleague) needs their
``.pub`` and nothing else. A key that never leaves its hardware has a ``.pub`` only, which names
it by a securesystemslib URI (``hsm:``, ``awskms:``, ``azurekms:``, ``gcpkms:``, ``hv:``).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from securesystemslib.exceptions import Error as SecuresystemslibError
from securesystemslib.signer import (
    SIGNER_FOR_URI_SCHEME,
    AWSSigner,
    AzureSigner,
    CryptoSigner,
    GCPSigner,
    HSMSigner,
    Key,
    Signer,
    SSlibKey,
    VaultSigner,
)

from composeapps import durable
from composeapps.errors import ConfigError

#: Asked for a secret by a name fit for a prompt; raises ConfigError where there is none.
Secrets = Callable[[str], str]

ED25519 = "ed25519"
ECDSA = "ecdsa-sha2-nistp256"
#: What a device verifies; all of them are verified by ``cryptography``.
SCHEMES = frozenset({ED25519, ECDSA, "ecdsa-sha2-nistp384"})
#: Bytes; no key file is larger.
_LIMIT = 64 * 1024
_PASSWORD = "COMPOSEAPPS_PASSWORD"
_FOREIGN = (
    "pkcs11.exceptions:PKCS11Error",
    "botocore.exceptions:BotoCoreError",
    "botocore.exceptions:ClientError",
    "google.api_core.exceptions:GoogleAPIError",
    "google.auth.exceptions:GoogleAuthError",
    "azure.core.exceptions:AzureError",
    "hvac.exceptions:VaultError",
    "requests.exceptions:RequestException",
)


def secrets_from(
    environment: Mapping[str, str], file: Path | None, prompt: Callable[[str], str] | None
) -> Secrets:
    """Return how passwords and PINs are had: a file, else COMPOSEAPPS_PASSWORD, else a prompt.

    Args:
        file: its first line is the password of every key; None for none.
        prompt: asks a person; None where there is none.
    """

    def ask(name: str) -> str:
        if file is not None:
            return _text(file).partition("\n")[0].rstrip("\r")
        if _PASSWORD in environment:
            return environment[_PASSWORD]
        if prompt is not None:
            return prompt(f"{name}: ")
        raise ConfigError(f"{name} is needed: give a password file, or set {_PASSWORD}")

    return ask


def generate(path: Path, password: str | None, scheme: str = ED25519) -> Key:
    """Make a key: ``path`` with the suffixes ``.pem`` and ``.pub``.

    Args:
        password: None keeps the private key in the clear, for a key in a locked-down pipeline.
        scheme: ``ed25519`` or ``ecdsa-sha2-nistp256``.

    Raises:
        ConfigError: one of the files exists, the password is empty, or the scheme is another.
    """
    private, public = path.with_suffix(".pem"), path.with_suffix(".pub")
    for file in (private, public):
        if file.exists():
            raise ConfigError(f"{file} exists: a key is never overwritten, choose another name")
    if password == "":
        raise ConfigError(f"{private} needs a password that is not empty")
    if scheme == ED25519:
        signer = CryptoSigner.generate_ed25519()
    elif scheme == ECDSA:
        signer = CryptoSigner.generate_ecdsa()
    else:
        raise ConfigError(f"unknown key scheme {scheme!r}: use {ED25519} or {ECDSA}")
    encryption: KeySerializationEncryption = NoEncryption()
    if password is not None:
        encryption = BestAvailableEncryption(password.encode())
    pem = load_pem_private_key(signer.private_bytes, None).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, encryption
    )
    durable.make_dir(path.parent)
    durable.write_file(private, pem, 0o600)
    durable.write_file(public, _public_document(signer.public_key, ""), 0o644)
    return signer.public_key


def register(uri: str, path: Path, ask: Secrets) -> Key:
    """Ask a token or key service for the public key of a URI, and write ``path`` as ``.pub``.

    Raises:
        ConfigError: the file exists, or the URI leads to no key that a device can verify.
    """
    file = path.with_suffix(".pub")
    if file.exists():
        raise ConfigError(f"{file} exists: choose another name")
    try:
        stored, key = _import(uri, ask)
    except _errors() as error:
        raise ConfigError(f"{uri}: {_words(error)}") from error
    _check_scheme(key, uri)
    durable.make_dir(path.parent)
    durable.write_file(file, _public_document(key, stored), 0o644)
    return key


def public_key(path: Path, ask: Secrets) -> Key:
    """Return the public key of a ``.pub`` or ``.pem`` file; a ``.pem`` may need its password.

    Raises:
        ConfigError: the file is missing or holds no key that a device can verify.
    """
    beside = path.with_suffix(".pub")
    if path.suffix == ".pem" and beside.exists():
        return _public(beside)[0]
    if _text(path).lstrip().startswith("-----BEGIN"):
        return load_signer(path, ask).public_key
    return _public(path)[0]


def has_signer(path: Path) -> bool:
    """Say whether a ``.pub`` file names a URI to sign with; raises ConfigError if it is none."""
    return bool(_public(path)[1])


def load_signer(path: Path, ask: Secrets) -> Signer:
    """Return the signer of a ``.pem`` file, or of a ``.pub`` file that names a URI.

    Raises:
        ConfigError: the file is missing, the password is wrong, or nothing can sign with it.
    """
    text = _text(path)
    if text.lstrip().startswith("-----BEGIN"):
        return _private(path, text, ask)
    key, uri = _public(path)
    if not uri:
        raise ConfigError(f"{path} is only a public key: sign with the .pem file it belongs to")
    if uri.partition(":")[0] not in SIGNER_FOR_URI_SCHEME:
        raise ConfigError(f"{path} names {uri}, which no installed signer understands")
    try:
        return Signer.from_priv_key_uri(uri, key, ask)
    except _errors() as error:
        raise ConfigError(f"{path}: {uri}: {_words(error)}") from error


def _private(path: Path, text: str, ask: Secrets) -> CryptoSigner:
    password = ask(f"password of {path}") if "BEGIN ENCRYPTED" in text else None
    try:
        key = load_pem_private_key(text.encode(), password.encode() if password else None)
        signer = CryptoSigner(key)
    except (ValueError, TypeError, UnsupportedAlgorithm, SecuresystemslibError) as error:
        if "BEGIN ENCRYPTED" in text:
            raise ConfigError(f"{path} cannot be opened: the password is wrong") from error
        raise ConfigError(f"{path} is no private key (PKCS#8, PEM)") from error
    _check_scheme(signer.public_key, str(path))
    return signer


def _public(path: Path) -> tuple[Key, str]:
    """Return key and URI of a ``.pub`` file."""
    try:
        value: Any = json.loads(_text(path))
        uri = value.pop("uri", "")
        key = Key.from_dict(value.pop("keyid"), value)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(f"{path} is no public key file of composeapps-publish") from error
    if not isinstance(uri, str) or not isinstance(key.keyid, str):
        raise ConfigError(f"{path} is no public key file of composeapps-publish")
    _check_scheme(key, str(path))
    return key, uri


def _public_document(key: Key, uri: str) -> bytes:
    value = {"keyid": key.keyid, **key.to_dict()}
    if uri:
        value["uri"] = uri
    return json.dumps(value, indent=1, sort_keys=True).encode() + b"\n"


def _check_scheme(key: Key, where: str) -> None:
    if key.scheme not in SCHEMES or not isinstance(key, SSlibKey):
        raise ConfigError(
            f"{where} is a key for {key.scheme}, use one of {', '.join(sorted(SCHEMES))}"
        )


def _import(uri: str, ask: Secrets) -> tuple[str, Key]:
    parts = urlsplit(uri)
    name = f"{parts.netloc}{parts.path}".strip("/")
    match parts.scheme:
        case "hsm":
            label = parse_qs(parts.query).get("label", [None])[0]
            return HSMSigner.import_(int(name) if name else None, label, ask)
        case "awskms":
            return AWSSigner.import_(name, ECDSA)
        case "gcpkms":
            return GCPSigner.import_(name)
        case "azurekms":
            vault, _, key = name.partition("/")
            return AzureSigner.import_(vault.partition(".")[0], key.removeprefix("keys/"))
        case "hv":
            return VaultSigner.import_(name.partition("/")[0])
    raise ConfigError(
        f"{uri!r} is no key URI: use hsm:, awskms:, azurekms:, gcpkms: or hv: (Vault)"
    )


def _errors() -> tuple[type[BaseException], ...]:
    """Return what signers raise, each key service's library having errors of its own."""
    found: list[type[BaseException]] = [
        SecuresystemslibError,
        ValueError,
        OSError,
        LookupError,
        TypeError,
        AttributeError,
        RuntimeError,
    ]
    for name in _FOREIGN:
        module, _, kind = name.partition(":")
        try:
            found.append(getattr(import_module(module), kind))
        except ImportError:
            continue
    return tuple(found)


def _words(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(_LIMIT + 1)
        if len(data) > _LIMIT:
            raise ConfigError(f"{path} is too large for a key file")
        return data.decode("utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {os.strerror(error.errno or 0)}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is no key file") from error
