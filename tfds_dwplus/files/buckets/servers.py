"""Objects of a bucket, of Google Cloud Storage or S3, by the clients of their makers: listed, downloaded, uploaded, removed.

Enters: `gs://BUCKET` or `s3://BUCKET`. Leaves: files, whose checksums were compared. What may pass, such as 503 or a cut connection, is
tried again; the rest is an OSError of one line.

Accounts, regions and endpoints are found as those clients find them: `gcloud auth application-default login` or the role of the machine,
`AWS_PROFILE`, `AWS_ENDPOINT_URL`, `STORAGE_EMULATOR_HOST` and so on.
"""

import base64
import contextlib
import dataclasses
import errno
import hashlib
import io
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from tfds_dwplus.files.addresses import shown_in
from tfds_dwplus.files.strangers import one_line

WAITS_S = (0.5, 1, 2, 4, 8, 15, 30)
"""Seconds before each new try: a minute in all."""

CHUNK = 64 << 20
"""Bytes of a part in which a large file is sent. S3 tells the MD5 of the parts, so a reader must know their size."""

_PARTS = (CHUNK, *(mib << 20 for mib in (5, 8, 10, 15, 16, 32, 50, 100, 128, 256, 512)))
"""Sizes of parts that are tried to check a large object of S3. 8 MiB: the AWS command line."""

_PASSING = (408, 425, 429, 500, 502, 503, 504)
"""HTTP codes after which it is worth while to try again."""

_NO_ROOM = ("quota", "insufficientstorage", "507", "billing", "diskfull", "storagefull")
"""Words in a server's answer that say that there is no room, or no money for it."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """What a server tells of an object."""

    size: int
    tag: str
    """Changes with the content: the generation, or the ETag."""
    modified_ns: int
    md5: str = ""
    """Hexadecimal; of an S3 object in parts, the MD5 of theirs and '-' and their number; '' if not told."""


class BucketError(OSError):
    """A bucket cannot be read or written."""

    def __init__(self, number: int, reason: str, address: str, *, passing: bool) -> None:
        super().__init__(number, reason, address)
        self.passing = passing
        """Whether it may pass by itself."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _error, (self.errno, self.strerror, self.filename, self.passing)


def _error(number: int, reason: str, address: str, passing: bool) -> BucketError:
    return BucketError(number, reason, address, passing=passing)


@runtime_checkable
class Server(Protocol):
    """A bucket. Every method may raise what its client raises; `tried` makes one line of it."""

    def list(self, prefix: str, most: int | None = None) -> dict[str, Entry]:
        """Returns the objects whose name begins with `prefix`, in the order of their names; the first `most` of them."""

    def get(self, name: str, to: Path) -> None:
        """Downloads an object."""

    def put(self, content: io.BufferedIOBase, size: int, name: str) -> Entry:
        """Uploads an object in one step: readers see the old or the new one."""

    def remove(self, name: str) -> None:
        """Removes an object; nothing happens if there is none."""

    def tells_md5(self, name: str) -> bool:
        """Whether `Entry.md5` of an object is one: the ETag of S3 is not if a key of the customer encrypts it."""


class Google:
    """A bucket of Google Cloud Storage."""

    def __init__(self, bucket: str) -> None:
        try:
            from google.auth.credentials import AnonymousCredentials
            from google.auth.exceptions import DefaultCredentialsError
            from google.cloud import storage
        except ImportError:
            raise ValueError(f"gs://{bucket} needs Google's client; pip install 'specsar_jax[buckets]'") from None
        try:
            client = (
                storage.Client(project="emulated", credentials=AnonymousCredentials())
                if os.environ.get("STORAGE_EMULATOR_HOST")
                else storage.Client(project=os.environ.get("GOOGLE_CLOUD_PROJECT") or "none")
            )
        except DefaultCredentialsError:  # without an account, what is public can be read
            client = storage.Client.create_anonymous_client()
        self._client, self._bucket = client, client.bucket(bucket)

    def list(self, prefix: str, most: int | None = None) -> dict[str, Entry]:
        """As `Server.list`."""
        blobs = self._client.list_blobs(self._bucket, prefix=prefix, max_results=most, retry=None)
        return {blob.name: self._entry(blob) for blob in blobs}

    def get(self, name: str, to: Path) -> None:
        """As `Server.get`; the client compares the checksum that the server sends."""
        self._bucket.blob(name).download_to_filename(str(to), retry=None, checksum="auto")

    def put(self, content: io.BufferedIOBase, size: int, name: str) -> Entry:
        """As `Server.put`."""
        blob = self._bucket.blob(name, chunk_size=CHUNK if size > CHUNK else None)
        if size > CHUNK:
            blob.upload_from_file(content, size=size, retry=None, checksum="auto")
        else:
            blob.upload_from_string(content.read(size), "application/octet-stream", retry=None, checksum="auto")
        return self._entry(blob)

    def remove(self, name: str) -> None:
        """As `Server.remove`."""
        from google.api_core.exceptions import NotFound

        with contextlib.suppress(NotFound):
            self._bucket.blob(name).delete(retry=None)

    def tells_md5(self, name: str) -> bool:
        """As `Server.tells_md5`."""
        return True

    @staticmethod
    def _entry(blob: Any) -> Entry:
        md5 = base64.b64decode(blob.md5_hash).hex() if blob.md5_hash else ""
        modified = blob.updated or blob.time_created
        return Entry(blob.size, str(blob.generation or blob.etag), int(modified.timestamp() * 1e6) * 1000, md5)


