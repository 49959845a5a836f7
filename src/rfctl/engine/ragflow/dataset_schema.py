"""What a client may send about datasets, with RAGFlow v0.27.0's bounds and texts (`validation_utils.py`).

RAGFlow validates with pydantic, so pydantic's own messages are part of the API.
"""

from __future__ import annotations

import json
import uuid
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from rfctl.engine.ragflow.envelope import ARGUMENT, Failure

METHODS = (
    "naive", "book", "email", "laws", "manual", "one", "paper", "picture", "presentation", "qa", "table",
    "tag", "resume",
)  # fmt: skip
MAX_CONFIG_CHARACTERS = 65535
MAX_NAME_BYTES = 128
MAX_PAGE_SIZE = 100
_SHOWN = 125
RAPTOR_PROMPT = (
    "Summarize the paragraphs below without inventing facts or changing numbers.\n"
    "Output exactly two parts in the same language as the source:\n"
    "1. First line: a concise title only.\n"
    "2. Following lines: a concise summary of the content.\n"
    "Do not output labels, Markdown headings, bullet points, or any other commentary.\n\n"
    "Paragraphs:\n{cluster_content}"
)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Raptor(_Strict):
    """Accepted and stored; the engine has no RAPTOR."""

    use_raptor: bool = False
    prompt: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)] = RAPTOR_PROMPT
    max_token: Annotated[int, Field(ge=512, le=2048)] = 512
    clustering_threshold: Annotated[float, Field(ge=0, le=1)] = 0.3
    clustering_ratio: Annotated[float, Field(ge=0, le=1)] = 0.5
    max_cluster: Annotated[int, Field(ge=1, le=1024)] = 64
    random_seed: Annotated[int, Field(ge=0)] = 0
    scope: Literal["file", "dataset"] = "file"
    auto_disable_for_structured_data: bool = True

    @model_validator(mode="before")
    @classmethod
    def drop_old_keys(cls, value: Any) -> Any:
        """Old keys are dropped, a max_token below the bound is raised to it."""
        if isinstance(value, dict):
            old = ("threshold", "clustering_method", "tree_builder", "ext")
            value = {key: item for key, item in value.items() if key not in old}
            tokens = value.get("max_token")
            if isinstance(tokens, int) and not isinstance(tokens, bool) and 1 <= tokens < 512:
                value["max_token"] = 512
        return value


class Graphrag(_Strict):
    """Accepted and stored; the engine has no GraphRAG."""

    use_graphrag: bool = False
    entity_types: list[str] = Field(
        default_factory=lambda: ["organization", "person", "geo", "event", "category"]
    )
    method: Literal["light", "general", "ner"] = "light"
    community: bool = False
    resolution: bool = False
    batch_chunk_token_size: Annotated[int, Field(ge=512, le=8196)] = 4096
    retry_attempts: Annotated[int, Field(ge=0)] = 2
    retry_backoff_seconds: Annotated[float, Field(ge=0)] = 2.0
    retry_backoff_max_seconds: Annotated[float, Field(ge=0)] = 60.0
    build_subgraph_timeout_per_chunk_seconds: Annotated[int, Field(ge=0)] = 300
    build_subgraph_min_timeout_seconds: Annotated[int, Field(ge=0)] = 600
    merge_timeout_seconds: Annotated[int, Field(ge=0)] = 180
    resolution_timeout_seconds: Annotated[int, Field(ge=0)] = 1800
    community_timeout_seconds: Annotated[int, Field(ge=0)] = 1800
    lock_acquire_timeout_seconds: Annotated[int, Field(ge=0)] = 600


class ParentChild(_Strict):
    """Accepted and stored; the engine has no parent and child chunks."""

    use_parent_child: bool = False
    children_delimiter: Annotated[str, Field(min_length=1)] = "\n"


class ParserConfig(_Strict):
    """How a document is cut into chunks; the engine uses chunk_token_num, delimiter and pages."""

    auto_keywords: Annotated[int, Field(ge=0, le=32)] = 0
    auto_questions: Annotated[int, Field(ge=0, le=10)] = 0
    chunk_token_num: Annotated[int, Field(ge=1, le=2048)] = 512
    delimiter: Annotated[str, Field(min_length=1)] = "\n"
    html4excel: bool = False
    layout_recognize: str = "DeepDOC"
    tag_kb_ids: list[str] = Field(default_factory=list)
    topn_tags: Annotated[int, Field(ge=1, le=10)] = 1
    filename_embd_weight: Annotated[float, Field(ge=0, le=1)] | None = 0.1
    task_page_size: Annotated[int, Field(ge=1)] | None = None
    pages: list[list[int]] | None = None
    parent_child: ParentChild = Field(default_factory=ParentChild)
    enable_children: bool = False
    children_delimiter: str = ""
    table_column_mode: Literal["auto", "manual"] | None = None
    table_column_roles: dict[str, Any] | None = None
    table_column_names: list[str] | None = None
    compilation_template_group_id: list[str] = Field(default_factory=list)
    ext: dict[str, Any] = Field(default_factory=dict)
    raptor: Raptor = Field(default_factory=Raptor)
    graphrag: Graphrag = Field(default_factory=Graphrag)


def _check_method(value: Any) -> Any:
    if value not in METHODS:
        text = ", ".join(f"'{method}'" for method in METHODS[:-1]) + f" or '{METHODS[-1]}'"
        raise PydanticCustomError("literal_error", f"Input should be {text}")
    return value


Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=128)]
# Absent is allowed, null is not.
Method = Annotated[str | None, BeforeValidator(_check_method)]


