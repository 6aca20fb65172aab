"""Streams an answer of the demo model from a server at http://localhost:8000.

vllm serve examples/sonnets/model --served-model-name sonnets
python examples/sonnets/chat.py "Shall I compare thee to a summer's day?"
"""

from __future__ import annotations

import sys

from openai import OpenAI


def main(question: str) -> None:
    client = OpenAI(base_url="http://localhost:8000/v1", api_key="unused")
    model = client.models.list().data[0].id
    stream = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": question}],
        temperature=0,
        stream=True,
    )
    for chunk in stream:
        if chunk.choices:
            print(chunk.choices[0].delta.content or "", end="", flush=True)
    print()


if __name__ == "__main__":
    main(" ".join(sys.argv[1:]) or "Shall I compare thee to a summer's day?")
