"""Rules about URLs: which are taken, which redirects are followed, which proxy is used.

Pure functions. URLs come from settings and from servers; the second kind is hostile. Only a
narrow form is accepted, so that no two parsers can read one URL differently (RFC 3986 leaves
room for that: user information, backslashes, odd ports).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

from composeapps.errors import ConfigError, SourceError

#: Characters; upload locations and signed URLs are long, but not longer.
LENGTH = 8192
PORTS = {"http": 80, "https": 443}
#: What stands for a URL that the settings do not give.
UNSET = "unset:/"

_HOST = re.compile(r"[a-z0-9_](?:[a-z0-9._-]{0,252})|\[[0-9a-f:.]{2,45}\]")
_VISIBLE = re.compile(r"[\x21\x23-\x3b\x3d\x3f-\x5b\x5d\x5f\x61-\x7a\x7e%]*")
_UNSAFE = re.compile(r"[^\x20-\x7e]")


@dataclass(frozen=True)
class Origin:
    """Scheme, host and port: what a redirect never leaves."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        suffix = "" if PORTS[self.scheme] == self.port else f":{self.port}"
        return f"{self.scheme}://{self.host}{suffix}"


def origin(url: str) -> Origin:
    """Return the origin of an http or https URL.

    Raises:
        ConfigError: it is no such URL, or holds user information, a fragment, or characters
            that do not belong into a URL.
    """
    shown = printable(url, 200)
    if len(url) > LENGTH or not _VISIBLE.fullmatch(url):
        raise ConfigError(f"not a usable URL (odd characters, or too long): {shown!r}")
    try:
        parts = urlsplit(url)
        host, port = parts.netloc.lower(), parts.port
    except ValueError as error:
        raise ConfigError(f"not a usable URL: {shown!r}: {error}") from error
    if parts.scheme not in PORTS:
        raise ConfigError(f"not an http or https URL: {shown!r}")
    if port is not None:
        host = host.rpartition(":")[0]
    if "@" in parts.netloc or "#" in url or not _HOST.fullmatch(host) or port == 0:
        raise ConfigError(f"a URL needs a plain host, without user name or fragment: {shown!r}")
    return Origin(parts.scheme, host, port or PORTS[parts.scheme])


def base(url: str) -> str:
    """Return a base URL from the settings, checked and without a slash at its end."""
    origin(url)
    if "?" in url:
        raise ConfigError(f"a base URL must not have a query: {printable(url, 200)!r}")
    return url.rstrip("/")


def local_path(url: str) -> Path | None:
    """Return the path that a file URL or an absolute path names, None for other URLs.

    Raises:
        ConfigError: a file URL that names another machine, or no absolute path.
    """
    if url.startswith("/"):
        return Path(url)
    if not url.lower().startswith("file:"):
        return None
    path = unquote(url[5:].removeprefix("//localhost").removeprefix("//"))
    if not path.startswith("/") or "\0" in path:
        raise ConfigError(
            f"not a usable file URL: {printable(url, 200)!r}; write it like file:///path"
        )
    return Path(path)


def redirect(url: str, location: str) -> str:
    """Return where a redirect leads.

    Registries in the wild send blobs from other hosts (S3, CDNs). We do not follow: an untrusted
    server could make the device talk to anything it can reach, itself included.

    Raises:
        SourceError: it leaves the scheme, host or port of ``url``, or is no URL.
    """
    path, _, _ = location.strip(" ").partition("#")
    try:
        if not path or not _VISIBLE.fullmatch(path):  # urljoin drops control characters
            raise ConfigError("no URL")
        target = urljoin(url, path)
        leaves = origin(target) != origin(url)
    except (ConfigError, ValueError) as error:
        raise SourceError(f"{url} redirects to something that is not a usable URL") from error
    if leaves:
        raise SourceError(
            f"{url} redirects to {origin(target)}, another scheme, host or port, which is never "
            "followed; set a mirror for this registry, or source.layout, that serves the content "
            "itself"
        )
    return target


