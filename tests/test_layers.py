"""Which package may import which, read from the source with ``ast``, and the one shape of the five leaves."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from protocols import TRANSPORTS
from sequence_diagrams.imports import imported_names, longest

ROOT = Path(__file__).parent.parent
LEAVES = {transport.folder for transport in TRANSPORTS.values()}
# Each package may import itself and the packages to its right.
ORDER = ("tests", "sequence_diagrams", "compare", "protocols", "shared")
WIRES = {
    "aiohttp",
    "fastapi",
    "fastapi_offline",
    "grpc",
    "grpc_health",
    "grpc_reflection",
    "grpc_status",
    "google.protobuf",
    "google.rpc",
    "h11",
    "h2",
    "http",
    "httptools",
    "httpx",
    "httpx2",
    "requests",
    "sse_starlette",
    "starlette",
    "urllib.request",
    "uvicorn",
    "websockets",
    "wsproto",
}
# Both SDKs send their requests with httpx2, so their modules name its exceptions.
SDKS = {
    "google.genai": {"shared/llm/gemini.py", "shared/llm/gemini_sdk.py"},
    "openai": {"shared/llm/openai_sdk.py", "shared/llm/openai_errors.py"},
}
SDK_MODULES = set().union(*SDKS.values())
HEADINGS = ["Run it", "On the wire", "Order of events", "When it breaks", "Limits", "Choose it when", "Read more"]


def sources(package: str) -> list[Path]:
    return [path for path in sorted((ROOT / package).rglob("*.py")) if "_pb2" not in path.name]


def within(name: str, module: str) -> bool:
    return name == module or name.startswith(module + ".")


@pytest.mark.parametrize("package", ORDER)
def test_nobody_imports_backwards(package: str) -> None:
    forbidden = ORDER[: ORDER.index(package)]
    wrong = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in sources(package)
        for name in imported_names(path)
        if any(within(name, before) for before in forbidden)
    ]
    assert not wrong


# Only servers load the first folders, only clients the second. Both may load the modules directly in ``shared``.
SERVER_ONLY = ("shared.chat", "shared.server", "shared.store", "shared.llm", "shared.images")
CLIENT_ONLY = ("shared.client",)


@pytest.mark.parametrize("side", ["server", "client"])
def test_the_wall_between_the_two_sides(side: str) -> None:
    """No module of one side's folders imports a module of the other side's. The modules directly in ``shared`` import neither."""
    ours, theirs = (SERVER_ONLY, CLIENT_ONLY) if side == "server" else (CLIENT_ONLY, SERVER_ONLY)
    wrong = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in sources("shared")
        for name in imported_names(path)
        if any(within(name, room) for room in theirs)
        and (any(within(module_of(path), room) for room in ours) or path.parent.name == "shared")
    ]
    assert not wrong


@pytest.mark.parametrize("folder", sorted(LEAVES))
@pytest.mark.parametrize("side", ["server", "client"])
def test_what_a_side_loads(folder: str, side: str) -> None:
    """Importing a leaf's server loads no file that only clients need, and the other way round."""
    theirs = CLIENT_ONLY if side == "server" else SERVER_ONLY
    code = f"import sys, protocols.{folder}.{side}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not [name for name in loaded for room in theirs if within(name, room)]


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_no_circle_of_imports() -> None:
    """Imports under TYPE_CHECKING and inside functions count: they hide a circle from Python, but not from a reader."""
    paths = {module_of(path): path for package in ORDER[1:] for path in sources(package)}
    graph = {
        module: {target for name in imported_names(path) if (target := longest(name, paths)) not in (None, module)}
        for module, path in paths.items()
    }
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_nobody_outside_names_a_leaf_by_itself() -> None:
    """Other packages reach a leaf only through the table of the five."""
    wrong = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in [*sources("protocols"), *sources("shared")]
        for name in imported_names(path)
        for leaf in LEAVES
        if within(name, f"protocols.{leaf}") and path.parent.name != leaf
    ]
    assert not wrong


@pytest.mark.parametrize("folder", sorted(LEAVES))
def test_server_and_client_are_strangers(folder: str) -> None:
    """Neither imports the other, or a module of the folder that imports the other."""
    leaf = ROOT / "protocols" / folder

    def reached(module: str, seen: set[str]) -> set[str]:
        if module not in seen:
            seen.add(module)
            for name in imported_names(leaf / f"{module}.py"):
                inner = name.removeprefix(f"protocols.{folder}.").partition(".")[0]
                if within(name, f"protocols.{folder}") and (leaf / f"{inner}.py").exists() and "_pb2" not in inner:
                    reached(inner, seen)
        return seen

    assert "client" not in reached("server", set())
    assert "server" not in reached("client", set())


