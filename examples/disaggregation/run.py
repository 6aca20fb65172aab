"""Prefills in one engine and decodes in another, behind a proxy, all on this machine.

python examples/disaggregation/run.py               # KV goes by NIXL, from memory to memory
python examples/disaggregation/run.py --via tier    # KV goes through a directory that both use

Further arguments are for both engines: `--max-model-len 512`.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
from openai import DefaultHttpxClient, OpenAI

HERE = Path(__file__).resolve().parent
MODEL = HERE.parent / "sonnets" / "model"
NAME = "sonnets"
READY_SECONDS = 600
QUESTION = """Shall I compare thee to a summer's day?
Thou art more lovely and more temperate:
Rough winds do shake the darling buds of May,
And summer's lease hath all too short a date:"""


def transfer_config(via: str, role: str, directory: Path) -> dict[str, Any]:
    """What `--kv-transfer-config` says to the engine of one role."""
    if via == "nixl":
        return {
            "kv_connector": "NPUNixlConnector",
            "kv_role": role,
            # A prompt whose KV doesn't arrive is computed, instead of failing.
            "kv_load_failure_policy": "recompute",
        }
    tier = {"type": "fs", "root_dir": str(directory), "max_bytes": "1GiB"}
    options = {"cpu_bytes_to_use": "256MiB", "secondary_tiers": [tier], "load": "always"}
    # Both ends of a shared tier read and write it.
    return {
        "kv_connector": "NPUConnector",
        "kv_role": "kv_both",
        "kv_load_failure_policy": "recompute",
        "kv_connector_extra_config": options,
    }


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def running(
    command: Sequence[object], log: Path, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process, its output in a file, stopped with its children at the end."""
    with log.open("wb") as file:
        process = subprocess.Popen(
            [str(part) for part in command],
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_until_healthy(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Returns when /health answers; ends the example with the end of the log if it never does."""
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"{url}/health", timeout=5, trust_env=False).is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.5)
    tail = log.read_text(errors="replace").splitlines()[-40:]
    sys.exit("\n".join([*tail, f"error: {url} isn't ready; the whole log: {log}"]))


def metric(url: str, name: str) -> float:
    """A counter of an engine."""
    text = httpx.get(f"{url}/metrics", trust_env=False).text
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))


def ask(url: str) -> None:
    """Prints a chat as it streams."""
    client = OpenAI(
        base_url=f"{url}/v1", api_key="none", http_client=DefaultHttpxClient(trust_env=False)
    )
    print("\n> " + QUESTION.replace("\n", "\n> "))
    stream = client.chat.completions.create(
        model=NAME,
        messages=[{"role": "user", "content": QUESTION}],
        temperature=0,
        max_tokens=64,
        stream=True,
    )
    for chunk in stream:
        if chunk.choices:
            print(chunk.choices[0].delta.content or "", end="", flush=True)
    print("\n")


def main() -> None:
    """See --help."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--via", choices=("nixl", "tier"), default="nixl")
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--keep", action="store_true", help="leave it serving until Ctrl-C")
    options, extra = parser.parse_known_args()
    os.environ.setdefault("VLLM_NPU_DEVICE", "reference")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

    directory = Path(tempfile.mkdtemp(prefix="vllm-npu-disaggregation-"))
    urls = {role: f"http://127.0.0.1:{free_port()}" for role in ("kv_producer", "kv_consumer")}
    with ExitStack() as stack:
        waiting = []
        for role, url in urls.items():
            config = json.dumps(transfer_config(options.via, role, directory / "kv"))
            address = ("--host", "127.0.0.1", "--port", url.rsplit(":", 1)[1])
            name = ("--served-model-name", NAME, "--kv-transfer-config", config)
            command = ("vllm", "serve", options.model, *address, *name, *extra)
            # Where the engines of one machine tell each other what they hold: one port for each.
            env = {"VLLM_NIXL_SIDE_CHANNEL_PORT": str(free_port())}
            log = directory / f"{role}.log"
            waiting.append((url, stack.enter_context(running(command, log, env)), log))
        print(f"Starting two engines; logs in {directory}", flush=True)
        for url, process, log in waiting:
            wait_until_healthy(url, process, log)

        proxy, log = f"http://127.0.0.1:{(port := free_port())}", directory / "proxy.log"
        prefill, decode = urls.values()
        engines = ("--prefill", prefill, "--decode", decode, "--port", port)
        process = stack.enter_context(running((sys.executable, HERE / "proxy.py", *engines), log))
        wait_until_healthy(proxy, process, log)
        ask(proxy)
        loaded = metric(decode, "vllm:external_prefix_cache_hits_total")
        prompt = metric(decode, "vllm:prompt_tokens_total")
        print(f"Of {prompt:.0f} tokens of prompts, the decode engine took over {loaded:.0f}.")
        if options.keep:
            print(f"Serving at {proxy}/v1 as model `{NAME}`. Ctrl-C stops it.", flush=True)
            try:
                sys.exit(f"error: the proxy ended with code {process.wait()}; see {log}")
            except KeyboardInterrupt:
                return


if __name__ == "__main__":
    main()
