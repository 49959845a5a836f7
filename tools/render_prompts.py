"""Write `modelfiles/*/prompts.json`: what each Go template makes of the conversations of `rfctl model verify`.

python tools/render_prompts.py
"""

from __future__ import annotations

import datetime as dt
import json

from rfctl.core.data import data_folder
from rfctl.engine.ollama.prompt import render_go
from rfctl.ollama.family import families
from rfctl.ollama.proof import corpus

DATE = "<current date>"


def render_prompts(template: str) -> dict[str, str]:
    """Conversation name -> prompt; the date of the day is replaced by a fixed word."""
    today = dt.datetime.now().astimezone().strftime("%Y-%m-%d")
    return {key: render_go(template, messages).replace(today, DATE) for key, messages in corpus().items()}


def main() -> None:
    for name, family in families().items():
        text = json.dumps(render_prompts(family.template), ensure_ascii=False, indent=1)
        (data_folder("modelfiles") / name / "prompts.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
