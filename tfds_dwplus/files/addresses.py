"""Addresses of files: which are remote, and how they are shown without their secrets."""

import re


def is_remote(address: str) -> bool:
    """Whether an address is read over the network."""
    return "://" in address or bool(re.match(r"/vsi(curl|s3|gs|az|adls|oss|swift|hdfs|webhdfs)", address))


def shown(address: str) -> str:
    """An address for messages, without its signature, which is secret."""
    return address.partition("?")[0] if is_remote(address) else address
