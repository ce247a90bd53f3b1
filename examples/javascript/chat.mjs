// One question, one answer, booked to the session in the URL.

import OpenAI from 'openai'

const sidecar = process.env.SIDECAR ?? 'http://127.0.0.1:8080'
const client = new OpenAI({ baseURL: `${sidecar}/v1/session/chat-js`, apiKey: 'unused' }) // the sidecar holds the real key

const answer = await client.chat.completions.create({
  model: process.env.MODEL ?? 'gpt-4o-mini',
  messages: [{ role: 'user', content: 'In one sentence: why do queues beat retries?' }],
  max_tokens: 60,
})
console.log(answer.choices[0].message.content)
console.log(`${answer.usage.total_tokens} tokens, booked to the session chat-js`)
