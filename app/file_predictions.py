"""Files in and out of `/predict/batch`: CSV or Parquet, of any length, in bounded memory.

The body is kept in an unnamed file under ``STATE_DIR/spool`` and read twice: first to check all of it, so that a
mistake anywhere is a 422 before the answer begins, then to predict it batch by batch. The predictions of a batch are
in the prediction log before they are sent. A failure in between (a full disk, a stop) ends the answer without its
last chunk, so a client notices that it is incomplete; the rows that it received are logged.
"""

from __future__ import annotations

import codecs
import errno
import io
import re
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, suppress
from email.message import Message
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import numpy as np
from fastapi import HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import StreamingResponse
from loguru import logger
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Scope, Send

from app.champion import Champion, Matrix
from app.deps import Parts
from app.errors import InvalidFileError
from app.explanations import Explanations
from app.predictor import Predictor, predict_rows
from app.processes import Processes
from tableloop.model.intervals import Answers
from tableloop.state.prediction_rows import Row
from tableloop.table import load_table

if TYPE_CHECKING:  # as below: without pyarrow
    from tableloop.files import Kind

MEDIA_TYPES: Final[dict[str, Kind]] = {
    "text/csv": "csv",
    "application/vnd.apache.parquet": "parquet",
}
MAX_FILE_BYTES: Final = 1024**3
RESERVE_BYTES: Final = 200 << 20  # of the disk, for what must be written: predictions, labels, logs
EXPLAINED_ROWS: Final = 1_000  # two minutes of a core
EXPLANATION_COLUMNS: Final = ("base_value", *(f"contribution_{input_.name}" for input_ in load_table().inputs))
_EXPLAINED_TOGETHER: Final = 20
_SPOOL_BYTES: Final = 1 << 20
_CHARSET: Final = re.compile(r"utf-(8-sig|16|32)(-[bl]e)?|iso8859-[0-9]+|cp125[0-9]|mac-roman")


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
    parts.access.check_predict(request)
    predictor = parts.predictor
    champion = predictor.champion()
    given = media_type(request.scope)
    decoder = _decoder(request.headers["content-type"]) if given == "text/csv" else None
    wanted = _accepted(request.headers.get("accept", "*/*"), given)
    kind_in, kind_out = MEDIA_TYPES[given], MEDIA_TYPES[wanted]
    explained = asks_for_reasons(request)
    with ExitStack() as until_refused:
        until_refused.enter_context(parts.uploads.one_of(request.client.host if request.client else ""))
        file = until_refused.enter_context(await _spooled(request, parts.layout.spool, decoder))
        try:
            rows = await _checked(file, kind_in, kind_out, parts)
            if explained and rows > EXPLAINED_ROWS:
                raise tables.TableError.of(
                    f"explain=true is for at most {EXPLAINED_ROWS:,} rows; there are {rows:,}: send fewer"
                )
            reader = tables.TableReader(file, kind_in, load_table())
            sink = io.BytesIO()
            further = EXPLANATION_COLUMNS if explained else ()
            writer = tables.TableWriter(sink, reader.schema, kind_out, load_table().answer, further)
        except tables.TableError as error:
            raise InvalidFileError([_located(problem) for problem in error.problems], error.unlisted) from error
        until_sent = until_refused.pop_all()
    line = request.scope["line"]
    line.update(model_version=champion.version, rows=rows)
    explanations = parts.explanations if explained else None
    answer = _answer(predictor, champion, _Table(reader, writer, sink, explained=explained), line, explanations)
    return _FileResponse(answer, wanted, until_sent)


def asks_for_reasons(request: Request) -> bool:
    """Return whether a request asks for contributions, by ``explain=true``.

    Raises
    ------
    RequestValidationError
        It is neither true nor false.
    """
    given = request.query_params.get("explain", "false")
    if given not in ("true", "false"):
        problem = {"type": "bool_parsing", "loc": ("query", "explain"), "msg": "Input should be true or false"}
        raise RequestValidationError([problem | {"input": given}])
    return given == "true"


