"""Files in and out of `/predict/batch`: CSV or Parquet, of any length, in bounded memory.

The body is kept in an unnamed file under ``STATE_DIR/spool`` and read twice: first to check all of it, so that a
mistake anywhere is a 422 before the answer begins, then to predict it batch by batch. The predictions of a batch are
in the prediction log before they are sent. A failure in between (a full disk, a stop) ends the answer without its
last chunk, so a client notices that it is incomplete; the rows that it received are logged.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal

from fastapi import HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import StreamingResponse
from loguru import logger
from starlette.concurrency import run_in_threadpool
from starlette.types import Scope

from app.champion import Champion
from app.deps import Parts
from app.predictor import Predictor, predict_rows
from tableloop.model.intervals import Answers
from tableloop.state.prediction_rows import Row
from tableloop.table import load_table

MEDIA_TYPES: Final[dict[str, Literal["csv", "parquet"]]] = {
    "text/csv": "csv",
    "application/vnd.apache.parquet": "parquet",
}
MAX_FILE_BYTES: Final = 1024**3
_SPOOL_BYTES: Final = 1 << 20


def media_type(scope: Scope, header: bytes = b"content-type") -> str:
    """Return the media type of a request's body, without parameters and in lower case."""
    for name, value in scope["headers"]:
        if name == header:
            return str(value.partition(b";")[0].strip().lower().decode("latin-1"))
    return ""


async def predict_table(request: Request) -> StreamingResponse:
    """Answer a file with a file: its columns and rows in their order, with the columns of the prediction appended."""
    from tableloop import files as tables  # noqa: PLC0415 - saves 30 MB of pyarrow in a service without files

    parts: Parts = request.app.state.parts
    predictor = parts.predictor
    champion = predictor.champion()
    given = media_type(request.scope)
    wanted = _accepted(request.headers.get("accept", "*/*"), given)
    kind_in, kind_out = MEDIA_TYPES[given], MEDIA_TYPES[wanted]
    file = await _spooled(request, parts.layout.spool)
    try:
        rows = await run_in_threadpool(tables.check_table, file, kind_in, load_table())
        reader = tables.TableReader(file, kind_in, load_table())
        sink = io.BytesIO()
        writer = tables.TableWriter(sink, reader.schema, kind_out, load_table().answer)
    except tables.TableError as error:
        file.close()
        raise _as_validation_error(error.problems) from error
    line = request.scope["line"]
    line.update(model_version=champion.version, rows=rows)
    answer = _answer(predictor, champion, _Table(reader, writer, sink), file, line)
    return StreamingResponse(answer, media_type=wanted)


class _Table:
    """An answer that is being made, for use by one thread at a time."""

    def __init__(self, reader: Any, writer: Any, sink: io.BytesIO) -> None:
        self._batches = reader.batches()
        self._writer = writer
        self._sink = sink

    def predict_next(self, champion: Champion, request_id: str) -> tuple[Any, Answers, list[str], list[Row]] | None:
        """Return the next batch with its answers, ids and rows for the prediction log; None at the end."""
        from tableloop.files import features_of  # noqa: PLC0415

        batch = next(self._batches, None)
        if batch is None:
            return None
        return batch, *predict_rows(champion, features_of(batch, load_table().feature_names), request_id)

    def encode(self, batch: Any, answers: Answers, version: str, ids: list[str]) -> bytes:
        """Return the next bytes of the answer, with the predictions of a batch."""
        self._writer.write(batch, answers, version, ids)
        return self._taken()

    def end(self) -> bytes:
        """Return the last bytes of the answer."""
        self._writer.close()
        return self._taken()

    def _taken(self) -> bytes:
        taken = self._sink.getvalue()
        self._sink.seek(0)
        self._sink.truncate()
        return taken


async def _answer(
    predictor: Predictor, champion: Champion, table: _Table, file: BinaryIO, line: dict[str, Any]
) -> AsyncIterator[bytes]:
    sent, request_id = 0, line["request_id"]
    try:
        while True:
            async with predictor.files:
                predicted = await run_in_threadpool(table.predict_next, champion, request_id)
                if predicted is None:
                    break
                batch, answers, ids, rows = predicted
                committed = predictor.committed(rows)
                encoded = await run_in_threadpool(table.encode, batch, answers, champion.version, ids)
                await committed
            line.setdefault("prediction_id", ids[0])
            yield encoded
            sent += len(ids)
            predictor.metrics.count(champion.version, answers.values)
        yield await run_in_threadpool(table.end)
    except Exception as error:
        line.update(rows=sent, error=str(error))
        logger.error(f"request {request_id} is incomplete: it ends after {sent:,} rows: {error}")
        raise
    finally:
        file.close()


def _as_validation_error(problems: list[Any]) -> RequestValidationError:
    """Return the problems of a file in FastAPI's format, located by row and column."""
    return RequestValidationError(
        [
            {"type": "table", "loc": _place(problem), "msg": problem.message, "input": problem.value}
            for problem in problems
        ]
    )


def _place(problem: Any) -> tuple[str, ...]:
    row = None if problem.row is None else f"row {problem.row}"
    return ("body", *(part for part in (row, problem.column) if part is not None))


async def _spooled(request: Request, directory: Path) -> BinaryIO:
    """Return the body as a file without a name, which disappears when it is closed or the process ends."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with ExitStack() as on_failure:
            file: Any = on_failure.enter_context(tempfile.TemporaryFile(dir=directory))
            waiting = bytearray()
            async for chunk in request.stream():
                waiting += chunk
                if len(waiting) >= _SPOOL_BYTES:
                    await run_in_threadpool(file.write, waiting)
                    waiting = bytearray()
            await run_in_threadpool(file.write, waiting)
            await run_in_threadpool(file.flush)
            on_failure.pop_all()  # the end of the answer closes the file
    except OSError as error:
        raise HTTPException(
            507, f"the file cannot be kept in {directory} ({error.strerror}): free space there, or send it in parts"
        ) from error
    return file  # type: ignore[no-any-return]


def _accepted(accept: str, given: str) -> str:
    """Return the media type of the answer: the first known one in ``accept``, or that of the file."""
    for part in accept.lower().split(","):
        wanted, *parameters = (word.strip() for word in part.split(";"))
        if "q=0" in parameters:
            continue
        if wanted in MEDIA_TYPES:
            return wanted
        if wanted in ("*/*", "", f"{given.partition('/')[0]}/*"):
            return given
    raise HTTPException(406, f"the answer can be {' or '.join(MEDIA_TYPES)}, not {accept[:200]}")
