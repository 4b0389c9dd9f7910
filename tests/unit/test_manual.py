"""The manual names every verb, option, exit status and setting with its default, and no other."""

from __future__ import annotations

import argparse
import json
import re
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from composeapps import cli, config, errors
from composeapps.config import RegistrySettings, Settings
from composeapps.edge import INTERRUPTED
from composeapps.publish import cli as publish

DOCS = Path(__file__).resolve().parent.parent.parent / "docs"
MANUAL = (DOCS / "composeapps.1.md").read_text()
PUBLISH = (DOCS / "composeapps-publish.1.md").read_text()


def section(title: str, level: int = 2) -> str:
    """Return what stands under a heading."""
    marks = "#" * level
    found = re.search(
        rf"^{marks} {re.escape(title)}\n(.*?)(?=^#{{1,{level}}} |\Z)", MANUAL, re.M | re.S
    )
    assert found, f"no section {title}"
    return found[1]


def rows(text: str) -> list[list[str]]:
    """Return the rows of a table without its heading."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Return the parsers of all verbs."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    raise AssertionError("no verbs")


def options(parser: argparse.ArgumentParser) -> set[str]:
    return {flag for action in parser._actions for flag in action.option_strings}


def test_every_verb_and_no_other() -> None:
    named = re.findall(r"^`([a-z]+)`.*\n:   ", section("VERBS"), re.M)
    assert sorted(named) == sorted(commands(cli.parser()))


def test_every_option_of_every_verb() -> None:
    for verb, parser in commands(cli.parser()).items():
        found = re.search(rf"^`{verb}`(.*)$", section("VERBS"), re.M)
        assert found is not None
        wanted = options(parser) - {"-h", "--help", "--json"}
        assert set(re.findall(r"`(-[-a-z]+)", found[1])) == wanted, verb
        for action in parser._actions:
            if not action.option_strings:
                assert f"*{action.dest.upper()}*" in found[1], verb
    everywhere = options(cli.parser())
    assert set(re.findall(r"`(-[-a-z]+)`", section("OPTIONS"))) == everywhere


def toml(value: Any) -> str:
    """Return a default as it would stand in a settings file."""
    if isinstance(value, tuple):
        return json.dumps(list(value))
    if isinstance(value, float):
        assert value == int(value), "the manual has whole numbers"
        return str(int(value))
    return json.dumps(str(value) if isinstance(value, Path) else value)


@pytest.mark.parametrize("name", list(get_type_hints(Settings)))
def test_every_setting_with_its_default(name: str) -> None:
    title = '[registry."*host:port*"]' if name == "registry" else f"[{name}]"
    kind = RegistrySettings if name == "registry" else get_type_hints(Settings)[name]
    defaults = kind()
    wanted = {item.name: toml(getattr(defaults, item.name)) for item in fields(kind)}
    documented = {row[0].strip("`"): row[1].strip("`") for row in rows(section(title, 3))}
    assert documented == wanted
    for item in fields(kind):
        text = next(row[2] for row in rows(section(title, 3)) if row[0] == f"`{item.name}`")
        assert text, f"{title} {item.name} says nothing"
        least = item.metadata.get("least", 0)
        if least and not isinstance(getattr(defaults, item.name), tuple):
            assert f"at least {least:g}" in text
        for choice in item.metadata.get("choices", ()):
            assert f"`{choice}`" in text


def test_every_section_and_no_other() -> None:
    titles = re.findall(r"^### \[([a-z]+)", section("SETTINGS"), re.M)
    assert titles == list(get_type_hints(Settings))


def test_every_exit_status_and_no_other() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    codes = {0, INTERRUPTED, *(kind.exit_code for kind in kinds)}  # type: ignore[attr-defined]
    documented = [int(row[0]) for row in rows(section("EXIT STATUS"))]
    assert documented == sorted(codes)


def test_files_are_where_they_are_said_to_be() -> None:
    for path in [*config.FILES, config.DROP_INS]:
        assert str(path) in section("SETTINGS")
    for path in (Settings().paths.data, Settings().paths.factory, Settings().paths.root):
        assert str(path) in section("FILES")


def test_examples_can_be_used() -> None:
    for text in re.findall(r"```toml\n(.*?)```", MANUAL, re.S):
        config.parse(tomllib.loads(text), "the example")
    verbs = commands(cli.parser())
    for line in re.findall(r"^composeapps .*$", section("EXAMPLES"), re.M):
        words = re.split(r" [|&]", line)[0].split()[1:]
        parsed = cli.parser().parse_args(words)
        assert parsed.verb in verbs


def test_the_order_of_a_manual_page() -> None:
    titles = re.findall(r"^## (.*)$", MANUAL, re.M)
    assert titles[:5] == ["NAME", "SYNOPSIS", "DESCRIPTION", "VERBS", "OPTIONS"]
    assert {"SETTINGS", "FILES", "EXIT STATUS", "RECOVERY", "EXAMPLES"} < set(titles)


def test_the_makers_manual_names_every_command_option_and_exit_status() -> None:
    parser = publish.parser()
    for command, one in commands(parser).items():
        assert re.search(rf"`{command}`", PUBLISH), command
        for action in one._actions:
            flags = set(action.option_strings) - {"-h", "--help"}
            named = [flag for flag in flags if f"`{flag}`" in PUBLISH]
            assert named or not flags, f"{command}: {sorted(flags)}"
    assert re.search(r"^## EXIT CODES$", PUBLISH, re.M)
    text = PUBLISH.split("## EXIT CODES")[1].split("##")[0]
    documented = {
        int(code) for code in re.findall(r"(?:^|[.;] )([0-9]+) [a-z]", text.replace("\n", " "))
    }
    assert documented <= {int(row[0]) for row in rows(section("EXIT STATUS"))}
    assert {0, 2, 3, 5, 11, INTERRUPTED} <= documented
