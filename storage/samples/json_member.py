"""The JSON member of a sample, of any origin."""

from __future__ import annotations

import json
import re
from typing import Any

from schemas.errors import SampleError

_MAX_BYTES = 2**22
_LONE_SURROGATE = re.compile(r"[\ud800-\udfff]")


def decode_json(key: str, data: bytes) -> dict[str, Any]:
    """Decode an object whose ``caption``, if there is one, is a text.

    Args:
        key: The sample, for messages.
        data: UTF-8, at most 4 MiB.

    Raises:
        SampleError: ``json_invalid``, also on NaN, infinite numbers and thousands of brackets.
    """
    if len(data) > _MAX_BYTES:
        raise SampleError("json_invalid", f"{key}: {len(data)} bytes; wanted at most {_MAX_BYTES}")
    try:
        document = json.loads(data, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise SampleError("json_invalid", f"{key}: {str(error)[:200]}") from error
    if not isinstance(document, dict):
        raise SampleError("json_invalid", f"{key}: wanted an object, found {type(document)}")
    caption = document.get("caption", "")
    if not isinstance(caption, str) or _LONE_SURROGATE.search(caption):
        raise SampleError("json_invalid", f"{key}: caption: wanted a text, found {caption!r:.40}")
    return document


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
