"""Texts that cannot fit the context are refused before they are cut into tokens.

Cutting megabytes takes llama.cpp minutes, and it can end the process.

From a request's body to a `Query`: routes, sampling, the rendered prompt.

Fields that only llama.cpp understands and that change what the answer *is* (`grammar`,
`logit_bias` by the local model's token ids, `ignore_eos`, `chat_template_kwargs`) make a query
local. Those that only shape sampling (`top_k`, `min_p`, `repeat_penalty`) leave the route open:
a cloud answer is drawn by the cloud's own sampling.
"""

import json
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ulid import ULID

from edge_agent.chat import infill, response_format
from edge_agent.chat.answer_form import AnswerForm
from edge_agent.chat.template import unsupported_part
from edge_agent.errors import ContextLengthExceeded, InvalidRequest, NotFound
from edge_agent.log import grader_spec
from edge_agent.records.generation import Grammar, SamplingParams
from edge_agent.records.query import Query, Route
from server.doors import leniency, schemas
from server.doors.schemas import ChatRequest, CompletionRequest

if TYPE_CHECKING:
    from edge_agent.agent.agent import Agent
    from edge_agent.engine.engine import Engine
    from models.llama.vocabulary import Vocabulary


def require_possible(prompt: Any, engine: "Engine", param: str) -> None:
    """Raise ContextLengthExceeded if the strings in the JSON value `prompt` are surely too long.

    A token stands for at most as many bytes as the vocabulary's longest.
    """
    fewest = _characters(prompt) // engine.vocabulary.longest_piece
    if fewest >= engine.context_limit:
        raise ContextLengthExceeded(engine.context_limit, fewest, at_least=True, param=param)


