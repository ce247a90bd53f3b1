// Drive the Vercel AI SDK and @openai/agents, directly and through the sidecar:
// the stacks of JavaScript that call /v1/responses unless told otherwise. The same
// JSON lines as sdk.mjs, with the same steps where the same is asked.

import { readFileSync } from 'node:fs'
import { createOpenAI } from '@ai-sdk/openai'
import { createOpenAICompatible } from '@ai-sdk/openai-compatible'
import { Agent, OpenAIChatCompletionsModel, OpenAIResponsesModel, run, setTracingDisabled } from '@openai/agents'
import { embedMany, generateText, streamText } from 'ai'
import OpenAI from 'openai'
import { faults } from './faults.mjs'

const { DIRECT_URL, SIDECAR_URL, DENIED_URL, ODD_URL, ODD_SIDECAR_URL, ODD_CHAT, ODD_RESPONSES, UPSTREAM_KEY, PLAN_FILE } = process.env
const plan = JSON.parse(readFileSync(PLAN_FILE))
setTracingDisabled(true) // else it uploads traces, with the client's key

const version = (name) => `${name} ${JSON.parse(readFileSync(new URL(`node_modules/${name}/package.json`, import.meta.url))).version}`
const report = (sdk, via, session) => (step, line) => console.log(JSON.stringify({ sdk, via, session, step, ...line }))
const failure = (err) => err && { class: err.name, status: err.statusCode ?? err.status, message: err.message }

// --- Vercel AI SDK: a call is for /v1/responses, .chat() for /v1/chat/completions

const tokens = (u) => ({ prompt: u.inputTokens, completion: u.outputTokens, total: u.totalTokens })
const settings = { temperature: 0, maxRetries: 0, maxOutputTokens: plan.max_tokens, prompt: plan.question }

async function generate(to, step, model) {
  const answer = await generateText({ ...settings, model })
  to(step, { text: answer.text, usage: tokens(answer.usage), body: answer.response.body })
}

// stream notes the parts of a stream. What the SDK's strict schema does not know of
// a server's events comes as a part of type error, and the stream goes on; one that
// breaks off throws.
async function stream(to, step, model, more = {}) {
  const line = { text: '', usage: null, events: [] }
  try {
    const result = streamText({ ...settings, ...more, model, onError: () => undefined })
    for await (const part of result.fullStream) {
      if (part.type === 'text-delta') line.text += part.text
      if (part.type === 'finish' && part.totalUsage.totalTokens !== undefined) line.usage = tokens(part.totalUsage)
      line.events.push(part.type === 'error' ? { type: part.type, class: part.error.name } : part)
    }
  } catch (err) {
    line.error = failure(err)
  }
  to(step, line)
}

async function ai(to, provider, denied) {
  const { model } = plan
  await generate(to, 'response', provider(model))
  await stream(to, 'response-stream', provider(model))
  await generate(to, 'chat', provider.chat(model))
  await stream(to, 'stream-usage', provider.chat(model))
  const { embeddings, usage } = await embedMany({ model: provider.embedding(model), values: plan.embed, maxRetries: 0 })
  to('embedding', { text: `${embeddings.length}x${embeddings[0].length}`, usage: { prompt: usage.tokens, completion: 0, total: usage.tokens } })
  const error = await generateText({ ...settings, model: denied(model) }).then(() => null, failure)
  to('ai-error-401', { error })
}

const open = (baseURL, apiKey = 'unused', headers = {}) => createOpenAI({ baseURL, apiKey, headers })
const sdk = version('ai')
await ai(report(sdk, 'direct', 'ai-path'), open(DIRECT_URL, UPSTREAM_KEY), open(DIRECT_URL, 'wrong'))
await ai(report(sdk, 'sidecar', 'ai-path'), open(`${SIDECAR_URL}/v1/session/ai-path`), open(`${DENIED_URL}/v1`))
await generate(report(sdk, 'sidecar', 'ai-header'), 'chat', open(`${SIDECAR_URL}/v1`, 'unused', { 'X-Session-Id': 'ai-header' }).chat(plan.model))

// Its provider for servers like OpenAI's, which knows chat completions only.
const compatible = (baseURL, apiKey = 'unused') => createOpenAICompatible({ name: 'sidecar', baseURL, apiKey, includeUsage: true })
const compatibleSDK = version('@ai-sdk/openai-compatible')
for (const [via, provider] of [['direct', compatible(DIRECT_URL, UPSTREAM_KEY)], ['sidecar', compatible(`${SIDECAR_URL}/v1/session/ai-compatible`)]]) {
  const to = report(compatibleSDK, via, 'ai-compatible')
  await generate(to, 'chat', provider(plan.model))
  await stream(to, 'stream-usage', provider(plan.model))
}

