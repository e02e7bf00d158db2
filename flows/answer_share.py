"""Answer: an image that another project shares is accepted or rejected."""

from typing import Any

from prefect import flow

from flows.parameters.sharing import AnswerShare
from tasks import sharing, summary


@flow(name="answer-share", persist_result=False)
def answer_share(request: AnswerShare) -> dict[str, Any]:
    """Accept or reject an image that another project shares; an encrypted one comes under a key of this project."""
    result = sharing.answer(request.image, request.answer, request.key, request.blocks.names())
    summary.publish("answer", f"Image {result['name']} {result['outcome']}", result)
    return result
