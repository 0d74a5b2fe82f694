"""A worker of the raw pyzmq pipeline: `python -m benchmarks.pipeline_worker JOBS SINK` (two addresses)."""

import pickle
import sys

import zmq


def main(jobs_address: str, sink_address: str) -> None:
    """Receive jobs, run them, send the results, until SIGTERM."""
    context = zmq.Context()
    jobs = context.socket(zmq.PULL)
    sink = context.socket(zmq.PUSH)
    for socket, address in ((jobs, jobs_address), (sink, sink_address)):
        socket.set_hwm(0)
        socket.connect(address)
    sink.send(b"ready")
    while True:
        data, *buffers = jobs.recv_multipart(copy=False)
        number, fn, batch = pickle.loads(data.buffer, buffers=[frame.buffer for frame in buffers])
        sink.send(pickle.dumps((number, [fn(item) for item in batch]), protocol=5))


if __name__ == "__main__":
    main(*sys.argv[1:])
