"""When a generated sequence ends: end of sequence, stop token, or length. Stop strings are the reader's business."""

from __future__ import annotations

from carrel.request import Request, RequestStatus


def append_tokens(request: Request, token_ids: list[int]) -> list[int]:
    """Append sampled tokens up to the one that ends the request, set its status then, and return what was appended.

    The end-of-sequence or stop token is part of the output; ``stop_reason`` is the stop token, or None.
    """
    for count, token_id in enumerate(token_ids, start=1):
        request.output_token_ids.append(token_id)
        if _ends(request, token_id):
            return token_ids if count == len(token_ids) else token_ids[:count]
    return token_ids


def _ends(request: Request, token_id: int) -> bool:
    params = request.sampling_params
    assert params is not None, "only a request that samples gets tokens"
    num_output_tokens = len(request.output_token_ids)
    if num_output_tokens >= params.min_tokens:  # the sampler masks stops before; a token that slips by ends nothing
        if token_id in request.eos_token_ids and not params.ignore_eos:
            request.status = RequestStatus.FINISHED_STOPPED
            return True
        if token_id in params.stop_token_ids:
            request.status = RequestStatus.FINISHED_STOPPED
            request.stop_reason = token_id
            return True
    if num_output_tokens >= request.max_tokens:
        request.status = RequestStatus.FINISHED_LENGTH
        return True
    return False
