// The Vercel AI SDK, which asks /v1/responses unless told otherwise: a stream, and
// the usage that the sidecar booked for it.

import { createOpenAI } from '@ai-sdk/openai'
import { streamText } from 'ai'

const sidecar = process.env.SIDECAR ?? 'http://127.0.0.1:8080'
const openai = createOpenAI({ baseURL: `${sidecar}/v1/session/vercel-js`, apiKey: 'unused' })

const answer = streamText({
  model: openai(process.env.MODEL ?? 'gpt-4o-mini'), // openai.chat(…) for /v1/chat/completions
  prompt: 'In one sentence: why do queues beat retries?',
  maxOutputTokens: 60,
})
for await (const text of answer.textStream) process.stdout.write(text)
console.log(`\n${(await answer.usage).totalTokens} tokens`)

const status = await fetch(`${sidecar}/sessions/vercel-js/status`)
console.log('booked:', await status.json())
