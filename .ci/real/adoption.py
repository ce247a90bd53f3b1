"""The programs and commands that the README shows, before the simulated provider.

A quickstart runs as it was before the change, straight at the provider, and as it
is after, through the sidecar: it prints the same, and is booked. curl is one more
client, which shows the bytes.
"""

import json
import os
import pathlib
import re
import shlex
import subprocess
import sys

from judge import Verdict, steady
from programs import HERE, KEY, Sidecar

ROOT = HERE.parent.parent
SHOWN = "http://127.0.0.1:8080"  # the sidecar, as the pages call it
MODEL = "gpt-4o-mini"  # the model that they ask


def bill(sidecar: Sidecar) -> tuple[int, int]:
    """Requests and tokens of the session that the pages show."""
    totals = sidecar.get("/sessions/status").get("agent-1", {"request_count": 0, "total_tokens": 0})
    return totals["request_count"], totals["total_tokens"]


def quickstarts(verdict: Verdict, sidecar: Sidecar, direct: str, logs: pathlib.Path, node: pathlib.Path) -> None:
    for program in ROOT / "examples/python/quickstart.py", ROOT / "examples/javascript/quickstart.mjs":
        after = program.read_text()
        before, lines = re.subn(r"(?m)^(?:#|//) was: (.*)\n.*\n", r"\1\n", after)
        verdict.equal(f"{program.name}: lines that change", lines, 1)
        # Node looks for packages beside the program.
        folder = node if program.suffix == ".mjs" else logs

        def run(name: str, text: str, **env) -> str:
            path = folder / f"{name}-{program.name}"
            path.write_text(text)
            command = ["node" if program.suffix == ".mjs" else sys.executable, str(path)]
            clean = {k: v for k, v in os.environ.items() if not k.startswith("OPENAI_")}
            done = subprocess.run(command, env=clean | env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
            path.unlink()
            verdict.equal(f"exit code of {program.name}, {name}\n{done.stderr[-1500:]}", done.returncode, 0)
            return done.stdout

        want = run("before", before, OPENAI_BASE_URL=direct, OPENAI_API_KEY=KEY)
        requests, tokens = bill(sidecar)
        got = run("after", after.replace(SHOWN, sidecar.url))
        verdict.equal(f"{program.name} prints what it printed before", (got, bool(got.strip())), (want, True))
        again, more = bill(sidecar)
        verdict.true(f"{program.name} is booked, and once", again == requests + 1 and more > tokens)


def curl(*arguments: str) -> tuple[int, str]:
    done = subprocess.run(["curl", "--silent", "--show-error", "--max-time", "60", *arguments], stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout


def events(text: str) -> list:
    """A stream's lines; what is JSON decoded, without what differs between two equal calls."""
    return [steady(json.loads(line[6:])) if line.startswith("data: {") else line for line in text.split("\n")]


def curls(verdict: Verdict, sidecar: Sidecar, direct: str) -> None:
    """The README's own commands, then a stream and an error."""
    block = re.search(r"(?ms)^```console\n(\$ curl .*?)^```", (ROOT / "README.md").read_text())[1]
    chat, status = re.findall(r"(?m)^\$ (curl (?:.*\\\n)*.*)$", block)
    asked = shlex.split(chat.replace("\\\n", ""))[1:]
    session = f"{SHOWN}/v1/session/agent-1"

    def both(*arguments: str) -> tuple:
        through = curl(*(a.replace(session, f"{sidecar.url}/v1/session/agent-1") for a in arguments))
        return through, curl(*(a.replace(session, direct) for a in arguments), "-H", f"Authorization: Bearer {KEY}")

    requests, _ = bill(sidecar)
    (code, got), (_, want) = both(*asked)
    verdict.equal("curl: the README's command", (code, steady(json.loads(got))), (0, steady(json.loads(want))))
    code, text = curl(*(a.replace(SHOWN, sidecar.url) for a in shlex.split(status)[1:]))
    verdict.equal("curl: the README's second command", (code, json.loads(text)), (0, sidecar.get("/sessions/status")))
    shown = json.loads(block.strip().splitlines()[-1])
    verdict.equal("curl: the answer that the README shows has the members it has", set(shown["agent-1"]), set(json.loads(text)["agent-1"]))

    body = {"model": MODEL, "messages": [{"role": "user", "content": "say 9 words"}], "stream": True}
    for more in {}, {"stream_options": {"include_usage": True}}:
        (code, got), (_, want) = both("--no-buffer", *asked[:-1], json.dumps(body | more))
        verdict.equal(f"curl: a stream {more}", (code, events(got)), (0, events(want)))
        verdict.true("curl: it ends with [DONE]", got.endswith("data: [DONE]\n\n"))
    failed = both("--write-out", "%{http_code}", *asked[:-1], json.dumps(body | {"model": "no-such-model"}))
    verdict.equal("curl: an error", *failed)
    verdict.true("curl: is a 404", failed[0][1].endswith("404"))
    verdict.equal("curl: three answers are booked", bill(sidecar)[0], requests + 3)
