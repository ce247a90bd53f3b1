"""Hold the sidecar to its promises on real input.

A real model behind llama.cpp's own OpenAI-compatible server, asked by the real
SDKs: once directly, once through the sidecar. Then three witnesses must agree to
the token: the usage that the SDKs showed, the sidecar's /sessions/status, and
the counters of the model server.

Started by the script `check` beside it, which installs everything first.
"""

import argparse
import collections
import concurrent.futures
import contextlib
import http.client
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

import odd
from openai import OpenAI

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent
PLAN = json.loads((HERE / "plan.json").read_text())
KEY = "sk-model-server"

# Members that differ between two equal calls.
VOLATILE = {"id", "item_id", "created", "created_at", "completed_at", "timings", "itemId", "responseId", "timestamp", "headers"}
TOTALS = {"prompt": "total_prompt_tokens", "completion": "total_completion_tokens", "total": "total_tokens"}


class Verdict:
    """Counts what held and says at once what did not."""

    passed = failed = 0

    def equal(self, what: str, got, want) -> None:
        if got == want:
            self.passed += 1
            return
        self.failed += 1
        print(f"FAIL {what}\n  got  {brief(got)}\n  want {brief(want)}", flush=True)

    def true(self, what: str, held: bool) -> None:
        self.equal(what, bool(held), True)


def brief(value) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return text if len(text) < 1500 else text[:1500] + " …"


# --- the programs ------------------------------------------------------------


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


# --- the comparison ----------------------------------------------------------


def steady(value):
    """value without the members that differ between two equal calls."""
    if isinstance(value, dict):
        return {k: steady(v) for k, v in value.items() if k not in VOLATILE}
    if isinstance(value, list):
        return [steady(v) for v in value]
    return value


def cost(line: dict, twins: dict) -> dict | None:
    """What a call used; a stream that shows no usage costs what its twin showed."""
    if line.get("error") or line["step"] == "models" or line["step"].startswith("odd-"):
        return None
    return line["usage"] or twins[line["step"] + "-usage"]


def compare_answers(verdict: Verdict, lines: list[dict]) -> None:
    """The same call has the same answer, events, exception: directly and through."""
    direct = {(line["sdk"], line["step"]): line for line in lines if line["via"] == "direct"}
    for line in lines:
        what = f"{line['sdk']} {line['session']} {line['step']}"
        if line["via"] == "direct":
            continue
        twin = direct[line["sdk"], line["step"]]
        for member in ("text", "usage", "error"):
            verdict.equal(f"{what}: {member} as without the sidecar", line.get(member), twin.get(member))
        for member in ("body", "events"):
            if member in line:
                verdict.equal(f"{what}: {member} as without the sidecar", steady(line[member]), steady(twin[member]))
        if line["step"] in ("stream", "long"):
            verdict.equal(f"{what}: shows no usage that was not asked for", line["usage"], None)
            verdict.true(f"{what}: every chunk has a choice", all(e["choices"] for e in line["events"]))
        if line["step"] == "long-usage":
            verdict.true(f"{what}: the first event comes while the model is at work", line["live"])
    for step in sorted({step for _, step in direct}):
        said = {line["text"] for line in lines if line["step"] == step and "text" in line}
        verdict.true(f"every SDK gets one answer to {step}", len(said) <= 1)


def compare_odd(verdict: Verdict, sidecar: Sidecar, upstream: odd.Server, lines: list[dict]) -> None:
    """Whatever a stream looks like, its usage is booked once, and it is asked for once."""
    lines = [line for line in lines if line["step"].startswith("odd-")]
    status = sidecar.get("/sessions/status")
    for line in lines:
        if line["via"] == "direct":
            continue
        name = re.sub(r"^odd-(response-)?|-(un)?asked$", "", line["step"])
        used = odd.ODD[name][-1] or odd.usage(0, 0)
        want = {"session_id": line["session"], "request_count": 1, "total_tokens": used["total_tokens"],
                "total_prompt_tokens": used["prompt_tokens"], "total_completion_tokens": used["completion_tokens"]}
        verdict.equal(f"{line['sdk']} {line['step']}: booked", status.get(line["session"]), want)
        verdict.equal(f"{line['sdk']} {line['step']}: fails if, and only if, it was cut off", bool(line.get("error")), name == "cut")
        verdict.equal(f"{line['sdk']} {line['step']}: text", line["text"], "ab")
    verdict.equal("requests that reached the odd upstream", upstream.answers, len(lines))


def expected_sessions(lines: list[dict]) -> dict[str, dict]:
    """/sessions/status as the SDKs' own usage makes it."""
    twins = {line["step"]: line["usage"] for line in lines if line.get("usage")}
    sessions: dict[str, dict] = {}
    for line in lines:
        used = cost(line, twins)
        if line["via"] == "direct" or used is None:
            continue
        totals = sessions.setdefault(line["session"], {"session_id": line["session"], **dict.fromkeys(TOTALS.values(), 0),
                                                       "request_count": 0})
        for name, member in TOTALS.items():
            totals[member] += used[name]
        totals["request_count"] += 1
    return sessions


