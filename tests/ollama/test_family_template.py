"""The Go templates of `modelfiles/` against the Jinja of their families, and against the trained form."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from rfctl.core.data import data_folder
from rfctl.engine.ollama.prompt import render_go
from rfctl.ollama.family import families, recognise_family
from rfctl.ollama.proof import corpus
from rfctl.ollama.template import Template, render
from rfctl.ollama.training import training_templates

sys.path.append(str(Path(__file__).parents[2] / "tools"))

# The chat templates of the families that no recording covers, reduced to what the conversations use.
JINJA = {
    "qwen3": (
        "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\n' + message.content"
        " + '<|im_end|>' + '\n' }}{%- endfor %}{%- if add_generation_prompt %}"
        "{{- '<|im_start|>assistant\n' }}{%- if enable_thinking is defined and enable_thinking is false %}"
        "{{- '<think>\n\n</think>\n\n' }}{%- endif %}{%- endif %}"
    ),
    "glm4": (
        "[gMASK]<sop>{%- for item in messages %}{%- if item.role == 'user' %}<|user|>\n{{ item.content }}"
        "{%- elif item.role == 'assistant' %}<|assistant|>\n{{ item.content }}"
        "{%- elif item.role == 'system' %}<|system|>\n{{ item.content }}{%- endif %}{%- endfor %}"
        "{%- if add_generation_prompt %}<|assistant|>{%- endif %}"
    ),
    "baichuan2": (
        "{% for message in messages %}{% if message['role'] == 'user' %}"
        "{{ '<reserved_106>' + message['content'] }}{% elif message['role'] == 'assistant' %}"
        "{{ '<reserved_107>' + message['content'] }}{% else %}{{ message['content'] }}{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<reserved_107>' }}{% endif %}"
    ),
    "minicpm": (
        "{% for message in messages %}{% if message['role'] == 'user' %}"
        "{{ '<用户>' + message['content'].strip() + '<AI>' }}"
        "{% else %}{{ message['content'].strip() }}{% endif %}"
        "{% endfor %}"
    ),
    "vicuna": (
        "{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] + ' ' }}{% endif %}"
        "{% for message in messages %}{% if message['role'] == 'user' %}"
        "{{ 'USER: ' + message['content'] + ' ASSISTANT:' }}{% elif message['role'] == 'assistant' %}"
        "{{ ' ' + message['content'] + '</s>' }}{% endif %}{% endfor %}"
    ),
    "phi4": (
        "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '<|im_sep|>'"
        " + message['content'] + '<|im_end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}"
    ),
    "gpt-oss": (
        "{{ '<|start|>system<|message|>You are ChatGPT, a large language model trained by OpenAI.\n"
        "Knowledge cutoff: 2024-06\nCurrent date: ' + strftime_now('%Y-%m-%d') + '\n\nReasoning: medium\n\n"
        "# Valid channels: analysis, commentary, final. "
        "Channel must be included for every message.<|end|>' }}"
        "{% if messages[0]['role'] == 'system' %}{{ '<|start|>developer<|message|># Instructions\n\n'"
        " + messages[0]['content'] + '\n\n<|end|>' }}{% endif %}{% for message in messages %}"
        "{% if message['role'] == 'user' %}{{ '<|start|>user<|message|>' + message['content'] + '<|end|>' }}"
        "{% elif message['role'] == 'assistant' %}{{ '<|start|>assistant<|channel|>final<|message|>'"
        " + message['content'] + '<|end|>' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
    ),
}
_TEKKEN = (
    "{%- if messages[0].role == 'system' %}{%- set system = messages[0].content %}"
    "{%- set turns = messages[1:] %}{%- else %}{%- set turns = messages %}{%- endif %}"
    "{#- [AVAILABLE_TOOLS] -#}{%- for message in turns %}{%- if message.role == 'user' %}"
    "{{- '[INST]' }}{%- if loop.last and system is defined %}{{- system + '\n\n' }}{%- endif %}"
    "{{- message.content + '[/INST]' }}{%- else %}{{- message.content + '</s>' }}{%- endif %}{%- endfor %}"
)
JINJA |= {
    "qwen2.5": (
        "{%- if messages[0].role != 'system' %}{{- '<|im_start|>system\nYou are Qwen, created by Alibaba "
        "Cloud. You are a helpful assistant.<|im_end|>\n' }}{%- endif %}{%- for message in messages %}"
        "{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}{%- endfor %}"
        "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
    ),
    "llama3.1": (
        "{%- if messages[0].role == 'system' %}{%- set system = messages[0].content | trim %}"
        "{%- set turns = messages[1:] %}{%- else %}{%- set system = '' %}"
        "{%- set turns = messages %}{%- endif %}"
        "{{- '<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n"
        "Today Date: 26 Jul 2024\n\n' + system + '<|eot_id|>' }}{%- for message in turns %}"
        "{{- '<|start_header_id|>' + message.role + '<|end_header_id|>\n\n' + message.content | trim"
        " + '<|eot_id|>' }}{%- endfor %}{%- if add_generation_prompt %}"
        "{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"
    ),
    "mistral-nemo": _TEKKEN,
    "mistral-v3": _TEKKEN.replace("'[INST]'", "'[INST] '").replace(
        "{{- message.content + '</s>' }}", "{{- ' ' + message.content + '</s>' }}"
    ),
}
# Templates that trim what a Go template of those servers cannot trim.
TRIMS = ("minicpm", "llama3.1")
# What LLaMA-Factory trains in another form than the models' own templates have.
TRAINED_OTHERWISE = {
    "alpaca": "a blank line less before the response",
    "cpm": "an end token after every answer",
    "cpm3": "",
    "gpt_oss": "no channels",
    "mistral": "the system text in the first turn",
    "llava_next_mistral": "the system text in the first turn",
    "llava_next_video_mistral": "the system text in the first turn",
    "ministral": "the system text in the first turn",
    "ministral3": "the system text in the first turn",
    "pixtral": "the system text in the first turn",
    "paligemma_chat": "no line feed behind the system text",
    "llama2_zh": "no blank before the end token",
    "llava": "no blank around the turns",
    "llava_next": "no blank around the turns",
    "llava_next_video": "no blank around the turns",
    "video_llava": "no blank around the turns",
    "vicuna": "no blank around the turns",
    "zephyr": "no line feed between the turns",
    "deepseek3": "no opened reasoning",
    "deepseekr1": "no opened reasoning",
    "llama2": "no blank before the end token",
}


@pytest.mark.parametrize("name", sorted(JINJA))
def test_a_go_template_renders_like_the_jinja_of_its_family(name: str) -> None:
    for key, messages in corpus().items():
        equal = render_go(families()[name].template, messages) == render(Template(JINJA[name]), messages)
        assert equal is (not (name in TRIMS and key == "system")), key


@pytest.mark.parametrize("name", sorted(JINJA))
def test_the_family_is_recognised(name: str) -> None:
    family = recognise_family(JINJA[name])
    assert family is not None
    assert family.name == name


@pytest.mark.parametrize("name", sorted(families()))
def test_the_rendered_prompts_are_those_beside_the_template(name: str) -> None:
    from render_prompts import render_prompts  # type: ignore[import-not-found]

    path = data_folder("modelfiles") / name / "prompts.json"
    assert json.loads(path.read_text(encoding="utf-8")) == render_prompts(families()[name].template)


@pytest.mark.parametrize(
    "name", sorted(name for name, template in training_templates().items() if template.family)
)
def test_a_training_template_renders_like_its_family(name: str) -> None:
    training = training_templates()[name]
    template = families()[training.family].template
    equal = True
    for messages in corpus().values():
        has_system = messages[0]["role"] == "system"
        has_default = training.default_system and not has_system
        has_thought = any("</think>" in message["content"] for message in messages)
        if has_default or has_thought or not training.knows(messages):
            continue
        trained = training.render(messages, bos="", eos="</s>")
        equal = equal and trained == render_go(template, messages)
    assert equal is (not TRAINED_OTHERWISE.get(name, ""))
