// A team of agents (@openai/agents), each with its own session: /sessions/status
// then tells what every agent costs, and an agent that floods the queue delays
// itself before it delays the others. All of them draw on the budget of the team's
// session as well, if the sidecar's configuration sets one.

import { Agent, OpenAIResponsesModel, run, setTracingDisabled } from '@openai/agents'
import OpenAI from 'openai'

const sidecar = process.env.SIDECAR ?? 'http://127.0.0.1:8080'
const model = process.env.MODEL ?? 'gpt-4o-mini'

// The library uploads traces to OpenAI with the key of the client, which is none here.
setTracingDisabled(true)

function agent(name, instructions) {
  const client = new OpenAI({
    baseURL: `${sidecar}/v1/session/${name}-js`,
    apiKey: 'unused',
    defaultHeaders: { 'X-Parent-Session-Id': 'team-js' },
  })
  return new Agent({
    name,
    instructions,
    model: new OpenAIResponsesModel(client, model),
    modelSettings: { maxTokens: 40 },
  })
}

const writer = agent('writer', 'You write one short sentence about the topic.')
const critics = [
  agent('critic-facts', 'You say in one sentence whether the text is true.'),
  agent('critic-style', 'You say in one sentence how the text could be shorter.'),
]

const draft = await run(writer, 'Why the sky is blue.')
console.log('writer:', draft.finalOutput)
const reviews = await Promise.all(critics.map((critic) => run(critic, draft.finalOutput)))
critics.forEach((critic, i) => console.log(`${critic.name}:`, reviews[i].finalOutput))