class _FileResponse(StreamingResponse):
    """An answer that gives back the file and its place at its end, also when the client has left before it began."""

    def __init__(self, answer: AsyncIterator[bytes], media_type: str, until_sent: ExitStack) -> None:
        super().__init__(answer, media_type=media_type)
        self._until_sent = until_sent

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer."""
        with self._until_sent:
            await super().__call__(scope, receive, send)


async def _checked(file: BinaryIO, kind: Kind, kind_out: Kind, parts: Parts) -> int:
    """Return how many rows a file has; all of them are valid, and the answer can hold them."""
    if kind == "csv":
        from tableloop.files import check_table  # noqa: PLC0415 - as above

        return await run_in_threadpool(check_table, file, kind, load_table(), kind_out)
    async with parts.uploads.checks:
        return await run_in_threadpool(_check_parquet, file, kind_out, parts.processes)


def _check_parquet(file: BinaryIO, kind_out: Kind, processes: Processes) -> int:
    from tableloop.file_check import check_parquet  # noqa: PLC0415 - as above

    with processes.lock("check"):
        return check_parquet(file, kind_out)


class _Table:
    """An answer that is being made, for use by one thread at a time."""

    def __init__(self, reader: Any, writer: Any, sink: io.BytesIO, *, explained: bool) -> None:
        # Few at a time where each takes a tenth of a second: a client sees that the answer goes on.
        self._batches = _divided(reader.batches()) if explained else reader.batches()
        self._writer = writer
        self._sink = sink

    def predict_next(self, champion: Champion, request_id: str) -> tuple[Any, Answers, list[str], list[Row]] | None:
        """Return the next rows with their answers, ids and rows for the prediction log; None at the end."""
        rows = next(self._batches, None)
        if rows is None:
            return None
        return rows, *predict_rows(champion, rows.features, rows.values(), request_id)

    def encode(
        self, rows: Any, answers: Answers, version: str, ids: list[str], contributions: Sequence[Matrix]
    ) -> bytes:
        """Return the next bytes of the answer, with the predictions of some rows."""
        self._writer.write(rows.batch, answers, version, ids, contributions)
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


def _divided(batches: Iterator[Any]) -> Iterator[Any]:
    for rows in batches:
        for start in range(0, len(rows.features), _EXPLAINED_TOGETHER):
            yield rows.part(start, _EXPLAINED_TOGETHER)


async def _contributions(explanations: Explanations, champion: Champion, rows: Matrix) -> list[Matrix]:
    """Return the columns of `EXPLANATION_COLUMNS` for rows; `/explain` has its turn between them."""
    found = [(await explanations.of(champion, row)).shapley for row in rows]
    return [*np.array([(shapley.base, *shapley.values) for shapley in found]).T]


async def _answer(
    predictor: Predictor, champion: Champion, table: _Table, line: dict[str, Any], explanations: Explanations | None
) -> AsyncIterator[bytes]:
    sent, request_id = 0, line["request_id"]
    try:
        while True:
            async with predictor.files:
                predicted = await run_in_threadpool(table.predict_next, champion, request_id)
                if predicted is None:
                    break
                rows, answers, ids, logged = predicted
                committed = predictor.committed(logged)
                if explanations is None:
                    encoded = await run_in_threadpool(table.encode, rows, answers, champion.version, ids, ())
                await committed
            if explanations is not None:  # while other files are predicted
                why = await _contributions(explanations, champion, rows.features)
                encoded = await run_in_threadpool(table.encode, rows, answers, champion.version, ids, why)
            line.setdefault("prediction_id", ids[0])
            yield encoded
            sent += len(ids)
            predictor.metrics.count(champion.version, answers.values)
        yield await run_in_threadpool(table.end)
    except Exception as error:
        line.update(rows=sent, error=str(error))
        logger.error(f"request {request_id} is incomplete: it ends after {sent:,} rows: {error}")
        raise


def _located(problem: Any) -> dict[str, Any]:
    """Return a problem of a file in FastAPI's format, located by row and column."""
    row = None if problem.row is None else f"row {problem.row}"
    place = ("body", *(part for part in (row, problem.column) if part is not None))
    return {"type": "table", "loc": place, "msg": problem.text, "input": problem.value}


def _check_reserve(directory: Path, coming: int) -> None:
    if shutil.disk_usage(directory).free - coming < RESERVE_BYTES:
        raise OSError(errno.ENOSPC, f"less than {RESERVE_BYTES >> 20} MB would be left for predictions and labels")


async def _spooled(request: Request, directory: Path, decoder: codecs.IncrementalDecoder | None) -> BinaryIO:
    """Return the body as a file without a name, which disappears when it is closed or the process ends.

    With a decoder it is written as UTF-8.
    """
    announced = request.headers.get("content-length", "")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        _check_reserve(directory, int(announced) if announced.isdigit() else 0)
        with ExitStack() as on_failure:
            file: Any = on_failure.enter_context(tempfile.TemporaryFile(dir=directory))
            waiting = bytearray()
            async for chunk in request.stream():
                waiting += chunk if decoder is None else decoder.decode(chunk, final=not chunk).encode()
                if len(waiting) >= _SPOOL_BYTES:
                    _check_reserve(directory, len(waiting))
                    await run_in_threadpool(file.write, waiting)
                    waiting = bytearray()
            await run_in_threadpool(file.write, waiting)
            await run_in_threadpool(file.flush)
            on_failure.pop_all()  # the end of the answer closes the file
    except UnicodeError as error:
        problem = {"type": "table", "loc": ("body",), "msg": f"its text is not in the charset that it names: {error}"}
        raise InvalidFileError([problem], 0) from error
    except OSError as error:
        raise HTTPException(
            507, f"the file cannot be kept in {directory} ({error.strerror}): free space there, or send it in parts"
        ) from error
    return file  # type: ignore[no-any-return]


def _decoder(content_type: str) -> codecs.IncrementalDecoder | None:
    """Return what decodes text of the charset that a Content-Type names; None for UTF-8.

    Raises
    ------
    HTTPException
        415: another charset than those of spreadsheets, or a file without a header.
    """
    message = Message()
    message["content-type"] = content_type
    if message.get_param("header") == "absent":
        raise HTTPException(415, "a CSV file needs a header, and header=absent says that it has none")
    charset = message.get_content_charset("utf-8")
    with suppress(LookupError):
        name = codecs.lookup(charset).name
        if name in ("utf-8", "ascii"):
            return None
        if _CHARSET.fullmatch(name):
            return codecs.getincrementaldecoder(name)()
    raise HTTPException(415, f"the charset {charset[:100]} is not read: send the file in UTF-8")


def _accepted(accept: str, given: str) -> str:
    """Return the media type of the answer: the known one that ``accept`` likes most, the first of several."""
    best, liked = "", 0.0
    for part in accept.lower().split(","):
        wanted, *parameters = (word.strip() for word in part.split(";"))
        quality = 1.0
        with suppress(ValueError):
            quality = next((float(word[2:]) for word in parameters if word.startswith("q=")), 1.0)
        if wanted in ("*/*", "", f"{given.partition('/')[0]}/*"):
            wanted = given
        if wanted in MEDIA_TYPES and quality > liked:
            best, liked = wanted, quality
    if not best:
        raise HTTPException(406, f"the answer can be {' or '.join(MEDIA_TYPES)}, not {accept[:200]}")
    return best
