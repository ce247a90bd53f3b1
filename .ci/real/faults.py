"""Meet the faults of an upstream, directly and through the sidecar.

For the drivers in Python; faults.mjs is the twin of this file. An SDK is a
function that opens it at a base URL and returns its calls by name, each of which
returns the text of an answer. Nothing is judged here; simulated.py compares.
"""

import json
import os
import urllib.parse
import urllib.request

CONTROL = os.environ.get("CONTROL_URL")  # takes faults for a simulated provider; not set before a real model
FAULTY = os.environ.get("FAULTY_URL")  # that provider's base URL, ends in /v1
FAULTY_SIDECAR = os.environ.get("FAULTY_SIDECAR_URL")  # the origin of a sidecar before it
REFUSALS = os.environ.get("REFUSALS", "").split(",")
BROKEN_AT = json.loads(os.environ.get("BROKEN_AT", "{}"))  # bytes at which to break an answer, by the kind of its call


def script(fault: str) -> None:
    """Let the provider's next request meet a fault."""
    query = urllib.parse.urlencode({"fault": fault})
    with urllib.request.urlopen(urllib.request.Request(f"{CONTROL}/faults?{query}", method="POST"), timeout=30):
        pass


def describe(err: Exception) -> dict:
    """What a program can find out about an error."""
    told = {"class": type(err).__name__, "message": str(err)}
    return told | {name: getattr(err, name, None) for name in ("status_code", "code", "type", "param")}


def places(name: str):
    """The places to call at: without the sidecar, and through it with a session of that name."""
    yield "direct", FAULTY
    yield "sidecar", f"{FAULTY_SIDECAR}/v1/session/{name}"


def meet(to, step: str, call, fault: str) -> None:
    """Make one call while the provider has a fault, and write how it ended."""
    script(fault)
    try:
        to.write(step, scene="faults", text=call(), error=None)
    except Exception as err:
        to.write(step, scene="faults", text=None, error=describe(err))


def run(report, name: str, open_sdk, broken: bool = False) -> None:
    """All faults for one SDK. open_sdk takes base URL, retries and seconds of patience."""
    if not CONTROL:
        return
    for via, base in places(name):
        to = report(via, name)

        def each(retries: int, patience: float):
            for kind, call in open_sdk(base, retries, patience).items():
                yield kind, lambda step, fault, kind=kind, call=call: meet(to, f"{step} {kind}", call, fault)

        for kind, met in each(0, 120):
            met("whole", "sound")
            for fault in REFUSALS:
                met(f"refused {fault}", fault)
            met("throttled", "throttle 50")
            for at in BROKEN_AT.get(kind, []) if broken else []:
                for fault in "cut", "reset":
                    met(f"broken {fault} {at}", f"{fault} {at}")
        # The SDK's own retries and timeouts go on working. Nothing answers a request
        # that times out; the time is what it may take to arrive there.
        for _, met in each(2, 120):
            met("retried", "status 500")
        for kind, met in each(0, 2):
            if kind in ("chat", "stream"):
                met("timeout", "no-headers")
