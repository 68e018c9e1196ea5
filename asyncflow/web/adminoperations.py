"""The operations of operators: a part of `asyncflow.web.operations`."""

from typing import Final

from asyncflow import errors
from asyncflow.views import View
from asyncflow.web.admin import Overview, Past
from asyncflow.web.health import Alive, CapabilitiesView, Readiness
from asyncflow.web.jobs import CancelAnswer, RetryAnswer
from asyncflow.web.openapi import Answer, Operation, Parameter
from asyncflow.web.operator import (
    WHICH,
    AlertList,
    Arriving,
    Audit,
    Consumers,
    DeadLetters,
    Done,
    Draining,
    ReplayOrder,
    RunningSteps,
    Tenants,
)

_ID: Final = Parameter(
    name="id",
    place="path",
    says="the id of a job",
    shape={"type": "string", "format": "uuid"},
)
_NAME: Final = Parameter(
    name="name",
    place="path",
    says="the name of a consumer, or of a tenant; `-` is what belongs to no tenant",
    shape={"type": "string", "minLength": 1},
)
_STEP: Final = Parameter(
    name="step",
    place="path",
    says="the number of a step",
    shape={"type": "integer", "minimum": 1, "maximum": 10**15 - 1},
)
_BEFORE: Final = Parameter(
    name="before",
    place="query",
    says="`next` of the page before",
    shape={"type": "integer", "minimum": 0, "maximum": 10**15 - 1},
)
_LIMIT: Final = Parameter(
    name="limit",
    place="query",
    says="lines on a page",
    shape={"type": "integer", "minimum": 1, "maximum": 500},
)
_WHICH: Final = Parameter(
    name="which",
    place="query",
    says="`dead`, the default, or `refused`: steps whose file was at fault",
    shape={"type": "string", "enum": [*WHICH]},
)
_OF_JOBS: Final = (errors.JobNotFound,)
_OF_CONSUMERS: Final = (errors.UnknownConsumer,)


def _look(
    path: str, summary: str, body: type[View], *parameters: Parameter
) -> Operation:
    return Operation(
        route=f"GET {path}",
        tag="operation",
        summary=summary,
        parameters=parameters,
        answers=(Answer(status=200, says="what there is", bodies=(body,)),),
        refusals=(
            errors.InvalidParameter,
            *(_OF_CONSUMERS if "{name}" in path else ()),
        ),
        needs_admin=True,
    )


def _act(
    path: str,
    summary: str,
    body: type[View],
    *parameters: Parameter,
    status: int = 200,
    refusals: tuple[type[errors.AsyncflowError], ...] = (),
    takes: type[ReplayOrder] | None = None,
) -> Operation:
    return Operation(
        route=f"POST {path}",
        tag="operation",
        summary=summary,
        parameters=parameters,
        takes=None if takes is None else {"application/json": takes},
        answers=(Answer(status=status, says="it is done", bodies=(body,)),),
        refusals=(*refusals, errors.ServerBusy),
        needs_admin=True,
    )


_CONSUMER: Final = "/admin/consumers/{name}"
_TENANT: Final = "/admin/tenants/{name}"
_OF_STEPS: Final = (errors.StepNotFound,)

