"""What is asked of each kind of store: an object's size and version, and a range of its bytes.

The stores' packages retry by themselves, each in its own way. They are asked not to: `StoreCalls` retries for all of
them alike.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any, BinaryIO, NamedTuple
from urllib.parse import quote

from disttrain.activity import touch
from disttrain.errors import UsageError
from disttrain.storage.answers import CONTENT_RANGE, Asked

_PIECE_BYTES = 1 << 20
_FIRST_BYTE = {"Range": "bytes=0-0"}


class Protocol(NamedTuple):
    """Two coroutine functions, called with an fsspec filesystem and a path in it.

    `info` returns what is known of an object: its `size` in bytes, its `type`, fields that tell its version.
    `read` returns the bytes of a range, and rejects an answer that `Asked.check` rejects.
    """

    info: Callable[[Any, str], Coroutine[Any, Any, dict[str, Any]]]
    read: Callable[[Any, str, Asked], Coroutine[Any, Any, bytes]]


def protocol_of(url: str) -> Protocol:
    """Returns how a URL's store is asked: in general by what fsspec offers for all, which tells no version."""
    return _PROTOCOLS.get(url.split("://", 1)[0], _ANY)


# -- any store


async def _any_info(fs: Any, path: str) -> dict[str, Any]:
    fs.invalidate_cache(path)
    return dict(await fs._info(path))


async def _any_range(fs: Any, path: str, asked: Asked) -> bytes:
    return bytes(await fs._cat_file(path, start=asked.start, end=asked.stop))


# -- web servers


async def _http_info(fs: Any, path: str) -> dict[str, Any]:
    session, url, options = await fs.set_session(), fs.encode_url(path), _http_options(fs, {})
    async with session.head(url, allow_redirects=True, **options) as answer:
        if answer.ok and "Content-Length" in answer.headers and not _is_encoded(answer.headers):
            return _told(answer.headers, int(answer.headers["Content-Length"]))
        if answer.status == 429 or (answer.status >= 500 and answer.status != 501):
            answer.raise_for_status()
    async with session.get(url, **_http_options(fs, _FIRST_BYTE)) as answer:  # HEAD did not tell the size
        if answer.status == 416:  # the file is empty
            return _told(answer.headers, 0)
        answer.raise_for_status()
        match = CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        size = match[3] if match else answer.headers.get("Content-Length")
        is_known = size is not None and size.isdecimal() and not _is_encoded(answer.headers)
        return _told(answer.headers, int(size) if is_known else None)


def _is_encoded(headers: Mapping[str, str]) -> bool:
    return headers.get("Content-Encoding", "identity") not in ("identity", "")


def _told(headers: Mapping[str, str], size_bytes: int | None) -> dict[str, Any]:
    names = ("ETag", "Content-MD5", "Digest", "Last-Modified", "Accept-Ranges")
    return {"size": size_bytes, "type": "file", **{name: headers[name] for name in names if headers.get(name)}}


async def http_serves_ranges(fs: Any, path: str) -> bool:
    """Asks a web server that does not say so whether it serves ranges: for one byte."""
    session = await fs.set_session()
    async with session.get(fs.encode_url(path), **_http_options(fs, _FIRST_BYTE)) as answer:
        if answer.status == 416:  # the file is empty
            return True
        answer.raise_for_status()
        return bool(answer.status == 206)


async def http_whole(fs: Any, path: str, stream: BinaryIO, info: Mapping[str, Any]) -> None:
    """Writes a whole object over what a stream holds; ConnectionError if its size is not that of `info`.

    Raises FileChanged if its version is not.
    """
    from aiohttp import ClientTimeout

    stream.seek(0)
    stream.truncate()
    size_bytes, session = int(info["size"]), await fs.set_session()
    options = {**_http_options(fs, {}), "timeout": ClientTimeout(total=None, sock_connect=30, sock_read=60)}
    async with session.get(fs.encode_url(path), **options) as answer:
        answer.raise_for_status()
        told = answer.headers
        asked = Asked(str(answer.url), info, (0, size_bytes))
        asked.check(f"bytes 0-{size_bytes - 1}/*", told.get("ETag", ""), told.get("Last-Modified", ""))
        async for piece in answer.content.iter_chunked(_PIECE_BYTES):
            stream.write(piece)
            touch()
    if stream.tell() != size_bytes:
        raise ConnectionError(f"asked for {size_bytes} bytes, got {stream.tell()}")


async def _http_range(fs: Any, path: str, asked: Asked) -> bytes:
    headers = {"Range": asked.header} | ({"If-Match": asked.strong_etag} if asked.strong_etag else {})
    return await _got(await fs.set_session(), fs.encode_url(path), asked, _http_options(fs, headers))


def _http_options(fs: Any, headers: Mapping[str, str]) -> dict[str, Any]:
    """Returns the options of a request: those of fsspec's configuration, with some more headers."""
    return {**fs.kwargs, "headers": {**fs.kwargs.get("headers", {}), "Accept-Encoding": "identity", **headers}}


