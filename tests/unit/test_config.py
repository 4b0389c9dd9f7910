"""Settings from files that people write: read, or refused in one sentence that names the file."""

from __future__ import annotations

import os
import re
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from composeapps import config
from composeapps.config import Settings
from composeapps.errors import ConfigError

TOML = st.recursive(
    st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
SECTIONS = get_type_hints(Settings)
#: Every setting outside of [registry], by section.
NAMES = [
    (section, item.name)
    for section, kind in SECTIONS.items()
    if section != "registry"
    for item in fields(kind)
]


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    (tmp_path / "conf.d").mkdir()
    return tmp_path


def load(etc: Path) -> Settings:
    return config.load((etc / "vendor.toml", etc / "maker.toml"), etc / "conf.d")


def refused(etc: Path, text: str | bytes) -> str:
    """Load a file that cannot be used and return the reason; it names the file."""
    file = etc / "maker.toml"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(ConfigError) as caught:
        load(etc)
    message = str(caught.value)
    assert message.startswith(str(file))
    assert message.isprintable()
    assert len(message) < 600
    return message.removeprefix(str(file))


def test_no_file_gives_the_defaults(etc: Path) -> None:
    assert load(etc) == Settings()
    assert config.load((etc / "none",), etc / "none.d") == Settings()
    assert config.load((etc / "none",), Path(os.devnull)) == Settings()


def test_later_files_win_tables_merge_and_lists_replace(etc: Path) -> None:
    (etc / "vendor.toml").write_text(
        '[device]\nchannel = "vendor"\nid = "v"\n[engine]\ncompose = ["a", "b"]\n'
        '[registry."r:1"]\nmirrors = ["https://m"]\nusername = "u"\n'
    )
    (etc / "maker.toml").write_text('[device]\nchannel = "maker"\n[registry."r:2"]\n')
    (etc / "conf.d" / "20.toml").write_text("[update]\ninterval = 20\n")
    (etc / "conf.d" / "10.toml").write_text('[update]\ninterval = 10\n[engine]\ncompose = ["c"]\n')
    (etc / "conf.d" / "30.toml").write_text('[registry."r:1"]\nusername = "w"\n')
    (etc / "conf.d" / "40.toml.bak").write_text("no TOML")
    settings = load(etc)
    assert (settings.device.channel, settings.device.id) == ("maker", "v")
    assert settings.update.interval == 20.0
    assert settings.engine.compose == ("c",)
    assert settings.registry["r:1"].username == "w"
    assert settings.registry["r:1"].mirrors == ("https://m",)
    assert settings.registry["r:2"] == config.RegistrySettings()


def test_whole_numbers_and_paths_get_their_types(etc: Path) -> None:
    (etc / "maker.toml").write_text('[source]\ntimeout = 5\n[paths]\ndata = "/srv/apps"\n')
    settings = load(etc)
    assert (settings.source.timeout, type(settings.source.timeout)) == (5.0, float)
    assert settings.paths.data == Path("/srv/apps")


@pytest.mark.parametrize(
    "text",
    [
        "= 1",
        "[device",
        "a = [",
        "[device]\nchannel = stable",
        "[device]\n[device]\n",
        '[device]\nchannel = "a"\nchannel = "b"\n',
        "[device]\nid = 2024-13-99\n",
        '[device]\nid = "\\uD800"\n',
        b"[device]\nid = '\xff'\n",
        b"\xff\xfe[\x00",
        "\ufeff\ufeff[device]",
        "x = " + "[" * 5000,
        "x = " + "9" * 5000,
        "x = 0x" + "f" * 5_000_000 + "g",
        "[" + ".".join(["a"] * 20_000) + "]",
        b"\x00" * 4096,
    ],
    ids=range(16),
)
def test_files_that_are_no_toml(etc: Path, text: str | bytes) -> None:
    refused(etc, text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x = 1", r"unknown section 'x'"),
        ("[devices]", r"unknown section 'devices'"),
        ("device = 1", r"'device' has to be a table"),
        ("device = []", r"'device' has to be a table"),
        ("[[device]]", r"'device' has to be a table"),
        ("[device]\nchanel = 'x'", r"\[device\] has no setting 'chanel'; known: build_time, chan"),
        ("[device.channel]", r"\[device\] channel has to be of type str"),
        ("[device]\nchannel = 5", r"\[device\] channel has to be of type str"),
        ("[device]\nbuild_time = '5'", r"build_time has to be of type int"),
        ("[device]\nbuild_time = 5.5", r"build_time has to be of type int"),
        ("[device]\nbuild_time = true", r"build_time has to be of type int"),
        ("[device]\nbuild_time = -1", r"build_time is out of range"),
        ("[device]\nbuild_time = 9007199254740992", r"build_time is out of range"),
        ("[update]\ninterval = true", r"interval has to be of type float"),
        ("[update]\ninterval = nan", r"interval is out of range"),
        ("[update]\ninterval = inf", r"interval is out of range"),
        ("[update]\ninterval = 1" + "0" * 400, r"interval is out of range"),
        ("[update]\ninterval = 0", r"interval has to be 1 or more"),
        ("[update]\nattempts = 0", r"attempts has to be 1 or more"),
        ("[source]\nparallel = 0", r"parallel has to be 1 or more"),
        ("[source]\nattempts = 0", r"attempts has to be 1 or more"),
        ("[source]\ntimeout = 0.0", r"timeout has to be 0.1 or more"),
        ("[paths]\ndata = 'var/lib'", r"data has to be an absolute path"),
        ("[paths]\ndata = ''", r"data has to be an absolute path"),
        ("[paths]\ndata = 5", r"data has to be an absolute path"),
        ('[paths]\ndata = "/a\\u0000b"', r"data holds a NUL character"),
        ('[source]\nurl = "a\\u0000"', r"url holds a NUL character"),
        ('[engine]\nstop = ["a", "\\u0000"]', r"stop holds a NUL character"),
        ("[engine]\ncompose = 'docker'", r"compose has to be a list of strings"),
        ("[engine]\ncompose = [1]", r"compose has to be a list of strings"),
        ("[engine]\ncompose = []", r"compose has to name a program"),
        ("[engine]\nstart = ['', 'x']", r"start has to name a program"),
        ("[engine]\nmount = 'fiel'", r"mount has to be one of auto, file, loop"),
        ("[seal]\ncompression = 'lz4hc,level=9'", r"compression has to be one of lz4hc, lz4, none"),
        ("registry = 5", r"'registry' has to be a table"),
        ("[registry]\nx = 5", r"\[registry.'x'\] has to be a table"),
        ("[registry.x]\ntls = true", r"\[registry.'x'\] has no setting 'tls'; known: ca"),
        ("[registry.x]\ninsecure = 1", r"insecure has to be of type bool"),
        ("[registry.x]\nmirrors = 'm'", r"mirrors has to be a list of strings"),
        ('["\\u001b[2J"]', r"unknown section '\\x1b\[2J'"),
        ('[device]\n"\\u001b[2J" = 1', r"no setting '\\x1b\[2J'"),
        ("[device]\n" + "x" * 9999 + " = 1", r"no setting 'xxx"),
    ],
    ids=range(42),
)
def test_settings_that_cannot_be(etc: Path, text: str, reason: str) -> None:
    assert re.search(reason, refused(etc, text))


