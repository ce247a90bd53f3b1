"""A program before and after it uses llm-queue-proxy: the line behind "was:" is all that changes."""

from openai import OpenAI

# was: client = OpenAI()
client = OpenAI(base_url="http://127.0.0.1:8080/v1/session/agent-1", api_key="unused")

answer = client.chat.completions.create(
    model="gpt-4o-mini",
    messages=[{"role": "user", "content": "Say hello."}],
)
print(answer.choices[0].message.content)