def _characters(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        value = list(value.values())
    return sum(map(_characters, value)) if isinstance(value, list) else 0


MODELS: Mapping[str, Route] = {
    "edge": Route.AUTO,
    "edge-local": Route.LOCAL,
    "edge-cloud": Route.CLOUD,
}
_LOCAL_ONLY = (
    "grammar",
    "logit_bias",
    "ignore_eos",
    "chat_template_kwargs",
    "parse_special",
    "suffix",
)
_MAX_STOPS = 16


def names(*, cloud: bool) -> tuple[str, ...]:
    """The names that can be asked for: `edge-cloud` only where there is a cloud."""
    return tuple(name for name, route in MODELS.items() if cloud or route is not Route.CLOUD)


def model_route(model: str, *, cloud: bool) -> Route:
    """The route a model name stands for. Raises NotFound naming those that can be asked for."""
    route = MODELS.get(model)
    if route is None:
        raise NotFound(
            f"the model {model!r} does not exist; there are {', '.join(names(cloud=cloud))}",
            param="model",
            code="model_not_found",
        )
    return route


def from_chat(request: ChatRequest, body: Mapping[str, Any], agent: "Agent", client: str) -> Query:
    """The query of a chat completion. Raises InvalidRequest or NotFound, naming the field."""
    route = _route(request, agent)
    check_encodable(body)
    ignored = leniency.left_out(body)
    body = leniency.asked(body)
    schemas.check(request.messages)
    if request.top_logprobs is not None and not request.logprobs:
        raise InvalidRequest("top_logprobs needs logprobs: true", param="top_logprobs")
    tools = tuple(tool.model_dump(exclude_none=True) for tool in request.tools or ())
    form = _form(request, tools, agent)
    sampling = _sampling(
        request,
        agent,
        max_tokens=_max_tokens(request),
        grammar=_grammar(request, agent, form),
        top_logprobs=(request.top_logprobs or 0) if request.logprobs else None,
    )
    return Query(
        **_common(request, body, route, client),
        prompt_ids=_chat_prompt(
            *(request, body, agent),
            elsewhere=_elsewhere(request, route, agent),
            form=form,
        ),
        template=agent.chat.digest,
        messages=tuple(body["messages"]),
        body=_as_sent(body),
        sampling=sampling,
        prediction=_prediction(request.prediction, agent),
        tools=tools,
        tool_format=form.tool_format,
        ignored=ignored,
        unfollowed=form.ignored,
    )


def from_completion(
    request: CompletionRequest, body: Mapping[str, Any], agent: "Agent", client: str
) -> Query:
    """The query of a plain completion. Raises InvalidRequest or NotFound, naming the field."""
    route = _route(request, agent)
    check_encodable(body)
    ignored = leniency.left_out(body)
    body = leniency.asked(body)
    if request.best_of is not None and request.best_of != (request.n or 1):
        raise InvalidRequest("best_of is only supported as the same number as n", param="best_of")
    text, ids = _completion_prompt(request, agent, elsewhere=_elsewhere(request, route, agent))
    return Query(
        **_common(request, body, route, client),
        prompt_ids=ids,
        prompt=text,
        door="completions",
        ignored=ignored,
        body=_as_sent({**body, "prompt": text}),
        sampling=_sampling(
            request,
            agent,
            max_tokens=_max_tokens(request),
            grammar=_grammar(request, agent),
            top_logprobs=request.logprobs,
        ),
    )


def _common(
    request: ChatRequest | CompletionRequest, body: Mapping[str, Any], route: Route, client: str
) -> dict[str, Any]:
    ours = request.edge_agent
    if request.stream_options is not None and not request.stream:
        raise InvalidRequest("stream_options needs stream: true", param="stream_options")
    if ours.grader is not None:
        grader_spec.validate(ours.grader, param="edge_agent.grader")
    return {
        "id": str(ULID()),
        "at": time.time(),
        "model": request.model,
        "n": request.n or 1,
        "stream": bool(request.stream),
        "route": route,
        "private": ours.private,
        "task": ours.task,
        "reference": ours.reference,
        "grader": ours.grader,
        "client": client or request.safety_identifier or request.user or "",
        "log": ours.log,
    }


def _as_sent(body: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in body.items() if key != "edge_agent"}


def _route(request: ChatRequest | CompletionRequest, agent: "Agent") -> Route:
    """Who may answer, from the model's name, the extension and what only llama.cpp can do."""
    named, ours = model_route(request.model, cloud=agent.cloud is not None), request.edge_agent
    route = Route(ours.route) if ours.route is not None else named
    if named is not Route.AUTO and route is not named:
        raise InvalidRequest(
            f"edge_agent.route {str(route)!r} contradicts the model {request.model!r}; "
            "use the model 'edge'",
            param="edge_agent.route",
        )
    if ours.private and route is Route.CLOUD:
        raise InvalidRequest(
            "edge_agent.private: a private query never leaves this machine, so the cloud cannot "
            "answer it",
            param="edge_agent.private",
        )
    for field in _LOCAL_ONLY:
        if not getattr(request, field, None):
            continue
        if route is Route.CLOUD:
            raise InvalidRequest(f"{field} works on the local model only", param=field)
        route = Route.LOCAL
    return route


def check_encodable(body: Mapping[str, Any]) -> None:
    """JSON may escape a lone surrogate, which no tokenizer, database or cloud can take."""
    for field, value in body.items():
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise InvalidRequest(f"{field} holds a lone surrogate", param=field) from error


def _max_tokens(request: ChatRequest | CompletionRequest) -> int | None:
    old, new = request.max_tokens, getattr(request, "max_completion_tokens", None)
    if old is not None and new is not None and old != new:
        raise InvalidRequest(
            "max_tokens and max_completion_tokens contradict each other", param="max_tokens"
        )
    return new if new is not None else old


def _sampling(
    request: ChatRequest | CompletionRequest,
    agent: "Agent",
    *,
    max_tokens: int | None,
    grammar: Grammar | None,
    top_logprobs: int | None,
) -> SamplingParams:
    fields = ("temperature", "top_k", "top_p", "min_p", "presence_penalty", "frequency_penalty")
    given = {
        field: value
        for field in (*fields, "repeat_penalty", "seed", "ignore_eos", "cache_prompt")
        if (value := getattr(request, field)) is not None
    }
    return SamplingParams(
        **given,
        logit_bias=_logit_bias(request, agent.engine.vocabulary.size),
        stop=_stops(request),
        max_tokens=max_tokens,
        grammar=grammar,
        top_logprobs=top_logprobs,
    )


def _logit_bias(request: ChatRequest | CompletionRequest, n_vocab: int) -> dict[int, float]:
    biases = {}
    for key, value in (request.logit_bias or {}).items():
        if not (key.isascii() and key.isdigit() and int(key) < n_vocab):
            raise InvalidRequest(
                f"logit_bias: {key!r} is not a token id of the local model (0 to {n_vocab - 1})",
                param="logit_bias",
            )
        biases[int(key)] = value
    return biases


def _stops(request: ChatRequest | CompletionRequest) -> tuple[str, ...]:
    stop = request.stop
    stops = (stop,) if isinstance(stop, str) else tuple(stop or ())
    if len(stops) > _MAX_STOPS or "" in stops:
        raise InvalidRequest(f"stop: at most {_MAX_STOPS} strings, none empty", param="stop")
    return stops


def _form(request: ChatRequest, tools: tuple[Mapping[str, Any], ...], agent: "Agent") -> AnswerForm:
    choice = request.tool_choice
    return AnswerForm.of(
        agent.chat,
        tools=tools,
        tool_choice=choice if choice is None or isinstance(choice, str) else choice.model_dump(),
        parallel=request.parallel_tool_calls,
        response_format=request.response_format,
    )


def _grammar(
    request: ChatRequest | CompletionRequest, agent: "Agent", form: AnswerForm | None = None
) -> Grammar | None:
    """The one grammar that constrains the output, known to be one that can run."""
    form = form or AnswerForm()
    if request.grammar is not None:
        for field, given in (("response_format", form.schema), ("tools", form.tool_format)):
            if given is not None:
                raise InvalidRequest(f"grammar and {field} cannot be combined", param="grammar")
        response_format.check(request.grammar, agent.engine.vocabulary)
        return Grammar("gbnf", request.grammar)
    grammar = form.grammar
    if grammar is not None:
        field = "response_format" if form.tool_format is None else "tools"
        agent.engine.grammars.prepare(grammar, param=field)
    return grammar


def _elsewhere(request: ChatRequest | CompletionRequest, route: Route, agent: "Agent") -> bool:
    """Whether the cloud may answer what the local model cannot read."""
    may_leave = route is Route.AUTO and not request.edge_agent.private
    return route is Route.CLOUD or (may_leave and agent.cloud is not None)


def _chat_prompt(
    request: ChatRequest,
    body: Mapping[str, Any],
    agent: "Agent",
    *,
    elsewhere: bool,
    form: AnswerForm,
) -> tuple[int, ...]:
    """Token ids; () for what the local model cannot read, if the query may go `elsewhere`."""
    foreign = unsupported_part(body["messages"])
    if foreign is not None:
        if elsewhere:
            return ()
        raise InvalidRequest(
            f"{foreign}: the local model reads text only; ask the model edge-cloud", param=foreign
        )
    messages = body["messages"]
    try:
        require_possible(messages, agent.engine, "messages")
    except ContextLengthExceeded:
        if elsewhere:
            return ()
        raise
    ids = form.prompt(agent.chat, messages, request.chat_template_kwargs)
    return () if elsewhere and len(ids) >= agent.engine.context_limit else ids


def _prediction(given: Mapping[str, Any] | None, agent: "Agent") -> tuple[int, ...]:
    """Token ids of OpenAI's `prediction`; () where it is too long to be an answer."""
    content = (given or {}).get("content")
    parts = content if isinstance(content, list) else [{"text": content}]
    texts = [part.get("text") for part in parts if isinstance(part, Mapping)]
    text = "".join(text for text in texts if isinstance(text, str))
    try:
        require_possible(text, agent.engine, "prediction")
    except ContextLengthExceeded:
        return ()
    return tuple(agent.engine.vocabulary.encode(text))[: agent.engine.context_limit]


def _completion_prompt(
    request: CompletionRequest, agent: "Agent", *, elsewhere: bool
) -> tuple[str, tuple[int, ...]]:
    """The prompt as text and as ids, which are () as `_chat_prompt`'s are.

    A batch of one is unpacked, a larger one refused.
    """
    prompt: Any = request.prompt
    if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
        if len(prompt) > 1:
            raise InvalidRequest("one prompt per request; send several requests", param="prompt")
        prompt = prompt[0]
    vocabulary = agent.engine.vocabulary
    if isinstance(prompt, str):
        text = prompt
        try:
            require_possible([prompt, request.suffix or ""], agent.engine, "prompt")
        except ContextLengthExceeded:
            if elsewhere:
                return text, ()
            raise
        if request.suffix:
            ids = infill.encode(prompt, request.suffix, vocabulary, param="suffix").ids
            text = vocabulary.decode(ids, special=True)
        elif request.parse_special:
            ids = tuple(encode_with_controls(prompt, vocabulary))
        else:
            ids = tuple(vocabulary.encode(prompt, bos=True))
    elif request.suffix:
        raise InvalidRequest("suffix needs a prompt that is text", param="suffix")
    else:
        check_token_ids(prompt, vocabulary.size, "prompt")
        ids, text = tuple(prompt), vocabulary.decode(prompt)
    if not ids:
        raise InvalidRequest("prompt is empty", param="prompt")
    return text, () if elsewhere and len(ids) >= agent.engine.context_limit else ids


def encode_with_controls(text: str, vocabulary: "Vocabulary") -> list[int]:
    """Token ids of a prompt that spells its control tokens out, BOS perhaps among them."""
    ids = vocabulary.encode(text, special=True, bos=True)
    return ids[1:] if vocabulary.bos is not None and ids[:2] == [vocabulary.bos] * 2 else ids


def check_token_ids(ids: list[int], n_vocab: int, param: str) -> None:
    """Raise InvalidRequest if one of `ids` is no token of the local model."""
    if any(not 0 <= token < n_vocab for token in ids):
        raise InvalidRequest(
            f"{param}: token ids of the local model are 0 to {n_vocab - 1}", param=param
        )