def test_a_mistake_in_an_early_file_is_named_though_a_later_one_hides_it(etc: Path) -> None:
    (etc / "vendor.toml").write_text("[update]\ninterval = 'x'\n")
    (etc / "maker.toml").write_text("[update]\ninterval = 5\n")
    with pytest.raises(ConfigError, match=r"vendor\.toml: \[update\] interval"):
        load(etc)


def test_what_cannot_be_read_is_named(etc: Path) -> None:
    (etc / "conf.d" / "10.toml").mkdir()
    with pytest.raises(ConfigError, match=r"10\.toml cannot be read: Is a directory"):
        load(etc)
    (etc / "conf.d" / "10.toml").rmdir()
    (etc / "conf.d" / "10.toml").symlink_to("10.toml")
    with pytest.raises(ConfigError, match=r"10\.toml cannot be read: Too many levels"):
        load(etc)


def test_a_dangling_drop_in_is_no_file(etc: Path) -> None:
    (etc / "conf.d" / "10.toml").symlink_to("gone")
    assert load(etc) == Settings()


@given(st.sampled_from(NAMES), TOML)
def test_any_value_for_any_setting_is_taken_in_its_type_or_refused(
    name: tuple[str, str], value: Any
) -> None:
    section, setting = name
    try:
        settings = config.parse({section: {setting: value}}, "a file")
    except ConfigError as error:
        assert str(error).startswith(f"a file: [{section}] ")
        return
    taken = getattr(getattr(settings, section), setting)
    default = getattr(getattr(Settings(), section), setting)
    assert type(taken) is type(default)
    assert taken == (tuple(value) if isinstance(value, list) else value) or str(taken) == value


@given(st.dictionaries(st.sampled_from([*SECTIONS, "x"]), TOML, max_size=3))
def test_any_document_is_settings_or_refused(value: dict[str, Any]) -> None:
    try:
        assert isinstance(config.parse(value, "a file"), Settings)
    except ConfigError as error:
        assert str(error).startswith("a file: ")


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_file_is_settings_or_refused(tmp_path_factory: Any, data: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "any.toml"
    file.write_bytes(data)
    try:
        assert isinstance(config.load([file], Path(os.devnull)), Settings)
    except ConfigError as error:
        assert str(error).startswith(str(file))


def test_every_default_is_one_that_could_be_set() -> None:
    """A default that its own rule refuses would break whoever writes it down."""
    for section, setting in NAMES:
        default = getattr(getattr(Settings(), section), setting)
        value = str(default) if isinstance(default, Path) else default
        value = list(value) if isinstance(value, tuple) else value
        assert config.parse({section: {setting: value}}, "a file") == Settings()
