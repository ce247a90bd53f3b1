"""Drive LangChain and openai-agents of Python, directly and through the sidecar.

The same JSON lines as sdk.py, with the same steps where the same is asked.
"""

import asyncio
import importlib.metadata
import sys

import faults
from agents import Agent, ModelSettings, OpenAIChatCompletionsModel, OpenAIResponsesModel, Runner, set_tracing_disabled
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from openai import AsyncOpenAI
from sdk import DENIED, DIRECT, KEY, PLAN, SIDECAR, Report

set_tracing_disabled(True)  # else it uploads traces, with the client's key

CHAIN = "langchain-openai " + importlib.metadata.version("langchain-openai")
AGENTS = "openai-agents " + importlib.metadata.version("openai-agents")


def tokens(usage) -> dict | None:
    """The usage of either stack under the names of the sidecar's status."""
    if not usage:
        return None
    read = usage.get if isinstance(usage, dict) else lambda name: getattr(usage, name)
    return {"prompt": read("input_tokens"), "completion": read("output_tokens"), "total": read("total_tokens")}


# --- LangChain ---------------------------------------------------------------


def chain(base: str, key: str = "unused", retries: int = 0, patience: float = 120, **more) -> ChatOpenAI:
    return ChatOpenAI(model=PLAN["model"], base_url=base, api_key=key, max_tokens=PLAN["max_tokens"], temperature=0,
                      max_retries=retries, timeout=patience, **more)


def said(message) -> str:
    """The text of a message or of a chunk: plain, or in blocks under the Responses API."""
    content = message.content
    return content if isinstance(content, str) else "".join(block.get("text", "") for block in content)


def chain_stream(to: Report, step: str, model: ChatOpenAI) -> None:
    chunks = list(model.stream(PLAN["question"]))
    used = [c.usage_metadata for c in chunks if c.usage_metadata]
    to.write(step, text="".join(map(said, chunks)), usage=tokens(used[-1]) if used else None,
             events=[c.model_dump(mode="json") for c in chunks])


def run_chain(to: Report, base: str, key: str, denied: ChatOpenAI) -> None:
    for step, model in {"chain-chat": chain(base, key), "chain-response": chain(base, key, use_responses_api=True)}.items():
        answer = model.invoke(PLAN["question"])
        to.write(step, text=said(answer), usage=tokens(answer.usage_metadata), body=answer.model_dump(mode="json"))
    answer = asyncio.run(chain(base, key).ainvoke(PLAN["question"]))
    to.write("chain-chat", text=said(answer), usage=tokens(answer.usage_metadata), body=answer.model_dump(mode="json"))
    chain_stream(to, "chain-stream", chain(base, key, stream_usage=False))
    chain_stream(to, "chain-stream-usage", chain(base, key, stream_usage=True))
    chain_stream(to, "chain-response-stream", chain(base, key, use_responses_api=True))
    # The library would split long inputs by a tokenizer that it downloads first.
    embeddings = OpenAIEmbeddings(model=PLAN["model"], base_url=base, api_key=key, check_embedding_ctx_length=False)
    made = embeddings.embed_documents(PLAN["embed"])
    to.write("embedding", text=f"{len(made)}x{len(made[0])}", usage=None)
    try:
        denied.invoke(PLAN["question"])
        to.write("chain-error-401", error=None)
    except Exception as err:
        to.write("chain-error-401", error=faults.describe(err))


def faulty_chain(base: str, retries: int, patience: float) -> dict:
    model = chain(base, retries=retries, patience=patience)
    responses = chain(base, retries=retries, patience=patience, use_responses_api=True)
    return {
        "chat": lambda: said(model.invoke(PLAN["question"])),
        "stream": lambda: "".join(map(said, model.stream(PLAN["question"]))),
        "response": lambda: said(responses.invoke(PLAN["question"])),
    }


# --- openai-agents -----------------------------------------------------------

MODELS = {"agent-response": OpenAIResponsesModel, "agent-chat": OpenAIChatCompletionsModel}


async def ask(client: AsyncOpenAI, model: type, stream: bool) -> tuple[str, dict]:
    agent = Agent(name="asked", instructions="Answer in one sentence.",
                  model=model(model=PLAN["model"], openai_client=client),
                  model_settings=ModelSettings(max_tokens=PLAN["max_tokens"], temperature=0, include_usage=True))
    if not stream:
        result = await Runner.run(agent, PLAN["question"])
        return result.final_output, tokens(result.context_wrapper.usage)
    result, text = Runner.run_streamed(agent, PLAN["question"]), ""
    async for event in result.stream_events():
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta":
            text += event.data.delta
    return text, tokens(result.context_wrapper.usage)


async def run_agents(to: Report, base: str, key: str) -> None:
    async with AsyncOpenAI(base_url=base, api_key=key, max_retries=0, timeout=120) as client:
        for step, model in MODELS.items():
            for stream in False, True:
                text, used = await ask(client, model, stream)
                to.write(step + "-stream" * stream, text=text, usage=used)


def faulty_agents(base: str, retries: int, patience: float) -> dict:
    async def call(model: type, stream: bool) -> str:
        async with AsyncOpenAI(base_url=base, api_key="unused", max_retries=retries, timeout=patience) as client:
            return (await ask(client, model, stream))[0]

    return {
        "chat": lambda: asyncio.run(call(OpenAIChatCompletionsModel, False)),
        "stream": lambda: asyncio.run(call(OpenAIChatCompletionsModel, True)),
        "response": lambda: asyncio.run(call(OpenAIResponsesModel, False)),
        "response stream": lambda: asyncio.run(call(OpenAIResponsesModel, True)),
    }


def main() -> None:
    run_chain(Report(CHAIN, "direct", "langchain-py"), DIRECT, KEY, chain(DIRECT, "wrong"))
    run_chain(Report(CHAIN, "sidecar", "langchain-py"), f"{SIDECAR}/v1/session/langchain-py", "unused", chain(f"{DENIED}/v1"))
    asyncio.run(run_agents(Report(AGENTS, "direct", "agents-py"), DIRECT, KEY))
    asyncio.run(run_agents(Report(AGENTS, "sidecar", "agents-py"), f"{SIDECAR}/v1/session/agents-py", "unused"))
    faults.run(lambda via, session: Report(CHAIN, via, session), "langchain-py", faulty_chain, broken=True)
    faults.run(lambda via, session: Report(AGENTS, via, session), "agents-py", faulty_agents)


if __name__ == "__main__":
    sys.exit(main())