def test_the_chat_knows_no_wire() -> None:
    allowed = {"shared/client/http.py": {"httpx"}}
    for path in sources("shared/server/http"):
        allowed[path.relative_to(ROOT).as_posix()] = WIRES - {"grpc", "google.protobuf", "httpx"}
    allowed |= {
        module: {"httpx2"} for module in (*SDK_MODULES, "shared/llm/http_client.py", "shared/images/download.py")
    }
    wrong = []
    for path in sources("shared"):
        here = path.relative_to(ROOT).as_posix()
        for name in imported_names(path):
            known = [wire for wire in WIRES if within(name, wire)]
            wrong += [f"{here}: {name}" for wire in known if wire not in allowed.get(here, set())]
    assert not wrong


@pytest.mark.parametrize("sdk", SDKS)
def test_a_providers_sdk_stays_in_its_module(sdk: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}: {name}"
        for package in ORDER[1:]
        for path in sources(package)
        for name in imported_names(path)
        if within(name, sdk) and path.relative_to(ROOT).as_posix() not in SDKS[sdk]
    ]
    assert not wrong


@pytest.mark.parametrize("folder", sorted(LEAVES))
def test_a_server_starts_without_the_sdks(folder: str) -> None:
    """The SDKs take most of a second to import, so they are imported at their first use."""
    code = f"import sys, protocols.{folder}.server; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"google.genai", "openai", "httpx2", "PIL", "prompt_toolkit"}.intersection(loaded)


def test_the_five_leaves_have_one_spine() -> None:
    folders = {path.parent.name for path in (ROOT / "protocols").glob("*/server.py")}
    assert folders == LEAVES
    for folder in LEAVES:
        leaf = ROOT / "protocols" / folder
        assert {"server.py", "client.py", "standalone.py", "README.md"} <= {path.name for path in leaf.iterdir()}, (
            folder
        )
        # A regular package would hide the library of the same name (grpc) or be hidden by it.
        assert not (leaf / "__init__.py").exists(), folder


@pytest.mark.parametrize("folder", sorted(LEAVES))
@pytest.mark.parametrize("module", ["server", "client"])
def test_a_leafs_module(folder: str, module: str) -> None:
    """The module has a docstring, ends in ``main``, runs as a script, and does nothing when imported."""
    tree = ast.parse((ROOT / "protocols" / folder / f"{module}.py").read_text(encoding="utf-8"))
    assert ast.get_docstring(tree)
    functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    classes = {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
    assert "main" in functions
    assert module == "server" or "Client" in classes
    *_, last = tree.body
    assert isinstance(last, ast.If)
    assert ast.unparse(last) == "if __name__ == '__main__':\n    raise SystemExit(main())"


def test_no_file_is_long() -> None:
    """A file that is written by hand has at most 600 lines, and in a leaf at most 250."""
    long = {}
    for package in ORDER:
        for path in (ROOT / package).rglob("*.py"):
            if "node_modules" in path.parts or "_pb2" in path.name:
                continue
            most = 250 if path.parent.parent == ROOT / "protocols" else 600
            lines = len(path.read_text(encoding="utf-8").splitlines())
            if lines > most:
                long[path.relative_to(ROOT).as_posix()] = lines
    assert not long


@pytest.mark.parametrize("folder", sorted(LEAVES))
def test_a_leafs_readme_has_the_same_headings(folder: str) -> None:
    text = (ROOT / "protocols" / folder / "README.md").read_text(encoding="utf-8")
    # Fenced blocks may hold lines that begin like a heading.
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    assert re.findall(r"^## (.+?)\s*$", prose, flags=re.MULTILINE) == HEADINGS


# grpcio reads the level of its log when it is imported, so one module sets the level when it is imported before.
ACTS_AT_IMPORT = ROOT / "protocols" / "grpc" / "library_log.py"


@pytest.mark.parametrize("package", ORDER[1:])
def test_nothing_is_done_at_import(package: str) -> None:
    """A module's body defines; it calls nothing for its effect."""
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sources(package)
        if path != ACTS_AT_IMPORT
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant)
    ]
    assert not wrong


@pytest.mark.parametrize("folder", sorted(LEAVES))
def test_a_take_home_file_stands_alone(folder: str) -> None:
    """The file can be copied out of the project: it imports the libraries of its wire and no module of this project."""
    path = ROOT / "protocols" / folder / "standalone.py"
    assert not [name for name in imported_names(path) for ours in ORDER if within(name, ours)]
    functions = [
        node.name
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    assert functions[0] == "model"
    assert functions[-2:] == ["ask", "main"]
