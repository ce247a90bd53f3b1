"""A team of agents (openai-agents), each with its own session.

/sessions/status then tells what every agent costs, and an agent that floods the
queue delays itself before it delays the others. All of them draw on the budget of
the team's session as well, if the sidecar's configuration sets one.
"""

import asyncio
import os

from agents import Agent, ModelSettings, OpenAIResponsesModel, Runner, set_tracing_disabled
from openai import AsyncOpenAI

sidecar = os.environ.get("SIDECAR", "http://127.0.0.1:8080")
model = os.environ.get("MODEL", "gpt-4o-mini")

# The library uploads traces to OpenAI with the key of the client, which is none here.
set_tracing_disabled(True)


def agent(name: str, instructions: str) -> Agent:
    client = AsyncOpenAI(
        base_url=f"{sidecar}/v1/session/{name}-py",
        api_key="unused",
        default_headers={"X-Parent-Session-Id": "team-py"},
    )
    return Agent(
        name=name,
        instructions=instructions,
        model=OpenAIResponsesModel(model=model, openai_client=client),
        model_settings=ModelSettings(max_tokens=40),
    )


async def main() -> None:
    writer = agent("writer", "You write one short sentence about the topic.")
    critics = [
        agent("critic-facts", "You say in one sentence whether the text is true."),
        agent("critic-style", "You say in one sentence how the text could be shorter."),
    ]
    draft = await Runner.run(writer, "Why the sky is blue.")
    print("writer:", draft.final_output)
    for critic, review in zip(critics, await asyncio.gather(*(Runner.run(c, draft.final_output) for c in critics))):
        print(f"{critic.name}:", review.final_output)


asyncio.run(main())
