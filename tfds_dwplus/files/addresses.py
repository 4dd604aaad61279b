"""Addresses of files: which are remote, how they are shown without their secrets, and how they are kept to be compared later.

Enters: addresses as users, archives and GDAL write them: URLs, `/vsi...`, connection strings; texts of libraries that quote some.
Leaves: the same without user names and passwords, queries and fragments, in which passwords, tokens and signatures stand.

A path of this machine stays as it is, for a file's name may hold `?` and `#`.
"""

import hashlib
import re
import urllib.parse
from typing import Any

_NETWORK = r"/vsi(?:curl|s3|gs|az|adls|oss|swift|hdfs|webhdfs)(?:_streaming)?"
"""GDAL's file systems on a network. Source: https://gdal.org/en/stable/user/virtual_file_systems.html"""

_SCHEME = r"(?<![A-Za-z0-9+.-])(?:[A-Za-z][A-Za-z0-9+.-]{0,30}:/{2}|(?:https?|ftps?|s3|gs|gcs|az|abfss?):/(?!/)|https?:(?=[^\s/]+@))"
"""'https://', and what `Path` or a slip of the pen make of it."""

_ENCODED = r"[A-Za-z][A-Za-z0-9+.-]{0,30}%(?:25)*3A%(?:25)*2F%(?:25)*2F"
"""'https://' as it stands in a query: percent-encoded, once or more often."""

_OF_ADDRESS = re.compile(
    rf"(?P<asked>/vsi(?:curl|curl_streaming)\?)|(?P<encoded>{_ENCODED})|(?P<web>(?:{_SCHEME})+)|(?P<vsi>{_NETWORK}/)",
    re.IGNORECASE,
)
"""How an address begins."""

_LONG_NAMES = (
    r"[\w-]{0,40}(?:token|secret|passw|signature|credential|api[_-]?key|access[_-]?key|authori[sz]|sas[_-]?key|subscription[_-]?key"
    r"|userpwd|cookie|jwt|hmac)[\w-]{0,40}"
)
"""Names of what is secret, wherever they stand; bounded, so that a long text takes no long time."""

_SECRET_NAMES = rf"(?:{_LONG_NAMES}|session\w{{0,9}}|sig|key|auth|pwd|pass)"

_IN_PATH = re.compile(
    rf"(?:;|%(?:25)*(?:3F|26|3B))(?:{_SECRET_NAMES}|(?:x-)?(?:amz|goog)-[\w-]+)(?:=|%(?:25)*3D).*",
    re.IGNORECASE | re.DOTALL,
)
"""A secret that is no part of a query: 'a.tif;token=1', or in one that is percent-encoded, 'a.tif%3Fsig%3D1'. Without a secret such signs
are of a file's name."""

_UNSIGNED = re.compile(
    rf"{_SECRET_NAMES}|(?:x-)?(?:amz|goog|oss|cos|obs|ms)-[\w-]+|AWSAccessKeyId|GoogleAccessId|key-pair-id|policy|user(?:name)?"
    # Azure: https://learn.microsoft.com/en-us/rest/api/storageservices/create-service-sas
    r"|s[vetprs]|s(?:pr|ip|dd)|sk(?:oid|tid|t|e|s|v|dutid)|s(?:aoid|uoid|cid|duoid)|ss|srt|tn|[se][pr]k"
    r"|(?:expir\w*|exp|e|nonce|timestamp|ts|code|hash|md5|st|hdnea|hdnts|acl)",
    re.IGNORECASE,
)
"""Names in a query that are a part of a signature or an account; the others choose the file."""

_QUOTES = {"'": "'", '"': '"', "`": "'", "{": "}", ">": "<"}
"""What ends an address that is quoted, by what it is quoted with."""

_TOKEN_SIGNS = 16
"""Least length of what is taken for a token by the name before a colon alone."""

_QUERY = re.compile(r"(?<=url: )/[^\s?#]*[?#]\S*|\?[^\s'\"<>`]+")
"""A query without its address, as urllib3 tells it, "with url: /stac?token=...", or after a relative one."""

