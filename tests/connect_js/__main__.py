"""``python -m tests.connect_js``: bundles connect-web and the code of chat.proto into ``shared/web/vendor/connect-web.mjs``.

``npm install --prefix tests/connect_js`` brings the pinned packages first. The bundle is committed, so that the pages need no npm;
``--check`` makes it again and compares.
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
BUNDLE = ROOT / "shared" / "web" / "vendor" / "connect-web.mjs"
_BIN = HERE / "node_modules" / ".bin"
_PROTOS = ("protocols/grpc/chat.proto", "google/rpc/error_details.proto")
_HEAD = (
    "// @connectrpc/connect-web 2.1.2, @connectrpc/connect 2.1.2, @bufbuild/protobuf 2.17.0 (Apache-2.0, LICENSE.connect-web), "
    "and the code of protocols/grpc/chat.proto. Made by: python -m tests.connect_js"
)


def bundle() -> bytes:
    """The bundle, made anew. Raises SystemExit with a tool's words when it fails."""
    rpc = importlib.util.find_spec("google.rpc")
    assert rpc is not None
    assert rpc.submodule_search_locations is not None
    google = Path(next(iter(rpc.submodule_search_locations))).parents[1]
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        _run(
            sys.executable, "-m", "grpc_tools.protoc", "-I.", f"-I{google}",
            f"--plugin=protoc-gen-es={_BIN / 'protoc-gen-es'}", f"--es_out={work / 'gen'}", "--es_opt=target=js", *_PROTOS,
        )  # fmt: skip
        shutil.copy(HERE / "entry.mjs", work)
        (work / "node_modules").symlink_to(HERE / "node_modules")
        out = work / "bundle.mjs"
        _run(
            str(_BIN / "esbuild"), str(work / "entry.mjs"), "--bundle", "--minify", "--format=esm", "--target=es2022",
            "--legal-comments=none", f"--banner:js={_HEAD}", f"--outfile={out}", "--log-level=warning", "--charset=utf8",
        )  # fmt: skip
        return out.read_bytes()


def _run(*command: str) -> None:
    if command[1:3] == ("-m", "grpc_tools.protoc"):
        Path(next(word for word in command if word.startswith("--es_out=")).partition("=")[2]).mkdir()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)


def main() -> int:
    """Make the bundle, or with ``--check`` say whether the committed one is what its sources give."""
    parser = argparse.ArgumentParser(prog="python -m tests.connect_js", description=__doc__.partition("\n\n")[0])
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 on a difference")
    check = parser.parse_args().check
    if not _BIN.is_dir():
        sys.stderr.write(f"first: npm install --prefix {HERE.relative_to(ROOT)}\n")
        return 2
    made = bundle()
    if check:
        if made != BUNDLE.read_bytes():
            sys.stderr.write(f"{BUNDLE.relative_to(ROOT)} is not what its sources give: python -m tests.connect_js\n")
            return 1
        return 0
    BUNDLE.write_bytes(made)
    print(f"{BUNDLE.relative_to(ROOT)}: {len(made):,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
