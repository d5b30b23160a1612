"""Text that people and their programs wrote on any system."""

from __future__ import annotations

import codecs
import re
import unicodedata

# UTF-32 first: its mark begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_LOOKED_AT = 4096
_LEAST_UTF16 = 8
_JOINERS = re.compile("[\u200c\u200d\U000e0020-\U000e007f]")
"""Format signs with a meaning: they join emoji, flags and the letters of some scripts."""


def decode_text(data: bytes) -> str:
    """Decode UTF-8, UTF-16 without its mark, or what the mark of the byte order at the start says.

    The mark is left out. UTF-16 without it is known by zeros at nearly every second place.

    Raises:
        UnicodeDecodeError: If it is something else.
    """
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), "")
    return data.decode(encoding or _unmarked(data[:_LOOKED_AT]))


def _unmarked(head: bytes) -> str:
    even, odd = head[::2].count(0), head[1::2].count(0)
    is_half = len(head) >= _LEAST_UTF16 and 3 * max(even, odd) >= len(head)
    if not is_half or min(even, odd):
        return "utf-8"
    return "utf-16-le" if odd else "utf-16-be"


def number_of(count: int, noun: str) -> str:
    """A number with its noun: ``1 unit``, ``2 units``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def without_format_signs(text: str) -> str:
    """Leave out what cannot be seen: soft hyphens, blanks of no width, marks of direction, …."""
    return "".join(
        sign for sign in text if unicodedata.category(sign) != "Cf" or _JOINERS.match(sign)
    )


def control_sign(text: str) -> str:
    """Name of the first sign that no text holds, such as ``U+001B``; "" if there is none."""
    odd = (
        sign for sign in text if unicodedata.category(sign) in {"Cc", "Cs"} and not sign.isspace()
    )
    return next((f"U+{ord(sign):04X}" for sign in odd), "")


def same_name(name: str) -> str:
    """A form of a file name that is equal for names that people take for the same.

    Systems store accents in two ways, and some of them do not tell large from small letters.
    """
    return unicodedata.normalize("NFC", name).casefold()


def sample_key(name: str) -> str:
    """Key of the sample of a name: a tar reads dots and slashes as its own signs.

    Letters and digits of any script, ``_`` and ``-`` stay; all other signs become ``_``, so two
    names may get one key: whoever collects keys must refuse that. Accents are composed, so that a
    name has one key on every system.
    """
    return re.sub(r"[^\w-]", "_", unicodedata.normalize("NFC", name))
