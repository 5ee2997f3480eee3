// What the programs share: where the server is, and how they say what they found (one JSON object a line).
import { z } from "zod";

export const [, , root, apiKey, command] = process.argv;
export const baseURL = `${root}/v1`;
export const CHAT = "tiny-chat";
export const EMBED = "tiny-embed";
export const LOANS = "一个读者可以借几本书?";
export const WEATHER = "北京的天气怎么样?";
export const TWO_CITIES = "北京和上海哪里冷?";
export const BOOK = "请推荐一本书。";
export const THINK = "想一想再说:一加一等于几?";
export const LONG = "从一数到很多。";
export const City = z.object({ city: z.string() });
export const Book = z.object({ title: z.string(), year: z.int() });

export function say(name, found) {
  console.log(JSON.stringify({ name, ...found }));
}

/** Runs the command that was asked for. A failure ends the program with its stack. */
export async function main(commands) {
  await commands[command]();
}

/** Keeps the process alive until it is killed, so that what ends a stream is not the end of the process. */
export function stay() {
  setInterval(() => {}, 1000);
}
