"""Which hosts may be asked: an archive on the internet must not make this machine ask itself or its neighbours.

Enters: addresses of the web. Leaves: answers; or an error before anything is sent.

The check is by name before the request, and the name is looked up again for it: a name server that answers in two ways is not held off.
GDAL follows redirects by itself and has no setting for it.
"""

import functools
import ipaddress
import socket
import urllib.error
import urllib.parse
import urllib.request
from http.client import HTTPMessage
from typing import IO, Any


def leads_inward(there: str, here: str) -> bool:
    """Whether an address is of this machine or its network (loopback, private, link-local), though the one that led to it is of the
    internet. A name that is not known here, as behind a proxy, is neither.
    """
    return _is_global(_host(here)) is True and _is_global(_host(there)) is False


def check_not_inward(there: str, here: str) -> None:
    """Raises a ValueError if `leads_inward`."""
    if leads_inward(there, here):
        raise ValueError(
            f"{_host(here)} leads to {_host(there)}, an address of this machine or its network; it is not asked"
        )


def urlopen(request: urllib.request.Request, timeout_s: float | int) -> Any:
    """Asks a web server, as `urllib.request.urlopen`, but follows no redirect that leads inward.

    Raises:
        urllib.error.HTTPError: it refuses.
        OSError: it does not answer, or leads inward.
    """
    return urllib.request.build_opener(_Redirects).open(request, timeout=timeout_s)


class _Redirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes] | Any, code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        try:
            check_not_inward(newurl, req.full_url)
        except ValueError as error:
            raise urllib.error.URLError(str(error)) from None
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _host(address: str) -> str:
    try:
        return urllib.parse.urlsplit(address).hostname or ""
    except ValueError:
        return ""


@functools.lru_cache(maxsize=4096)
def _is_global(host: str) -> bool | None:
    """Whether a host is on the internet; None if its name is not known here."""
    try:
        found = socket.getaddrinfo(host, None, proto=socket.IPPROTO_TCP) if host else []
    except (OSError, UnicodeError):
        found = []
    places = [ipaddress.ip_address(str(place[0]).partition("%")[0]) for *_, place in found]
    return all(place.is_global for place in places) if places else None
