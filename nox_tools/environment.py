"""Python environments made with uv in layers; a layer is made again only when its inputs change."""

import hashlib
import os
import shutil
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import nox

from nox_tools.packages import PACKAGES, ROOT, directory, pyprojects

CONSTRAINTS = ROOT / "requirements" / "constraints.txt"
TOOLS = ROOT / "requirements" / "environment.in"

VLLM = "vllm==0.32.0"
# What building vLLM without a device needs; its build runs in the environment, beside torch.
VLLM_BUILD = ["torch", "numpy", "packaging", "wheel", "jinja2", "cmake", "ninja"]
VLLM_BUILD += ["setuptools>=77,<81", "setuptools-scm", "setuptools-rust"]

Part = str | Path

RUN_DEFAULTS = {
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "OMP_WAIT_POLICY": "passive",
    "VLLM_NO_USAGE_STATS": "1",
}


def find_uv() -> str:
    """The uv that was installed with nox, wherever pip put it, or else the one on PATH."""
    try:
        from uv import find_uv_bin

        return str(find_uv_bin())
    except (ImportError, FileNotFoundError):
        if found := shutil.which("uv"):
            return found
        sys.exit("error: uv isn't installed; python3 -m pip install uv")


def base_python() -> str:
    """The interpreter for environments: nox's own, or 3.11 as found or fetched by uv."""
    return sys.executable if (3, 11) <= sys.version_info[:2] <= (3, 13) else "3.11"


def sources() -> list[str]:
    """uv options that give CPU builds of torch: $PIP_FIND_LINKS, or the CPU index that uv knows."""
    links = os.environ.get("PIP_FIND_LINKS", "").split()
    options = [option for link in links for option in ("--find-links", link)]
    has_torch = any(any(Path(link).glob("torch-*.whl")) for link in links)
    if not has_torch and "UV_TORCH_BACKEND" not in os.environ:
        options += ["--torch-backend", "cpu"]
    return options


def digest(*parts: Part) -> str:
    """A hash of strings and of files' contents."""
    total = hashlib.sha256()
    for part in parts:
        data = part.read_bytes() if isinstance(part, Path) else part.encode()
        total.update(hashlib.sha256(data).digest())
    return total.hexdigest()


@dataclass(frozen=True)
class Environment:
    """A virtual environment of one nox session."""

    session: nox.Session
    path: Path

    @property
    def python(self) -> str:
        return str(self.path / "bin" / "python")

    def run(self, *command: Part, cwd: Path = ROOT, env: dict[str, str] | None = None) -> None:
        """Runs `command` with the environment's programs first on PATH, never asking a hub."""
        settings: dict[str, str | None] = {
            **{key: os.environ.get(key, value) for key, value in RUN_DEFAULTS.items()},
            "PATH": os.pathsep.join([str(self.path / "bin"), os.environ.get("PATH", "")]),
            "VIRTUAL_ENV": str(self.path),
            "PYTHONHOME": None,
            "VLLM_TARGET_DEVICE": None,
            **(env or {}),
        }
        program = str(self.path / "bin" / command[0])
        with self.session.chdir(cwd):
            self.session.run(
                program,
                *map(str, command[1:]),
                env=settings,
                external=True,
                interrupt_timeout=60,  # after Ctrl-C, time for a server to end its processes
            )

    def uv(self, *arguments: Part) -> None:
        """Runs uv in the workspace, whose pyproject.toml holds settings for it."""
        env = {"VLLM_TARGET_DEVICE": "empty"}
        self.session.run(find_uv(), *map(str, arguments), env=env, external=True)

    def install(self, *arguments: Part) -> None:
        """`uv pip install` with the pinned versions."""
        options = ["--python", self.python, "--constraints", str(CONSTRAINTS), *sources()]
        self.uv("pip", "install", "--quiet", *options, *arguments)

    def layer(self, name: str, inputs: Iterable[Part], build: Callable[[], None]) -> None:
        """Runs `build` unless it ran before in this environment with the same inputs."""
        stamp = self.path / ".layers" / name
        wanted = digest(*inputs)
        if stamp.exists() and stamp.read_text() == wanted:
            return
        self.session.log(f"{self.path.name}: {name}")
        build()
        stamp.parent.mkdir(exist_ok=True)
        stamp.write_text(wanted)

    def create(self) -> None:
        """An empty environment, made anew when the interpreter changed or the directory moved."""
        moved = (self.path / ".layers").exists() or not Path(self.python).exists()
        clear = ["--clear"] if moved else ["--allow-existing"]
        make = ["venv", "--quiet", "--python", base_python(), *clear, str(self.path)]
        self.layer("python", [sys.version, str(self.path)], lambda: self.uv(*make))

    def add_vllm(self) -> None:
        """vLLM without a device, and what it needs at run time.

        The first install builds vLLM with no dependencies, since the metadata of its source
        distribution asks for CUDA; the second reads those of the build.
        """

        def build() -> None:
            self.install(*VLLM_BUILD)
            self.install("--no-build-isolation", "--no-deps", "--no-binary", "vllm", VLLM)
            self.install(VLLM)

        self.layer("vllm", [CONSTRAINTS, VLLM, *VLLM_BUILD], build)

    def compile_bytecode(self) -> None:
        """Bytecode of everything installed: without it, each process that imports vLLM takes
        twice as long, and an engine is several."""
        self.layer(
            "bytecode",
            [CONSTRAINTS, TOOLS, VLLM],
            lambda: self.install("--compile-bytecode", VLLM),
        )


def development(session: nox.Session) -> Environment:
    """`.venv`: vLLM, every tool, and the packages editable. All but the wheel sessions share it."""
    env = Environment(session, ROOT / ".venv")
    env.create()
    env.add_vllm()
    env.layer("tools", [CONSTRAINTS, TOOLS], lambda: env.install(VLLM, "-r", TOOLS))
    env.compile_bytecode()
    ours: list[Part] = []
    for package in map(directory, PACKAGES):
        ours += ["-e", package] if (package / "src").exists() else [package]  # the meta has no code
    env.layer(
        "packages",
        [*pyprojects(), str(ROOT)],
        lambda: env.install("--no-deps", "--no-build-isolation", *ours),
    )
    return env
