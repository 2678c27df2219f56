"""What a failed request to S3 means: the storage is away, or a user has something to mend."""

from __future__ import annotations

import contextlib
from typing import NamedTuple

from botocore import exceptions
from botocore.credentials import Credentials
from botocore.parsers import ResponseParserError

from beam_pipeline.errors import EnvironmentFailure, PipelineError, UsageError
from beam_pipeline.storage.protocol import StorageAwayError

_AWAY_CODES = frozenset(
    {
        *("InternalError", "OperationAborted", "RequestTimeout", "ServiceUnavailable"),
        *("SlowDown", "Throttling", "ThrottlingException", "TooManyRequests"),
        *("RequestLimitExceeded", "BandwidthLimitExceeded", "503"),
    }
)
_EXPIRED_CODES = frozenset({"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"})
_KEY_CODES = frozenset(
    {
        *("InvalidAccessKeyId", "InvalidToken", "SignatureDoesNotMatch"),
        "XAdminUserNotFound",  # versitygw's InvalidAccessKeyId
    }
)
_FORBIDDEN = 403
_REGION_CODES = frozenset(
    {
        *("AuthorizationHeaderMalformed", "IllegalLocationConstraintException"),
        *("PermanentRedirect", "TemporaryRedirect", "301", "307"),
    }
)
_NOT_SIGNED_IN = (
    exceptions.CredentialRetrievalError,
    exceptions.NoAuthTokenError,
    exceptions.SSOError,
    exceptions.TokenRetrievalError,
    exceptions.LoginTokenLoadError,
)
_AWAY_ERRORS = (
    exceptions.HTTPClientError,
    exceptions.ConnectionError,
    exceptions.IncompleteReadError,
)


class Target(NamedTuple):
    """What a request was made to.

    Attributes:
        url: the URL of the storage, as in the flag.
        bucket: the bucket.
        endpoint: the URL of the server; empty if that is not known yet.
        credentials: those of the SDK, which no message may have; None if there are none.
    """

    url: str
    bucket: str
    endpoint: str
    credentials: Credentials | None


def code_of(error: exceptions.ClientError) -> str:
    """Return the code of an error that the server answered; from a HEAD it is the HTTP status."""
    return str(error.response.get("Error", {}).get("Code", ""))


def translated(
    error: Exception, target: Target, where: str
) -> StorageAwayError | PipelineError | None:
    """Return what the pipeline raises in place of an error of the SDK; None for other errors.

    Args:
        error: what boto3 raised.
        target: what the request was made to.
        where: the URL of the object, or of the storage.
    """
    if isinstance(error, exceptions.ClientError):
        return _answered(error, target, where)
    at = f" at {target.endpoint}" if target.endpoint else ""
    if isinstance(error, exceptions.SSLError):
        return EnvironmentFailure(
            f"{target.url}: no trusted connection{at} ({_first_line(error)}); correct the endpoint "
            "in --storage_config, or set AWS_CA_BUNDLE to the file of its authority"
        )
    if isinstance(error, exceptions.ProxyConnectionError):
        return StorageAwayError(
            f"{where}: the proxy does not answer; check HTTPS_PROXY and NO_PROXY"
        )
    if isinstance(error, _AWAY_ERRORS):
        return StorageAwayError(f"{where}: no answer{at} ({type(error).__name__})")
    if isinstance(error, exceptions.ProfileNotFound):
        return UsageError(
            f"{target.url}: {error}; correct `profile` in --storage_config, or AWS_PROFILE"
        )
    if isinstance(error, exceptions.NoCredentialsError | exceptions.PartialCredentialsError):
        return EnvironmentFailure(
            f"{target.url}: no credentials for S3; set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or a profile in --storage_config"
        )
    if isinstance(error, _NOT_SIGNED_IN):
        return EnvironmentFailure(
            f"{target.url}: the credentials can't be had ({type(error).__name__}); sign in again, "
            "for example with `aws sso login`, or correct the profile"
        )
    if isinstance(error, ResponseParserError):
        return EnvironmentFailure(
            f"{target.url}: what answers{at} is no S3 server; correct the endpoint in "
            "--storage_config"
        )
    if isinstance(error, exceptions.BotoCoreError | ValueError):
        return UsageError(f"{target.url}: {_first_line(error)}")
    return None


def _answered(
    error: exceptions.ClientError, target: Target, where: str
) -> StorageAwayError | PipelineError:
    code, status = code_of(error), error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    at = f" at {target.endpoint}"
    if code in _AWAY_CODES or (isinstance(status, int) and (status >= 500 and status != 501)):
        return StorageAwayError(f"{where}: the store can't serve now ({code}){at}")
    if code == "NoSuchBucket":
        return EnvironmentFailure(
            f"{target.url}: there is no bucket {target.bucket!r}{at}; create it, or correct the URL"
        )
    if code == "RequestTimeTooSkewed":
        return EnvironmentFailure(
            f"{target.url}: the clock of this machine differs too much from the store's{at}; "
            "correct the clock (NTP)"
        )
    if code in _EXPIRED_CODES:
        return EnvironmentFailure(
            f"{target.url}: the token of the credentials has expired; sign in again, or renew it"
        )
    if code in _KEY_CODES:
        return EnvironmentFailure(
            f"{target.url}: the store{at} refuses the credentials ({code}); correct "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the profile in --storage_config"
        )
    if code in _REGION_CODES:
        region = error.response.get("Error", {}).get("Region") or _bucket_region(error)
        return EnvironmentFailure(
            f"{target.url}: the bucket is in another region"
            f"{f', {region}' if region else ''}; set `region` in --storage_config, or AWS_REGION"
        )
    if status == _FORBIDDEN:
        return EnvironmentFailure(
            f"{where}: access denied{_message(error, target)}; the pipeline needs s3:ListBucket, "
            "s3:ListBucketMultipartUploads, s3:GetObject, s3:PutObject, s3:DeleteObject and "
            "s3:AbortMultipartUpload"
        )
    return EnvironmentFailure(
        f"{where}: the store{at} refuses {error.operation_name} ({code})"
        f"{_message(error, target)}; correct the URL, or the endpoint in --storage_config"
    )


def _bucket_region(error: exceptions.ClientError) -> str | None:
    headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    region = headers.get("x-amz-bucket-region")
    return None if region is None else str(region)


def _message(error: exceptions.ClientError, target: Target) -> str:
    """Return what the server said, in brackets, on one line and without credentials."""
    text = " ".join(str(error.response.get("Error", {}).get("Message", "")).split())
    if target.credentials is not None:
        with contextlib.suppress(Exception):  # they may have to be renewed, which may fail
            for secret in target.credentials.get_frozen_credentials():
                if isinstance(secret, str) and secret:
                    text = text.replace(secret, "***")
    return f" ({text[:300]})" if text else ""


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
