"""Key files, passwords, and keys that live elsewhere."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from securesystemslib.exceptions import UnsupportedLibraryError
from securesystemslib.signer import (
    SIGNER_FOR_URI_SCHEME,
    CryptoSigner,
    Key,
    SecretsHandler,
    Signature,
    Signer,
)
from tufworld import ROLES, START, of

from composeapps.errors import ConfigError
from composeapps.publish import keys
from composeapps.publish.repository import Repository
from composeapps.publish.signing import RoleKeys


def answer(password: str) -> keys.Secrets:
    return lambda name: password


def nobody(name: str) -> str:
    raise AssertionError(f"asked for {name}")


@pytest.mark.parametrize("scheme", [keys.ED25519, keys.ECDSA])
@pytest.mark.parametrize("password", ["päßword", None])
def test_generate_and_load(tmp_path: Path, scheme: str, password: str | None) -> None:
    key = keys.generate(tmp_path / "new" / "root", password, scheme)
    private, public = tmp_path / "new" / "root.pem", tmp_path / "new" / "root.pub"
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert stat.S_IMODE(private.parent.stat().st_mode) == 0o700
    assert (b"ENCRYPTED" in private.read_bytes()) == (password is not None)
    ask = nobody if password is None else answer(password)
    signer = keys.load_signer(private, ask)
    assert signer.public_key == key
    key.verify_signature(signer.sign(b"data"), b"data")
    # The public key needs no password, from either name.
    assert keys.public_key(public, nobody) == keys.public_key(private, nobody) == key
    public.unlink()
    assert keys.public_key(private, ask) == key


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    keys.generate(tmp_path / "a", "x")
    before = (tmp_path / "a.pem").read_bytes()
    for path in (tmp_path / "a", tmp_path / "a.pem", tmp_path / "a.pub"):
        with pytest.raises(ConfigError, match="never overwritten"):
            keys.generate(path, "x")
    assert (tmp_path / "a.pem").read_bytes() == before
    with pytest.raises(ConfigError, match="exists"):
        keys.register("hsm:", tmp_path / "a", nobody)


def test_bad_requests(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not empty"):
        keys.generate(tmp_path / "a", "")
    with pytest.raises(ConfigError, match="unknown key scheme 'rsa'"):
        keys.generate(tmp_path / "a", "x", "rsa")
    assert not list(tmp_path.iterdir())


def test_wrong_password_and_missing_file(tmp_path: Path) -> None:
    keys.generate(tmp_path / "a", "right")
    for wrong in ("wrong", "", "\0"):
        with pytest.raises(ConfigError, match=r"a\.pem cannot be opened: the password is wrong"):
            keys.load_signer(tmp_path / "a.pem", answer(wrong))
    with pytest.raises(ConfigError, match=r"b\.pem cannot be read: No such file"):
        keys.load_signer(tmp_path / "b.pem", nobody)
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        keys.load_signer(tmp_path, nobody)
    assert not keys.has_signer(tmp_path / "a.pub")
    with pytest.raises(ConfigError, match="only a public key"):
        keys.load_signer(tmp_path / "a.pub", nobody)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"{}",
        b"null",
        b"[" * 10_000,
        b'{"keyid": "a", "keytype": "ed25519", "scheme": "ed25519"}',
        b'{"keyid": 7, "keytype": "ed25519", "scheme": "ed25519", "keyval": {"public": "00"}}',
        b'{"keyid": "a", "keytype": "x", "scheme": "y", "keyval": {"public": "00"}}',
        b'{"keyid": "a", "keytype": "ed25519", "scheme": "ed25519", "keyval": {"public": "0"},'
        b' "uri": 7}',
        b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
        b"-----BEGIN OPENSSH PRIVATE KEY-----\n",
        b"x" * 100_000,
    ],
)
def test_files_that_are_no_keys(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "key"
    path.write_bytes(data)
    for call in (keys.load_signer, keys.public_key):
        with pytest.raises(ConfigError, match="key"):
            call(path, answer("x"))


def test_kinds_of_key_that_devices_do_not_verify(tmp_path: Path) -> None:
    private = rsa.generate_private_key(65537, 2048)
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "rsa.pem").write_bytes(pem)
    with pytest.raises(ConfigError, match="use one of ecdsa-sha2-nistp256"):
        keys.load_signer(tmp_path / "rsa.pem", nobody)


def test_where_passwords_come_from(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("from a file\nsecond line\n")
    environment = {"COMPOSEAPPS_PASSWORD": "from the environment"}
    asked: list[str] = []

    def prompt(text: str) -> str:
        asked.append(text)
        return "from a person"

    assert keys.secrets_from(environment, file, prompt)("it") == "from a file"
    assert keys.secrets_from(environment, None, prompt)("it") == "from the environment"
    assert asked == []
    assert keys.secrets_from({}, None, prompt)("password of x") == "from a person"
    assert asked == ["password of x: "]
    with pytest.raises(ConfigError, match="is needed: give a password file"):
        keys.secrets_from({}, None, None)("password of x")
    with pytest.raises(ConfigError, match="cannot be read"):
        keys.secrets_from({}, tmp_path / "nothing", None)("password of x")


class ElsewhereSigner(Signer):
    """A signer with a URI, as those of hardware tokens and key services are."""

    private = CryptoSigner.generate_ecdsa()
    pin = "1234"

    def __init__(self, key: Key) -> None:
        self._key = key

    @property
    def public_key(self) -> Key:
        return self._key

    @classmethod
    def from_priv_key_uri(
        cls, priv_key_uri: str, public_key: Key, secrets_handler: SecretsHandler | None = None
    ) -> ElsewhereSigner:
        if priv_key_uri.endswith("broken"):
            raise UnsupportedLibraryError("no such library")
        if secrets_handler is None or secrets_handler("pin") != cls.pin:
            raise ValueError("wrong pin")
        return cls(public_key)

    def sign(self, payload: bytes) -> Signature:
        return self.private.sign(payload)


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A public key file that names a URI of such a signer."""
    SIGNER_FOR_URI_SCHEME["elsewhere"] = ElsewhereSigner
    key = ElsewhereSigner.private.public_key
    path = tmp_path / "token.pub"
    document = {"keyid": key.keyid, **key.to_dict(), "uri": "elsewhere:1"}
    path.write_text(json.dumps(document))
    yield path
    del SIGNER_FOR_URI_SCHEME["elsewhere"]


