"""Compare what the drivers saw: directly with through the sidecar, and both with the ledger."""

import collections
import json
import re

import odd
from programs import Sidecar

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


def steady(value):
    """value without the members that differ between two equal calls, and without the "usage":null that an
    upstream puts into the other chunks when the sidecar asks it for usage."""
    if isinstance(value, dict):
        return {k: steady(v) for k, v in value.items() if k not in VOLATILE and (k, v) != ("usage", None)}
    if isinstance(value, list):
        return [steady(v) for v in value]
    return value


def cost(line: dict, twins: dict) -> dict | None:
    """What a call used; where an SDK shows no usage, what the twin of the call showed."""
    if line.get("error") or line["step"] == "models" or line["step"].startswith("odd-"):
        return None
    return line["usage"] or twins.get(line["step"] + "-usage") or twins[line["step"]]


def compare_answers(verdict: Verdict, lines: list[dict], live: bool = True) -> None:
    """The same call has the same answer, events, exception: directly and through. live: the model can be seen at work."""
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
        if live and line["step"] == "long-usage":
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