_FIELD = re.compile(r"(?<![\w-])([\w-]{1,80})(=['\"]?|['\"]\s{0,3}[:=]\s{0,3}['\"]|\s?:\s|>)")
"""A variable of the environment, a header, a field of JSON or XML: its name, and the signs before its value."""

_VALUE = re.compile(r"(?:(?:bearer|basic|digest|token)\s+)?([^\s'\"&,;)<>]+)", re.IGNORECASE)


_stand_for_addresses: list[str] = []
"""Folders in which `/gs/box/run` stands for `gs://box/run`; see `buckets`."""


def stands_for_addresses(folder: str) -> None:
    """Shows paths in a folder as the addresses that they stand for from now on."""
    _stand_for_addresses.append(folder)


def is_remote(address: str) -> bool:
    """Whether an address is read over the network."""
    return "://" in address or bool(re.match(_NETWORK, address))


def shown(address: str) -> str:
    """One address for messages, without what may be secret; the path of a local file as it is.

    'https://user:word@x/a.tif?sig=1' -> 'https://x/a.tif', '/vsicurl?header.A=1&url=https%3A%2F%2Fx%2Fa.tif' ->
    '/vsicurl/https://x/a.tif', 'ZARR:"/vsicurl/https://x/a?sig=1"' -> 'ZARR:"/vsicurl/https://x/a"'.
    """
    address = as_addresses(address)
    if re.match(r"[A-Za-z]\w+:[^/\\]*=|\s*<", address):  # a connection string, or XML
        return shown_in(address)
    return _without_secrets(address, "\n")  # a space does not end it, as all of it is one address


def shown_in(text: str) -> str:
    """A text with its addresses as `shown`, for messages of libraries; also without passwords and tokens that it names."""
    return _without_named(_without_secrets(as_addresses(text), " \t\r\n\"'<>`}"))


def compared(address: str) -> str:
    """An address as it is kept to find out later whether it is the same: as `shown`, with a hash of what else chooses the file.

    A renewed signature makes no difference. Of a signature there is no hash, because a short password can be found by its hash.
    `compared` of that is the same text again.
    """
    chosen = _chosen(address)
    return shown(address) + (f" (of {hashlib.sha256(chosen.encode()).hexdigest()[:16]})" if chosen else "")


def compared_tree(tree: Any) -> Any:
    """A tree of JSON with every remote address in it as `compared`."""
    if isinstance(tree, dict):
        return {name: compared_tree(of) for name, of in tree.items()}
    if isinstance(tree, list | tuple):
        return [compared_tree(of) for of in tree]
    return compared(tree) if isinstance(tree, str) else tree


class ShownStream:
    """A stream of text, such as stderr, that writes what it is given by way of `shown_in`."""

    def __init__(self, stream: Any) -> None:
        """Wraps a stream."""
        self._stream = stream

    def write(self, text: str) -> int:
        """Writes a text; gives its length, as streams do."""
        self._stream.write(shown_in(text))
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Writes texts."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def as_addresses(text: str) -> str:
    """Puts addresses into a text in place of the paths of this process that stand for them."""
    for folder in _stand_for_addresses:
        text = re.sub(rf"{re.escape(folder)}/(gs|s3)/", r"\1://", text)
    return text


def _without_secrets(text: str, ends: str) -> str:
    """Replaces the addresses in a text; one ends before the first character of `ends`."""
    parts, done = [], 0
    for begin in _OF_ADDRESS.finditer(text):
        if begin.start() < done:
            continue
        quote = text[begin.start() - 1 : begin.start()]
        quoted = quote in _QUOTES and re.match(rf"[^\n]*?(?={_QUOTES[quote]})", text[begin.end() :])
        own = _QUOTES[quote] if quoted else ends
        end = begin.end() + len(re.match(rf"[^{re.escape(own)}]*", text[begin.end() :])[0])
        body = text[begin.end() : end]
        # What follows a query in a sentence: 'http://x/a?sig=1: refused'
        tail = re.search(r"[),.;:\]]*$", body)[0] if " " in own else ""
        body = body.removesuffix(tail)
        parts += [text[done : begin.start()], _plain(begin, body), tail]
        done = end
    return "".join([*parts, text[done:]])


