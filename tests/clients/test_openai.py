"""openai-python, as its users use it: sync, async, streamed, raw, errors, retries, tools."""

import asyncio
import http.server
import json
import threading
import urllib.request

import openai
from openai import AsyncOpenAI, OpenAI

from server import WEATHER, Case, Server

HELLO = [{"role": "user", "content": "hello"}]
MODEL = "mlxcel-demo"


def client_of(server, **options):
    options.setdefault("api_key", "none")
    return OpenAI(base_url=server.base + "/v1", max_retries=0, timeout=60, **options)


class Chat(Case):
    def setUp(self):
        self.client = client_of(self.server)
        self.addCleanup(self.client.close)

    def ask(self, **options):
        options.setdefault("messages", HELLO)
        return self.client.chat.completions.create(model=MODEL, **options)

    def test_whole(self):
        answer = self.ask()
        self.assertEqual(answer.object, "chat.completion")
        self.assertEqual(answer.model, MODEL)
        self.assertTrue(answer.id.startswith("chatcmpl-"))
        message = answer.choices[0].message
        self.assertEqual(message.role, "assistant")
        self.assertIn("mlxcel", message.content)
        self.assertEqual(answer.choices[0].finish_reason, "stop")
        usage = answer.usage
        self.assertEqual(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens)
        self.assertGreater(usage.prompt_tokens, 0)

    def test_streamed_is_the_same(self):
        whole = self.ask()
        text, finishes, usages = "", [], []
        stream = self.ask(stream=True, stream_options={"include_usage": True})
        for chunk in stream:
            self.assertEqual(chunk.object, "chat.completion.chunk")
            if chunk.usage:
                usages.append(chunk.usage)
                self.assertEqual(chunk.choices, [])
                continue
            text += chunk.choices[0].delta.content or ""
            if chunk.choices[0].finish_reason:
                finishes.append(chunk.choices[0].finish_reason)
        self.assertEqual(text, whole.choices[0].message.content)
        self.assertEqual(finishes, ["stop"])
        self.assertEqual(len(usages), 1)
        self.assertEqual(usages[0].completion_tokens, whole.usage.completion_tokens)

    def test_stream_helper(self):
        kinds = []
        with self.client.chat.completions.stream(model=MODEL, messages=HELLO) as stream:
            for event in stream:
                kinds.append(event.type)
            final = stream.get_final_completion()
        self.assertIn("content.delta", kinds)
        self.assertIn("content.done", kinds)
        self.assertEqual(final.choices[0].message.content, self.ask().choices[0].message.content)

    def test_async(self):
        async def both():
            async with AsyncOpenAI(base_url=self.server.base + "/v1", api_key="none") as client:
                create = client.chat.completions.create
                asks = [
                    create(model=MODEL, messages=HELLO, max_tokens=4 + i, temperature=0)
                    for i in range(6)
                ]
                whole = await asyncio.gather(*asks)
                text = ""
                async for chunk in await create(model=MODEL, messages=HELLO, stream=True):
                    text += chunk.choices[0].delta.content or ""
                return whole, text

        whole, text = asyncio.run(both())
        self.assertEqual(text, self.ask().choices[0].message.content)
        for i, answer in enumerate(whole):
            self.assertEqual(answer.usage.completion_tokens, 4 + i)
            self.assertEqual(answer.choices[0].finish_reason, "length")
            self.assertTrue(text.startswith(answer.choices[0].message.content))

    def test_raw_response(self):
        raw = self.client.chat.completions.with_raw_response.create(model=MODEL, messages=HELLO)
        self.assertEqual(raw.status_code, 200)
        self.assertTrue(raw.headers["content-type"].startswith("application/json"))
        self.assertTrue(raw.headers["x-request-id"])
        self.assertEqual(raw.request_id, raw.headers["x-request-id"])
        self.assertIn("mlxcel", raw.parse().choices[0].message.content)

    def test_streaming_response(self):
        create = self.client.chat.completions.with_streaming_response.create
        with create(model=MODEL, messages=HELLO, stream=True) as response:
            lines = [line for line in response.iter_lines() if line]
        self.assertTrue(all(line.startswith("data: ") for line in lines))
        self.assertEqual(lines[-1], "data: [DONE]")
        self.assertEqual(json.loads(lines[0][6:])["choices"][0]["delta"]["role"], "assistant")

    def test_n_and_seed(self):
        options = {"n": 3, "temperature": 1.2, "seed": 7, "max_tokens": 12}
        messages = [{"role": "user", "content": "tell me a story"}]
        first = self.ask(messages=messages, **options)
        again = self.ask(messages=messages, **options)
        texts = [c.message.content for c in first.choices]
        self.assertEqual([c.index for c in first.choices], [0, 1, 2])
        self.assertEqual(texts, [c.message.content for c in again.choices])
        self.assertGreater(len(set(texts)), 1)
        self.assertEqual(first.usage.completion_tokens, 36)

    def test_logprobs(self):
        answer = self.ask(logprobs=True, top_logprobs=3, max_tokens=5)
        content = answer.choices[0].logprobs.content
        self.assertEqual(len(content), 5)
        self.assertEqual("".join(t.token for t in content), answer.choices[0].message.content)
        for token in content:
            self.assertLessEqual(token.logprob, 0)
            self.assertEqual(bytes(token.bytes).decode(), token.token)
            self.assertEqual(len(token.top_logprobs), 3)
            self.assertEqual(token.top_logprobs[0].token, token.token)    # it is greedy

    def test_stop_and_length(self):
        full = self.ask().choices[0].message.content
        word = full.split(" ")[2]
        cut = self.ask(stop=[word, "never there"])
        self.assertEqual(cut.choices[0].message.content, full[: full.index(word)])
        self.assertEqual(cut.choices[0].finish_reason, "stop")
        short = self.ask(max_completion_tokens=2)
        self.assertEqual(short.choices[0].finish_reason, "length")
        self.assertTrue(full.startswith(short.choices[0].message.content))

    def test_parts_and_extra(self):
        parts = [{"role": "user", "content": [{"type": "text", "text": "hello"}]}]
        answer = self.ask(messages=parts, extra_body={"top_k": 5, "min_p": 0.1}, user="u1")
        self.assertEqual(answer.choices[0].message.content, self.ask().choices[0].message.content)

    def test_leaves_early(self):
        stream = self.ask(
            stream=True, max_tokens=1000, extra_body={"ignore_eos": True}, messages=HELLO
        )
        next(iter(stream))
        stream.close()
        self.assertIn("mlxcel", self.ask().choices[0].message.content)


