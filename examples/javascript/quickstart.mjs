// A program before and after it uses llm-queue-proxy: the line behind "was:" is all that changes.

import OpenAI from 'openai'

// was: const client = new OpenAI()
const client = new OpenAI({ baseURL: 'http://127.0.0.1:8080/v1/session/agent-1', apiKey: 'unused' })

const answer = await client.chat.completions.create({
  model: 'gpt-4o-mini',
  messages: [{ role: 'user', content: 'Say hello.' }],
})
console.log(answer.choices[0].message.content)
