"""Data sets about code."""

from collections.abc import Iterator, Mapping
from typing import Any

from seqpack.api import Message, RejectError, Sample, TextSample
from seqpack_handlers_zoo.rows import check_no_columns, text


class LeetcodePythonInstructionHandler:
    """The problem is what stands in ``code_with_problem`` before its code; code and explanation are the reply."""

    def __init__(self, columns: Mapping[str, Any]) -> None:
        check_no_columns(columns)

    def __call__(self, record: Mapping[str, Any]) -> Iterator[Sample]:
        problem = text(record, "code_with_problem").partition("```")[0].strip()
        if not problem:
            raise RejectError("no problem before the code in 'code_with_problem'")
        code, explanation = text(record, "code_only"), text(record, "explanation_only", may_be_empty=True)
        reply = f"{code}\n{explanation}" if explanation else code
        yield Sample((Message("user", problem), Message("assistant", reply)))


class StackOverflowPythonPretrainHandler:
    """Question and answer as one document."""

    text_keys = ("text",)

    def __init__(self, columns: Mapping[str, Any]) -> None:
        check_no_columns(columns)

    def __call__(self, record: Mapping[str, Any]) -> Iterator[TextSample]:
        title, question, answer = (text(record, column) for column in ("title", "question_body", "answer_body"))
        yield TextSample((f"In python, {title}\n### Question:\n{question}\n### Response:\n{answer}\n",))
