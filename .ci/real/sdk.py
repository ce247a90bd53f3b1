"""Drive openai-python, sync and async, directly and through the sidecar.

Writes one JSON line per call: what the SDK showed its user. Nothing is judged
here; check.py compares the lines of all drivers with each other and with the
ledger.
"""

import asyncio
import json
import os
import pathlib
import sys
import urllib.request

import faults
import openai
from openai import AsyncOpenAI, OpenAI

PLAN = json.loads(pathlib.Path(os.environ["PLAN_FILE"]).read_text())
DIRECT = os.environ["DIRECT_URL"]  # the model server's base URL, ends in /v1
SIDECAR = os.environ["SIDECAR_URL"]  # the sidecar's origin
DENIED = os.environ["DENIED_URL"]  # a sidecar whose upstream key is wrong
KEY = os.environ["UPSTREAM_KEY"]
ODD = os.environ.get("ODD_URL")  # the origin of an upstream that keeps to no standard
ODD_SIDECAR = os.environ.get("ODD_SIDECAR_URL")  # a sidecar before it

CHAT = {
    "model": PLAN["model"],
    "messages": [{"role": "user", "content": PLAN["question"]}],
    "max_tokens": PLAN["max_tokens"],
    "temperature": 0,
    "seed": PLAN["seed"],
}
LONG = CHAT | {
    "messages": [{"role": "user", "content": PLAN["long_question"]}],
    "max_tokens": PLAN["long_max_tokens"],
}
USAGE = {"stream_options": {"include_usage": True}}
RESPONSE = {
    "model": PLAN["model"],
    "input": PLAN["question"],
    "max_output_tokens": PLAN["max_tokens"],
    "temperature": 0,
}


def busy() -> bool | None:
    """Whether the model is still generating: the proof that a stream is live. None if the model cannot be asked."""
    if "METRICS_URL" not in os.environ:
        return None
    request = urllib.request.Request(os.environ["METRICS_URL"], headers={"Authorization": f"Bearer {KEY}"})
    with urllib.request.urlopen(request) as answer:
        return b"llamacpp:requests_processing 1" in answer.read()


def tokens(usage) -> dict | None:
    """The usage an SDK object shows, under the names of the sidecar's status."""
    if usage is None:
        return None
    if hasattr(usage, "input_tokens"):
        return {"prompt": usage.input_tokens, "completion": usage.output_tokens, "total": usage.total_tokens}
    # Embeddings have no completion tokens.
    return {
        "prompt": usage.prompt_tokens,
        "completion": getattr(usage, "completion_tokens", 0),
        "total": usage.total_tokens,
    }


class Report:
    """Writes the lines of one client."""

    def __init__(self, sdk: str, via: str, session: str):
        self.head = {"sdk": sdk, "via": via, "session": session}

    def write(self, step: str, **line) -> None:
        print(json.dumps(self.head | {"step": step} | line), flush=True)

    def answer(self, step: str, text: str, answer) -> None:
        self.write(step, text=text, usage=tokens(answer.usage), body=answer.model_dump(mode="json", exclude_unset=True))

    def stream(self, step: str, chunks: list, live: bool | None = None, error: dict | None = None) -> None:
        usage = [c.usage for c in chunks if getattr(c, "usage", None)]
        usage += [c.response.usage for c in chunks if getattr(c, "type", "") == "response.completed"]
        text = "".join(delta(c) for c in chunks)
        events = [c.model_dump(mode="json", exclude_unset=True) for c in chunks]
        self.write(step, text=text, usage=tokens(usage[-1]) if usage else None, events=events, live=live, error=error)

    def error(self, step: str, err: openai.APIStatusError) -> None:
        self.write(step, error={"class": type(err).__name__, "status": err.status_code, "message": err.message,
                                "type": err.type, "code": err.code})


def delta(chunk) -> str:
    if getattr(chunk, "type", "") == "response.output_text.delta":
        return chunk.delta
    choices = getattr(chunk, "choices", None)
    return (choices[0].delta.content or "") if choices else ""


def run_sync(report: Report, client: OpenAI, denied: OpenAI) -> None:
    chat = client.chat.completions.create(**CHAT)
    report.answer("chat", chat.choices[0].message.content, chat)
    report.stream("stream", list(client.chat.completions.create(**CHAT, stream=True)))
    report.stream("stream-usage", list(client.chat.completions.create(**CHAT, stream=True, **USAGE)))

    chunks, live = [], False
    for chunk in client.chat.completions.create(**LONG, stream=True, **USAGE):
        if not chunks:
            live = busy()
        chunks.append(chunk)
    report.stream("long-usage", chunks, live)
    report.stream("long", list(client.chat.completions.create(**LONG, stream=True)))

    completion = client.completions.create(model=PLAN["model"], prompt=PLAN["prompt"], max_tokens=PLAN["max_tokens"],
                                           temperature=0, seed=PLAN["seed"])
    report.answer("completion", completion.choices[0].text, completion)
    response = client.responses.create(**RESPONSE)
    report.answer("response", response.output_text, response)
    report.stream("response-stream", list(client.responses.create(**RESPONSE, stream=True)))
    embedding = client.embeddings.create(model=PLAN["model"], input=PLAN["embed"])
    report.answer("embedding", f"{len(embedding.data)}x{len(embedding.data[0].embedding)}", embedding)
    report.write("models", text=client.models.list().data[0].id, usage=None)

    for step, call in {
        "error-400": lambda: client.chat.completions.create(**CHAT | {"messages": None}),
        "error-404": lambda: client.models.retrieve("no-such-model"),
        "error-401": lambda: denied.chat.completions.create(**CHAT),
    }.items():
        try:
            call()
            report.write(step, error=None)
        except openai.APIStatusError as err:
            report.error(step, err)