class S3:
    """A bucket of S3, or of a server that speaks like it."""

    def __init__(self, bucket: str) -> None:
        try:
            import boto3
            import botocore
            from boto3.s3.transfer import TransferConfig
        except ImportError:
            raise ValueError(f"s3://{bucket} needs Amazon's client; pip install 'specsar_jax[buckets]'") from None
        settings: dict[str, Any] = {"retries": {"mode": "standard", "total_max_attempts": 1}}
        if boto3.Session().get_credentials() is None:  # without an account, what is public can be read
            settings["signature_version"] = botocore.UNSIGNED
        region = boto3.Session().region_name or "us-east-1"
        self._client = boto3.client("s3", region_name=region, config=botocore.config.Config(**settings))
        # Not in threads: they cannot be started any more when Python ends.
        self._transfer = TransferConfig(multipart_threshold=CHUNK, multipart_chunksize=CHUNK, use_threads=False)
        self._bucket = bucket

    def list(self, prefix: str, most: int | None = None) -> dict[str, Entry]:
        """As `Server.list`."""
        found = {}
        limit = {"MaxItems": most, "PageSize": most} if most else {}
        pages = self._client.get_paginator("list_objects_v2")
        for page in pages.paginate(Bucket=self._bucket, Prefix=prefix, PaginationConfig=limit):
            for one in page.get("Contents", ()):
                tag = one["ETag"].strip('"')
                found[one["Key"]] = Entry(one["Size"], tag, int(one["LastModified"].timestamp() * 1e6) * 1000, tag)
        return found

    def get(self, name: str, to: Path) -> None:
        """As `Server.get`."""
        self._client.download_file(self._bucket, name, str(to), Config=self._transfer)

    def put(self, content: io.BufferedIOBase, size: int, name: str) -> Entry:
        """As `Server.put`."""
        if size <= CHUNK:
            told = self._client.put_object(Bucket=self._bucket, Key=name, Body=content.read(size))
            tag = told["ETag"].strip('"')
            return Entry(size, tag, time.time_ns(), tag)
        self._client.upload_fileobj(_Kept(content), self._bucket, name, Config=self._transfer)
        return self.list(name, 1)[name]  # an upload in parts tells nothing

    def remove(self, name: str) -> None:
        """As `Server.remove`."""
        self._client.delete_object(Bucket=self._bucket, Key=name)

    def tells_md5(self, name: str) -> bool:
        """As `Server.tells_md5`."""
        about = self._client.head_object(Bucket=self._bucket, Key=name)
        return "SSECustomerAlgorithm" not in about and about.get("ServerSideEncryption", "AES256") == "AES256"


class _Kept(io.BufferedReader):
    """A file that stays open when boto3 closes what it was given."""

    def __init__(self, file: Any) -> None:
        super().__init__(file.raw if isinstance(file, io.BufferedReader) else file)

    def close(self) -> None:
        """Does nothing."""


def connect(scheme: str, bucket: str) -> Server:
    """Returns a bucket. Raises ValueError if its client is not installed."""
    return Google(bucket) if scheme == "gs" else S3(bucket)


ending = threading.Event()
"""Set when the process is about to end: nothing waits then to be tried again."""

_LOCAL = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EMFILE, errno.ENFILE)
"""Errors of this machine, which no server mends."""


class GoneError(Exception):
    """An object that was listed is not there any more."""


def tried(what: str, act: Callable[[], Any]) -> Any:
    """Returns what `act` returns; tries again after what may pass, and says so once.

    Raises:
        BucketError: it did not pass, or cannot; of one line, with the address `what` as its `filename`.
        OSError: this disk is full, or a file of it is gone or cannot be read.
        GoneError: as `act`.
    """
    for wait in (*WAITS_S, None):
        try:
            return act()
        except (GoneError, FileNotFoundError):
            raise
        except Exception as error:  # of requests, urllib3, google, botocore: they have no base in common
            if isinstance(error, OSError) and error.errno in _LOCAL:
                raise
            passing, number, reason = _told(error)
            if not passing or wait is None:
                raise BucketError(number, reason, what, passing=passing) from None
            if wait == WAITS_S[0]:
                print(f"note: {what}: {reason}; trying again", file=sys.stderr)
            if ending.wait(wait):
                raise BucketError(number, reason, what, passing=passing) from None
    raise AssertionError


