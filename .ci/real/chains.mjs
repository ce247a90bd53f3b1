// Drive LangChain of JavaScript, directly and through the sidecar: the twin of the
// first part of stacks.py.

import { readFileSync } from 'node:fs'
import { ChatOpenAI, OpenAIEmbeddings } from '@langchain/openai'
import { faults } from './faults.mjs'

const { DIRECT_URL, SIDECAR_URL, DENIED_URL, UPSTREAM_KEY, PLAN_FILE } = process.env
const plan = JSON.parse(readFileSync(PLAN_FILE))
const { version } = JSON.parse(readFileSync(new URL('node_modules/@langchain/openai/package.json', import.meta.url)))
const report = (via, session) => (step, line) =>
  console.log(JSON.stringify({ sdk: `@langchain/openai ${version}`, via, session, step, ...line }))

const open = (baseURL, apiKey = 'unused', more = {}) => new ChatOpenAI({
  model: plan.model, apiKey, configuration: { baseURL }, maxTokens: plan.max_tokens, temperature: 0, maxRetries: 0, timeout: 120_000, ...more,
})

const said = ({ content }) => (typeof content === 'string' ? content : content.map((block) => block.text ?? '').join(''))
const tokens = (u) => u && { prompt: u.input_tokens, completion: u.output_tokens, total: u.total_tokens }

async function invoke(to, step, model) {
  const answer = await model.invoke(plan.question)
  to(step, { text: said(answer), usage: tokens(answer.usage_metadata) ?? null, body: answer.toDict() })
}

async function stream(to, step, model) {
  const events = []
  for await (const chunk of await model.stream(plan.question)) events.push(chunk)
  const used = events.map((chunk) => chunk.usage_metadata).filter((u) => u?.total_tokens)
  to(step, { text: events.map(said).join(''), usage: tokens(used.at(-1)) ?? null, events: events.map((chunk) => chunk.toDict()) })
}

async function run(to, baseURL, key, denied) {
  const model = (more) => open(baseURL, key, more)
  await invoke(to, 'chain-chat', model())
  await invoke(to, 'chain-response', model({ useResponsesApi: true }))
  await stream(to, 'chain-stream', model({ streamUsage: false }))
  await stream(to, 'chain-stream-usage', model({ streamUsage: true }))
  await stream(to, 'chain-response-stream', model({ useResponsesApi: true }))
  const embeddings = new OpenAIEmbeddings({ model: plan.model, apiKey: key, configuration: { baseURL } })
  const made = await embeddings.embedDocuments(plan.embed)
  to('embedding', { text: `${made.length}x${made[0].length}`, usage: null })
  const error = await denied.invoke(plan.question).then(() => null, (err) => ({ class: err.name, status: err.status, message: err.message }))
  to('chain-error-401', { error })
}

await run(report('direct', 'langchain-js'), DIRECT_URL, UPSTREAM_KEY, open(DIRECT_URL, 'wrong'))
await run(report('sidecar', 'langchain-js'), `${SIDECAR_URL}/v1/session/langchain-js`, 'unused', open(`${DENIED_URL}/v1`))

await faults(report, 'langchain-js', (base, maxRetries, timeout) => {
  const model = open(base, 'unused', { maxRetries, timeout })
  return {
    chat: async () => said(await model.invoke(plan.question)),
    async stream() {
      let text = ''
      for await (const chunk of await model.stream(plan.question)) text += said(chunk)
      return text
    },
  }
})