class _Dataset(_Strict):
    avatar: Annotated[str, Field(max_length=65535)] | None = None
    description: Annotated[str, Field(max_length=65535)] | None = None
    embedding_model: Annotated[str, Field(max_length=255)] | None = None
    permission: Literal["me", "team"] = "me"
    chunk_method: Method = None
    parse_type: Annotated[int, Field(ge=0, le=64)] | None = None
    pipeline_id: Annotated[str, Field(min_length=32, max_length=32)] | None = None
    parser_config: ParserConfig | None = None
    auto_metadata_config: dict[str, Any] | None = None
    language: Annotated[str, Field(max_length=32)] | None = None
    ext: dict[str, Any] = Field(default_factory=dict)

    @field_validator("avatar")
    @classmethod
    def check_avatar(cls, value: str | None) -> str | None:
        """`data:image/png;base64,...` or jpeg."""
        if value is None:
            return None
        head, comma, _ = value.partition(",")
        if not comma or not head.startswith("data:"):
            text = "missing MIME prefix. Expected format: data:<mime>;base64,<data>"
            raise PydanticCustomError("format_invalid", text)
        if head[5:].split(";")[0] not in ("image/jpeg", "image/png"):
            text = "Unsupported MIME type. Allowed: ['image/jpeg', 'image/png']"
            raise PydanticCustomError("format_invalid", text)
        return value

    @field_validator("embedding_model")
    @classmethod
    def check_embedding_model(cls, value: str | None) -> str | None:
        """`model@provider`, `model@instance@provider` or an id."""
        if value is None:
            return None
        value = value.strip()
        if len(value) == 32 and all(letter in "0123456789abcdef" for letter in value):
            return value
        if "@" not in value:
            text = "embedding model identifier must follow <model_name>@<provider> format"
            raise PydanticCustomError("format_invalid", text)
        if not value.split("@", 1)[0].strip() or not value.rsplit("@", 1)[1].strip():
            text = "both model_name and provider must be non-empty strings"
            raise PydanticCustomError("format_invalid", text)
        return value

    @field_validator("parser_config")
    @classmethod
    def check_parser_config(cls, value: ParserConfig | None) -> ParserConfig | None:
        """At most 65535 characters as JSON."""
        if value is not None and (size := len(json.dumps(value.model_dump()))) > MAX_CONFIG_CHARACTERS:
            text = "Parser config exceeds size limit (max 65,535 characters). Current size: {size}"
            raise PydanticCustomError("string_too_long", text, {"size": size})
        return value


class CreateDataset(_Dataset):
    """Body of POST /datasets."""

    name: Name

    @model_validator(mode="after")
    def check_pipeline(self) -> Self:
        """parse_type and pipeline_id come together and in place of chunk_method."""
        if self.chunk_method is None and (self.parse_type is None) != (self.pipeline_id is None):
            missing = "parse_type" if self.parse_type is None else "pipeline_id"
            text = f"parser_id omitted → required fields missing: {missing}"
            raise PydanticCustomError("dependency_error", text)
        return self


class UpdateDataset(_Dataset):
    """Body of PUT /datasets/{id}, with the id of the path as dataset_id."""

    dataset_id: str
    name: Name | None = None
    pagerank: Annotated[int, Field(ge=0, le=100)] = 0
    connectors: list[Any] = Field(default_factory=list)

    @field_validator("dataset_id")
    @classmethod
    def check_id(cls, value: str) -> str:
        """32 hex digits."""
        return check_uuid(value)


class DeleteDatasets(_Strict):
    """Body of DELETE /datasets."""

    ids: list[str] | None = None
    delete_all: bool = False

    @field_validator("ids")
    @classmethod
    def check_ids(cls, value: list[str] | None) -> list[str] | None:
        """Ids, each once."""
        checked = [check_uuid(id) for id in value or ()]
        for id in checked:
            if checked.count(id) > 1:
                raise PydanticCustomError("duplicate_uuids", "Duplicate ids: '{id}'", {"id": id})
        return None if value is None else checked


class ListDatasets(BaseModel):
    """Query of GET /datasets."""

    model_config = ConfigDict(extra="forbid")

    id: str | None = None
    ids: list[str] | None = None
    name: str | None = None
    page: Annotated[int, Field(ge=1)] = 1
    page_size: Annotated[int, Field(ge=1)] = 30
    orderby: Literal["create_time", "update_time"] = "create_time"
    desc: bool = True
    include_parsing_status: bool = False
    ext: str | None = None

    @field_validator("id")
    @classmethod
    def check_id(cls, value: str | None) -> str | None:
        """A UUID."""
        return None if value is None else check_uuid(value)

    @field_validator("page_size")
    @classmethod
    def check_page_size(cls, value: int) -> int:
        """At most 100."""
        if value > MAX_PAGE_SIZE:
            raise ValueError(f"page_size must be less than or equal to {MAX_PAGE_SIZE}")
        return value


def check_uuid(value: str) -> str:
    """The 32 hex digits of a UUID in any spelling. Raises PydanticCustomError."""
    try:
        return uuid.UUID(value).hex
    except ValueError as error:
        raise PydanticCustomError("invalid_uuid", "Invalid UUID format") from error


def validate[M: BaseModel](schema: type[M], values: Any, code: int = ARGUMENT) -> M:
    """`values` as `schema`. Raises Failure(code) with one line for each error, as RAGFlow writes them."""
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        lines = []
        for item in error.errors():
            shown = str(item["input"])
            if len(shown) > _SHOWN + 3:
                shown = shown[:_SHOWN] + "..."
            path = ".".join(str(part) for part in item["loc"])
            lines.append(f"Field: <{path}> - Message: <{item['msg']}> - Value: <{shown}>")
        raise Failure(code, "\n".join(lines)) from error
