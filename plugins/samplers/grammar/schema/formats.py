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
_PART = "(?:\\.[0-9]{1,9})?"


def _leap_seconds() -> str:
    """Second 60, which is the last of a day in UTC; of offsets by full and half hours."""
    ways = [f"23:59:60{_PART}(?:Z|z)"]
    for hour in range(24):
        ends = [f"59:60{_PART}(?:\\+{(hour + 1) % 24:02d}|-{(23 - hour) % 24:02d}):00"]
        ends += [f"29:60{_PART}(?:\\+{hour:02d}|-{(23 - hour) % 24:02d}):30"]
        ways.append(f"{hour:02d}:(?:{'|'.join(ends)})")
    return "|".join(ways)


_USUAL = f"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]{_PART}(?:Z|z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
_TIME = f"(?:{_USUAL}|{_leap_seconds()})"
_OCTET = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_IPV4 = f"{_OCTET}(?:\\.{_OCTET}){{3}}"
_H16 = "[0-9a-fA-F]{1,4}"
_IPV6_PLAIN = (
    f"(?:(?:{_H16}:){{7}}{_H16}|(?:{_H16}:){{1,7}}:|(?:{_H16}:){{1,6}}:{_H16}|(?:{_H16}:){{1,5}}(?::{_H16}){{1,2}}"
    f"|(?:{_H16}:){{1,4}}(?::{_H16}){{1,3}}|(?:{_H16}:){{1,3}}(?::{_H16}){{1,4}}|(?:{_H16}:){{1,2}}(?::{_H16}){{1,5}}"
    f"|{_H16}:(?::{_H16}){{1,6}}|:(?::{_H16}){{1,7}}|::)"
)
_IPV6_MIXED = (
    f"(?:(?:{_H16}:){{6}}|::(?:{_H16}:){{0,5}}"
    + "".join(f"|(?:{_H16}:){{{n}}}:(?:{_H16}:){{0,{5 - n}}}" for n in range(1, 6))
    + f"){_IPV4}"
)
_IPV6 = f"(?:{_IPV6_PLAIN}|{_IPV6_MIXED})"
_LABEL = "[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
_HOST = f"{_LABEL}(?:\\.{_LABEL}){{0,5}}"
# Letters of labels of any script that no rule of IDNA makes an exception of; and the third and fourth character are not
# both hyphens, which is for labels that are written in ASCII.
_LETTER = "[a-zA-Z0-9ß-öø-ÿα-ωа-я一-鿿ƒ가-힣ぁ-ゖァ-ヺ]"
_ANY = f"(?:{_LETTER}|-)"
_WIDE_LABEL = (
    f"{_LETTER}(?:{_LETTER}|{_ANY}{_LETTER}|{_ANY}{{2}}{_LETTER}"
    f"|{_ANY}(?:{_LETTER}{_ANY}|-{_LETTER}){_ANY}{{0,58}}{_LETTER})?"
)
_WIDE_HOST = f"{_WIDE_LABEL}(?:\\.{_WIDE_LABEL}){{0,5}}"
_ATOM = "[a-zA-Z0-9!#$%&'*+/=?^_`{|}~-]{1,32}"
_LOCAL = f'(?:{_ATOM}(?:\\.{_ATOM}){{0,3}}|"[a-zA-Z0-9 .@_+-]{{1,32}}")'
_LITERAL = f"\\[(?:{_IPV4}|IPv6:{_IPV6_PLAIN})\\]"
_EMAIL = f"{_LOCAL}@(?:{_LABEL}(?:\\.{_LABEL}){{1,5}}|{_LITERAL})"
_WIDE = "\\u00a0-\\ud7ff\\uf900-\\ufdcf\\ufdf0-\\uffef"  # what IRIs have beyond URIs


def _uris(more: str, host: str) -> tuple[str, str]:
    """URIs, and references as well, with more characters."""
    path = f"(?:[a-zA-Z0-9._~!$&'()*+,;=:@{more}-]|%[0-9A-Fa-f]{{2}})"
    first = f"(?:[a-zA-Z0-9._~!$&'()*+,;=@{more}-]|%[0-9A-Fa-f]{{2}})"  # of a relative path: without a colon
    user = f"(?:(?:[a-zA-Z0-9._~!$&'()*+,;=:{more}-]|%[0-9A-Fa-f]{{2}})*@)?"
    server = f"//{user}(?:{host}|\\[{_IPV6_PLAIN}\\])(?::[0-9]{{1,5}})?(?:/{path}*)*"
    behind = f"(?:\\?(?:{path}|[/?])*)?(?:#(?:{path}|[/?])*)?"
    uri = f"[a-zA-Z][a-zA-Z0-9+.-]{{0,15}}:(?:{server}|/?{path}+(?:/{path}*)*){behind}"
    return uri, f"(?:{uri}|(?:{server}|/(?:{path}+(?:/{path}*)*)?|{first}+(?:/{path}*)*)?{behind})"


