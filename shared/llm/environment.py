"""What the user's environment does to the connection to a provider, in words: proxies and certificates.

Both SDKs read ``ALL_PROXY``, ``HTTPS_PROXY``, ``HTTP_PROXY``, ``SSL_CERT_FILE`` and ``SSL_CERT_DIR``, as curl does.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator

from shared.llm.provider import Provider

_PROXIES = ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY")
_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR")


def setup_words(provider: Provider, error: Exception) -> str:
    """Why the SDK's client could not be built."""
    proxies, certificates = _variables(_PROXIES), _variables(_CERTIFICATES)
    if isinstance(error, ImportError) and proxies:
        name = next((name for name in proxies if os.environ[name].startswith("socks")), proxies[0])
        return f"The proxy in {name} needs a package that is missing: pip install 'httpx2[socks]'."
    if isinstance(error, OSError) and certificates:
        return f"{certificates[0]} names no certificates that can be read; give the path of a PEM file."
    if proxies and not isinstance(error, OSError):
        return (
            f"The address of the proxy in {' or '.join(proxies)} cannot be used; it begins with http:// or socks5://."
        )
    return f"The connection to {provider.name} could not be set up; the server's log names the cause."


def connection_words(provider: Provider, error: BaseException) -> str:
    """Why no connection was made."""
    if any(isinstance(one, ssl.SSLError) for one in _chain(error)):
        where = (*_variables(_CERTIFICATES), "SSL_CERT_FILE")[0]
        return provider.sentence(
            f"has no certificate that this machine trusts; check {where} and {provider.address_setting}."
        )
    proxies = _variables(_PROXIES)
    suspects = f", the network and the proxy in {proxies[0]}" if proxies else " and the network"
    return provider.sentence(f"cannot be reached; check {provider.address_setting}{suspects}.")


def cause_of(error: BaseException) -> str:
    """The types of an exception and of those that led to it, for the log; never their texts."""
    return ", from ".join(f"{type(one).__module__}.{type(one).__name__}" for one in _chain(error))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _variables(names: tuple[str, ...]) -> list[str]:
    """The variables of these names, in either case, that are set."""
    return [spelling for name in names for spelling in (name, name.lower()) if os.environ.get(spelling)]
