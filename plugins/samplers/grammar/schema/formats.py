"""The formats of strings that are enforced, as expressions for the whole text."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from llamakit.plugins.samplers.grammar.regex import parse_pattern

if TYPE_CHECKING:
    from llamakit.plugins.samplers.grammar.ir import Node

_LEAP = "(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)-02-29"
_DATE = (
    f"(?:{_LEAP}|(?:[1-9][0-9]{{3}}|0[1-9][0-9]{{2}}|00[1-9][0-9]|000[1-9])-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])"
    "|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8])))"
)
_TIME = "(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\\.[0-9]{1,9})?(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
_OCTET = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_IPV4 = f"{_OCTET}(?:\\.{_OCTET}){{3}}"
_H16 = "[0-9a-fA-F]{1,4}"
_IPV6 = (
    f"(?:(?:{_H16}:){{7}}{_H16}|(?:{_H16}:){{1,7}}:|(?:{_H16}:){{1,6}}:{_H16}|(?:{_H16}:){{1,5}}(?::{_H16}){{1,2}}"
    f"|(?:{_H16}:){{1,4}}(?::{_H16}){{1,3}}|(?:{_H16}:){{1,3}}(?::{_H16}){{1,4}}|(?:{_H16}:){{1,2}}(?::{_H16}){{1,5}}"
    f"|{_H16}:(?::{_H16}){{1,6}}|:(?::{_H16}){{1,7}}|::)"
)
_LABEL = "[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
_HOST = f"{_LABEL}(?:\\.{_LABEL}){{0,5}}"
_ATOM = "[a-zA-Z0-9!#$%&'*+/=?^_`{|}~-]{1,32}"
_PATH = "(?:[a-zA-Z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})"
_FIRST = "(?:[a-zA-Z0-9._~!$&'()*+,;=@-]|%[0-9A-Fa-f]{2})"  # of a relative path: without a colon
_SERVER = f"//(?:{_HOST}|\\[{_IPV6}\\])(?::[0-9]{{1,5}})?(?:/{_PATH}*)*"
_BEHIND = f"(?:\\?(?:{_PATH}|[/?])*)?(?:#(?:{_PATH}|[/?])*)?"
_URI = f"[a-zA-Z][a-zA-Z0-9+.-]{{0,15}}:(?:{_SERVER}|/?{_PATH}+(?:/{_PATH}*)*){_BEHIND}"
_RELATIVE = f"(?:{_SERVER}|/(?:{_PATH}+(?:/{_PATH}*)*)?|{_FIRST}+(?:/{_PATH}*)*)?{_BEHIND}"
_CLOCK = "T(?:[0-9]{1,4}H(?:[0-9]{1,4}M(?:[0-9]{1,4}S)?)?|[0-9]{1,4}M(?:[0-9]{1,4}S)?|[0-9]{1,4}S)"
_DAYS = "(?:[0-9]{1,4}Y(?:[0-9]{1,4}M(?:[0-9]{1,4}D)?)?|[0-9]{1,4}M(?:[0-9]{1,4}D)?|[0-9]{1,4}D)"
_POINTER = "(?:/(?:[^~/]|~[01])*)*"
EXPRESSIONS = {
    "date": _DATE,
    "time": _TIME,
    "date-time": f"{_DATE}T{_TIME}",
    "uuid": "[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}",
    "email": f"{_ATOM}(?:\\.{_ATOM}){{0,3}}@{_LABEL}(?:\\.{_LABEL}){{1,5}}",
    "hostname": _HOST,
    "ipv4": _IPV4,
    "ipv6": _IPV6,
    "uri": _URI,
    "uri-reference": f"(?:{_URI}|{_RELATIVE})",
    "json-pointer": _POINTER,
    "relative-json-pointer": f"(?:0|[1-9][0-9]{{0,5}})(?:#|{_POINTER})",
    "duration": f"P(?:{_DAYS}(?:{_CLOCK})?|{_CLOCK}|[0-9]{{1,4}}W)",
}
# These say what a program makes of a value, not which values there are.
WITHOUT_EFFECT = {
    "int32",
    "int64",
    "uint32",
    "uint64",
    "float",
    "double",
    "password",
    "binary",
    "byte",
    "regex",
    "char",
}

# Wider ones, of which the texts of a narrower one are made.
EXPRESSIONS |= {
    wide: EXPRESSIONS[narrow]
    for wide, narrow in (
        ("idn-email", "email"), ("idn-hostname", "hostname"), ("iri", "uri"), ("iri-reference", "uri-reference"),
    )
}  # fmt: skip


@lru_cache
def format_node(name: str) -> Node | None:
    """What a format's texts are; None if it is not known."""
    return parse_pattern(EXPRESSIONS[name], search=False) if name in EXPRESSIONS else None
