"""One question, one answer, booked to the session in the URL."""

import os

from openai import OpenAI

sidecar = os.environ.get("SIDECAR", "http://127.0.0.1:8080")
client = OpenAI(base_url=f"{sidecar}/v1/session/chat-py", api_key="unused")  # the sidecar holds the real key

answer = client.chat.completions.create(
    model=os.environ.get("MODEL", "gpt-4o-mini"),
    messages=[{"role": "user", "content": "In one sentence: why do queues beat retries?"}],
    max_tokens=60,
)
print(answer.choices[0].message.content)
print(f"{answer.usage.total_tokens} tokens, booked to the session chat-py")
