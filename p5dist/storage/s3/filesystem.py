"""s3fs with uncached listings, complete bodies, bounded retries and clear errors."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import io
import logging
import random
import re
from typing import Any

import botocore.exceptions as boto
from fsspec.asyn import sync, sync_wrapper
from s3fs import S3FileSystem
from s3fs.core import S3File

from p5dist.errors import StorageError
from p5dist.storage.s3.explain import (
    FAILURES,
    explain,
    is_gone_upload,
    is_no_key,
    passes,
    reason,
    url,
)

ATTEMPTS = 8  # of one request; AWS_MAX_ATTEMPTS or the profile's max_attempts replace this number
CONNECT_SECONDS = 10
READ_SECONDS = 60  # without a single byte
PART_BYTES = 8 << 20  # of an upload
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 10.0

_log = logging.getLogger(__name__)


class S3(S3FileSystem):  # type: ignore[misc]
    """S3 with the standard chain of AWS for endpoint and credentials.

    There is one retry loop. botocore's retries do not cover the body of an answer, retries of s3fs
    multiply with them, and neither logs anything; here both are off, and an attempt is a request
    with its whole body.
    """

    retries = 1  # of s3fs

    def __init__(self) -> None:
        super().__init__(
            use_listings_cache=False,
            config_kwargs={
                "retries": {"total_max_attempts": 1, "mode": "standard"},
                "connect_timeout": CONNECT_SECONDS,
                "read_timeout": READ_SECONDS,
            },
        )

    async def _call_s3(self, method: str, *more: Any, **kwargs: Any) -> Any:
        """Raises FileNotFoundError if there is no such key, StorageError for other failures."""
        attempt, attempts = 1, ATTEMPTS
        while True:
            try:
                await self._ready()
                attempts = self.session.get_config_variable("max_attempts") or ATTEMPTS
                call = getattr(await self.get_s3(kwargs.get("Bucket")), method)
                return await _answer(call, self._get_s3_method_kwargs(call, *more, **kwargs))
            except FAILURES as error:
                if is_no_key(error, method):
                    raise FileNotFoundError(errno.ENOENT, "no such object", url(kwargs)) from error
                if attempt > 1 and is_gone_upload(error, method):
                    # An earlier attempt completed the upload, and its answer was lost.
                    return await self._call_s3(
                        "head_object", Bucket=kwargs["Bucket"], Key=kwargs["Key"]
                    )
                if attempt >= attempts or not passes(error):
                    raise explain(error, method, kwargs, attempt) from error
                pause = min(_FIRST_PAUSE_S * 2 ** (attempt - 1), _LONGEST_PAUSE_S)
                pause *= random.uniform(0.5, 1)  # so that nodes do not retry at the same time
                attempt += 1
                _log.warning(
                    "%s %s: attempt %d of %d in %.1f s after %s",
                    method, url(kwargs), attempt, attempts, pause, reason(error),
                )  # fmt: skip
            await asyncio.sleep(pause)

    call_s3 = sync_wrapper(_call_s3)

    async def _ready(self) -> None:
        try:
            await self.set_session()
        except ValueError as error:  # botocore, for an endpoint that is not a URL
            raise explain(error, "connect", {}, 1) from error

    async def _abort_mpu(self, bucket: str, key: str, mpu: str) -> None:
        """Best effort: an error here would replace the error that caused the abort."""
        with contextlib.suppress(StorageError, FileNotFoundError):
            await super()._abort_mpu(bucket, key, mpu)

    abort_mpu = sync_wrapper(_abort_mpu)

    async def _cat_file(
        self, path: str, *more: Any, start: int | None = None, end: int | None = None, **kw: Any
    ) -> bytes:
        if start is not None or end is not None:
            part: bytes = await super()._cat_file(path, *more, start=start, end=end, **kw)
            return part
        # One request gives one version of the object, even if another process writes it.
        bucket, key, _version = self.split_path(path)
        answer = await self._call_s3("get_object", Bucket=bucket, Key=key)
        data: bytes = await answer["Body"].read()
        return data

    async def _pipe_file(
        self, path: str, data: bytes, chunksize: int = PART_BYTES, **options: Any
    ) -> Any:
        # One put, or concurrent parts that become an object with the last request.
        return await super()._pipe_file(path, data, chunksize=chunksize, **options)

    async def _rm(self, path: str, recursive: bool = False, **_: Any) -> None:
        # s3fs's own _rm takes a name with * or ? for a pattern, and also deletes the bucket.
        keys = await self._find(path) if recursive else [path]
        for i in range(0, len(keys), 1000):
            await self._bulk_delete(keys[i : i + 1000])

    def list_folder(self, path: str) -> list[dict[str, Any]]:
        """Files and folders directly below, from one listing; empty if there are none."""
        found: list[dict[str, Any]] = sync(self.loop, self._lsdir, path)
        return found


class Upload(S3File):  # type: ignore[misc]
    """A stream to write; the object appears when the stream is closed and all parts arrived."""

    def __init__(self, fs: S3, path: str) -> None:
        super().__init__(fs, path, "wb", block_size=PART_BYTES)

    def flush(self, force: bool = False) -> None:
        try:
            super().flush(force)
        except BaseException:
            self.closed = True  # otherwise close() would complete the upload without the lost part
            self.discard()
            raise

    def __del__(self) -> None:
        self.closed = True  # fsspec's destructor would finish an upload that the writer abandoned


class _Body:
    """A complete body, with the interface of the stream that s3fs expects."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    async def read(self, size: int = -1) -> bytes:
        return self._data.read(size)

    def close(self) -> None:
        self._data.close()


async def _answer(call: Any, arguments: dict[str, Any]) -> Any:
    answer = await call(**arguments)
    if "Body" in answer:
        data = await answer["Body"].read()  # checks the length of the headers
        if "Range" in arguments:
            span = re.match(r"bytes (\d+)-(\d+)/", answer.get("ContentRange", ""))
            expected = int(span[2]) - int(span[1]) + 1 if span else 0
            if len(data) != expected:
                raise boto.IncompleteReadError(actual_bytes=len(data), expected_bytes=expected)
        answer["Body"] = _Body(data)
    for error in answer.get("Errors", ()):  # keys that delete_objects did not delete
        raise boto.ClientError({"Error": error}, call.__name__)
    return answer
