// A stream that asks for no usage, and what the sidecar booked for it all the same.

import OpenAI from 'openai'

const sidecar = process.env.SIDECAR ?? 'http://127.0.0.1:8080'
const client = new OpenAI({ baseURL: `${sidecar}/v1/session/stream-js`, apiKey: 'unused' })

const stream = await client.chat.completions.create({
  model: process.env.MODEL ?? 'gpt-4o-mini',
  messages: [{ role: 'user', content: 'Write a haiku about waiting in line.' }],
  max_tokens: 60,
  stream: true,
})
for await (const chunk of stream) process.stdout.write(chunk.choices[0].delta.content ?? '')
console.log()

const status = await fetch(`${sidecar}/sessions/stream-js/status`)
console.log('booked:', await status.json())
