"""The SDKs before the simulated provider: what a real model cannot be made to do.

The provider's errors, its connections that break at any byte, its silence: each SDK
meets them directly and through the sidecar, and tells its user the same.
"""

import collections
import concurrent.futures
import contextlib
import json
import os
import pathlib
import random
import subprocess
import urllib.request

import adoption
from judge import TOTALS, Verdict, compare_answers, compare_ledger, direct_cost, expected_sessions
from programs import HERE, KEY, Sidecar, drive, running, tail

# The provider counts its words, so each answer ends before the SDK's limit: one cut off there is an error to some.
PLAN = json.loads((HERE / "plan.json").read_text()) | {
    "question": "Name colours: say 9 words.", "long_question": "Tell me a story: say 40 words.", "prompt": "Once upon a time, say 9 words"}
# Errors that the sidecar passes on as they come: waiting cures none of them.
REFUSALS = ["status 400", "status 401", "status 403", "status 404", "status 422", "quota", "too-large", "status 500", "status 503"]
PLACES = 8  # at which an answer breaks, for each kind of call


class Provider:
    """A simulated provider of the plan's model and the pages'. It takes one key only, or any where key is empty."""

    def __init__(self, stack: contextlib.ExitStack, binary: str, logs: pathlib.Path, key: str):
        command = [binary, "-addr", "127.0.0.1:0", "-control", "127.0.0.1:0", "-models", f"{PLAN['model']},{adoption.MODEL}", "-key", key]
        self.process = stack.enter_context(running(command, logs / "simulated.log", stdout=subprocess.PIPE, text=True))
        self.url, self.control = (self.process.stdout.readline().strip() for _ in range(2))
        if not self.control:
            raise SystemExit(f"the simulated provider did not start:\n{tail(logs / 'simulated.log')}")

    def totals(self) -> collections.Counter:
        with urllib.request.urlopen(f"{self.control}/totals", timeout=30) as answer:
            totals = json.load(answer)
        return collections.Counter(prompt=totals["PromptTokens"], completion=totals["CompletionTokens"])


def size(provider: Provider, route: str, body: dict) -> int:
    """The bytes of an answer, as the provider sends it to the sidecar."""
    request = urllib.request.Request(f"{provider.url}/{route}", json.dumps({"model": PLAN["model"]} | body).encode(),
                                     {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return len(answer.read())


def breaks(provider: Provider, dice: random.Random) -> dict[str, list[int]]:
    """Where answers of each kind break: from the first byte to the one before the last, spread."""
    chat = {"messages": [{"role": "user", "content": PLAN["question"]}], "max_tokens": PLAN["max_tokens"]}
    ends = {
        "chat": size(provider, "chat/completions", chat),
        "stream": size(provider, "chat/completions", chat | {"stream": True, "stream_options": {"include_usage": True}}),
        "response": size(provider, "responses", {"input": PLAN["question"]}),
        "response stream": size(provider, "responses", {"input": PLAN["question"], "stream": True}),
    }
    return {kind: [int((i + dice.random()) * end / PLACES) for i in range(PLACES)] + [end - 1] for kind, end in ends.items()}


def compare_faults(verdict: Verdict, lines: list[dict]) -> None:
    direct = {(line["sdk"], line["step"]): line for line in lines if line["via"] == "direct"}
    for line in lines:
        if line["via"] == "direct":
            continue
        what, fault, twin = f"{line['sdk']} {line['step']}", line["step"].split()[0], direct[line["sdk"], line["step"]]
        # The kind of call ends the step's name; "response stream" is not "stream".
        whole = max((sound for sound in direct.values() if sound["sdk"] == line["sdk"] and sound["step"].startswith("whole ")
                     and line["step"].endswith(sound["step"].removeprefix("whole"))), key=lambda sound: len(sound["step"]))["text"]
        if fault in ("refused", "timeout"):
            verdict.true(f"{what}: fails without the sidecar", twin.get("error"))
            verdict.equal(f"{what}: the same error as without the sidecar", line.get("error"), twin.get("error"))
        elif fault == "broken":
            # Directly an SDK may take a broken answer for whole; here we answer for it.
            verdict.true(f"{what}: an error, or the whole answer\n{line}", line.get("error") or line.get("text") == whole)
        else:
            if fault == "throttled":
                verdict.true(f"{what}: fails without the sidecar", "429" in json.dumps(twin.get("error")) or "Rate limit" in json.dumps(twin.get("error")))
            else:
                verdict.equal(f"{what}: without the sidecar", (twin.get("text"), twin.get("error")), (whole, None))
            verdict.equal(f"{what}: the whole answer", (line.get("text"), line.get("error")), (whole, None))


def run(verdict: Verdict, stack: contextlib.ExitStack, args, logs: pathlib.Path, drivers: list[list]) -> None:
    sound = Provider(stack, args.provider, logs, KEY)
    seed = int(os.environ.get("SEED", random.randrange(1 << 32)))
    dice = random.Random(seed)

    def start(name: str, provider: Provider, **settings) -> Sidecar:
        return Sidecar(stack, args.sidecar, logs, f"simulated-{name}", **{
            "OPENAI_BASE_URL": provider.url, "OPENAI_API_KEY": KEY, "RATE_LIMIT_PER_MIN": "0", "LEARN_LIMITS": "false"} | settings)

    sidecar, denied = start("sound", sound), start("denied", sound, OPENAI_API_KEY="sk-wrong")
    plan = logs / "simulated-plan.json"
    plan.write_text(json.dumps(PLAN))
    env = {"DIRECT_URL": sound.url, "UPSTREAM_KEY": KEY, "SIDECAR_URL": sidecar.url, "DENIED_URL": denied.url,
           "PLAN_FILE": str(plan), "REFUSALS": ",".join(REFUSALS)}
    # Faults come in the order of the requests, so each driver has a provider of its own to break. The
    # drivers mostly wait, for a retry or a timeout, and can do so together.
    commands = []
    for i, command in enumerate(drivers):
        faulty = Provider(stack, args.provider, logs, "")
        behind = start(f"faulty-{i}", faulty)
        at = breaks(faulty, dice)
        commands.append((command, env | {
            "BROKEN_AT": json.dumps(at), "CONTROL_URL": faulty.control, "FAULTY_URL": faulty.url, "FAULTY_SIDECAR_URL": behind.url}))
    print(f"  SEED={seed} chooses the bytes at which answers break, such as {at['stream']}", flush=True)
    with concurrent.futures.ThreadPoolExecutor(len(commands)) as pool:
        lines = [line for batch in pool.map(lambda job: drive(*job, logs, args.node), commands) for line in batch]
    faults = [line for line in lines if line.get("scene") == "faults"]
    lines = [line for line in lines if line.get("scene") != "faults"]

    compare_answers(verdict, lines, live=False)
    compare_ledger(verdict, sidecar, expected_sessions(lines))
    booked = direct_cost(lines)
    for totals in sidecar.get("/sessions/status").values():
        booked.update({name: totals[member] for name, member in TOTALS.items()})
    for name, billed in sound.totals().items():
        verdict.equal(f"{name} tokens that the simulated provider billed", billed, booked[name])
    compare_faults(verdict, faults)
    adoption.quickstarts(verdict, sidecar, sound.url, logs, args.node)
    adoption.curls(verdict, sidecar, sound.url)