_URI, _URI_REFERENCE = _uris("", _HOST)
_IRI, _IRI_REFERENCE = _uris(_WIDE, _WIDE_HOST)
_CLOCK = "T(?:[0-9]{1,4}H(?:[0-9]{1,4}M(?:[0-9]{1,4}S)?)?|[0-9]{1,4}M(?:[0-9]{1,4}S)?|[0-9]{1,4}S)"
_DAYS = "(?:[0-9]{1,4}Y(?:[0-9]{1,4}M(?:[0-9]{1,4}D)?)?|[0-9]{1,4}M(?:[0-9]{1,4}D)?|[0-9]{1,4}D)"
_POINTER = "(?:/(?:[^~/]|~[01])*)*"
_VARIABLE = "(?:[a-zA-Z0-9_]|%[0-9A-Fa-f]{2})+(?:\\.(?:[a-zA-Z0-9_]|%[0-9A-Fa-f]{2})+)*(?::[1-9][0-9]{0,3}|\\*)?"
_UUID = "[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-%s[0-9a-fA-F]{3}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}"
_MASK4, _MASK6 = "/(?:3[0-2]|[12]?[0-9])", "/(?:12[0-8]|1[01][0-9]|[1-9]?[0-9])"
_NETWORK4 = f"(?:{_OCTET}\\.0\\.0\\.0/8|{_OCTET}\\.{_OCTET}\\.0\\.0/16|(?:{_OCTET}\\.){{3}}0/24|{_IPV4}(?:/32)?)"
_NETWORK6 = f"(?:(?:{_H16}:){{1,4}}:/64|{_IPV6}(?:/128)?)"
_HOSTS = f"{_HOST}(?::[0-9]{{1,5}})?(?:,{_HOST}(?::[0-9]{{1,5}})?)*"
EXPRESSIONS = {
    "date": _DATE,
    "time": _TIME,
    "date-time": f"{_DATE}[Tt]{_TIME}",
    "uuid": _UUID % "[0-9a-fA-F]",
    "email": _EMAIL,
    "idn-email": f"(?:{_EMAIL}|{_WIDE_LABEL}@{_WIDE_LABEL}(?:\\.{_WIDE_LABEL}){{1,5}})",
    "idn-hostname": _WIDE_HOST,
    "hostname": _HOST,
    "ipv4": _IPV4,
    "ipv6": _IPV6,
    "uri": _URI,
    "uri-reference": _URI_REFERENCE,
    "iri": _IRI,
    "iri-reference": _IRI_REFERENCE,
    "uri-template": (
        f"(?:[a-zA-Z0-9._~!$&()*+,;=:@/?#-]|%[0-9A-Fa-f]{{2}}|\\{{[+#./;?&]?{_VARIABLE}(?:,{_VARIABLE})*\\}})*"
    ),
    "json-pointer": _POINTER,
    "relative-json-pointer": f"(?:0|[1-9][0-9]{{0,5}})(?:#|{_POINTER})",
    "duration": f"P(?:{_DAYS}(?:{_CLOCK})?|{_CLOCK}|[0-9]{{1,4}}W)",
}
# Those of zod and pydantic, as far as they are regular; where these take more than one form, the usual one.
EXPRESSIONS |= {
    "guid": EXPRESSIONS["uuid"],
    **{f"uuid{version}": _UUID % version for version in range(1, 9)},
    "cuid": "[cC][0-9a-z]{8,31}",
    "cuid2": "[0-9a-z]{1,32}",
    "ulid": "[0-7][0-9A-HJKMNP-TV-Z]{25}",
    "xid": "[0-9a-v]{20}",
    "ksuid": "[A-Za-z0-9]{27}",
    "nanoid": "[a-zA-Z0-9_-]{21}",
    "mac": "(?:[0-9A-F]{2}:){5}[0-9A-F]{2}",
    "e164": "\\+[1-9][0-9]{6,14}",
    "emoji": "[\\u{1f300}-\\u{1f5ff}\\u{1f600}-\\u{1f64f}\\u{1f680}-\\u{1f6c5}]+",
    "base64": "(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?",
    "base64url": "(?:[A-Za-z0-9_-]{4})*(?:[A-Za-z0-9_-][AQgw]|[A-Za-z0-9_-]{2}[AEIMQUYcgkosw048])?",
    "cidrv4": _IPV4 + _MASK4,
    "cidrv6": _IPV6 + _MASK6,
    "ipv4interface": f"{_IPV4}(?:{_MASK4})?",
    "ipv6interface": f"{_IPV6}(?:{_MASK6})?",
    "ipvanyinterface": f"(?:{_IPV4}(?:{_MASK4})?|{_IPV6}(?:{_MASK6})?)",
    "ipv4network": _NETWORK4,
    "ipv6network": _NETWORK6,
    "ipvanynetwork": f"(?:{_NETWORK4}|{_NETWORK6})",
    "ipvanyaddress": f"(?:{_IPV4}|{_IPV6})",
    "name-email": f"(?:[A-Za-z]+(?: [A-Za-z]+){{0,3}} <{_EMAIL}>|{_EMAIL})",
    "multi-host-uri": f"[a-z][a-z0-9+]{{0,15}}://{_HOSTS}(?:/[a-zA-Z0-9._~-]*)?",
    "color": "#(?:[0-9a-fA-F]{3}|[0-9a-fA-F]{6})",
}
# These say what a program makes of a value, not which values there are.
WITHOUT_EFFECT = {
    "int32", "int64", "uint32", "uint64", "float", "double", "password", "binary", "byte", "char", "path", "file-path",
    "directory-path",
}  # fmt: skip


@lru_cache
def format_node(name: str) -> Node | None:
    """What a format's texts are; None if it is not known."""
    return parse_pattern(EXPRESSIONS[name], search=False) if name in EXPRESSIONS else None
