"""msgspec Structs, with the names, tags and omissions that they declare."""

from __future__ import annotations

from typing import Any


def struct_fields(value: Any) -> dict[str, Any] | list[Any]:
    """Return a Struct one level deep, as `msgspec.json` would lay it out."""
    # Loaded already, by whoever made the Struct.
    from msgspec import UNSET

    config = value.__struct_config__
    names = zip(value.__struct_fields__, value.__struct_encode_fields__, strict=True)
    fields = {encoded: getattr(value, name) for name, encoded in names}
    tag = {} if config.tag is None else {config.tag_field: config.tag}
    if config.array_like:
        return [*tag.values(), *fields.values()]
    omitted = _defaults(value) if config.omit_defaults else {}
    return tag | {
        name: field
        for name, field in fields.items()
        if field is not UNSET and not (name in omitted and omitted[name] == field)
    }


def _defaults(value: Any) -> dict[str, Any]:
    """Return the defaults of the fields that have one, by their encoded names."""
    from msgspec import NODEFAULT

    # The defaults are those of the last fields.
    names = value.__struct_encode_fields__[-len(value.__struct_defaults__) :]
    pairs = zip(names, value.__struct_defaults__, strict=False)
    return {
        name: default.factory() if hasattr(default, "factory") else default
        for name, default in pairs
        if default is not NODEFAULT
    }
