// @langchain/openai.
import { tool } from "@langchain/core/tools";
import { ChatOpenAI, OpenAIEmbeddings } from "@langchain/openai";
import { BOOK, Book, CHAT, City, EMBED, LOANS, LONG, TWO_CITIES, WEATHER } from "./common.mjs";
import { apiKey, baseURL, main, say, stay } from "./common.mjs";

const model = new ChatOpenAI({ model: CHAT, apiKey, maxRetries: 0, configuration: { baseURL } });
const weather = tool(({ city }) => `${city}:晴`, { name: "get_weather", description: "今天的天气", schema: City });

async function calls() {
  const answer = await model.invoke(LOANS);
  say("chat", { text: answer.content, tokens: answer.usage_metadata.output_tokens });
  let text = "";
  for await (const chunk of await model.stream(LOANS)) text += chunk.content;
  say("stream", { text });
  const both = await model.batch([LOANS, "你是谁?"]);
  say("batch", { texts: both.map((each) => each.content) });
  const embeddings = new OpenAIEmbeddings({ model: EMBED, apiKey, maxRetries: 0, configuration: { baseURL } });
  const vectors = await embeddings.embedDocuments(["图书馆", "river"]);
  say("embeddings", { size: vectors[0].length, count: vectors.length });
}

async function tools() {
  const able = model.bindTools([weather]);
  const first = await able.invoke(WEATHER);
  say("call", { tool: first.tool_calls[0].name, args: first.tool_calls[0].args });
  let whole;
  for await (const chunk of await able.stream(TWO_CITIES)) whole = whole ? whole.concat(chunk) : chunk;
  say("calls", { cities: whole.tool_calls.map((call) => call.args.city) });
  const result = await weather.invoke(first.tool_calls[0]);
  const second = await able.invoke([{ role: "user", content: WEATHER }, first, result]);
  say("agent", { text: second.content });
}

async function structured() {
  for (const method of ["jsonSchema", "functionCalling"]) {
    const reader = model.withStructuredOutput(Book, { name: "book", method });
    say(method, { book: await reader.invoke(BOOK) });
  }
}

/** Calls a long stream off in the middle; the process lives on. */
async function leave() {
  const controller = new AbortController();
  let text = "";
  try {
    for await (const chunk of await model.stream(LONG, { signal: controller.signal })) {
      text += chunk.content;
      if (text.length > 3) controller.abort();
    }
  } catch (error) {
    if (!controller.signal.aborted) throw error;
  }
  say("left", { text });
  stay();
}

await main({ calls, tools, structured, leave });
