"""When a generated sequence ends: end of sequence, stop token, or length. Stop strings are the reader's business."""

from __future__ import annotations

from carrel.request import Request, RequestStatus


def append_tokens(request: Request, token_ids: list[int]) -> list[int]:
    """Append sampled tokens up to the one that ends the request, set its status then, and return what was appended.

    The end-of-sequence or stop token is part of the output; ``stop_reason`` is the stop token, or None.
    """
    output_token_ids, end_token_ids = request.output_token_ids, request.end_token_ids
    num_before, max_tokens = len(output_token_ids), request.max_tokens
    for token_id in token_ids:
        output_token_ids.append(token_id)
        if token_id in end_token_ids and _stops(request, token_id):
            break
        if len(output_token_ids) >= max_tokens:
            request.status = RequestStatus.FINISHED_LENGTH
            break
    else:
        return token_ids
    return output_token_ids[num_before:]


def _stops(request: Request, token_id: int) -> bool:
    """Whether this end-of-sequence or stop token, appended last, ends the request."""
    params = request.sampling_params
    assert params is not None, "only a request that samples gets tokens"
    if len(request.output_token_ids) < params.min_tokens and request.grammar is None:
        return False  # the sampler masks these tokens before min_tokens; a form that is complete leaves nothing else
    if token_id in request.eos_token_ids and not params.ignore_eos:
        request.status = RequestStatus.FINISHED_STOPPED
        return True
    if token_id in params.stop_token_ids:
        request.status = RequestStatus.FINISHED_STOPPED
        request.stop_reason = token_id
        return True
    return False
