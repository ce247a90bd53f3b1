// Many users at once: one client, one session per user, no 429 to handle. The
// calls that the provider's limit has no room for wait in the sidecar; every user
// gets a fair turn.

import OpenAI from 'openai'

const sidecar = process.env.SIDECAR ?? 'http://127.0.0.1:8080'
const model = process.env.MODEL ?? 'gpt-4o-mini'
const client = new OpenAI({ baseURL: `${sidecar}/v1`, apiKey: 'unused' })

async function ask(user, question) {
  const answer = await client.chat.completions.create(
    { model, messages: [{ role: 'user', content: question }], max_tokens: 16 },
    { headers: { 'X-Session-Id': user } },
  )
  return `${user}: ${JSON.stringify(answer.choices[0].message.content)}`
}

const users = ['ada-js', 'grace-js', 'linus-js']
const questions = ['Name a river.', 'Name a mountain.']
const calls = users.flatMap((user) => questions.map((question) => ask(user, question)))
for (const line of await Promise.all(calls)) console.log(line)