class Others(Case):
    def setUp(self):
        self.client = client_of(self.server)
        self.addCleanup(self.client.close)

    def test_models(self):
        listed = list(self.client.models.list())
        self.assertEqual([m.id for m in listed], [MODEL])
        self.assertEqual(self.client.models.retrieve(MODEL).id, MODEL)
        with self.assertRaises(openai.NotFoundError):
            self.client.models.retrieve("another")

    def test_completions(self):
        create = self.client.completions.create
        answer = create(model=MODEL, prompt="Once upon", max_tokens=6, echo=True, logprobs=2)
        self.assertTrue(answer.choices[0].text.startswith("Once upon"))
        logprobs = answer.choices[0].logprobs
        self.assertIsNone(logprobs.token_logprobs[0])
        self.assertEqual("".join(logprobs.tokens), answer.choices[0].text)
        self.assertEqual(logprobs.text_offset[0], 0)
        text = "".join(
            c.choices[0].text
            for c in create(model=MODEL, prompt="Once upon", max_tokens=6, stream=True)
            if c.choices
        )
        self.assertEqual("Once upon" + text, answer.choices[0].text)

    def test_scores_a_prompt(self):
        answer = self.client.completions.create(
            model=MODEL, prompt=["hello there", "there hello"], max_tokens=0, echo=True, logprobs=1
        )
        self.assertEqual([c.text for c in answer.choices], ["hello there", "there hello"])
        for choice in answer.choices:
            known = choice.logprobs.token_logprobs[1:]
            self.assertTrue(known and all(x < 0 for x in known))

    def test_errors(self):
        create = self.client.chat.completions.create
        with self.assertRaises(openai.BadRequestError) as caught:
            create(model=MODEL, messages=HELLO, temperature=-1)
        self.assertEqual(caught.exception.param, "temperature")
        self.assertEqual(caught.exception.type, "invalid_request_error")
        self.assertTrue(caught.exception.request_id)
        with self.assertRaises(openai.BadRequestError) as caught:
            create(model=MODEL, messages=[{"role": "user", "content": "word " * 5000}])
        self.assertEqual(caught.exception.code, "context_length_exceeded")
        self.assertIn("maximum context length", str(caught.exception))
        with self.assertRaises(openai.BadRequestError) as caught:
            create(model=MODEL, messages=HELLO, response_format={"type": "json_object"})
        self.assertEqual(caught.exception.param, "response_format")
        with self.assertRaises(openai.BadRequestError) as caught:
            create(model=MODEL, messages=HELLO, tools=[WEATHER], tool_choice="required")
        self.assertEqual(caught.exception.param, "tool_choice")
        with self.assertRaises(openai.NotFoundError):
            self.client.embeddings.create(model=MODEL, input="x")

    def test_times_out(self):
        slow = self.client.with_options(timeout=0.05)
        with self.assertRaises(openai.APITimeoutError):
            slow.chat.completions.create(
                model=MODEL, messages=HELLO, max_tokens=1900, extra_body={"ignore_eos": True}
            )
        self.assertEqual(len(list(self.client.models.list())), 1)


class Keys(Case):
    options = ("--temp", "0", "--api-key", "secret-one")

    def test_keys(self):
        with client_of(self.server, api_key="secret-one") as client:
            self.assertEqual(len(list(client.models.list())), 1)
        with client_of(self.server, api_key="not-the-one") as client:
            with self.assertRaises(openai.AuthenticationError) as caught:
                client.chat.completions.create(model=MODEL, messages=HELLO)
        self.assertNotIn("not-the-one", str(caught.exception))
        self.assertEqual(caught.exception.code, "invalid_api_key")


