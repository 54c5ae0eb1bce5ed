"""Bodies that are sent compressed: unpacked piece by piece as they are read, within the limit of any other body."""

from __future__ import annotations

import asyncio
import zlib
from typing import Any, Final

from fastapi import HTTPException
from starlette.types import Message, Receive

ENCODINGS: Final = ("gzip", "x-gzip", "deflate")
PIECE_BYTES: Final = 64 * 1024
# A body may unpack to this much whatever its size, and beyond it to so many times its size.
MOST_BYTES: Final = 100 << 20
MOST_TIMES: Final = 100


def unpacked(receive: Receive, encoding: str) -> Receive:
    """Return a `receive` of what is in a body of one of the `ENCODINGS`, `PIECE_BYTES` at most at a time.

    It raises `HTTPException` when the body is something else or ends too early (422), or unpacks to too much (413).
    """
    inflate: Any = None
    packed, more, ended = b"", True, False
    came = size = 0  # bytes, packed and unpacked

    async def next_piece() -> Message:
        nonlocal inflate, packed, more, ended, came, size
        while not ended:
            if more and not packed:
                message = await receive()
                if message["type"] != "http.request":
                    return message
                packed, more = message.get("body", b""), message.get("more_body", False)
                came += len(packed)
            else:
                await asyncio.sleep(0)  # others have their turn while much is unpacked from little
            try:
                if packed and (inflate is None or inflate.eof):  # files that were compressed one by one come in a row
                    inflate = zlib.decompressobj(_window(encoding, packed))
                piece = inflate.decompress(packed, PIECE_BYTES) if inflate else b""
            except zlib.error as error:
                raise _refused(422, f"the body is not {encoding}, as its Content-Encoding says ({error})") from None
            packed = inflate.unconsumed_tail or inflate.unused_data if inflate else b""
            size += len(piece)
            if size > MOST_BYTES and size > MOST_TIMES * came:
                raise _refused(413, f"the body unpacks to more than {MOST_TIMES} times its size: send it as it is")
            ended = not more and not packed and (not piece or inflate.eof)
            if ended and not (inflate and inflate.eof):
                raise _refused(422, f"the {encoding} of the body ends too early")
            if piece or ended:
                return {"type": "http.request", "body": piece, "more_body": not ended}
        return await receive()

    return next_piece


def _window(encoding: str, packed: bytes) -> int:
    """Return what tells zlib the format of these bytes."""
    if encoding != "deflate":
        return 16 + zlib.MAX_WBITS
    # Some leave out the frame that the standard asks for; it begins with 8 in four bits.
    return zlib.MAX_WBITS if packed[0] & 15 == zlib.DEFLATED else -zlib.MAX_WBITS


def _refused(status: int, message: str) -> HTTPException:
    problem = [{"type": "content_encoding", "loc": ["body"], "msg": message}] if status == 422 else message
    return HTTPException(status, problem, {"Connection": "close"})