def _plain(begin: re.Match, body: str) -> str:
    """An address, of which the beginning is apart, without its secrets."""
    if begin["asked"]:
        url = urllib.parse.parse_qs(body).get("url", [""])[0]
        return f"{begin[0][:-1]}/{shown(url)}" if url else begin[0][:-1]
    if begin["encoded"]:
        return shown(_decoded(begin[0] + body.partition("&")[0]))
    if begin["vsi"] and (inner := _OF_ADDRESS.match(body)):
        return begin[0] + _plain(inner, body[inner.end() :])
    place = re.split(r"[?#]", _without_account(body) if begin["web"] else body)[0]
    return begin[0] + _IN_PATH.sub("", place)


def _decoded(address: str) -> str:
    while re.search(_ENCODED, address, re.IGNORECASE):
        address = urllib.parse.unquote(address)
    return address


def _without_account(rest: str) -> str:
    """Takes user name and password off what follows '://'. A password may hold any character, also '/', '?' and '@'."""
    if found := re.match(r"[^/?#]*@", rest):
        return rest[found.end() :]
    name = r"[^/?#@:\[]*"
    no_port = r":(?!\d*(?:[/?#]|$))"
    if found := re.match(rf"{name}{no_port}.*@", rest):
        return rest[found.end() :]
    return re.sub(rf"^({name}){no_port}[^/?#]*", r"\1", rest)


def _without_named(text: str) -> str:
    """Takes out values that are called a password, a token or the like, and queries of which a part is."""
    parts, done = [], 0
    for found in _FIELD.finditer(text := _QUERY.sub(_without_signature, text)):
        name, sign = found.groups()
        value = _VALUE.match(text, found.end())
        if value is None or found.start() < done:
            continue
        # 'session: 3' is no secret: with a colon alone it must be called so, and be long
        apart = sign.strip() == ":" and not re.search("authorization|cookie", name, re.IGNORECASE)
        known = _LONG_NAMES if apart or sign == ">" else _SECRET_NAMES
        if not re.fullmatch(known, name, re.IGNORECASE) or (apart and len(value[1]) < _TOKEN_SIGNS):
            continue
        parts += [text[done : value.start(1)], "..."]
        done = value.end(1)
    return "".join([*parts, text[done:]])


def _without_signature(found: re.Match) -> str:
    place, _, query = found[0].partition("?")
    names = (pair.partition("=")[0] for pair in query.split("&") if "=" in pair)
    return found[0] if not place and not any(map(_UNSIGNED.fullmatch, names)) else place.partition("#")[0]


def _chosen(address: str) -> str:
    """What in the query of an address chooses the file: 'file=a&version=2'. Signatures and accounts are left out."""
    begin = _OF_ADDRESS.search(address)
    if begin is None:
        return ""
    rest = address[begin.end() :]
    if begin["asked"]:
        return _chosen(urllib.parse.parse_qs(rest).get("url", [""])[0])
    if begin["encoded"]:
        return _chosen(_decoded(address))
    if begin["vsi"] and _OF_ADDRESS.match(rest):
        return _chosen(rest)
    found = re.match(r"[^?#]*\?([^#\"}]*)", _without_account(rest) if begin["web"] else rest)
    pairs = [pair.partition("=") for pair in re.split(r"[&;]", found[1])] if found else []
    # One without a name may be a token as well, unless it looks like a file.
    pairs = [pair for pair in pairs if pair[1] or "." in pair[0]]
    chosen = [name + sign + value for name, sign, value in pairs if not _UNSIGNED.fullmatch(urllib.parse.unquote(name))]
    # '/vsizip/vsicurl/https://x/a.zip?sig=1/b.tif': the member stands behind the query. Signatures have no dot.
    if pairs and (member := re.search(r"/[^/]+\.\w{2,4}$", pairs[-1][2])):
        chosen.append(member[0])
    return "&".join(sorted(set(chosen)))
