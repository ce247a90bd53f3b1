// LangChain: a chain whose tokens are booked to its own session, and a batch that no
// limit makes fail.

import { StringOutputParser } from '@langchain/core/output_parsers'
import { ChatPromptTemplate } from '@langchain/core/prompts'
import { ChatOpenAI } from '@langchain/openai'

const sidecar = process.env.SIDECAR ?? 'http://127.0.0.1:8080'
const model = new ChatOpenAI({
  model: process.env.MODEL ?? 'gpt-4o-mini',
  configuration: { baseURL: `${sidecar}/v1/session/chain-js` },
  apiKey: 'unused',
  maxTokens: 40,
})
const chain = ChatPromptTemplate.fromTemplate('In one sentence, what is {thing}?').pipe(model).pipe(new StringOutputParser())

for await (const piece of await chain.stream({ thing: 'a queue' })) process.stdout.write(piece)
console.log()
for (const answer of await chain.batch([{ thing: 'a river' }, { thing: 'a mountain' }, { thing: 'a lake' }])) console.log(answer)
