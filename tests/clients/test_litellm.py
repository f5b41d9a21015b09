"""litellm in front of the server, as a library."""

import asyncio
import json

import litellm

from server import WEATHER, Case

litellm.suppress_debug_info = True
HELLO = [{"role": "user", "content": "hello"}]


class Litellm(Case):
    def options_of(self, model="mlxcel-demo"):
        return {
            "model": "openai/" + model,
            "api_base": self.server.base + "/v1",
            "api_key": "none",
            "max_retries": 0,
        }

    def test_whole_and_streamed(self):
        whole = litellm.completion(messages=HELLO, **self.options_of())
        text = whole.choices[0].message.content
        self.assertIn("mlxcel", text)
        self.assertEqual(whole.choices[0].finish_reason, "stop")
        self.assertGreater(whole.usage.prompt_tokens, 0)
        chunks = list(
            litellm.completion(
                messages=HELLO,
                stream=True,
                stream_options={"include_usage": True},
                **self.options_of(),
            )
        )
        streamed = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        self.assertEqual(streamed, text)
        rebuilt = litellm.stream_chunk_builder(chunks, messages=HELLO)
        self.assertEqual(rebuilt.choices[0].message.content, text)
        self.assertEqual(rebuilt.usage.completion_tokens, whole.usage.completion_tokens)

    def test_async(self):
        async def ask():
            whole = await litellm.acompletion(messages=HELLO, **self.options_of())
            text = ""
            stream = await litellm.acompletion(messages=HELLO, stream=True, **self.options_of())
            async for chunk in stream:
                text += chunk.choices[0].delta.content or ""
            return whole.choices[0].message.content, text

        whole, text = asyncio.run(ask())
        self.assertIn("mlxcel", whole)
        self.assertEqual(text, whole)

    def test_text_completion(self):
        answer = litellm.text_completion(
            model="text-completion-openai/mlxcel-demo",
            prompt="Once upon",
            max_tokens=4,
            api_base=self.server.base + "/v1",
            api_key="none",
        )
        self.assertTrue(answer.choices[0].text)
        self.assertEqual(answer.usage.completion_tokens, 4)

    def test_errors(self):
        with self.assertRaises(litellm.BadRequestError) as caught:
            litellm.completion(messages=HELLO, top_p=7, **self.options_of())
        self.assertIn("top_p", str(caught.exception))
        with self.assertRaises(litellm.ContextWindowExceededError):
            long = [{"role": "user", "content": "word " * 5000}]
            litellm.completion(messages=long, **self.options_of())


class Scripted(Litellm):
    options = ("-m", "@scripted", "--temp", "0")
    test_whole_and_streamed = test_async = test_text_completion = test_errors = None

    def test_tools(self):
        messages = [{"role": "user", "content": "call"}]
        answer = litellm.completion(
            messages=messages, tools=[WEATHER], **self.options_of("scripted")
        )
        call = answer.choices[0].message.tool_calls[0]
        self.assertEqual(call.function.name, "get_weather")
        self.assertEqual(json.loads(call.function.arguments), {"city": "Paris", "days": 2})
        self.assertEqual(answer.choices[0].finish_reason, "tool_calls")

    def test_tools_streamed(self):
        messages = [{"role": "user", "content": "call"}]
        chunks = list(
            litellm.completion(
                messages=messages, tools=[WEATHER], stream=True, **self.options_of("scripted")
            )
        )
        rebuilt = litellm.stream_chunk_builder(chunks, messages=messages)
        call = rebuilt.choices[0].message.tool_calls[0]
        self.assertEqual(json.loads(call.function.arguments), {"city": "Paris", "days": 2})

    def test_reasoning(self):
        messages = [{"role": "user", "content": "think"}]
        answer = litellm.completion(messages=messages, **self.options_of("scripted"))
        self.assertIn("then that.", answer.choices[0].message.reasoning_content)
        self.assertEqual(answer.choices[0].message.content, "It is done.")
