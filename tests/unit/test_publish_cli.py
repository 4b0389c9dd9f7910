"""``composeapps-publish`` about keys and roles, and what it says to bad input of any kind."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from composeapps.publish import cli
from composeapps.publish.commands import COMMANDS

DIGEST = f"sha256:{'a' * 64}"


class Maker:
    """Runs the command in this process, with keys that have no password."""

    def __init__(self, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.site = directory / "site"
        self.keys = directory / "keys"
        self._capsys = capsys

    def run(self, *arguments: object, code: int = 0) -> str:
        """Run a command, which has to end with ``code``; return what it said."""
        self._capsys.readouterr()
        found = cli.main([str(word) for word in arguments])
        said = self._capsys.readouterr()
        assert found == code, said.err
        assert "Traceback" not in said.err
        return said.out if code == 0 else said.err

    def json(self, *arguments: object) -> Any:
        """Run a command with --json and return what it printed."""
        return json.loads(self.run(*arguments, "--json"))

    def init(self, *arguments: object) -> None:
        """Make the repository."""
        self.run("init", self.site, "--keys", self.keys, "--no-password", *arguments)


@pytest.fixture
def maker(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Maker:
    monkeypatch.delenv("COMPOSEAPPS_PASSWORD", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Maker(tmp_path, capsys)


def test_init_makes_keys_roles_and_the_stable_channel(maker: Maker) -> None:
    maker.init()
    assert sorted(os.listdir(maker.keys)) == [
        f"{role}.{kind}"
        for role in ("root", "snapshot", "targets", "timestamp")
        for kind in ("pem", "pub")
    ]
    assert all(path.stat().st_mode & 0o077 == 0 for path in maker.keys.glob("*.pem"))
    shown = maker.json("show", maker.site)
    assert shown["channels"] == {"stable": {"apps": {}, "version": 0}}
    assert (shown["pending"], shown["missing"]) == ([], [])
    text = maker.run("show", maker.site)
    assert "channel stable: release 0" in text
    assert text.startswith("root         version 1, expires ")
    assert "already" in maker.run("init", maker.site, "--keys", maker.keys, code=3)


def test_init_with_thresholds_schemes_expiry_and_channels(maker: Maker) -> None:
    maker.init(
        *("--count", "root=3", "--threshold", "root=2", "--scheme", "ecdsa-sha2-nistp256"),
        *("--expiry", "timestamp=1", "--channel", "beta", "--channel", "stable"),
    )
    roles = maker.json("show", maker.site)["roles"]
    assert roles["root"]["threshold"] == 2
    assert len(roles["root"]["keys"]) == 3
    assert {key["scheme"] for key in roles["root"]["keys"]} == {"ecdsa-sha2-nistp256"}
    assert (maker.keys / "root-3.pem").exists()
    assert sorted(maker.json("show", maker.site)["channels"]) == ["beta", "stable"]


def test_passwords(maker: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    init = ("init", maker.site, "--keys", maker.keys)
    assert "COMPOSEAPPS_PASSWORD" in maker.run(*init, code=3)
    (tmp_path / "password").write_text("right\n")
    maker.run(*init, "--password-file", tmp_path / "password")
    refresh = ("refresh", maker.site, "--keys", maker.keys)
    monkeypatch.setenv("COMPOSEAPPS_PASSWORD", "wrong")
    assert "the password is wrong" in maker.run(*refresh, code=3)
    monkeypatch.setenv("COMPOSEAPPS_PASSWORD", "right")
    assert maker.json(*refresh)["published"] is True


def test_each_command_opens_only_the_keys_it_needs(maker: Maker) -> None:
    maker.init()
    for role in ("root", "targets"):
        (maker.keys / f"{role}.pem").rename(maker.keys / f"{role}.away")
    assert maker.json("refresh", maker.site, "--keys", maker.keys)["published"] is True
    said = maker.run("renew", maker.site, "targets", "--keys", maker.keys)
    assert "waits for signatures: targets has 0 of 1 signatures" in said
    said = maker.run("refresh", maker.site, "--keys", maker.keys)
    assert "published" in said
    key = maker.keys / "targets.away"
    key.rename(maker.keys / "later.pem")
    assert maker.json("sign", maker.site, "--keys", maker.keys, "--key", maker.keys / "later.pem")[
        "published"
    ]
    assert maker.json("show", maker.site)["pending"] == []


def test_waiting_changes_can_be_dropped(maker: Maker) -> None:
    maker.init()
    (maker.keys / "targets.pem").unlink()
    maker.run("renew", maker.site, "targets", "--keys", maker.keys)
    assert "waits for signatures: targets" in maker.run("show", maker.site)
    assert "sign or discard it first" in maker.run(
        *("channel", maker.site, "beta", "--keys", maker.keys), code=3
    )
    maker.run("discard", maker.site)
    assert "waits" not in maker.run("show", maker.site)


def test_rotate_revoke_channel_and_prune(maker: Maker) -> None:
    maker.init()
    new = maker.keys / "new-root"
    made = maker.json("key", new, "--no-password")
    sign = ("--keys", maker.keys)
    old = maker.json("show", maker.site)["roles"]["root"]["keys"][0]["keyid"]
    both = ("--role-key", f"root={new}.pem", "--role-key", f"root={maker.keys}/root.pem")
    assert maker.json("rotate", maker.site, *both, *sign)["published"] is True
    assert maker.json("revoke", maker.site, old[:10], *sign, "--key", f"{new}.pem")["published"]
    root = maker.json("show", maker.site)["roles"]["root"]
    assert ([key["keyid"] for key in root["keys"]], root["version"]) == ([made["keyid"]], 3)
    own = maker.keys / "beta"
    maker.run("key", own, "--no-password", "--scheme", "ecdsa-sha2-nistp256")
    maker.run("channel", maker.site, "beta", "--role-key", f"beta={own}.pub", *sign)
    assert "beta" in maker.json("show", maker.site)["channels"]
    maker.run("renew", maker.site, "beta", *sign)
    assert isinstance(maker.json("prune", maker.site, "--keep", 1)["removed"], list)
    roots = sorted(path.name for path in (maker.site / "metadata").glob("*.root.json"))
    assert roots == ["1.root.json", "2.root.json", "3.root.json"]


BAD: list[tuple[int, str, list[str]]] = [
    (3, "is no repository: make one with", ["show", "{tmp}"]),
    (3, "is no repository", ["refresh", "{tmp}", "--keys", "{keys}"]),
    (2, "no key to sign with", ["refresh", "{site}"]),
    (3, "is not a directory of keys", ["refresh", "{site}", "--keys", "{tmp}/none"]),
    (3, "cannot be read", ["refresh", "{site}", "--key", "{tmp}/none.pem"]),
    (3, "cannot be read", ["refresh", "{site}", "--key", "{tmp}"]),
    (2, "no key for root: name a directory with --keys", ["init", "{tmp}/new"]),
    (2, "frob is no role here", ["init", "{tmp}/new", "--role-key", "frob=x"]),
    (2, "is not of the form ROLE=VALUE", ["init", "{tmp}/new", "--role-key", "frob"]),
    (2, "is not one number", ["init", "{tmp}/new", "--count", "root=x"]),
    (2, "is not one number", ["init", "{tmp}/new", "--count", "root=99999999999"]),
    (2, "nothing to rotate", ["rotate", "{site}", "--keys", "{keys}"]),
    (3, "0 keys have an ID that begins with", ["revoke", "{site}", "zz", "--keys", "{keys}"]),
    (3, "renewed by refresh", ["renew", "{site}", "timestamp", "--keys", "{keys}"]),
    (3, "nothing waits", ["discard", "{site}"]),
    (3, "at least the newest", ["prune", "{site}", "--keep", "0"]),
    (3, "unknown key scheme", ["key", "{tmp}/k", "--no-password", "--scheme", "rsa"]),
    (3, "is no key URI", ["key", "{tmp}/k", "--uri", "file:x"]),
    (3, "cannot be a channel", ["channel", "{site}", "root", "--keys", "{keys}"]),
    (3, "not an image reference", ["app", "{tmp}", "Bad Ref"]),
    (2, "REF gets its digest from the app", ["app", "{tmp}", f"x.test/y@{DIGEST}"]),
    (2, "--images goes with --output", ["app", "{tmp}", "x.test/y", "--images", "{tmp}"]),
    (3, "is not empty and no OCI image", ["app", "{tmp}", "x.test/y", "--output", "{tmp}"]),
    (2, "has no digest", ["release", "{site}", "stable", "x.test/y", "--keys", "{keys}"]),
    (
        2,
        "two apps are called y",
        ["release", "{site}", "stable", f"x.test/y@{DIGEST}", f"z.test/y@{DIGEST}"],
    ),
    (
        3,
        "not a platform",
        ["preload", "{site}", "stable", "--platform", "x", "--output", "{tmp}/o"],
    ),
    (
        2,
        "no root in",
        ["preload", "https://x.test", "stable", "--platform", "linux/amd64", "--output", "{tmp}/o"],
    ),
    (2, "no settings file", ["app", "{tmp}", "x.test/y", "--config", "{tmp}/none.toml"]),
]


@pytest.mark.parametrize(("code", "sentence", "words"), BAD)
def test_bad_input_gets_one_sentence(
    code: int, sentence: str, words: list[str], maker: Maker, tmp_path: Path
) -> None:
    maker.init()
    places = {"tmp": tmp_path, "site": maker.site, "keys": maker.keys}
    said = maker.run(*(word.format(**places) for word in words), code=code)
    assert sentence in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["frob"],
        ["app"],
        ["app", "d", "r", "--limit", "0"],
        ["show", "d", "--frob"],
        ["release"],
    ],
)
def test_usage_errors_are_argparse_s_own(words: list[str]) -> None:
    assert cli.main(words) == 2


def test_errors_as_json_too(maker: Maker, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--json", "show", str(maker.site)]) == 3
    said = json.loads(capsys.readouterr().out)
    assert (said["code"], said["kind"]) == (3, "ConfigError")


def test_unwritable_places_are_an_answer(
    maker: Maker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("x")
    code = cli.main(["key", str(tmp_path / "file" / "key"), "--no-password"])
    assert code != 0
    assert "Traceback" not in capsys.readouterr().err


def test_every_command_is_known_to_both_sides() -> None:
    help_text = cli.parser().format_help()
    assert all(f"    {name}" in help_text for name in COMMANDS)
    assert cli.main(["--version"]) == 0
