"""Generates the Python code of the two .proto files: ``python protocols/grpc/setup.py``, or ``--check`` to compare only.

This is not a setuptools script, in spite of its name: it installs nothing, and pip never runs it. The project's list of
files gives the script that runs protoc this name. ``pyproject.toml`` is what installs the project.

``*_pb2`` holds the messages, ``*_pb2_grpc`` the stubs and servicers, ``.pyi`` their types. protoc runs from the
repository root, because the path of a .proto file becomes the import in the generated code: ``protocols.grpc.chat_pb2``
cannot be mistaken for a part of the library ``grpc``. The generated files are committed, so that a checkout runs without
protoc. The types come from mypy-protobuf, because protoc's own ``--pyi_out`` is not strict enough for ``mypy --strict``
and knows no services.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path("protocols/grpc")
PROTOS = ("chat.proto", "image_generation.proto")
GENERATED = ("*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py", "*_pb2_grpc.pyi")
PLUGINS = ("protoc-gen-mypy", "protoc-gen-mypy_grpc")
OUTPUTS = ("python", "mypy", "grpc_python", "mypy_grpc")


def generate(out: Path) -> None:
    """Write the generated modules to ``out``/protocols/grpc. Raises SystemExit with protoc's words when protoc refuses."""
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I."]
    for name in PLUGINS:
        plugin = shutil.which(name, path=sysconfig.get_path("scripts"))
        if plugin is None:
            sys.exit(f"{name} is not installed: pip install -r requirements-dev.txt")
        command.append(f"--plugin={name}={plugin}")
    command += [f"--{kind}_out={out}" for kind in OUTPUTS]
    command += [(FOLDER / proto).as_posix() for proto in PROTOS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)


def read(folder: Path) -> dict[str, bytes]:
    """The generated files of a folder by name, without the carriage returns that a checkout may add."""
    found = (path for pattern in GENERATED for path in folder.glob(pattern))
    return {path.name: path.read_bytes().replace(b"\r\n", b"\n") for path in found}


def check() -> int:
    """Compare the committed files with freshly generated ones; 1 when any is missing, stale or different."""
    with tempfile.TemporaryDirectory() as out:
        generate(Path(out))
        fresh, committed = read(Path(out) / FOLDER), read(ROOT / FOLDER)
    drifted = sorted(name for name in fresh | committed if fresh.get(name) != committed.get(name))
    if drifted:
        tools = ", ".join(f"{name} {version(name)}" for name in ("grpcio-tools", "mypy-protobuf"))
        print(f"The generated code is not what its .proto files give: {', '.join(drifted)}", file=sys.stderr)
        print(f"Run `python {FOLDER.as_posix()}/setup.py` and commit the result ({tools}).", file=sys.stderr)
    return bool(drifted)


def main() -> int:
    """Regenerate, or with ``--check`` say what differs and exit with 1."""
    parser = argparse.ArgumentParser(description=f"Regenerate the code of {' and '.join(PROTOS)}.")
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 on a difference")
    if parser.parse_args().check:
        return check()
    generate(ROOT)
    print(f"Generated {len(read(ROOT / FOLDER))} files in {ROOT / FOLDER}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