class Tools(Case):
    options = ("-m", "@scripted", "--temp", "0")

    def setUp(self):
        self.client = client_of(self.server)
        self.addCleanup(self.client.close)

    def ask(self, text, **options):
        messages = [{"role": "user", "content": text}]
        create = self.client.chat.completions.create
        return create(model="scripted", messages=messages, **options)

    def test_whole(self):
        answer = self.ask("call", tools=[WEATHER]).choices[0]
        self.assertEqual(answer.finish_reason, "tool_calls")
        self.assertEqual(answer.message.content, "Let me look.")
        call = answer.message.tool_calls[0]
        self.assertEqual(call.function.name, "get_weather")
        self.assertEqual(json.loads(call.function.arguments), {"city": "Paris", "days": 2})

    def test_streamed(self):
        names, arguments, ids, finish = [], "", [], None
        for chunk in self.ask("call", tools=[WEATHER], stream=True):
            choice = chunk.choices[0]
            for call in choice.delta.tool_calls or []:
                if call.id:
                    ids.append(call.id)
                if call.function.name:
                    names.append(call.function.name)
                arguments += call.function.arguments or ""
            finish = choice.finish_reason or finish
        self.assertEqual(names, ["get_weather"])
        self.assertEqual(len(ids), 1)
        self.assertEqual(json.loads(arguments), {"city": "Paris", "days": 2})
        self.assertEqual(finish, "tool_calls")

    def test_round_trip(self):
        call = self.ask("call", tools=[WEATHER]).choices[0].message
        messages = [
            {"role": "user", "content": "call"},
            call.model_dump(exclude_none=True),
            {"role": "tool", "tool_call_id": call.tool_calls[0].id, "content": "20 degrees"},
        ]
        answer = self.client.chat.completions.create(
            model="scripted", messages=messages, tools=[WEATHER]
        )
        self.assertEqual(answer.choices[0].message.content, "It is twenty degrees.")

    def test_two_at_once(self):
        calls = self.ask("two", tools=[WEATHER]).choices[0].message.tool_calls
        self.assertEqual([c.function.name for c in calls], ["first", "second"])
        self.assertNotEqual(calls[0].id, calls[1].id)

    def test_reasoning(self):
        message = self.ask("think").choices[0].message
        self.assertEqual(message.content, "It is done.")
        self.assertIn("then that.", message.model_extra["reasoning_content"])


class Busy(http.server.BaseHTTPRequestHandler):
    """Says 503 twice and then passes the request on, as the server behind it would."""

    left = 2
    asked = []

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        Busy.asked.append(self.headers.get("x-stainless-retry-count"))
        if Busy.left:
            Busy.left -= 1
            status, headers, reply = 503, {"retry-after": "0.05"}, b"{}"
        else:
            request = urllib.request.Request(
                Busy.upstream + self.path, body, {"content-type": "application/json"}
            )
            with urllib.request.urlopen(request) as r:
                status, headers, reply = r.status, dict(r.headers), r.read()
        self.send_response(status)
        for name in ("content-type", "retry-after"):
            if name in {k.lower() for k in headers}:
                self.send_header(name, {k.lower(): v for k, v in headers.items()}[name])
        self.send_header("content-length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, *_):
        pass


class Retries(Case):
    # One runs, one waits: a third is refused.
    options = ("--temp", "0", "--parallel", "1", "--queue", "2")

    def test_refused_when_full(self):
        with client_of(self.server) as client:
            create = client.chat.completions.create
            long = {"max_tokens": 1800, "extra_body": {"ignore_eos": True}}
            streams = [create(model=MODEL, messages=HELLO, stream=True, **long) for _ in range(2)]
            with self.assertRaises(openai.InternalServerError) as caught:
                create(model=MODEL, messages=HELLO)
            self.assertEqual(caught.exception.status_code, 503)
            self.assertTrue(caught.exception.response.headers["retry-after"])
            # A client that tries again gets in once the others have left.
            threading.Timer(0.3, lambda: [s.close() for s in streams]).start()
            patient = client.with_options(max_retries=8)
            answer = patient.chat.completions.create(model=MODEL, messages=HELLO)
            self.assertIn("mlxcel", answer.choices[0].message.content)

    def test_comes_again_after_503(self):
        Busy.upstream = self.server.base
        between = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Busy)
        threading.Thread(target=between.serve_forever, daemon=True).start()
        self.addCleanup(between.server_close)
        self.addCleanup(between.shutdown)
        base = f"http://127.0.0.1:{between.server_address[1]}/v1"
        with OpenAI(base_url=base, api_key="none", max_retries=3) as client:
            answer = client.chat.completions.create(model=MODEL, messages=HELLO)
        self.assertIn("mlxcel", answer.choices[0].message.content)
        self.assertEqual(Busy.asked, ["0", "1", "2"])