def is_public(address: str) -> bool:
    """Say whether an IP address is one of the public internet; False where it is no address."""
    try:
        return ipaddress.ip_address(address.strip("[]").partition("%")[0]).is_global
    except ValueError:
        return False


def is_local_name(host: str) -> bool:
    """Say whether a host, by its name alone, is this device or a private network."""
    name = host.strip("[]").rstrip(".").lower()
    if name == "localhost" or name.endswith((".localhost", ".local", ".internal")):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        # Left to inet_aton, "127.1" and "0x7f000001" are addresses too.
        return re.fullmatch(r"(0x[0-9a-f]*|[0-9]+)(\.(0x[0-9a-f]*|[0-9]+))*", name) is not None
    return not is_public(name)


def related(host: str, other: str) -> bool:
    """Say whether two hosts are one, or names below the same domain of two labels."""
    if host == other:
        return True
    names = [name.rstrip(".").split(".") for name in (host, other)]
    # A domain's last label is never all digits (RFC 3696, 2); an address has no domain.
    if any(len(name) < 2 or name[-1].isdigit() or "[" in name[0] for name in names):
        return False
    return names[0][-2:] == names[1][-2:]


def proxy_for(url: str, environment: Mapping[str, str]) -> str:
    """Return the proxy's URL for a request, or "" for none.

    The variables are ``http_proxy``, ``https_proxy``, ``all_proxy`` and ``no_proxy``; lower case
    wins over upper case. As in Go's ``httpproxy``, which the rest of the container world uses:
    this machine itself is never asked through a proxy, ``no_proxy`` holds host names (with all
    below them), addresses, networks in CIDR form or ``*``, each with a port or without. As in
    curl, upper case ``HTTP_PROXY`` is ignored where it may come from a request
    (``REQUEST_METHOD`` is set).

    Raises:
        ConfigError: the proxy is not one that is spoken to by http or https.
    """
    place = origin(url)
    proxy = _variable(environment, f"{place.scheme}_proxy") or _variable(environment, "all_proxy")
    if not proxy or _is_this_machine(place.host):
        return ""
    if any(_exempts(rule, place) for rule in _variable(environment, "no_proxy").split(",")):
        return ""
    if "://" not in proxy:
        proxy = f"http://{proxy}"
    scheme, _, rest = proxy.partition("://")
    plain = f"{scheme.lower()}://{rest.rpartition('@')[2]}"
    try:
        origin(plain)
    except ConfigError as error:
        raise ConfigError(f"the proxy in the environment cannot be used: {error}") from error
    return f"{scheme.lower()}://{rest}"


def proxy_login(proxy: str) -> tuple[str, str]:
    """Return a proxy's URL without user information, and its ``user:password``."""
    scheme, _, rest = proxy.partition("://")
    login, at, host = rest.rpartition("@")
    return f"{scheme}://{host}", unquote(login) if at else ""


def _variable(environment: Mapping[str, str], name: str) -> str:
    value = environment.get(name, "")
    if value or (name == "http_proxy" and "REQUEST_METHOD" in environment):
        return value.strip()
    return environment.get(name.upper(), "").strip()


def _is_this_machine(host: str) -> bool:
    name = host.strip("[]")
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


def _exempts(rule: str, place: Origin) -> bool:
    rule = rule.strip().lower()
    host = place.host.strip("[]")
    if rule == "*":
        return True
    name, colon, port = rule.rpartition(":")
    if colon and port.isdigit() and (":" not in name or name.endswith("]")):
        if int(port) != place.port:
            return False
        rule = name
    rule = rule.strip("[]").lstrip("*").lstrip(".")
    if not rule:
        return False
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(rule, strict=False)
    except ValueError:
        return host == rule or host.endswith(f".{rule}")


def printable(text: str, limit: int) -> str:
    """Return a server's words fit for a terminal and a log: one line, ASCII, cut."""
    return _UNSAFE.sub("?", text)[:limit]
