"""Many users at once: one client, one session per user, no 429 to handle.

The calls that the provider's limit has no room for wait in the sidecar; every
user gets a fair turn.
"""

import asyncio
import os

from openai import AsyncOpenAI

sidecar = os.environ.get("SIDECAR", "http://127.0.0.1:8080")
model = os.environ.get("MODEL", "gpt-4o-mini")
client = AsyncOpenAI(base_url=f"{sidecar}/v1", api_key="unused")


async def ask(user: str, question: str) -> str:
    answer = await client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": question}],
        max_tokens=16,
        extra_headers={"X-Session-Id": user},
    )
    return f"{user}: {answer.choices[0].message.content!r}"


async def main() -> None:
    users = ["ada-py", "grace-py", "linus-py"]
    questions = ["Name a river.", "Name a mountain."]
    for line in await asyncio.gather(*(ask(u, q) for u in users for q in questions)):
        print(line)


asyncio.run(main())