def download(server: Server, name: str, entry: Entry, to: Path) -> Entry:
    """Downloads an object, and compares size and checksum. To be called within `tried`.

    Returns:
        What was downloaded: `entry`, or what took its place since it was listed.

    Raises:
        GoneError: it is not there any more.
        ConnectionError: size or checksum differ.
    """
    try:
        return _downloaded(server, name, entry, to)
    except Exception:
        now = server.list(name, 1).get(name)
        if now is None:
            raise GoneError(name) from None
        if now == entry:
            raise
        return _downloaded(server, name, now, to)


def _downloaded(server: Server, name: str, entry: Entry, to: Path) -> Entry:
    server.get(name, to)
    if to.stat().st_size != entry.size:
        raise ConnectionError(f"{to.stat().st_size} bytes came of {entry.size}")
    with to.open("rb") as file:
        if entry.md5 and not is_md5(entry.md5, file, entry.size) and server.tells_md5(name):
            raise ConnectionError("what came has another checksum")
    return entry


def upload(server: Server, content: io.BufferedIOBase, size: int, name: str) -> Entry:
    """Uploads the first `size` bytes of a file, and compares the checksum that the server found. To be called within `tried`.

    Raises:
        ConnectionError: the checksums differ.
    """
    content.seek(0)
    entry = server.put(content, size, name)
    content.seek(0)
    same = not entry.md5 or is_md5(entry.md5, content, size) or not server.tells_md5(name)
    if entry.size != size or not same:
        raise ConnectionError("the server has another checksum than what was sent")
    return entry


def is_md5(told: str, content: io.BufferedIOBase, size: int) -> bool:
    """Whether content has an MD5, or that of an S3 object in parts. Of parts of an unknown size only the size was compared."""
    whole, _, parts = told.partition("-")
    if not parts:
        return _md5(content, [size])[0].hex() == whole
    for part in _PARTS:
        if -(-size // part) == int(parts):
            content.seek(0)
            sums = _md5(content, [part] * int(parts))
            if hashlib.md5(b"".join(sums), usedforsecurity=False).hexdigest() == whole:
                return True
    return not any(-(-size // part) == int(parts) for part in _PARTS)


def _md5(content: io.BufferedIOBase, sizes: list[int]) -> list[bytes]:
    sums = []
    for left in sizes:
        digest = hashlib.md5(usedforsecurity=False)
        while left > 0 and (block := content.read(min(left, 1 << 20))):
            digest.update(block)
            left -= len(block)
        sums.append(digest.digest())
    return sums


def _told(error: BaseException) -> tuple[bool, int, str]:
    """Returns whether an error may pass, its number of the system, and its reason in one line."""
    code, said = _code(error), one_line(shown_in(_said(error)), 160)
    low = said.casefold().replace(" ", "")
    if code in (401, 403) and not any(word in low for word in _NO_ROOM):
        return False, errno.EACCES, f"no permission ({said}); look at the account, and at its roles on the bucket"
    if code == 404:
        return False, errno.ENOENT, f"there is no such bucket or object ({said})"
    if code == 507 or (
        code is not None and 400 <= code < 500 and code not in (408, 425) and any(word in low for word in _NO_ROOM)
    ):
        return False, errno.ENOSPC, f"there is no room for more ({said})"
    if code is not None and code not in _PASSING and "requesttimeout" not in low:  # which S3 tells as 400
        return False, errno.EIO, said
    if code is None and type(error).__name__ in (
        "RefreshError",
        "NoCredentialsError",
        "PartialCredentialsError",
        "ProfileNotFound",
    ):
        return False, errno.EACCES, f"no account ({said}); log in, or name one"
    return True, errno.EIO, said


def _code(error: BaseException | None) -> int | None:
    """Returns the HTTP code that an error, or what caused it, tells."""
    seen = 0
    while error is not None and seen < 8:
        response = getattr(error, "response", None)
        told = response.get("ResponseMetadata", {}).get("HTTPStatusCode") if isinstance(response, dict) else None
        told = told or getattr(response, "status_code", None) or getattr(error, "code", None)
        if told is not None and str(getattr(told, "value", told)).isdigit():
            return int(getattr(told, "value", told))
        error, seen = error.__cause__ or error.__context__, seen + 1
    return None


def _said(error: BaseException) -> str:
    # Google's client adds what it expected: "...: ('Request failed with status code', 503, 'Expected one of', ...)"
    return str(error).partition(": ('Request failed")[0] or type(error).__name__


def point_gdal_to_servers() -> None:
    """Makes GDAL read buckets from the servers that the variables of the clients name; its own variables go before."""
    settings = {}
    if host := os.environ.get("STORAGE_EMULATOR_HOST"):
        host = host if "://" in host else f"http://{host}"
        settings = {"CPL_GS_ENDPOINT": f"{host.rstrip('/')}/", "GS_NO_SIGN_REQUEST": "YES"}
    if address := os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"):
        scheme, _, host = address.rpartition("://")
        https = "NO" if scheme == "http" else "YES"
        settings |= {"AWS_S3_ENDPOINT": host.rstrip("/"), "AWS_HTTPS": https, "AWS_VIRTUAL_HOSTING": "FALSE"}
    for name, value in settings.items():
        os.environ.setdefault(name, value)
