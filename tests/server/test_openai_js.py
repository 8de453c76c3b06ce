"""OpenAI's JavaScript SDK on the real small model, where node and the package are at hand.

`NODE_PATH` names the folder that holds `openai` and `zod`. What they send is restated in
`test_clients` and `test_lenient_fields`, so nothing is untested without them.
"""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.server.serve_process import running

SCRIPT = """
const { OpenAI } = require("openai");
const { zodResponseFormat, zodTextFormat } = require("openai/helpers/zod");
const { z } = require("zod");

async function main() {
  const client = new OpenAI({ baseURL: process.argv[2], apiKey: "none", maxRetries: 0 });
  const model = "edge-local", user = { role: "user", content: "Name a city in Norway." };
  const City = z.object({ name: z.string().max(12), size: z.int(), coast: z.enum(["yes", "no"]) });
  const chat = client.chat.completions;

  const parsed = await chat.parse({
    model, messages: [user], response_format: zodResponseFormat(City, "city"), max_tokens: 120,
  });
  const answer = parsed.choices[0].message;
  const after = await chat.create({ model, messages: [user, answer, user], max_tokens: 4 });

  const stream = chat.stream({ model, messages: [user], max_tokens: 4 });
  const streamed = await stream.finalChatCompletion();

  const schema = { type: "object", properties: { city: { type: "string", maxLength: 12 } } };
  const weather = { name: "weather", parameters: { ...schema, required: ["city"] } };
  const called = await chat.create({
    model, messages: [user], tools: [{ type: "function", function: weather }],
    tool_choice: "required", parallel_tool_calls: false, max_tokens: 80,
  });

  const response = await client.responses.parse({
    model, input: [user], text: { format: zodTextFormat(City, "city") }, max_output_tokens: 120,
  });
  const missing = await chat.create({ model: "gpt-4o", messages: [user] }).catch((e) => e);

  console.log(JSON.stringify({
    parsed: City.safeParse(answer.parsed).success,
    ignored: after.edge_agent.ignored,
    streamed: streamed.choices[0].finish_reason,
    tool: called.choices[0].message.tool_calls[0].function.name,
    response: City.safeParse(response.output_parsed).success,
    missing: [missing.status, missing.code, typeof missing.requestID],
  }));
}
main();
"""


def test_the_javascript_sdk(tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    wanted = ["-e", "require('openai'); require('zod')"]
    if subprocess.run([node, *wanted], capture_output=True, check=False).returncode:
        pytest.skip("NODE_PATH names no folder with openai and zod")
    script = tmp_path / "clients.cjs"
    script.write_text(SCRIPT)
    with running(tmp_path, "--data-dir", str(tmp_path)) as daemon:
        done = subprocess.run(
            [node, str(script), daemon.url + "/v1"], capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stderr
    seen: dict[str, Any] = json.loads(done.stdout)
    assert seen == {
        "parsed": True,
        "ignored": ["messages[1].parsed"],
        "streamed": "length",
        "tool": "weather",
        "response": True,
        "missing": [404, "model_not_found", "string"],
    }
