"""Answer as upstreams do that keep to no standard.

An upstream for the check: the requested model names the oddity. Streams of chat
completions and of responses; the text is always "ab", and the usage that is to be
booked is told by the table ODD. check.py runs it within its own process.
"""

import http.server
import json
import threading


def event(payload) -> str:
    data = payload if isinstance(payload, str) else json.dumps(payload, separators=(",", ":"))
    return f"data: {data}\n\n"


def usage(prompt: int, completion: int) -> dict:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def chunk(text: str | None, finish: str | None = None, **more) -> str:
    choices = [] if text is None else [{"index": 0, "delta": {"role": "assistant", "content": text}, "finish_reason": finish}]
    return event({"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "odd", "choices": choices} | more)


A, B, DONE = chunk("a"), chunk("b", "stop"), event("[DONE]")
USED = chunk(None, usage=usage(7, 2))
USED_B = chunk("b", "stop", usage=usage(7, 2))


def response(whole: bool = True) -> str:
    """A stream of the Responses API; without its last event if it is not to be whole."""
    item = {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed",
            "content": [{"type": "output_text", "text": "ab", "annotations": []}]}
    begun = {"id": "resp_1", "object": "response", "created_at": 1, "model": "odd", "status": "in_progress", "output": []}
    ended = begun | {"status": "completed", "output": [item], "usage": {
        "input_tokens": 7, "output_tokens": 2, "total_tokens": 9,
        "input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0}}}
    place = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    sent = [
        {"type": "response.created", "response": begun},
        {"type": "response.output_item.added", "output_index": 0, "item": item | {"status": "in_progress", "content": []}},
        {"type": "response.output_text.delta", **place, "delta": "a", "logprobs": []},
        {"type": "response.output_text.delta", **place, "delta": "b", "logprobs": []},
        {"type": "response.output_text.done", **place, "text": "ab", "logprobs": []},
        {"type": "response.output_item.done", "output_index": 0, "item": item},
        {"type": "response.completed", "response": ended},
    ]
    if not whole:
        sent.pop()
    return "".join(f"event: {e['type']}\n" + event(e | {"sequence_number": i}) for i, e in enumerate(sent))


# name: chat stream, the same for a request without include_usage, responses stream, usage to be booked
ODD = {
    "plain": (A + B + USED + DONE, A + B + DONE, response(), usage(7, 2)),
    "crlf": (A + B + USED + DONE, A + B + DONE, response(), usage(7, 2)),
    "byte-by-byte": (A + B + USED + DONE, A + B + DONE, response(), usage(7, 2)),
    "should-retry": (A + B + USED + DONE, A + B + DONE, response(), usage(7, 2)),
    "no-done": (A + B + USED, A + B, None, usage(7, 2)),
    "cut": (A + B, A + B, response(whole=False), None),
    "null-error": (chunk("a", error=None) + B + USED + DONE, chunk("a", error=None) + B + DONE, None, usage(7, 2)),
    "growing-usage": (chunk("a", usage=usage(7, 1)) + USED_B + DONE, None, None, usage(7, 2)),
    "usage-twice": (A + USED_B + USED + DONE, A + USED_B + DONE, None, usage(7, 2)),
    "zero-usage": (A + B + chunk(None, usage=usage(0, 0)) + DONE, A + B + DONE, None, usage(0, 0)),
}
CHAT = list(ODD)
RESPONSES = [name for name, (_, _, responses, _) in ODD.items() if responses]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name = request["model"]
        asked, unasked, responses, _ = ODD[name]
        body = responses if self.path.endswith("/responses") else asked
        if body is asked and not (request.get("stream_options") or {}).get("include_usage"):
            body = unasked or asked
        if name == "crlf":
            body = body.replace("\n", "\r\n")
        self.server.answers += 1
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        if name == "should-retry":
            self.send_header("x-should-retry", "true")
        self.end_headers()
        step = 1 if name == "byte-by-byte" else len(body)
        for i in range(0, len(body), step):
            part = body[i:i + step].encode()
            self.wfile.write(b"%x\r\n%b\r\n" % (len(part), part))
        if name == "cut":
            self.close_connection = True
        else:
            self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *_) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    """Serves from its construction on; answers counts the requests."""

    daemon_threads = True
    answers = 0

    def handle_error(self, *_) -> None:
        """Clients that leave are none of our business."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, daemon=True).start()
