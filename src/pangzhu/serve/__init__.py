"""A server that speaks OpenAI's protocol: the base and every adapter a model name, and one page to see them side by side.

The way of a request: `guard` lets it in; `schema` reads it; `line` gives it a place or refuses it; `models` finds who is to
answer; `answers` lets the engine write in a thread; `replies` says it in OpenAI's words. `app` puts these together, `run`
opens the port.
"""
