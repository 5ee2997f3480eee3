"""When a generated sequence ends: end of sequence, stop token, or length. Stop strings are the reader's business."""

from __future__ import annotations

from carrel.params import SamplingParams
from carrel.request import Request, RequestStatus


def append_tokens(request: Request, token_ids: list[int]) -> list[int]:
    """Append sampled tokens up to the one that ends the request, set its status then, and return what was appended.

    The end-of-sequence or stop token is part of the output; ``stop_reason`` is the stop token, or None.
    """
    params, output_token_ids = request.sampling_params, request.output_token_ids
    assert params is not None, "only a request that samples gets tokens"
    eos_token_ids, stop_token_ids = request.eos_token_ids, params.stop_token_ids
    for count, token_id in enumerate(token_ids, start=1):
        output_token_ids.append(token_id)
        if (token_id in eos_token_ids or token_id in stop_token_ids) and _stops(request, params, token_id):
            return token_ids[:count]
        if len(output_token_ids) >= request.max_tokens:
            request.status = RequestStatus.FINISHED_LENGTH
            return token_ids[:count]
    return token_ids


def _stops(request: Request, params: SamplingParams, token_id: int) -> bool:
    """Whether this end-of-sequence or stop token, appended last, ends the request."""
    if len(request.output_token_ids) < params.min_tokens:
        return False  # the sampler masks these tokens before min_tokens; one that slips by ends nothing
    if token_id in request.eos_token_ids and not params.ignore_eos:
        request.status = RequestStatus.FINISHED_STOPPED
        return True
    if token_id in params.stop_token_ids:
        request.status = RequestStatus.FINISHED_STOPPED
        request.stop_reason = token_id
        return True
    return False