def direct_cost(lines: list[dict]) -> collections.Counter:
    twins = {line["step"]: line["usage"] for line in lines if line.get("usage")}
    total = collections.Counter()
    for line in lines:
        if line["via"] == "direct" and (used := cost(line, twins)):
            total.update(used)
    return total


def compare_ledger(verdict: Verdict, sidecar: Sidecar, want: dict[str, dict]) -> None:
    """All three routes tell the same; sessions of the examples are not in want."""
    status = sidecar.get("/sessions/status")
    for session, totals in sorted(want.items()):
        verdict.equal(f"/sessions/status of {session}", status.get(session), totals)
        verdict.equal(f"/sessions/{session}/status", sidecar.get(f"/sessions/{session}/status"), totals)
        verdict.equal(f"/v1/session/{session}/status", sidecar.get(f"/v1/session/{session}/status"), totals)


# --- the scenes --------------------------------------------------------------


def crowd(verdict: Verdict, sidecar: Sidecar) -> list[dict]:
    """More calls at once than the limit lets pass: all wait, none fails."""
    client = OpenAI(base_url=f"{sidecar.url}/v1", api_key="unused", max_retries=0, timeout=120)

    def call(i: int) -> dict:
        session = f"crowd-{i % 3}"
        raw = client.chat.completions.with_raw_response.create(
            model=PLAN["model"], messages=[{"role": "user", "content": PLAN["question"]}], max_tokens=4, temperature=0,
            extra_headers={"X-Session-Id": session})
        used = raw.parse().usage
        return {"via": "sidecar", "session": session, "step": "crowd", "waited": float(raw.headers["X-Queue-Wait-Ms"]),
                "usage": {"prompt": used.prompt_tokens, "completion": used.completion_tokens, "total": used.total_tokens}}

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        lines = list(pool.map(call, range(16)))
    waits = sorted(line["waited"] for line in lines)
    print(f"  crowd: 16 calls at once under 60 a minute, waits in ms: {[round(w) for w in waits]}")
    verdict.true("crowd: the calls over the limit waited", waits[-1] > 500)
    verdict.true("crowd: the first call did not wait", waits[0] < 100)
    return lines


