"""langchain-openai: its chat model and its completion model."""

import asyncio

import openai
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI, OpenAI

from server import WEATHER, Case


class Langchain(Case):
    def model(self, name="mlxcel-demo", **options):
        return ChatOpenAI(
            model=name, base_url=self.server.base + "/v1", api_key="none", max_retries=0, **options
        )

    def test_invoke(self):
        answer = self.model(temperature=0).invoke("hello")
        self.assertIn("mlxcel", answer.content)
        self.assertEqual(answer.response_metadata["finish_reason"], "stop")
        usage = answer.usage_metadata
        self.assertEqual(usage["total_tokens"], usage["input_tokens"] + usage["output_tokens"])

    def test_stream(self):
        model = self.model(temperature=0, stream_usage=True)
        whole = model.invoke("hello").content
        total = None
        for chunk in model.stream("hello"):
            total = chunk if total is None else total + chunk
        self.assertEqual(total.content, whole)
        self.assertGreater(total.usage_metadata["output_tokens"], 0)

    def test_async(self):
        async def ask():
            model = self.model(temperature=0)
            texts = [c.content async for c in model.astream("hello")]
            return "".join(texts), (await model.ainvoke("hello")).content

        streamed, whole = asyncio.run(ask())
        self.assertEqual(streamed, whole)

    def test_batch(self):
        answers = self.model(temperature=0, max_tokens=5).batch(["hello"] * 4)
        self.assertEqual(len({a.content for a in answers}), 1)

    def test_structured_output_is_refused(self):
        schema = {"title": "Person", "type": "object", "properties": {"name": {"type": "string"}}}
        for method, param in (("json_schema", "response_format"), ("json_mode", "response_format"),
                              ("function_calling", "tool_choice")):
            model = self.model().with_structured_output(schema, method=method)
            with self.assertRaises(openai.BadRequestError) as caught:
                model.invoke("hello")
            self.assertEqual(caught.exception.param, param)

    def test_completion_model(self):
        model = OpenAI(
            model="mlxcel-demo", base_url=self.server.base + "/v1", api_key="none", temperature=0,
            max_tokens=6,
        )
        whole = model.invoke("Once upon")
        self.assertTrue(whole)
        self.assertEqual("".join(model.stream("Once upon")), whole)


class LangchainTools(Case):
    options = ("-m", "@scripted", "--temp", "0")

    def test_tools(self):
        model = ChatOpenAI(model="scripted", base_url=self.server.base + "/v1", api_key="none")
        bound = model.bind_tools([WEATHER])
        answer = bound.invoke("call")
        self.assertEqual(answer.tool_calls[0]["name"], "get_weather")
        self.assertEqual(answer.tool_calls[0]["args"], {"city": "Paris", "days": 2})
        told = ToolMessage("20 degrees", tool_call_id=answer.tool_calls[0]["id"])
        last = bound.invoke([HumanMessage("call"), answer, told])
        self.assertEqual(last.content, "It is twenty degrees.")
        total = None
        for chunk in bound.stream("call"):
            total = chunk if total is None else total + chunk
        self.assertEqual(total.tool_calls[0]["args"], {"city": "Paris", "days": 2})
