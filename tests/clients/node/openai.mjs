// The openai package.
import OpenAI from "openai";
import { zodFunction, zodResponseFormat } from "openai/helpers/zod";
import { BOOK, Book, CHAT, City, EMBED, LOANS, LONG, THINK, TWO_CITIES, WEATHER } from "./common.mjs";
import { apiKey, baseURL, main, say, stay } from "./common.mjs";

const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const asked = (question, more = {}) => ({ model: CHAT, messages: [{ role: "user", content: question }], ...more });
const tools = [zodFunction({ name: "get_weather", parameters: City })];

async function calls() {
  const answer = await client.chat.completions.create(asked(LOANS));
  say("chat", { text: answer.choices[0].message.content, finish: answer.choices[0].finish_reason });
  const stream = await client.chat.completions.create(
    asked(LOANS, { stream: true, stream_options: { include_usage: true } }),
  );
  let text = "";
  let usage = null;
  for await (const chunk of stream) {
    text += chunk.choices[0]?.delta.content ?? "";
    usage = chunk.usage ?? usage;
  }
  say("stream", { text, tokens: usage.completion_tokens });
  const completion = await client.completions.create({ model: CHAT, prompt: LOANS, max_tokens: 200 });
  say("completion", { text: completion.choices[0].text });
  const packed = await client.embeddings.create({ model: EMBED, input: ["图书馆", "river"] });
  const plain = await client.embeddings.create({ model: EMBED, input: ["图书馆", "river"], encoding_format: "float" });
  const far = (a, b) => Math.max(...a.map((value, i) => Math.abs(value - b[i])));
  say("embeddings", { size: packed.data[0].embedding.length, far: far(packed.data[1].embedding, plain.data[1].embedding) });
  const models = [];
  for await (const model of client.models.list()) models.push(model.id);
  say("models", { models });
  const thinker = await client.chat.completions.create(asked(THINK));
  say("thoughts", { reasoning: thinker.choices[0].message.reasoning_content, text: thinker.choices[0].message.content });
}

async function withTools() {
  const first = await client.chat.completions.create(asked(WEATHER, { tools }));
  const [call] = first.choices[0].message.tool_calls;
  say("call", { tool: call.function.name, arguments: call.function.arguments, finish: first.choices[0].finish_reason });
  const stream = client.chat.completions.stream(asked(TWO_CITIES, { tools }));
  const final = await stream.finalChatCompletion();
  const streamed = final.choices[0].message.tool_calls.map((each) => each.function.parsed_arguments.city);
  say("calls", { cities: streamed, finish: final.choices[0].finish_reason });
  const runner = client.chat.completions.runTools({
    ...asked(WEATHER),
    tools: [
      {
        type: "function",
        function: {
          name: "get_weather",
          description: "今天的天气",
          parse: JSON.parse,
          parameters: { type: "object", properties: { city: { type: "string" } } },
          function: ({ city }) => `${city}:晴`,
        },
      },
    ],
  });
  say("agent", { text: await runner.finalContent() });
}

async function structured() {
  const response_format = zodResponseFormat(Book, "book");
  const answer = await client.chat.completions.parse(asked(BOOK, { response_format }));
  say("parsed", { book: answer.choices[0].message.parsed });
  const final = await client.chat.completions.stream(asked(BOOK, { response_format })).finalChatCompletion();
  say("parsed stream", { book: final.choices[0].message.parsed });
}

async function responses() {
  const answer = await client.responses.create({ model: CHAT, input: LOANS });
  say("response", { text: answer.output_text, status: answer.status });
  let text = "";
  const kinds = [];
  for await (const event of await client.responses.create({ model: CHAT, input: LOANS, stream: true })) {
    kinds.push(event.type);
    if (event.type === "response.output_text.delta") text += event.delta;
  }
  say("response stream", { text, first: kinds[0], last: kinds.at(-1) });
}

async function refused() {
  const failures = {
    "wrong key": () => client.withOptions({ apiKey: "wrong" }).models.list(),
    "no model": () => client.chat.completions.create(asked(LOANS, { model: "gpt-9" })),
    temperature: () => client.chat.completions.create(asked(LOANS, { temperature: -1, stream: true })),
  };
  for (const [name, failure] of Object.entries(failures)) {
    const error = await failure().then(() => null, (caught) => caught);
    say(name, { kind: error?.constructor.name, status: error?.status, message: error?.message, param: error?.param });
  }
}

/** Reads a little of a long stream, then calls it off; the process lives on. */
async function leave() {
  const stream = await client.chat.completions.create(asked(LONG, { stream: true }));
  let text = "";
  for await (const chunk of stream) {
    text += chunk.choices[0]?.delta.content ?? "";
    if (text.length > 3) break;
  }
  stream.controller.abort();
  say("left", { text });
  stay();
}

/** Opens a long stream and reads nothing of it. */
async function stall() {
  const response = await client.chat.completions.create(asked(LONG, { stream: true })).asResponse();
  say("stalled", { status: response.status });
  stay();
}

await main({ calls, tools: withTools, structured, responses, refused, leave, stall });