def run_odd(name: str, via: str) -> None:
    """Streams of an upstream that keeps to no standard. The client retries, as SDKs do unless told otherwise."""

    def stream(step: str, call) -> None:
        session = f"py-{step}"
        base = f"{ODD}/v1" if via == "direct" else f"{ODD_SIDECAR}/v1/session/{session}"
        chunks, error = [], None
        try:
            for chunk in call(OpenAI(base_url=base, api_key="unused", timeout=120)):
                chunks.append(chunk)
        except Exception as err:
            # The SDK does not wrap what its HTTP client says.
            error = {"class": type(err).__name__, "message": str(err)}
        Report(name, via, session).stream(step, chunks, error=error)

    for model in os.environ["ODD_CHAT"].split(","):
        for asked, more in {"asked": USAGE, "unasked": {}}.items():
            stream(f"odd-{model}-{asked}",
                   lambda client: client.chat.completions.create(**CHAT | {"model": model}, **more, stream=True))
    for model in os.environ["ODD_RESPONSES"].split(","):
        stream(f"odd-response-{model}", lambda client: client.responses.create(**RESPONSE | {"model": model}, stream=True))


async def run_async(report: Report, client: AsyncOpenAI) -> None:
    chat = await client.chat.completions.create(**CHAT)
    report.answer("chat", chat.choices[0].message.content, chat)
    report.stream("stream", [c async for c in await client.chat.completions.create(**CHAT, stream=True)])
    report.stream("stream-usage", [c async for c in await client.chat.completions.create(**CHAT, stream=True, **USAGE)])
    # The header of one call wins over the client's own, as with every SDK option.
    other = client.with_options(timeout=120, default_headers={"X-Session-Id": report.head["session"] + "-options"})
    chat = await other.chat.completions.create(**CHAT)
    Report(report.head["sdk"], report.head["via"], report.head["session"] + "-options").answer(
        "chat", chat.choices[0].message.content, chat)


def faulty_sync(base: str, retries: int, patience: float) -> dict:
    client = OpenAI(base_url=base, api_key="unused").with_options(max_retries=retries, timeout=patience)
    return {
        "chat": lambda: client.chat.completions.create(**CHAT).choices[0].message.content,
        "stream": lambda: "".join(delta(c) for c in client.chat.completions.create(**CHAT, stream=True)),
        "response": lambda: client.responses.create(**RESPONSE).output_text,
        "response stream": lambda: "".join(delta(c) for c in client.responses.create(**RESPONSE, stream=True)),
        "embedding": lambda: str(len(client.embeddings.create(model=PLAN["model"], input=PLAN["embed"]).data)),
    }


def faulty_async(base: str, retries: int, patience: float) -> dict:
    async def chat() -> str:
        async with AsyncOpenAI(base_url=base, api_key="unused", max_retries=retries, timeout=patience) as client:
            return (await client.chat.completions.create(**CHAT)).choices[0].message.content

    async def stream() -> str:
        async with AsyncOpenAI(base_url=base, api_key="unused", max_retries=retries, timeout=patience) as client:
            return "".join([delta(c) async for c in await client.chat.completions.create(**CHAT, stream=True)])

    return {"chat": lambda: asyncio.run(chat()), "stream": lambda: asyncio.run(stream())}


def main() -> None:
    name = f"openai-python {openai.__version__}"
    plain = {"max_retries": 0, "timeout": 120}

    def sync_client(base: str, key: str = "unused") -> OpenAI:
        return OpenAI(base_url=base, api_key=key, **plain)

    def async_client(base: str, key: str = "unused") -> AsyncOpenAI:
        return AsyncOpenAI(base_url=base, api_key=key, default_headers={"X-Session-Id": "py-async"}, **plain)

    run_sync(Report(name, "direct", "py-sync"), sync_client(DIRECT, KEY), sync_client(DIRECT, "wrong"))
    run_sync(Report(name, "sidecar", "py-sync"), sync_client(f"{SIDECAR}/v1/session/py-sync"), sync_client(f"{DENIED}/v1"))
    asyncio.run(run_async(Report(name, "direct", "py-async"), async_client(DIRECT, KEY)))
    asyncio.run(run_async(Report(name, "sidecar", "py-async"), async_client(f"{SIDECAR}/v1")))
    for via in ("direct", "sidecar") if ODD else ():
        run_odd(name, via)
    faults.run(lambda via, session: Report(name, via, session), "py-sync", faulty_sync, broken=True)
    faults.run(lambda via, session: Report(name + " async", via, session), "py-async", faulty_async)


if __name__ == "__main__":
    sys.exit(main())
