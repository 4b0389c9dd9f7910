"""What ``composeapps-publish`` says: results on stdout, progress on stderr."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from composeapps.publish.drafting import Outcome


def print_outcome(
    options: argparse.Namespace, outcome: Outcome, done: str, value: Mapping[str, Any]
) -> None:
    """Print what came of a change of a repository."""
    missing = [vars(one) for one in outcome.missing]
    text = f"{done}: published"
    if not outcome.published:
        text = f"{done}: waits for signatures: {'; '.join(map(str, outcome.missing))}"
    print_result(options, {**value, "published": outcome.published, "missing": missing}, [text])


def print_result(
    options: argparse.Namespace, value: Mapping[str, Any], lines: Sequence[str]
) -> None:
    """Print a result: one line of JSON, or lines for a person."""
    if options.json:
        print(json.dumps(value, sort_keys=True))
    else:
        print("\n".join(lines))


def say(text: str) -> None:
    """Say what is being done."""
    print(text, file=sys.stderr, flush=True)
