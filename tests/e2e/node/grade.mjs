// The vendor's SDK for Node against OPENAI_BASE_URL: a whole answer, a stream, an error; one line of JSON each.
import { readFileSync } from "node:fs";
import OpenAI from "openai";

const client = new OpenAI({ maxRetries: 0 });
const prompt = readFileSync(process.argv[2], "utf8");
const asked = (sheet) => ({
  model: "gpt-4o-mini",
  messages: [
    { role: "system", content: prompt },
    {
      role: "user",
      content: [
        { type: "text", text: sheet },
        { type: "image_url", image_url: { url: "data:image/png;base64,AAAA", detail: "low" } },
      ],
    },
  ],
});
const tell = (what, value) => console.log(JSON.stringify({ what, value }));

const whole = await client.chat.completions.create(asked("sheet: sub-parts"));
tell("whole", JSON.parse(whole.choices[0].message.content));

const stream = await client.chat.completions.create({ ...asked("sheet: latex"), stream: true, stream_options: { include_usage: true } });
let text = "";
let usage = null;
for await (const chunk of stream) {
  text += chunk.choices[0]?.delta?.content ?? "";
  usage = chunk.usage ?? usage;
}
tell("stream", JSON.parse(text));
tell("usage", usage !== null && usage.completion_tokens > 0);

const helped = await client.chat.completions.stream(asked("sheet: unicode")).finalChatCompletion();
tell("helper", JSON.parse(helped.choices[0].message.content));

try {
  await client.chat.completions.create(asked("simulate: quota"));
  tell("error", null);
} catch (error) {
  tell("error", { status: error.status, code: error.code, kind: error.constructor.name, request: error.requestID !== null });
}

const models = await client.models.list();
tell("models", models.data.map((one) => one.id));
