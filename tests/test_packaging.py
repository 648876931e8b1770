"""What is installed from a wheel works outside the checkout, on every Python at hand."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.structure import ROOT

VERSIONS = ("3.11", "3.12", "3.13")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
SITE_PACKAGES = "import sysconfig; print(sysconfig.get_path('purelib'))"
DEPENDENCIES = "import cv2, keras, numpy, pydantic, sklearn, tensorflow"


def run(*command: str | Path, folder: Path, **environment: str) -> str:
    """The output of a command; the checkout and this process's settings are out of its sight."""
    clean = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}
    done = subprocess.run(
        list(map(str, command)), cwd=folder, env=clean | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def answer(python: str, program: str) -> str | None:
    """What an interpreter prints; None where it is absent or the program fails."""
    found = sys.executable if python == "python" + _running() else shutil.which(python)
    if found is None:
        return None
    command = [found, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/")
    return done.stdout.strip() if done.returncode == 0 else None


def _running() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def data_files() -> set[Path]:
    """Files of the packages that are not Python, relative to the checkout."""
    return {
        path.relative_to(ROOT)
        for package in ("harness", "zoo")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that no old build folder adds to it."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("harness", "zoo"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation")
    run(*pip, "--no-index", "--wheel-dir", out, source, folder=out)
    (made,) = out.glob("*.whl")
    return made


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
def test_an_installed_wheel_runs_outside_the_checkout(
    version: str, wheel: Path, tmp_path: Path
) -> None:
    python = f"python{version}"
    if answer(python, DEPENDENCIES) is None:
        pytest.skip(f"no {python} with the dependencies on the path")
    executable, libraries = (
        answer(python, "import sys; print(sys.executable)"),
        answer(python, SITE_PACKAGES),
    )
    assert executable
    assert libraries
    environment = tmp_path / "environment"
    run(executable, "-m", "venv", "--without-pip", environment, folder=tmp_path)
    inside = environment / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", inside, "install", "--quiet", "--no-deps")
    run(*pip, "--no-index", wheel, folder=tmp_path)
    packages = Path(run(inside, "-c", SITE_PACKAGES, folder=tmp_path).strip())
    (packages / "libraries.pth").write_text(f"{libraries}\n")

    where = run(inside, "-c", "import harness; print(harness.__file__)", folder=tmp_path)
    assert Path(where.strip()).is_relative_to(packages)
    assert {path for path in data_files() if not (packages / path).exists()} == set()
    assert not (packages / "tests").exists()
    program = environment / "bin" / "wbc-bench"
    run(program, "init", folder=tmp_path)
    written = (tmp_path / "benchmark.toml").read_text("utf-8")
    assert written == (ROOT / "harness" / "benchmark.toml").read_text("utf-8")
    cache = {"WBC_BENCH_CACHE": str(tmp_path / "cache"), "CUDA_VISIBLE_DEVICES": ""}
    run(program, "run", "l0", "--data", "smear@400", folder=tmp_path, **cache)
    table = (tmp_path / "results" / "LEADERBOARD.md").read_text("utf-8")
    assert "EfficientNet-Lite0" in table
    run(program, "verify", folder=tmp_path, **cache)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_module_compiles(version: str, tmp_path: Path) -> None:
    """On Pythons without the dependencies, too: their grammar is the same."""
    if answer(f"python{version}", "print()") is None:
        pytest.skip(f"no python{version} on the path")
    program = (
        "import pathlib\n"
        f"for path in pathlib.Path({str(ROOT)!r}).glob('[hz]*/**/*.py'):\n"
        "    compile(path.read_text('utf-8'), path, 'exec')"
    )
    assert answer(f"python{version}", program) is not None


def test_the_metadata_names_the_tested_pythons() -> None:
    named = [c.rpartition(" ")[2] for c in PROJECT["classifiers"] if "Python :: 3." in c]
    assert named == list(VERSIONS)
    assert PROJECT["requires-python"] == f">={VERSIONS[0]}"


@pytest.mark.parametrize("kind", ["", "dev"])
def test_dependencies_are_sorted_and_bounded(kind: str) -> None:
    listed = PROJECT["optional-dependencies"][kind] if kind else PROJECT["dependencies"]
    names = [re.split(r"[<>=\[]", dependency)[0] for dependency in listed]
    assert names == sorted(names)
    assert all(">=" in dependency for dependency in listed)


def test_the_image_copies_files_that_exist() -> None:
    """And those alone that the wheel is built from."""
    text = (ROOT / "Dockerfile").read_text("utf-8")
    copied = [name for line in re.findall(r"^COPY (.+) \S+$", text, re.M) for name in line.split()]
    assert {"pyproject.toml", "README.md", "LICENSE", "harness", "zoo"} == set(copied)
    assert all((ROOT / name).exists() for name in copied)
    kept = re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text("utf-8"), re.M)
    assert set(kept) == set(copied)


def test_the_package_data_covers_every_file() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    (patterns,) = settings["tool"]["setuptools"]["package-data"].values()
    suffixes = {Path(pattern).suffix for pattern in patterns} - {".typed"}
    assert {path.suffix for path in data_files()} - {".typed"} <= suffixes
