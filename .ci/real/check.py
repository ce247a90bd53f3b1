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
import signal
import subprocess
import sys
import tempfile
import time

import odd
import simulated
from judge import TOTALS, Verdict, compare_answers, compare_ledger, compare_odd, direct_cost, expected_sessions
from openai import OpenAI
from programs import HERE, KEY, Sidecar, drive, model_counters, model_server, tail

ROOT = HERE.parent.parent
PLAN = json.loads((HERE / "plan.json").read_text())


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


# The sessions of each example, and their requests: an agent, a user, a program each have one of their own.
EXAMPLES = {
    "chain": {"chain": 4},
    "chat": {"chat": 1},
    "many": {"ada": 2, "grace": 2, "linus": 2},
    "stream": {"stream": 1},
    "team": {"writer": 1, "critic-facts": 1, "critic-style": 1},
    "vercel": {"vercel": 1},
}


def run_examples(verdict: Verdict, sidecar: Sidecar, logs: pathlib.Path, node: pathlib.Path) -> None:
    """Every example of the repository runs as its reader would run it. (The quickstarts: adoption.py.)"""
    env = os.environ | {"SIDECAR": sidecar.url, "MODEL": PLAN["model"]}
    commands = [[sys.executable, str(p)] for p in sorted((ROOT / "examples/python").glob("*.py"))]
    commands += [["node", p.name] for p in sorted((ROOT / "examples/javascript").glob("*.mjs"))]
    for command in commands:
        path = pathlib.Path(command[1])
        if path.stem == "quickstart":
            continue
        started = time.monotonic()
        done = subprocess.run(command, cwd=node, env=env, capture_output=True, text=True, timeout=120)
        (logs / f"example-{path.name}.log").write_text(done.stdout + done.stderr)
        verdict.equal(f"exit code of {path.name}\n{done.stderr[-1500:]}", done.returncode, 0)
        status = sidecar.get("/sessions/status")
        language = "py" if path.suffix == ".py" else "js"
        want = {f"{session}-{language}": requests for session, requests in EXAMPLES.get(path.stem, {"no such example": 1}).items()}
        verdict.equal(f"{path.name}: requests of its sessions", {s: status.get(s, {}).get("request_count") for s in want}, want)
        print(f"  {path.name}: {sum(want.values())} calls in {time.monotonic() - started:.1f} s")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sidecar", required=True, help="the sidecar's binary")
    parser.add_argument("--provider", required=True, help="a binary of examples/simprovider")
    parser.add_argument("--go-driver", required=True, action="append", help="a binary of examples/realcheck; may be repeated")
    parser.add_argument("--node", required=True, type=pathlib.Path, help="folder with node_modules and the scripts")
    args = parser.parse_args()
    verdict = Verdict()
    # A check that is stopped takes its programs with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))

    with contextlib.ExitStack() as stack:
        logs = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="real-")))
        model = stack.enter_context(model_server(logs))
        common = {"OPENAI_BASE_URL": f"{model}/v1", "OPENAI_API_KEY": KEY}

        def start(name: str, **settings) -> Sidecar:
            return Sidecar(stack, args.sidecar, logs, name, **common | settings)

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
        drivers = [[sys.executable, str(HERE / name)] for name in ("sdk.py", "stacks.py")]
        drivers += [["node", name] for name in ("sdk.mjs", "stacks.mjs", "chains.mjs")]
        drivers += [[program] for program in args.go_driver]
        for command in drivers:
            lines += drive(command, env, logs, args.node)
        compare_answers(verdict, lines)
        compare_odd(verdict, behind, strange, lines)
        compare_ledger(verdict, sidecar, expected_sessions(lines))

        print("the same before the simulated provider, and its faults:", flush=True)
        simulated.run(verdict, stack, args, logs, drivers)

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
        secrets = [text.encode() for text in (KEY, "sk-wrong", *(plan[q] for plan in (PLAN, simulated.PLAN) for q in ("question", "long_question")))]
        kept = [f for f in logs.iterdir() if f.is_file() and not f.name.startswith(("model", "example", "simulated-plan"))]
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