BY_HAND: Final = (
    _look("/admin/consumers", "Tell how each consumer does", Consumers),
    _look(
        f"{_CONSUMER}/dead",
        "List a consumer's dead letters, or the files it has refused",
        DeadLetters,
        _NAME,
        _WHICH,
        _LIMIT,
        _BEFORE,
    ),
    _act(
        f"{_CONSUMER}/pause",
        "Let a consumer begin no more steps",
        Consumers,
        _NAME,
        refusals=_OF_CONSUMERS,
    ),
    _act(
        f"{_CONSUMER}/resume",
        "Let a consumer go on",
        Consumers,
        _NAME,
        refusals=_OF_CONSUMERS,
    ),
    _act(
        f"{_CONSUMER}/forget",
        "Forget which other nodes have a consumer",
        Consumers,
        _NAME,
        refusals=_OF_CONSUMERS,
    ),
    _act(
        f"{_CONSUMER}/retry",
        "Give every dead letter of a consumer another chance, or every refusal",
        Done,
        _NAME,
        _WHICH,
        status=202,
        refusals=(*_OF_CONSUMERS, errors.InvalidParameter),
    ),
    _act(
        f"{_CONSUMER}/replay",
        "Give a consumer old events once more, beside the runs of their jobs",
        Done,
        _NAME,
        status=202,
        takes=ReplayOrder,
        refusals=(*_OF_CONSUMERS, errors.InvalidParameter, errors.BodyTooLarge),
    ),
    _look("/admin/tenants", "Tell how many steps each tenant has", Tenants),
    _act(
        f"{_TENANT}/pause",
        "Let no step of a tenant begin",
        Tenants,
        _NAME,
        refusals=(errors.InvalidParameter,),
    ),
    _act(
        f"{_TENANT}/resume",
        "Let a tenant's steps begin",
        Tenants,
        _NAME,
        refusals=(errors.InvalidParameter,),
    ),
    _look("/admin/steps", "List the steps that run now", RunningSteps),
    _act(
        "/admin/steps/{step}/retry",
        "Give one dead letter another chance",
        Done,
        _STEP,
        status=202,
        refusals=(*_OF_STEPS, errors.StepNotRetryable, errors.JobNotRetryable),
    ),
    _act(
        "/admin/steps/{step}/cancel",
        "Take one open step back",
        Done,
        _STEP,
        refusals=(*_OF_STEPS, errors.StepNotOpen),
    ),
    _look("/admin/uploads", "List the uploads in progress", Arriving),
    _look("/admin/audit", "List what was done by hand", Audit, _LIMIT, _BEFORE),
    _look("/admin/alerts", "Tell which alerts are raised", AlertList),
    _act("/admin/drain", "Let no step begin any more", Draining),
    _act("/admin/resume", "Let steps begin again", Draining),
)

OPERATOR: Final = (
    *BY_HAND,
    Operation(
        route="GET /admin/overview",
        tag="operation",
        summary="Tell queues, workers and the last hour",
        answers=(Answer(status=200, says="the overview", bodies=(Overview,)),),
        needs_admin=True,
    ),
    Operation(
        route="GET /admin/jobs/{id}/attempts",
        tag="operation",
        summary="Tell what happened to a job, and every failed attempt",
        parameters=(_ID,),
        answers=(Answer(status=200, says="its past", bodies=(Past,)),),
        refusals=_OF_JOBS,
        needs_admin=True,
    ),
    Operation(
        route="POST /admin/retry/{id}",
        tag="operation",
        summary="Start a new run of what did not succeed",
        parameters=(_ID,),
        answers=(Answer(status=202, says="the new run", bodies=(RetryAnswer,)),),
        refusals=(*_OF_JOBS, errors.JobNotRetryable, errors.ServerBusy),
        needs_admin=True,
    ),
    Operation(
        route="POST /admin/jobs/{id}/cancel",
        tag="operation",
        summary="Close a job by hand",
        parameters=(_ID,),
        answers=(
            Answer(status=200, says="whether it was open", bodies=(CancelAnswer,)),
        ),
        refusals=(*_OF_JOBS, errors.ServerBusy),
        needs_admin=True,
    ),
    Operation(
        route="DELETE /admin/jobs/{id}",
        tag="operation",
        summary="Forget a job with all its bytes, by hand",
        parameters=(_ID,),
        answers=(Answer(status=204, says="it is gone"),),
        refusals=(*_OF_JOBS, errors.ServerBusy),
        needs_admin=True,
    ),
    Operation(
        route="GET /livez",
        tag="operation",
        summary="Answer as long as the process lives",
        answers=(Answer(status=200, says="it lives", bodies=(Alive,)),),
    ),
    Operation(
        route="GET /readyz",
        tag="operation",
        summary="Tell whether the server can work",
        answers=(
            Answer(status=200, says="it can", bodies=(Readiness,)),
            Answer(status=503, says="it cannot, and why", bodies=(Readiness,)),
        ),
    ),
    Operation(
        route="GET /metrics",
        tag="operation",
        summary="Numbers for Prometheus",
        answers=(Answer(status=200, says="the numbers", media_type="text/plain"),),
    ),
    Operation(
        route="GET /capabilities",
        tag="operation",
        summary="Tell the protocols, limits and processors of this server",
        answers=(
            Answer(status=200, says="what it can do", bodies=(CapabilitiesView,)),
        ),
    ),
)
