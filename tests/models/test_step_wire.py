"""Steps on their way to the other ranks: what arrives is what was sent, and blocks are sent once."""

import io

import numpy as np
from carrel.step import ScheduledRequest
from carrel.worker.frames import Frames
from carrel.worker.step_wire import StepReader, StepWriter
from driving import chat_request


def item(request, count, blocks, computed=0, samples=False, on_device=False):
    return ScheduledRequest(request, count, blocks, computed, samples, on_device)


def seen(items):
    return [
        (
            each.num_scheduled_tokens,
            each.num_computed_tokens,
            list(each.block_table),
            each.samples,
            each.input_on_device,
            None if each.input_on_device else each.request.token_ids(each.num_computed_tokens, each.num_tokens),
            each.request.num_preemptions,
        )
        for each in items
    ]


def test_what_arrives_is_what_was_sent():
    writer, reader = StepWriter(3), StepReader()
    first, second = chat_request(list(range(100, 140)), "a"), chat_request(list(range(7)), "b")
    steps = [
        [item(first, 20, [5, 9, 2])],
        [item(second, 7, [1], samples=True), item(first, 20, [5, 9, 2, 7, 8], 20, samples=True)],
        [item(second, 1, [1], 7, True, True), item(first, 1, [5, 9, 2, 7, 8, 0], 40, True, True)],
    ]
    identities = []
    for step in steps:
        sent = seen(step)
        numbers = writer.write(step)
        assert numbers[0] == 3
        received = reader.read(numbers)
        assert seen(received) == sent
        identities.append({each.num_tokens: each.request for each in received})
    assert identities[1][40] is identities[2][41]  # one request is one object, as runners want it
    first.num_preemptions += 1
    again = [item(first, 5, [3, 4])]
    assert seen(reader.read(writer.write(again))) == seen(again)


def test_blocks_are_sent_once():
    writer, request = StepWriter(0), chat_request([1] * 400, "a")
    long = writer.write([item(request, 1, list(range(50)), 399, True, True)])
    next_one = writer.write([item(request, 1, list(range(50)), 400, True, True)])
    assert len(long) - len(next_one) == 50
    assert len(next_one) == 10


def test_the_same_id_again_is_another_request():
    writer, reader = StepWriter(0), StepReader()
    old = reader.read(writer.write([item(chat_request([1, 2], "a"), 2, [4])]))[0].request
    assert reader.release(writer.release(["a", "unknown"])) == [old.request_id]
    new = reader.read(writer.write([item(chat_request([3, 4], "a"), 2, [6])]))[0]
    assert new.request is not old
    assert new.block_table == [6]


def test_requests_that_gave_way_are_forgotten():
    writer, reader = StepWriter(0, capacity=2), StepReader()
    requests = [chat_request([1], str(index)) for index in range(5)]
    for request in requests:
        reader.read(writer.write([item(request, 1, [0])]))
    forgotten = writer.forget_idle()
    assert reader.release(forgotten) == ["0", "1", "2"]
    back = [item(requests[0], 1, [8])]
    assert seen(reader.read(writer.write(back))) == seen(back)
    assert reader.release(writer.forget_idle()) == ["3"]
    assert writer.forget_idle() == []


def test_frames():
    stream = io.BytesIO()
    sender = Frames(io.BytesIO(), stream)
    sender.send({"do": "load", "folder": "模型"})
    sender.send_step(np.array([1, -5, 1 << 40]))
    receiver = Frames(io.BytesIO(stream.getvalue()), io.BytesIO())
    assert receiver.read() == {"do": "load", "folder": "模型"}
    assert receiver.read().tolist() == [1, -5, 1 << 40]
    assert receiver.read() is None
    cut = Frames(io.BytesIO(stream.getvalue()[:20]), io.BytesIO())
    assert cut.read() is None
