// Drive openai-node directly and through the sidecar: the twin of sdk.py, with
// the same steps and the same JSON lines.

import { readFileSync } from 'node:fs'
import { faults } from './faults.mjs'
import OpenAI from 'openai'
import { VERSION } from 'openai/version'

const { DIRECT_URL, SIDECAR_URL, DENIED_URL, METRICS_URL, ODD_URL, ODD_SIDECAR_URL, ODD_CHAT, ODD_RESPONSES, UPSTREAM_KEY, PLAN_FILE } =
  process.env
const plan = JSON.parse(readFileSync(PLAN_FILE))

const chat = {
  model: plan.model,
  messages: [{ role: 'user', content: plan.question }],
  max_tokens: plan.max_tokens,
  temperature: 0,
  seed: plan.seed,
}
const long = { ...chat, messages: [{ role: 'user', content: plan.long_question }], max_tokens: plan.long_max_tokens }
const usage = { stream_options: { include_usage: true } }
const response = { model: plan.model, input: plan.question, max_output_tokens: plan.max_tokens, temperature: 0 }

// busy tells whether the model is still generating: the proof that a stream is live.
// It does not know where the model cannot be asked.
async function busy() {
  if (!METRICS_URL) return undefined
  const answer = await fetch(METRICS_URL, { headers: { Authorization: `Bearer ${UPSTREAM_KEY}` } })
  return (await answer.text()).includes('llamacpp:requests_processing 1')
}

// tokens gives the usage an SDK object shows the names of the sidecar's status.
function tokens(u) {
  if (!u) return null
  if ('input_tokens' in u) return { prompt: u.input_tokens, completion: u.output_tokens, total: u.total_tokens }
  return { prompt: u.prompt_tokens, completion: u.completion_tokens ?? 0, total: u.total_tokens }
}

function delta(event) {
  if (event.type === 'response.output_text.delta') return event.delta
  return event.choices?.[0]?.delta.content ?? ''
}

function report(via, session) {
  const write = (step, line) =>
    console.log(JSON.stringify({ sdk: `openai-node ${VERSION}`, via, session, step, ...line }))
  return {
    write,
    answer: (step, text, body) => write(step, { text, usage: tokens(body.usage), body }),
    async stream(step, promise, onFirst = async () => undefined) {
      const events = []
      let live, error
      try {
        for await (const event of await promise) {
          if (events.push(event) === 1) live = await onFirst()
        }
      } catch (err) {
        if (!step.startsWith('odd-')) throw err
        error = { class: err.name, message: err.message }
      }
      const last = events.map((e) => e.usage ?? (e.type === 'response.completed' ? e.response.usage : null)).filter(Boolean)
      write(step, { text: events.map(delta).join(''), usage: tokens(last.at(-1)), events, live, error })
    },
    async error(step, call) {
      try {
        await call()
        write(step, { error: null })
      } catch (err) {
        if (!(err instanceof OpenAI.APIError)) throw err
        const { status, message, type, code } = err
        write(step, { error: { class: err.constructor.name, status, message, type, code } })
      }
    },
  }
}

async function run(to, client, denied) {
  const answer = await client.chat.completions.create(chat)
  to.answer('chat', answer.choices[0].message.content, answer)
  await to.stream('stream', client.chat.completions.create({ ...chat, stream: true }))
  await to.stream('stream-usage', client.chat.completions.create({ ...chat, ...usage, stream: true }))
  await to.stream('long-usage', client.chat.completions.create({ ...long, ...usage, stream: true }), busy)
  await to.stream('long', client.chat.completions.create({ ...long, stream: true }))

  const completion = await client.completions.create({
    model: plan.model, prompt: plan.prompt, max_tokens: plan.max_tokens, temperature: 0, seed: plan.seed,
  })
  to.answer('completion', completion.choices[0].text, completion)
  const made = await client.responses.create(response)
  to.answer('response', made.output_text, made)
  await to.stream('response-stream', client.responses.create({ ...response, stream: true }))
  const embedding = await client.embeddings.create({ model: plan.model, input: plan.embed })
  to.answer('embedding', `${embedding.data.length}x${embedding.data[0].embedding.length}`, embedding)
  const models = await client.models.list()
  to.write('models', { text: models.data[0].id, usage: null })

  await to.error('error-400', () => client.chat.completions.create({ ...chat, messages: null }))
  await to.error('error-404', () => client.models.retrieve('no-such-model'))
  await to.error('error-401', () => denied.chat.completions.create(chat))
}

async function runByHeader(to, client) {
  const answer = await client.chat.completions.create(chat)
  to.answer('chat', answer.choices[0].message.content, answer)
  await to.stream('stream', client.chat.completions.create({ ...chat, stream: true }))
}

const open = (baseURL, apiKey = 'unused', more = {}) =>
  new OpenAI({ baseURL, apiKey, maxRetries: 0, timeout: 120_000, ...more })
const byHeader = { defaultHeaders: { 'X-Session-Id': 'node-header' } }

await run(report('direct', 'node-path'), open(DIRECT_URL, UPSTREAM_KEY), open(DIRECT_URL, 'wrong'))
await run(report('sidecar', 'node-path'), open(`${SIDECAR_URL}/v1/session/node-path`), open(`${DENIED_URL}/v1`))
await runByHeader(report('direct', 'node-header'), open(DIRECT_URL, UPSTREAM_KEY))
await runByHeader(report('sidecar', 'node-header'), open(`${SIDECAR_URL}/v1`, 'unused', byHeader))

// Where the upstream keeps to no standard. The client retries, as SDKs do unless told otherwise.
for (const via of ODD_URL ? ['direct', 'sidecar'] : []) {
  const at = (session) => {
    const baseURL = via === 'direct' ? `${ODD_URL}/v1` : `${ODD_SIDECAR_URL}/v1/session/${session}`
    return [report(via, session), open(baseURL, 'unused', { maxRetries: 2 })]
  }
  for (const model of ODD_CHAT.split(',')) {
    for (const [asked, more] of Object.entries({ asked: usage, unasked: {} })) {
      const step = `odd-${model}-${asked}`
      const [to, client] = at(`node-${step}`)
      await to.stream(step, client.chat.completions.create({ ...chat, ...more, model, stream: true }))
    }
  }
  for (const model of ODD_RESPONSES.split(',')) {
    const step = `odd-response-${model}`
    const [to, client] = at(`node-${step}`)
    await to.stream(step, client.responses.create({ ...response, model, stream: true }))
  }
}

async function joined(promise) {
  let text = ''
  for await (const event of await promise) text += delta(event)
  return text
}

await faults((via, session) => report(via, session).write, 'node', (base, maxRetries, timeout) => {
  const client = open(base, 'unused', { maxRetries, timeout })
  return {
    chat: async () => (await client.chat.completions.create(chat)).choices[0].message.content,
    stream: () => joined(client.chat.completions.create({ ...chat, stream: true })),
    response: async () => (await client.responses.create(response)).output_text,
    'response stream': () => joined(client.responses.create({ ...response, stream: true })),
    embedding: async () => String((await client.embeddings.create({ model: plan.model, input: plan.embed })).data.length),
  }
}, { broken: true })
