"""Serves the sonnets model with vLLM, asks it twice, and says how to keep it running."""

import argparse
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import openai

ROOT = Path(__file__).resolve().parent.parent
MODEL = Path("examples/sonnets/model")
LOG = ROOT / ".cache" / "demo" / "server.log"
READY_SECONDS = 600


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def command(port: int, extra: list[str]) -> list[str]:
    """The `vllm serve` command line."""
    name = ["--served-model-name", "sonnets"]
    return ["vllm", "serve", str(MODEL), *name, "--host", "127.0.0.1", "--port", str(port), *extra]


@contextmanager
def serving(port: int, extra: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """The server, its output in LOG, stopped with its children at the end."""
    LOG.parent.mkdir(parents=True, exist_ok=True)
    with LOG.open("wb") as log:
        server = subprocess.Popen(
            command(port, extra),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield server
    finally:
        server.terminate()
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def wait_until_ready(server: subprocess.Popen[bytes], url: str) -> None:
    """Returns when /health answers; ends the demo with the end of the log if it never does."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with closing(opener.open(f"{url}/health", timeout=5)):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    code = server.poll()
    what = "is still not ready" if code is None else f"ended with code {code}"
    tail = LOG.read_text(errors="replace").splitlines()[-40:]
    sys.exit("\n".join([*tail, f"error: vllm serve {what}; the whole log: {LOG}"]))


def ask(url: str) -> None:
    """Prints a completion, then a chat as it streams."""
    local = openai.DefaultHttpxClient(trust_env=False)  # no proxy to this machine
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", http_client=local)
    prompt = "Shall I compare thee to a"
    done = client.completions.create(model="sonnets", prompt=prompt, max_tokens=64, temperature=0)
    print(f"\n--- completion\n{prompt}{done.choices[0].text}")
    print("\n--- chat, streamed")
    question = "Write of love and time."
    print(f"> {question}")
    for chunk in client.chat.completions.create(
        model="sonnets",
        messages=[{"role": "user", "content": question}],
        max_tokens=64,
        temperature=0,
        stream=True,
    ):
        if chunk.choices:
            print(chunk.choices[0].delta.content or "", end="", flush=True)
    print("\n")


def main() -> None:
    """See --help."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave it serving until Ctrl-C")
    parser.add_argument("--port", type=int, help="default: a free one")
    options, extra = parser.parse_known_args()  # the rest is for vllm serve
    if not (ROOT / MODEL / "config.json").exists():
        sys.exit(f"error: no model in {MODEL}: is the clone complete?")
    device = os.environ.setdefault("VLLM_NPU_DEVICE", "reference")
    port = options.port or free_port()
    url = f"http://127.0.0.1:{port}"
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

    print(f"Starting {MODEL} on {device}; log: {LOG.relative_to(ROOT)}", flush=True)
    started = time.monotonic()
    with serving(port, extra) as server:
        wait_until_ready(server, url)
        print(f"Ready after {time.monotonic() - started:.0f} s at {url}")
        ask(url)
        if options.keep:
            print(f"Serving at {url}/v1 as model `sonnets`. Ctrl-C stops it.", flush=True)
            try:
                sys.exit(f"error: vllm serve ended with code {server.wait()}; see {LOG}")
            except KeyboardInterrupt:
                return
    print("To keep it serving: nox -s demo -- --keep")
    print("Or, after `source .venv/bin/activate`:")
    print(f"  VLLM_NPU_DEVICE={device} {' '.join(command(8000, extra))}")


if __name__ == "__main__":
    main()
