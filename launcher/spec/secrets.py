"""What looks like a secret's value. Manifests, logs and arguments carry references only."""

from __future__ import annotations

import re
from itertools import pairwise

_WORDS = {"SECRET", "PASSWORD", "PASSWD", "PASSPHRASE", "TOKEN", "CREDENTIAL", "CREDENTIALS"}
_PAIRS = {(kind, "KEY") for kind in ("API", "ACCESS", "PRIVATE", "ACCOUNT", "AUTH")}
_HARMLESS_ENDS = {"FILE", "PATH", "DIR", "URI", "URL", "ENDPOINT", "NAME", "NAMES"}
"""A variable that ends so tells where a secret is, not what it is."""
_VALUES = (
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----"), "a private key"),
    (re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"), "an AWS access key"),
    (re.compile(r"\b(?:ghp|gho|ghs)_[A-Za-z0-9]{36}\b|\bgithub_pat_\w{22,}"), "a GitHub token"),
    (re.compile(r"\bhf_[A-Za-z0-9]{30,}\b"), "a Hugging Face token"),
    (re.compile(r"[a-z][a-z0-9+.-]*://[^/\s:@]*:[^/\s@]+@"), "an address with a password"),
)


def secret_in(name: str, value: str) -> str:
    """Why a variable must not stand in a manifest with its value; empty: it may.

    Never repeats the value. An empty value is no secret.
    """
    if not value:
        return ""
    words = re.split(r"[^A-Z0-9]+", name.upper())
    named = bool(_WORDS & set(words)) or any(pair in _PAIRS for pair in pairwise(words))
    if named and words[-1] not in _HARMLESS_ENDS:
        return "its name is that of a secret"
    return next((f"its value is {what}" for form, what in _VALUES if form.search(value)), "")