// --- @openai/agents

const models = { 'agent-response': OpenAIResponsesModel, 'agent-chat': OpenAIChatCompletionsModel }

async function ask(client, Model, name, stream, take) {
  const asked = new Agent({
    name: 'asked', instructions: 'Answer in one sentence.', model: new Model(client, name),
    modelSettings: { maxTokens: plan.max_tokens, temperature: 0 },
  })
  const result = await run(asked, plan.question, { stream })
  if (stream) for await (const piece of result.toTextStream()) take(piece)
  else take(result.finalOutput)
  await result.completed
  return result
}

async function agent(to, step, client, Model, name, stream) {
  const line = { text: '', usage: null }
  try {
    const result = await ask(client, Model, name, stream, (piece) => (line.text += piece))
    const { inputTokens, outputTokens, totalTokens } = result.state.usage
    line.usage = { prompt: inputTokens, completion: outputTokens, total: totalTokens }
  } catch (err) {
    line.error = failure(err)
  }
  to(step, line)
}

const openAI = (baseURL, apiKey = 'unused') => new OpenAI({ baseURL, apiKey, timeout: 120_000 })
const agentSDK = version('@openai/agents')
for (const [via, client] of [['direct', openAI(DIRECT_URL, UPSTREAM_KEY)], ['sidecar', openAI(`${SIDECAR_URL}/v1/session/agents`)]]) {
  const to = report(agentSDK, via, 'agents')
  for (const [step, Model] of Object.entries(models)) {
    await agent(to, step, client, Model, plan.model, false)
    await agent(to, `${step}-stream`, client, Model, plan.model, true)
  }
}

// --- both, where the upstream keeps to no standard

for (const via of ODD_URL ? ['direct', 'sidecar'] : []) {
  const base = (session) => (via === 'direct' ? `${ODD_URL}/v1` : `${ODD_SIDECAR_URL}/v1/session/${session}`)
  for (const [kind, names] of Object.entries({ chat: ODD_CHAT, response: ODD_RESPONSES })) {
    for (const name of names.split(',')) {
      const step = kind === 'chat' ? `odd-${name}` : `odd-response-${name}`
      const provider = open(base(`ai-${step}`))
      await stream(report(sdk, via, `ai-${step}`), step, kind === 'chat' ? provider.chat(name) : provider(name), { maxRetries: 2 })
      await agent(report(agentSDK, via, `agents-${step}`), step, openAI(base(`agents-${step}`)), models[`agent-${kind}`], name, true)
    }
  }
}

// --- both, where the upstream fails

await faults((via, session) => report(sdk, via, session), 'ai', (base, maxRetries, timeout) => {
  const provider = open(base)
  const limits = () => ({ maxRetries, abortSignal: AbortSignal.timeout(timeout) })
  const generated = async (model) => (await generateText({ ...settings, ...limits(), model })).text
  const streamed = async (model) => {
    let text = ''
    const result = streamText({ ...settings, ...limits(), model, onError: () => undefined })
    for await (const part of result.fullStream) {
      if (part.type === 'error') throw part.error
      if (part.type === 'abort') throw new Error('aborted')
      if (part.type === 'text-delta') text += part.text
    }
    return text
  }
  return {
    chat: () => generated(provider.chat(plan.model)),
    stream: () => streamed(provider.chat(plan.model)),
    response: () => generated(provider(plan.model)),
    'response stream': () => streamed(provider(plan.model)),
  }
}, { broken: true })

await faults((via, session) => report(agentSDK, via, session), 'agents', (baseURL, maxRetries, timeout) => {
  const client = new OpenAI({ baseURL, apiKey: 'unused', maxRetries, timeout })
  const asked = async (Model, stream) => {
    let text = ''
    await ask(client, Model, plan.model, stream, (piece) => (text += piece))
    return text
  }
  return {
    chat: () => asked(OpenAIChatCompletionsModel, false),
    stream: () => asked(OpenAIChatCompletionsModel, true),
    response: () => asked(OpenAIResponsesModel, false),
    'response stream': () => asked(OpenAIResponsesModel, true),
  }
})
