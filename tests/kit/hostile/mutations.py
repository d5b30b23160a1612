"""Files with a few bytes changed."""

from __future__ import annotations

from hypothesis import strategies as st


@st.composite
def mutated(draw, data: bytes) -> bytes:
    """A file with a few bytes changed, and perhaps cut or grown."""
    content = bytearray(data)
    for _ in range(draw(st.integers(1, 6))):
        content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
    stop = draw(st.sampled_from([len(content), len(content) - 1, len(content) // 2]))
    return bytes(content[:stop]) + draw(st.binary(max_size=4))
