"""A web server that knows ranges: `python range_server.py PORT FOLDER CONTROL`. `local_archive.Files` tells it what to refuse."""

import contextlib
import functools
import itertools
import json
import sys
import time
from http.server import ThreadingHTTPServer
from pathlib import Path

from RangeHTTPServer import RangeRequestHandler


class Handler(RangeRequestHandler):
    """Answers after a while, or not, as the control folder says, and logs path and bytes of each answer there."""

    control = Path(sys.argv[3])
    numbers = itertools.count(1)

    def send_head(self):
        self.path = self.path.partition("?")[0]
        refused, wait_s, status, one_in = json.loads((self.control / "now").read_text())
        time.sleep(wait_s)
        if refused and refused in self.path and next(self.numbers) % one_in == 0:
            return self.send_error(status, "Signature not valid in the specified time frame")
        return super().send_head()

    def send_header(self, keyword, value):
        super().send_header(keyword, value)
        if keyword == "Content-Length":
            with (self.control / "requests").open("a") as log:
                log.write(f"{self.path} {value if self.command == 'GET' else 0}\n")

    def log_message(self, *_):
        pass

    def handle(self):
        with contextlib.suppress(ConnectionError):  # GDAL hangs up when it has read enough
            super().handle()


if __name__ == "__main__":
    ThreadingHTTPServer(
        ("127.0.0.1", int(sys.argv[1])), functools.partial(Handler, directory=sys.argv[2])
    ).serve_forever()