def hurry(verdict: Verdict, sidecar: Sidecar) -> None:
    """Streams back to back. The model server closes each connection that carried a stream although its
    header promises to keep it: a proxy that reuses it at once loses requests."""
    host = sidecar.url.removeprefix("http://")
    body = json.dumps({"model": PLAN["model"], "messages": [{"role": "user", "content": PLAN["question"]}],
                       "max_tokens": 1, "stream": True})
    codes = collections.Counter()
    connection = http.client.HTTPConnection(host, timeout=120)
    for _ in range(40):
        connection.request("POST", "/v1/session/hurry/chat/completions", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        codes[answer.status] += 1
    connection.close()
    verdict.equal("hurry: status codes of streams back to back", codes, {200: 40})


def interrupt(verdict: Verdict, sidecar: Sidecar) -> dict:
    """Ctrl-C during a stream: the stream comes to its end, then the sidecar's exit is clean."""
    client = OpenAI(base_url=f"{sidecar.url}/v1/session/interrupted", api_key="unused", max_retries=0, timeout=120)
    text, finish = "", None
    stream = client.chat.completions.create(
        model=PLAN["model"], messages=[{"role": "user", "content": PLAN["long_question"]}],
        max_tokens=PLAN["long_max_tokens"], temperature=0, seed=PLAN["seed"], stream=True)
    for i, chunk in enumerate(stream):
        if i == 0:
            sidecar.process.send_signal(signal.SIGINT)
        text += chunk.choices[0].delta.content or ""
        finish = chunk.choices[0].finish_reason or finish
    verdict.true("a stream under way at Ctrl-C is finished", finish)
    verdict.equal("exit code after Ctrl-C", sidecar.process.wait(60), 0)
    return {"sdk": "interrupt", "via": "sidecar", "session": "interrupted", "step": "long", "text": text, "usage": None}


def run_examples(verdict: Verdict, sidecar: Sidecar, logs: pathlib.Path, node: pathlib.Path) -> None:
    """Every example of the repository runs as its reader would run it."""
    env = os.environ | {"SIDECAR": sidecar.url, "MODEL": PLAN["model"]}
    commands = [[sys.executable, str(p)] for p in sorted((ROOT / "examples/python").glob("*.py"))]
    commands += [["node", p.name] for p in sorted((ROOT / "examples/javascript").glob("*.mjs"))]
    for command in commands:
        name = pathlib.Path(command[1]).name
        before = sum(s["request_count"] for s in sidecar.get("/sessions/status").values())
        started = time.monotonic()
        done = subprocess.run(command, cwd=node, env=env, capture_output=True, text=True, timeout=120)
        (logs / f"example-{name}.log").write_text(done.stdout + done.stderr)
        after = sum(s["request_count"] for s in sidecar.get("/sessions/status").values())
        verdict.equal(f"exit code of {name}\n{done.stderr[-1500:]}", done.returncode, 0)
        verdict.true(f"{name}: its calls are booked to its sessions", after > before)
        print(f"  {name}: {after - before} calls in {time.monotonic() - started:.1f} s")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sidecar", required=True, help="the sidecar's binary")
    parser.add_argument("--go-driver", required=True, action="append", help="a binary of examples/realcheck; may be repeated")
    parser.add_argument("--node", required=True, type=pathlib.Path, help="folder with node_modules and the scripts")
    args = parser.parse_args()
    verdict = Verdict()

    with contextlib.ExitStack() as stack:
        logs = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="real-")))
        model = stack.enter_context(model_server(logs))
        common = {"OPENAI_BASE_URL": f"{model}/v1", "OPENAI_API_KEY": KEY, "LOG_LEVEL": "debug", "LOG_FORMAT": "json"}

        def start(name: str, **settings) -> Sidecar:
            return Sidecar(stack, args.sidecar, logs, name, **common | {"PORT": str(free_port())} | settings)

        stored = {"REPOSITORY_TYPE": "sqlite", "SQLITE_DSN": str(logs / "sessions.db"), "RATE_LIMIT_PER_MIN": "0"}
        sidecar = start("main", **stored)
        denied = start("denied", OPENAI_API_KEY="sk-wrong")
        strange = odd.Server()
        behind = start("odd", OPENAI_BASE_URL=f"{strange.url}/v1", RATE_LIMIT_PER_MIN="0")
        before = model_counters(model)

        print("SDKs, directly and through the sidecar:", flush=True)
        env = {"DIRECT_URL": f"{model}/v1", "METRICS_URL": f"{model}/metrics", "UPSTREAM_KEY": KEY,
               "SIDECAR_URL": sidecar.url, "DENIED_URL": denied.url, "PLAN_FILE": str(HERE / "plan.json"),
               "ODD_URL": strange.url, "ODD_SIDECAR_URL": behind.url,
               "ODD_CHAT": ",".join(odd.CHAT), "ODD_RESPONSES": ",".join(odd.RESPONSES)}
        lines = []
        drivers = [[sys.executable, str(HERE / "sdk.py")], ["node", "sdk.mjs"], ["node", "stacks.mjs"]]
        for command in drivers + [[program] for program in args.go_driver]:
            lines += drive(command, env, logs, args.node)
        compare_answers(verdict, lines)
        compare_odd(verdict, behind, strange, lines)
        compare_ledger(verdict, sidecar, expected_sessions(lines))

        print("a crowd, and the examples:", flush=True)
        # Started only now: a minute without calls would leave it a full minute's worth to give.
        limited = start("limited", RATE_LIMIT_PER_MIN="60")
        waiting = crowd(verdict, limited)
        compare_ledger(verdict, limited, expected_sessions(waiting))
        run_examples(verdict, sidecar, logs, args.node)
        hurry(verdict, sidecar)

        lines.append(interrupt(verdict, sidecar))
        again = start("restarted", **stored)
        want = expected_sessions(lines)
        compare_ledger(verdict, again, want)

        # Three witnesses: what the model server counted is what was asked directly plus what the ledgers hold.
        booked = direct_cost(lines)
        for ledger in again, limited:
            for totals in ledger.get("/sessions/status").values():
                booked.update({name: totals[member] for name, member in TOTALS.items()})
        counted = model_counters(model)
        for name in "prompt", "completion":
            verdict.equal(f"{name} tokens that the model server counted", counted[name] - before[name], booked[name])

        print_sessions(again.get("/sessions/status"), want)
        secrets = [text.encode() for text in (KEY, "sk-wrong", PLAN["question"], PLAN["long_question"])]
        kept = [f for f in logs.iterdir() if f.is_file() and not f.name.startswith(("model", "example"))]
        leaks = sorted(f.name for f in kept if any(secret in f.read_bytes() for secret in secrets))
        verdict.equal("logs and databases of the sidecar that hold a key or a prompt", leaks, [])
        if verdict.failed:
            for log in sorted(logs.glob("*.log")):
                print(f"--- {log.name}\n{tail(log)}")

    print(f"real: {verdict.passed} passed, {verdict.failed} failed")
    return 1 if verdict.failed or not verdict.passed else 0


def print_sessions(status: dict, want: dict) -> None:
    print(f"{'session':24}{'requests':>9}{'prompt':>8}{'completion':>11}{'total':>8}")
    for session, s in sorted(status.items()):
        seen = "as its SDK saw" if s == want.get(session) else ""
        print(f"{session:24}{s['request_count']:9}{s['total_prompt_tokens']:8}{s['total_completion_tokens']:11}"
              f"{s['total_tokens']:8}  {seen}")


if __name__ == "__main__":
    sys.exit(main())
