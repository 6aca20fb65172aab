"""What `vllm serve` takes until it answers, as a multiple of what importing vLLM's server takes.

In turns: the import; a start with every cache empty; and one more with what that start has kept.
Prints medians; `--json FILE` writes the figures with date, machine and commit as well.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import closing
from pathlib import Path
from socket import socket

from benchmarks.serving.checkpoint import ROOT
from benchmarks.serving.machine import circumstances

MODEL = ROOT / "examples" / "sonnets" / "model"
IMPORT = "import vllm.entrypoints.openai.api_server"
VLLM = Path(sys.executable).with_name("vllm")
PATIENCE = 900.0


def importing(environment: dict[str, str]) -> float:
    """Seconds that importing takes."""
    begin = time.monotonic()
    subprocess.run([sys.executable, "-c", IMPORT], env=environment, check=True, capture_output=True)
    return time.monotonic() - begin


def starting(model: Path, arguments: list[str], environment: dict[str, str], log: Path) -> float:
    """Seconds until a server answers ``/health``; it is stopped then.

    Raises:
        RuntimeError: it ended, or didn't answer; the message names the log.
    """
    with closing(socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    command = [str(VLLM), "serve", str(model), "--host", "127.0.0.1", "--port", str(port)]
    begin = time.monotonic()
    with log.open("wb") as file:
        server = subprocess.Popen(
            [*command, *arguments], env=environment, stdout=file, stderr=subprocess.STDOUT
        )
    try:
        while time.monotonic() < begin + PATIENCE and server.poll() is None:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).close()
                return time.monotonic() - begin
            except OSError:
                time.sleep(0.1)
        raise RuntimeError(f"vllm serve doesn't answer: see {log}")
    finally:
        server.terminate()
        server.wait(60)


def main() -> None:
    """See --help."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=MODEL, help="default: %(default)s")
    parser.add_argument("--device", default="openvino:CPU", help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    options, arguments = parser.parse_known_args()

    seconds: dict[str, list[float]] = {"import": [], "cold": [], "warm": []}
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory() as directory:
            environment = {
                "HF_HUB_OFFLINE": "1",
                "OMP_WAIT_POLICY": "passive",
                **os.environ,
                "VLLM_NPU_DEVICE": options.device,
                "VLLM_CACHE_ROOT": directory,
            }
            seconds["import"].append(importing(environment))
            log = Path(tempfile.gettempdir()) / f"start-up-{os.getpid()}.log"
            for which in ("cold", "warm"):
                seconds[which].append(starting(options.model, arguments, environment, log))
            log.unlink()
    median = {which: statistics.median(values) for which, values in seconds.items()}
    where = circumstances()
    print(f"\nSeconds to /health of {options.model.name} on {options.device}, {where['cpu']}")
    print(f"{where['date']}, commit {where['commit']}, medians of {options.rounds}")
    for which, value in median.items():
        print(f"{which:>8} {value:>8.1f} s {value / median['import']:>6.2f} x the import")
    if options.json:
        figures = {**where, "device": options.device, "model": str(options.model)}
        options.json.write_text(json.dumps({**figures, "seconds": seconds}, indent=2) + "\n")


if __name__ == "__main__":
    main()
