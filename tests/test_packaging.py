"""The project as a package: a wheel that runs without the tree, and a lock that holds what ``pyproject.toml`` asks for."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import urllib.request
import zipfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from protocols import TRANSPORTS
from tests.parts import PARTS, ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")
PACKAGES = ("protocols", "shared", "compare", "sequence_diagrams")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel that was built from a copy of the tree, so that the build leaves nothing behind."""
    folder = tmp_path_factory.mktemp("wheel")
    tree = folder / "tree"
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tree / package, ignore=shutil.ignore_patterns("__pycache__", "node_modules"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(tree))
    (built,) = folder.glob("*.whl")
    return built


def pip(*arguments: str) -> None:
    ran = subprocess.run([sys.executable, "-m", "pip", *arguments], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


def test_the_wheel_names_its_dependencies(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        named = Parser().parsestr(archive.read(metadata).decode()).get_all("Requires-Dist", [])
    core = {str(Requirement(line)) for line in named if "extra ==" not in line}
    assert core == {str(Requirement(line)) for line in PROJECT["dependencies"]}


def test_the_wheel_has_the_files_that_the_programs_read(wheel: Path) -> None:
    """Every file of the pages, the report's template, the contracts of gRPC, and the marks for type checkers."""
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
    wanted = [path for path in (ROOT / "shared" / "web").rglob("*") if path.is_file()]
    wanted += [path for path in (ROOT / "compare").rglob("*") if path.suffix in (".html", ".css", ".js")]
    wanted += (ROOT / "protocols").rglob("*.proto")
    wanted += ROOT.glob("*/py.typed")
    assert len(wanted) > 20
    assert not {str(path.relative_to(ROOT)) for path in wanted} - inside


@asynccontextmanager
async def serving(word: str, site: Path, folder: Path) -> AsyncIterator[str]:
    """Start a server of the installed wheel in an empty folder. Yields the address in the server's log."""
    env = {
        **os.environ,
        "PYTHONPATH": str(site),
        "STORE_URL": f"sqlite:///{folder / 'chat.db'}",
        "GENAI_PROVIDER": "offline",
    }
    command = (sys.executable, "-m", f"protocols.{TRANSPORTS[word].folder}.server", "--port", "0")
    process = await asyncio.create_subprocess_exec(*command, cwd=folder, env=env, stderr=asyncio.subprocess.PIPE)
    assert process.stderr is not None
    try:
        said = []
        async with asyncio.timeout(60):
            while line := await process.stderr.readline():
                said.append(line.decode())
                if '"listening"' in said[-1]:
                    break
            else:
                pytest.fail("".join(said))
        yield json.loads(said[-1])["address"]
    finally:
        process.terminate()
        await process.communicate()


async def test_the_wheel_runs_all_five_servers_with_their_pages(wheel: Path, tmp_path: Path) -> None:
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    pip("install", "--no-deps", "--target", str(site), str(wheel))
    found = await asyncio.to_thread(where_from, site, elsewhere)
    assert found.count(str(site)) == 2
    for word, transport in TRANSPORTS.items():
        async with serving(word, site, elsewhere) as address:
            if address.startswith("http"):
                page = await asyncio.to_thread(get, f"{address}/demo")
                assert "<title>GenAI chat</title>" in page
                for script in re.findall(r'(?:src|href)="(/web/[^"]+)"', page):
                    assert await asyncio.to_thread(get, f"{address}{script}")
            async with transport.client(address.rpartition("/")[2]) as client:
                assert (await client.stats()).provider == "offline"


def where_from(site: Path, folder: Path) -> str:
    """The files from which an interpreter in ``folder`` imports the packages."""
    program = "import protocols, shared; print(protocols.__file__, shared.__file__)"
    env = {**os.environ, "PYTHONPATH": str(site)}
    return subprocess.run(
        [sys.executable, "-c", program], cwd=folder, env=env, capture_output=True, text=True, check=True
    ).stdout


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=30) as answer:
        body: bytes = answer.read()
    return body.decode()


def locked() -> dict[str, list[str]]:
    versions: dict[str, list[str]] = {}
    for name, version in re.findall(r"^([A-Za-z0-9._-]+)==([^ ]+)", LOCK, re.MULTILINE):
        versions.setdefault(canonicalize_name(name), []).append(version)
    return versions


def test_the_lock_holds_what_the_project_asks_for() -> None:
    versions = locked()
    for line in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]:
        asked = Requirement(line)
        found = versions.get(canonicalize_name(asked.name), [])
        assert found, f"{line} is not in requirements.lock: make lock"
        assert all(asked.specifier.contains(version) for version in found), f"{line}, but {found}: make lock"


def test_the_lock_has_hashes_and_no_address() -> None:
    assert "://" not in LOCK
    entries = re.split(r"^(?=[A-Za-z0-9])", LOCK, flags=re.MULTILINE)[1:]
    assert len(entries) > 60
    assert all(" --hash=sha256:" in entry for entry in entries)


def test_a_machine_that_tries_everything_installs_every_part() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    extras = PROJECT["optional-dependencies"]
    from_pip = {Requirement(line).name for line in extras["dev"] + extras["parts"]}
    for row in PARTS.values():
        if row.source == "apt":
            assert re.search(rf"apt_install .*\b{re.escape(row.package)}\b", script), row.name
        elif row.source == "pip":
            assert row.package in from_pip, row.name
    assert "REQUIRE_PARTS=1" in script