def test_a_signer_by_uri_signs_a_repository(elsewhere: Path, tmp_path: Path) -> None:
    assert keys.has_signer(elsewhere)
    root = keys.load_signer(elsewhere, answer("1234"))
    others = {role: CryptoSigner.generate_ed25519() for role in ROLES if role != "root"}
    roles = {"root": RoleKeys((keys.public_key(elsewhere, nobody),))}
    roles |= {role: of(one) for role, one in others.items()}
    signers = [root, *others.values()]
    _, outcome = Repository.init(tmp_path / "repo", roles, signers, clock=lambda: START)
    assert outcome.published


def test_errors_of_signers_by_uri(elsewhere: Path) -> None:
    with pytest.raises(ConfigError, match=r"token\.pub: elsewhere:1: wrong pin"):
        keys.load_signer(elsewhere, answer("0000"))
    value: dict[str, Any] = json.loads(elsewhere.read_text())
    for uri, match in (("elsewhere:broken", "no such library"), ("nowhere:1", "no installed")):
        elsewhere.write_text(json.dumps({**value, "uri": uri}))
        with pytest.raises(ConfigError, match=match):
            keys.load_signer(elsewhere, answer("1234"))


@pytest.mark.parametrize(
    "uri", ["hsm:2", "hsm:x", "awskms:1", "gcpkms:a/b", "azurekms://v.x/keys/k", "hv:k", "hv:k/2"]
)
def test_services_whose_library_is_missing_or_unset(
    tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith(("AWS_", "PYKCS11", "VAULT"))]:
        monkeypatch.delenv(name)
    with pytest.raises(ConfigError, match=uri.partition(":")[0]):
        keys.register(uri, tmp_path / "a", answer("1234"))
    assert not (tmp_path / "a.pub").exists()


@pytest.mark.parametrize("uri", ["", "root.pem", "http://x", "file:/x", "gnupg:1"])
def test_what_is_no_key_uri(tmp_path: Path, uri: str) -> None:
    with pytest.raises(ConfigError, match="is no key URI"):
        keys.register(uri, tmp_path / "a", nobody)
