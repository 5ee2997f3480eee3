// The ai package over @ai-sdk/openai-compatible.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { embedMany, generateObject, generateText, stepCountIs, streamObject, streamText, tool } from "ai";
import { BOOK, Book, CHAT, City, EMBED, LOANS, LONG, THINK, WEATHER } from "./common.mjs";
import { apiKey, baseURL, main, say, stay } from "./common.mjs";

const options = { name: "carrel", baseURL, apiKey, includeUsage: true, supportsStructuredOutputs: true };
const provider = createOpenAICompatible(options);
const model = provider(CHAT);
const get_weather = tool({ description: "今天的天气", inputSchema: City, execute: async ({ city }) => `${city}:晴` });
const asked = (prompt, more = {}) => ({ model, prompt, maxRetries: 0, ...more });

async function calls() {
  const answer = await generateText(asked(LOANS));
  say("chat", { text: answer.text, finish: answer.finishReason, tokens: answer.usage.outputTokens });
  const stream = streamText(asked(LOANS));
  let text = "";
  for await (const piece of stream.textStream) text += piece;
  say("stream", { text, finish: await stream.finishReason, tokens: (await stream.usage).outputTokens });
  const thinker = streamText(asked(THINK));
  say("thoughts", { text: await thinker.text, reasoning: await thinker.reasoningText });
  const completion = await generateText({ ...asked(LOANS), model: provider.completionModel(CHAT), maxOutputTokens: 200 });
  say("completion", { finish: completion.finishReason });
  const { embeddings } = await embedMany({ model: provider.embeddingModel(EMBED), values: ["图书馆", "river"] });
  say("embeddings", { size: embeddings[0].length, count: embeddings.length });
}

async function tools() {
  const first = await generateText(asked(WEATHER, { tools: { get_weather } }));
  say("call", { tool: first.toolCalls[0].toolName, input: first.toolCalls[0].input, finish: first.finishReason });
  const agent = streamText(asked(WEATHER, { tools: { get_weather }, stopWhen: stepCountIs(3) }));
  const kinds = new Set();
  for await (const part of agent.fullStream) kinds.add(part.type);
  say("agent", { text: await agent.text, steps: (await agent.steps).length, kinds: [...kinds] });
}

async function structured() {
  const { object } = await generateObject(asked(BOOK, { schema: Book }));
  say("object", { book: object });
  const stream = streamObject(asked(BOOK, { schema: Book }));
  let partial = 0;
  for await (const _ of stream.partialObjectStream) partial += 1;
  say("object stream", { book: await stream.object, partial });
}

async function refused() {
  const error = await generateText({ ...asked(LOANS), model: provider("gpt-9") }).then(() => null, (caught) => caught);
  say("no model", { status: error?.statusCode, message: error?.message });
}

/** Calls a long stream off in the middle; the process lives on. */
async function leave() {
  const controller = new AbortController();
  const stream = streamText(asked(LONG, { abortSignal: controller.signal, onError: () => {} }));
  let text = "";
  for await (const part of stream.fullStream) {
    text += part.type === "text-delta" ? part.text : "";
    if (text.length > 3) break;
  }
  controller.abort();
  say("left", { text });
  stay();
}

await main({ calls, tools, structured, refused, leave });
