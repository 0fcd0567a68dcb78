"""References by `$id` and `$anchor` as references by place: `#/...`, the only ones that are followed later."""

from __future__ import annotations

from typing import Any
from urllib.parse import urldefrag, urljoin

ANCHORS = ("$anchor", "$dynamicAnchor")
DYNAMIC = ("$dynamicRef", "$recursiveRef")  # a document by itself has nothing that could override their target
NAMES = {"$id", "id", *ANCHORS, *DYNAMIC}
TABLES = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies")
DATA = ("enum", "const", "default", "examples", "example")
DYNAMIC_PLACE, DYNAMIC_ROOT, AMBIGUOUS = "\0dynamic#", "\0root#", ""  # in the table of places
DEEPEST = 150  # objects and lists within one another; what is below is left as it is


def localised(schema: Any) -> Any:
    """The document with references to places of its own that are named in other ways; others stay as they are."""
    places: dict[str, str] = {}
    if not isinstance(schema, dict) or _plain(schema) or not _index(schema, places):
        return schema
    return _changed(schema, "", places, 0)


def mentions(schema: Any, words: set[str]) -> bool:
    """Whether an object anywhere in the document has one of these keywords."""
    work: list[Any] = [schema]
    while work:
        node = work.pop()
        if isinstance(node, dict):
            if not words.isdisjoint(node):
                return True
            work += node.values()
        elif isinstance(node, list):
            work += node
    return False


def _plain(schema: dict[str, Any]) -> bool:
    """Whether no name but a `#/...` can be in it, which is quickly seen."""
    work: list[Any] = [schema]
    while work:
        node = work.pop()
        if isinstance(node, dict):
            target = node.get("$ref", "#/")
            if not NAMES.isdisjoint(node) or not isinstance(target, str) or not target.startswith("#/"):
                return False
            work += node.values()
        elif isinstance(node, list):
            work += node
    return True


def _index(schema: dict[str, Any], places: dict[str, str]) -> bool:
    """Note where each name is; whether there are references that need them."""
    needed, root = False, _base(schema, "")
    work: list[tuple[Any, str, str, int]] = [(schema, "#", "", 0)]
    while work:
        node, pointer, base, depth = work.pop()
        if not isinstance(node, dict) or depth > DEEPEST:
            continue
        base = _base(node, base)
        if "$id" in node or "id" in node:
            places.setdefault(base, pointer)
        for name in _anchors(node):
            places.setdefault(f"{base}#{name}", pointer)
        if isinstance(node.get("$dynamicAnchor"), str):
            name = DYNAMIC_PLACE + node["$dynamicAnchor"]
            places[name] = pointer if places.get(name, pointer) == pointer else AMBIGUOUS
            if base == root:  # the outermost, which the search for one finds first
                places.setdefault(DYNAMIC_ROOT + node["$dynamicAnchor"], pointer)
        targets = [node[key] for key in ("$ref", *DYNAMIC) if isinstance(node.get(key), str)]
        needed = needed or any(base != root or not (t == "#" or t.startswith("#/")) for t in targets)
        needed = needed or any(key in node for key in DYNAMIC)
        for key, value in node.items():
            if key in DATA:
                continue
            below = f"{pointer}/{_escaped(key)}"
            if isinstance(value, list):
                work += [(item, f"{below}/{i}", base, depth + 1) for i, item in enumerate(value)]
            elif key in TABLES and isinstance(value, dict):
                work += [(part, f"{below}/{_escaped(name)}", base, depth + 1) for name, part in value.items()]
            else:
                work.append((value, below, base, depth + 1))
    return needed


def _anchors(node: dict[str, Any]) -> list[str]:
    """The names that references to this place use; `$id: "#name"` is how drafts before 2019 wrote them."""
    found = [node[key] for key in ANCHORS if isinstance(node.get(key), str)]
    return found + [
        node[key][1:] for key in ("$id", "id") if isinstance(node.get(key), str) and node[key].startswith("#")
    ]


def _base(node: dict[str, Any], base: str) -> str:
    found = node.get("$id", node.get("id"))
    if not isinstance(found, str) or found.startswith("#"):
        return base
    return urldefrag(_joined(base, found))[0]


def _joined(base: str, target: str) -> str:
    """A reference seen from a base; `urljoin` knows no `urn:`."""
    if target.startswith("#"):
        return urldefrag(base)[0] + target
    return urljoin(base, target)


def _changed(node: Any, base: str, places: dict[str, str], depth: int) -> Any:
    if depth > DEEPEST:
        return node
    if isinstance(node, list):
        return [_changed(item, base, places, depth + 1) for item in node]
    if not isinstance(node, dict):
        return node
    base = _base(node, base)
    made: dict[str, Any] = {}
    for key, value in node.items():
        if key == "$dynamicRef" and isinstance(value, str):
            target = _dynamic(value, base, places)
            made["$ref" if target else key] = target or value
        elif key in ("$ref", *DYNAMIC) and isinstance(value, str):
            made["$ref"] = _target(value, base, places)
        elif key in DATA:
            made[key] = value
        elif key in TABLES and isinstance(value, dict):
            made[key] = {name: _changed(part, base, places, depth + 1) for name, part in value.items()}
        else:
            made[key] = _changed(value, base, places, depth + 1)
    return made


def _dynamic(target: str, base: str, places: dict[str, str]) -> str | None:
    """Where `$dynamicRef` leads; None where that depends on the way by which it is reached."""
    found, name = _target(target, base, places), target.rpartition("#")[2]
    if name.startswith("/") or DYNAMIC_PLACE + name not in places or not places[f"{DYNAMIC_PLACE}{name}"]:
        known = places.get(DYNAMIC_ROOT + name)
        return known or (None if DYNAMIC_PLACE + name in places else found)
    return found


def _target(target: str, base: str, places: dict[str, str]) -> str:
    whole = target if not base and target.startswith("#") else _joined(base, target)
    resource, _, fragment = whole.partition("#")
    if whole in places:
        return places[whole]
    start = places.get(resource, "#" if resource == "" else None)
    if start is None or (fragment and not fragment.startswith("/")):
        return target
    return start + fragment


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1").replace("%", "%25")
