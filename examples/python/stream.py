"""A stream that asks for no usage, and what the sidecar booked for it all the same."""

import json
import os
import urllib.request

from openai import OpenAI

sidecar = os.environ.get("SIDECAR", "http://127.0.0.1:8080")
client = OpenAI(base_url=f"{sidecar}/v1/session/stream-py", api_key="unused")

stream = client.chat.completions.create(
    model=os.environ.get("MODEL", "gpt-4o-mini"),
    messages=[{"role": "user", "content": "Write a haiku about waiting in line."}],
    max_tokens=60,
    stream=True,
)
for chunk in stream:
    print(chunk.choices[0].delta.content or "", end="", flush=True)
print()

with urllib.request.urlopen(f"{sidecar}/sessions/stream-py/status") as status:
    print("booked:", json.load(status))
