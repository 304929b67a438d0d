"""The meaning of a failed request to S3: retry, no such key, or an error for the user."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import aiohttp
import botocore.exceptions as boto
from botocore.parsers import ResponseParserError

from p5dist.errors import StorageError

_UNREACHABLE = (boto.EndpointConnectionError, boto.ConnectTimeoutError, boto.ProxyConnectionError)
_CUT_OFF = (
    boto.HTTPClientError, boto.IncompleteReadError, boto.FlexibleChecksumError,
    ResponseParserError, aiohttp.ClientError, asyncio.TimeoutError, ConnectionError,
)  # fmt: skip
_NO_CREDENTIALS = (
    boto.NoCredentialsError, boto.PartialCredentialsError, boto.CredentialRetrievalError,
    boto.ProfileNotFound,
)  # fmt: skip

FAILURES = (boto.BotoCoreError, boto.ClientError, *_CUT_OFF)

_PASSING_STATUS = {429, 500, 502, 503, 504}
_PASSING_CODES = {
    "BadDigest", "IncompleteBody", "InternalError", "RequestTimeout", "ServiceUnavailable",
    "SlowDown", "XAmzContentSHA256Mismatch",
}  # fmt: skip
_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "InvalidToken", "TokenRefreshRequired"}
_DENIED = {"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"}
_ELSEWHERE = {"AuthorizationHeaderMalformed", "PermanentRedirect"}

_CHAIN = (
    "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, or AWS_PROFILE, or the role "
    "of the machine, on every node"
)
_PERMISSIONS = {
    "head_object": "s3:GetObject", "get_object": "s3:GetObject", "head_bucket": "s3:ListBucket",
    "list_objects_v2": "s3:ListBucket", "delete_object": "s3:DeleteObject",
    "delete_objects": "s3:DeleteObject",
}  # fmt: skip


def passes(error: Exception) -> bool:
    """Whether the same request may succeed later."""
    if isinstance(error, boto.ClientError):
        return _status(error) in _PASSING_STATUS or _code(error) in _PASSING_CODES
    if isinstance(error, boto.SSLError):
        return False
    return isinstance(error, (*_UNREACHABLE, *_CUT_OFF))


def is_no_key(error: Exception, method: str) -> bool:
    """Whether S3 answered that there is no such key.

    The answer to a head request has no body, so it may also mean a missing bucket; s3fs lists the
    folder next, and the listing raises the error of a missing bucket.
    """
    return isinstance(error, boto.ClientError) and (
        _code(error) == "NoSuchKey" or (_code(error) == "404" and method == "head_object")
    )


def is_gone_upload(error: Exception, method: str) -> bool:
    """Whether S3 does not know the multipart upload that the request completes."""
    return (
        isinstance(error, boto.ClientError)
        and _code(error) == "NoSuchUpload"
        and method == "complete_multipart_upload"
    )


def reason(error: Exception) -> str:
    """The error of S3 or of the connection on one line."""
    if isinstance(error, boto.ClientError):
        message = error.response.get("Error", {}).get("Message", "")
        text = f"HTTP {_status(error) or 200} {_code(error)}: {message}"  # 200: one key of a batch
    else:
        text = f"{type(error).__name__}: {error}"
    return " ".join(text.split())


def url(request: Mapping[str, Any]) -> str:
    """s3://bucket/key of a request."""
    key = request.get("Key") or request.get("Prefix")
    return f"s3://{request.get('Bucket', '')}" + (f"/{key}" if key else "")


def explain(
    error: Exception, method: str, request: Mapping[str, Any], attempts: int
) -> StorageError:
    """The error for the user: operation, bucket and key, answer of S3, and what to check."""
    what, fix = _advice(error, method)
    if isinstance(error, boto.ClientError) and (key := error.response.get("Error", {}).get("Key")):
        request = {**request, "Key": key}
    tries = f", {attempts} attempts" if attempts > 1 else ""
    return StorageError(
        f"{what} ({method}{tries})", where=url(request), value=reason(error), fix=fix
    )


def _advice(error: Exception, method: str) -> tuple[str, str]:
    if isinstance(error, boto.ClientError):
        return _advice_on_answer(error, method)
    if isinstance(error, _NO_CREDENTIALS):
        return "no credentials for object storage", f"set {_CHAIN}"
    if isinstance(error, _UNREACHABLE):
        return (
            "object storage cannot be reached",
            "check AWS_ENDPOINT_URL (unset for AWS itself), AWS_DEFAULT_REGION, the network and "
            "its proxy",
        )
    if isinstance(error, _CUT_OFF):
        return (
            "object storage gave no complete answer",
            "check the network and the store, then start the same command again",
        )
    return (
        "the request to object storage is invalid",
        "check the bucket's name, AWS_ENDPOINT_URL (with http:// or https://) and "
        "AWS_DEFAULT_REGION",
    )


def _advice_on_answer(error: boto.ClientError, method: str) -> tuple[str, str]:
    code, status = _code(error), _status(error)
    if code == "RequestTimeTooSkewed":
        return "the clock of this machine is wrong", "set the clock, for example by NTP"
    if code in _EXPIRED:
        return "the credentials for object storage have expired", f"renew {_CHAIN}"
    if code == "NoSuchBucket" or (code == "404" and method == "head_bucket"):
        return (
            "no such bucket",
            "correct the bucket's name, AWS_DEFAULT_REGION and AWS_ENDPOINT_URL, or create the "
            "bucket",
        )
    if status == 403 or code in _DENIED:
        return (
            "object storage denies access",
            f"allow {_PERMISSIONS.get(method, 's3:PutObject')} for this URL in the policies of "
            "user and bucket (without s3:ListBucket a missing key is denied too), and check "
            f"{_CHAIN}",
        )
    if status == 301 or code in _ELSEWHERE:
        return "the bucket is in another region", "set AWS_DEFAULT_REGION to the bucket's region"
    if status == 412:
        return "the object changed while it was read", "start again when its writer has ended"
    if passes(error):
        return "object storage is overloaded or failing", "start the same command again later"
    return "object storage refuses the request", "read the answer of the store above"


def _code(error: boto.ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _status(error: boto.ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
