"""Start and ask the programs of the check: the model server, the sidecar, the drivers."""

import collections
import contextlib
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import time
import urllib.request

HERE = pathlib.Path(__file__).parent
KEY = "sk-model-server"


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@contextlib.contextmanager
def running(command: list, log: pathlib.Path, **options):
    """A child process that is gone afterwards; its stderr goes to log."""
    with log.open("ab") as err:
        child = subprocess.Popen(command, stderr=err, stdin=subprocess.DEVNULL, **options)
    try:
        yield child
    finally:
        if child.poll() is None:
            child.terminate()
            try:
                child.wait(60)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


@contextlib.contextmanager
def model_server(logs: pathlib.Path):
    command = [sys.executable, str(HERE / "server.py"), "--key", KEY]
    with running(command, logs / "model.log", stdout=subprocess.PIPE, text=True) as child:
        address = child.stdout.readline().strip()
        if not address:
            raise SystemExit(f"the model server did not start:\n{tail(logs / 'model.log')}")
        yield address


class Sidecar:
    """One running sidecar; its settings are the environment variables given."""

    def __init__(self, stack: contextlib.ExitStack, binary: str, logs: pathlib.Path, name: str, **settings):
        settings = {"PORT": str(free_port()), "LOG_LEVEL": "debug", "LOG_FORMAT": "json"} | settings
        self.url = f"http://127.0.0.1:{settings['PORT']}"
        log = logs / f"{name}.log"
        # None of the caller's own OPENAI_… settings may reach it.
        env = {k: os.environ[k] for k in ("PATH", "HOME", "TMPDIR") if k in os.environ} | settings
        self.process = stack.enter_context(running([binary], log, env=env, cwd=logs, stdout=subprocess.DEVNULL))
        deadline = time.monotonic() + 30
        while True:
            try:
                with urllib.request.urlopen(f"{self.url}/readyz", timeout=5):
                    return
            except OSError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"the sidecar {name} is not ready:\n{tail(log)}") from None
                time.sleep(0.02)

    def get(self, path: str):
        with urllib.request.urlopen(self.url + path, timeout=30) as answer:
            return json.load(answer)


def tail(log: pathlib.Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-15:])


def model_counters(address: str) -> collections.Counter:
    """What the model server itself counted: prompt and completion tokens."""
    request = urllib.request.Request(f"{address}/metrics", headers={"Authorization": f"Bearer {KEY}"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        page = answer.read().decode()
    read = lambda name: int(float(re.search(rf"^llamacpp:{name} (\S+)$", page, re.M)[1]))  # noqa: E731
    return collections.Counter(prompt=read("prompt_tokens_total"), completion=read("tokens_predicted_total"))


def drive(command: list, env: dict, logs: pathlib.Path, cwd: pathlib.Path) -> list[dict]:
    """Run one driver; it writes a JSON line per call."""
    started = time.monotonic()
    done = subprocess.run(command, env=os.environ | env, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, timeout=600)
    if done.returncode != 0:
        raise SystemExit(f"{command} exited with {done.returncode}:\n{done.stderr[-3000:]}")
    lines = [json.loads(text) for text in done.stdout.splitlines()]
    print(f"  {sorted({line['sdk'] for line in lines})}: {len(lines)} calls in {time.monotonic() - started:.1f} s")
    return lines