async def _got(session: Any, url: str, asked: Asked, options: Mapping[str, Any]) -> bytes:
    """Returns the bytes asked for; rejects an answer with others before it reads the body."""
    async with session.get(url, **options) as answer:
        answer.raise_for_status()
        content_range = answer.headers.get("Content-Range") if answer.status == 206 else None
        is_all = (asked.start, asked.stop) == (0, asked.size_bytes) == (0, answer.content_length)
        is_untold = answer.status == 206 and content_range is None and answer.content_type != "multipart/byteranges"
        if is_untold or (answer.status == 200 and is_all):  # only the length can be checked
            content_range = f"bytes {asked.start}-{asked.stop - 1}/*"
        told = answer.headers
        asked.check(
            content_range, told.get("ETag", ""), told.get("Last-Modified", ""), told.get("X-Goog-Generation", "")
        )
        return bytes(await answer.read())


# -- S3


async def _s3_range(fs: Any, path: str, asked: Asked) -> bytes:
    bucket, key, version = fs.split_path(path)
    options = {"VersionId": version} if version else {}
    if asked.strong_etag:
        options["IfMatch"] = asked.strong_etag
    answer = await fs._call_s3("get_object", Bucket=bucket, Key=key, Range=asked.header, **options)
    try:
        asked.check(answer.get("ContentRange"), answer.get("ETag", ""))
        return bytes(await answer["Body"].read())
    finally:
        answer["Body"].close()


# -- Google Cloud Storage


async def _google_info(fs: Any, path: str) -> dict[str, Any]:
    bucket, key, generation = fs.split_path(path)
    from aiohttp import ClientResponseError

    session, url = await fs._set_session(), f"{fs._location}/storage/v1/b/{bucket}/o/{quote(key, safe='')}"
    params = fs._get_params({"generation": generation})
    try:
        async with session.get(url, params=params, headers=fs._get_headers({})) as answer:
            answer.raise_for_status()
            found = {**await answer.json(), "type": "file"}
    except ClientResponseError as error:
        if error.status not in (403, 404):
            raise
        try:
            return await _any_info(fs, path)  # who may not get an object may list it; it may be a directory
        except FileNotFoundError:
            raise
        except (OSError, ValueError) as failure:
            raise error from failure
    if found.get("contentEncoding") == "gzip":  # Google unpacks it on the way, and then knows no ranges
        raise UsageError(
            f"gs://{path}: is stored with the content encoding gzip; store it without, under a name that ends in .gz"
        )
    return found


async def _google_range(fs: Any, path: str, asked: Asked) -> bytes:
    params = fs._get_params({"ifGenerationMatch": asked.generation or None})
    headers = fs._get_headers({"Range": asked.header, "Accept-Encoding": "identity"})
    return await _got(await fs._set_session(), fs.url(path), asked, {"params": params, "headers": headers})


# -- Azure


async def _azure_info(fs: Any, path: str) -> dict[str, Any]:
    from azure.core.exceptions import ResourceNotFoundError

    container, name, version = fs.split_path(path)
    if not name:
        return await _any_info(fs, path)
    try:
        async with fs.service_client.get_blob_client(container, name) as client:
            found = await client.get_blob_properties(version_id=version, retry_total=0)
    except ResourceNotFoundError:
        return await _any_info(fs, path)  # it may be a directory
    return {"size": found.size, "type": "file", "ETag": found.etag, "Last-Modified": str(found.last_modified)}


async def _azure_range(fs: Any, path: str, asked: Asked) -> bytes:
    from azure.core import MatchConditions

    container, name, version = fs.split_path(path)
    match = {"etag": asked.etag, "match_condition": MatchConditions.IfNotModified} if asked.etag else {}
    answers = []

    def check(response: Any) -> None:
        """Checks the headers of the first answer: Azure's package tells its own range instead of the answer's."""
        answer = response.http_response
        answers.append(answer)
        if len(answers) == 1 and answer.status_code in (200, 206):
            try:
                asked.check(answer.headers.get("Content-Range"), answer.headers.get("ETag", ""))
            except Exception:
                answer.internal_response.close()
                raise

    async with fs.service_client.get_blob_client(container, name) as client:
        answer = await client.download_blob(
            offset=asked.start,
            length=asked.stop - asked.start,
            version_id=version,
            retry_total=0,
            decompress=False,
            raw_response_hook=check,
            **match,
        )
        return bytes(await answer.readall())


_ANY = Protocol(_any_info, _any_range)
_HTTP = Protocol(_http_info, _http_range)
_S3 = Protocol(_any_info, _s3_range)
_GOOGLE = Protocol(_google_info, _google_range)
_AZURE = Protocol(_azure_info, _azure_range)
_PROTOCOLS = {
    "http": _HTTP,
    "https": _HTTP,
    "s3": _S3,
    "s3a": _S3,
    "gs": _GOOGLE,
    "gcs": _GOOGLE,
    "az": _AZURE,
    "abfs": _AZURE,
    "abfss": _AZURE,
}
