"""``python -m protocols certs``: a CA of your own and a certificate that it signs, so that the five speak TLS on this machine.

For trials and for a network of your own. The CA's key is not kept, so the CA never signs another certificate: to renew, make
both anew.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from shared.usage import reason, usage_of

CA, CERT, KEY = "ca.pem", "server.pem", "server-key.pem"
_NAMES = ("localhost", "127.0.0.1", "::1")
# Apple's systems refuse a server certificate with a longer life, whichever CA has signed it.
_DAYS = 825
MISSING = 'certs needs trustme: pip install -e ".[tls]"'


def main(argv: Sequence[str] | None = None) -> int:
    """Write the three files and print the settings that use them; exit status 1 where a file is in the way."""
    parser = argparse.ArgumentParser(
        prog="python -m protocols certs", description=usage_of(__doc__.partition("\n\n")[0])
    )
    parser.add_argument("--out", type=Path, default=Path("certs"), metavar="DIR", help="folder (default: certs)")
    parser.add_argument(
        "--name",
        action="append",
        default=[],
        help=f"one more name or IP address in the certificate, besides {', '.join(_NAMES)}; may be repeated",
    )
    args = parser.parse_args(argv)
    try:
        make(args.out, args.name)
    except ImportError:
        sys.stderr.write(f"{MISSING}\n")
        return 1
    except FileExistsError as error:
        sys.stderr.write(f"{error.filename} exists already and is not replaced; choose another --out\n")
        return 1
    except (OSError, ValueError) as error:
        sys.stderr.write(f"certs: {reason(error)}\n")
        return 1
    sys.stderr.write("For servers and clients, in .env or in the environment:\n")
    sys.stdout.write("".join(f"{name}={path}\n" for name, path in files(args.out.absolute()).items()))
    return 0


def files(folder: Path) -> dict[str, str]:
    """The settings that use the files of a folder."""
    return {name: str(folder / file) for name, file in (("TLS_CERT", CERT), ("TLS_KEY", KEY), ("TLS_CA", CA))}


def make(folder: Path, names: Sequence[str] = ()) -> None:
    """Write ``ca.pem``, ``server.pem`` and ``server-key.pem`` (mode 0600) into the folder, which is made where it is missing.

    Raises FileExistsError, before anything is written, when one of the files exists; ImportError without trustme; ValueError
    for a name that a certificate cannot hold.
    """
    import trustme

    for file in (CA, CERT, KEY):
        if (folder / file).exists():
            raise FileExistsError(None, None, str(folder / file))
    ends = datetime.now(UTC) + timedelta(days=_DAYS)
    ca = trustme.CA(organization_name="genai-protocols", organization_unit_name="local CA")
    issued = ca.issue_cert(*_NAMES, *names, not_after=ends)
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / KEY, issued.private_key_pem.bytes(), 0o600)
    _write(folder / CERT, b"".join(pem.bytes() for pem in issued.cert_chain_pems), 0o644)
    _write(folder / CA, ca.cert_pem.bytes(), 0o644)


def _write(path: Path, data: bytes, mode: int) -> None:
    """Write a new file. Raises FileExistsError where another program has made it meanwhile."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(data)
