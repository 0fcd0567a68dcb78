"""The formats of strings that are enforced, as expressions for the whole text."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from llamakit.plugins.samplers.grammar.regex import parse_pattern

if TYPE_CHECKING:
    from llamakit.plugins.samplers.grammar.ir import Node

_DATE = (
    "(?:(?:[1-9][0-9]{3}|0[1-9][0-9]{2}|00[1-9][0-9]|000[1-9])-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])"
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
_LABEL = "[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,30}[a-zA-Z0-9])?"
_HOST = f"{_LABEL}(?:\\.{_LABEL}){{0,5}}"
_ATOM = "[a-zA-Z0-9!#$%&'*+/=?^_`{|}~-]{1,32}"
_PATH = "(?:[a-zA-Z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})"
EXPRESSIONS = {
    "date": _DATE,
    "time": _TIME,
    "date-time": f"{_DATE}T{_TIME}",
    "uuid": "[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}",
    "email": f"{_ATOM}(?:\\.{_ATOM}){{0,3}}@{_LABEL}(?:\\.{_LABEL}){{1,5}}",
    "hostname": _HOST,
    "ipv4": _IPV4,
    "ipv6": _IPV6,
    "uri": f"[a-zA-Z][a-zA-Z0-9+.-]{{0,15}}://{_HOST}(?::[0-9]{{1,4}})?(?:/{_PATH}*)*(?:\\?(?:{_PATH}|[/?])*)?(?:#(?:{_PATH}|[/?])*)?",
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


@lru_cache
def format_node(name: str) -> Node | None:
    """What a format's texts are; None if it is not known."""
    return parse_pattern(EXPRESSIONS[name], search=False) if name in EXPRESSIONS else None
