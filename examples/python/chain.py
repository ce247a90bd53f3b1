"""LangChain: a chain whose tokens are booked to its own session, and a batch that no limit makes fail."""

import os

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_openai import ChatOpenAI

sidecar = os.environ.get("SIDECAR", "http://127.0.0.1:8080")
model = ChatOpenAI(
    model=os.environ.get("MODEL", "gpt-4o-mini"),
    base_url=f"{sidecar}/v1/session/chain-py",
    api_key="unused",
    max_tokens=40,
)
chain = ChatPromptTemplate.from_template("In one sentence, what is {thing}?") | model | StrOutputParser()

for piece in chain.stream({"thing": "a queue"}):
    print(piece, end="", flush=True)
print()
for answer in chain.batch([{"thing": "a river"}, {"thing": "a mountain"}, {"thing": "a lake"}]):
    print(answer)
