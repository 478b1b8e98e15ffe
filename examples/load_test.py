"""How many requests a second the server of examples/serve.py answers, and how soon.

  python examples/load_test.py runs/mnist/exports/distilled.onnx
  python examples/load_test.py FILE.onnx --seconds=10 --clients=8 --inputs=16

Starts the server on a free port of this machine, and clients that send the next
request when they have the answer, as JSON, for so many seconds. Clients share the
cores with the server, so one on a machine of its own answers more. The server's CPU
time (on Linux) does not depend on what else the machine does.
"""

import argparse
import http.client
import json
import os
import pathlib
import socket
import subprocess
import sys
import threading
import time

import numpy as np

SERVER = pathlib.Path(__file__).with_name("serve.py")
_START = 60  # Seconds until the server must be there.


def free_port() -> int:
  """A port of this machine that nobody listens to."""
  with socket.socket() as found:
    found.bind(("127.0.0.1", 0))
    return found.getsockname()[1]


def asked(port: int, method: str, path: str, body: str | None = None) -> dict:
  """The answer to one request."""
  connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
  connection.request(method, path, body, {"Content-Type": "application/json"})
  answer = connection.getresponse()
  content = json.loads(answer.read())
  connection.close()
  if answer.status != 200:
    raise SystemExit(f"error: {path}: {answer.status}: {content}")
  return content


def started(file: str, port: int) -> subprocess.Popen:
  """The server, when it answers."""
  server = subprocess.Popen([sys.executable, str(SERVER), file, f"--port={port}"])
  end = time.monotonic() + _START
  while server.poll() is None and time.monotonic() < end:
    try:
      asked(port, "GET", "/health")
      return server
    except OSError:
      time.sleep(0.05)
  server.kill()
  raise SystemExit("error: the server did not start")


def cpu_seconds(server: subprocess.Popen) -> float:
  """The CPU time of a process so far; NaN where it is not known."""
  try:
    words = pathlib.Path(f"/proc/{server.pid}/stat").read_text().rsplit(")")[1]
    return sum(map(int, words.split()[11:13])) / os.sysconf("SC_CLK_TCK")
  except OSError:
    return float("nan")


def client(port: int, body: str, end: float, taken: list[float]) -> None:
  """Asks over one connection until the end; appends the seconds of each answer."""
  connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
  while time.monotonic() < end:
    begin = time.perf_counter()
    try:
      connection.request("POST", "/predict", body,
                         {"Content-Type": "application/json"})
      answer = connection.getresponse()
      answer.read()
      right = answer.status == 200
    except (OSError, http.client.HTTPException):
      connection.close()  # The next request opens it again.
      right = False
    taken.append(time.perf_counter() - begin if right else np.nan)
  connection.close()


def above_0(text: str) -> int:
  """A whole number of 1 or more, for argparse."""
  if not text.isdecimal() or int(text) < 1:
    raise argparse.ArgumentTypeError(f"{text}: must be a whole number above 0")
  return int(text)


def parsed() -> argparse.Namespace:
  """The arguments."""
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("file", help="of python -m kd_jax.export --format=onnx")
  parser.add_argument("--seconds", type=above_0, default=5)
  parser.add_argument("--clients", type=above_0, default=4)
  parser.add_argument("--inputs", type=above_0, default=1, help="of each request")
  return parser.parse_args()


def main():
  """Measures and prints a line."""
  arguments = parsed()
  server = started(arguments.file, port := free_port())
  try:
    net = asked(port, "GET", "/health")
    draw = np.random.default_rng(0)
    # Pixels; in a table of tokens the first two ids are always there.
    most = 256 if net["dtype"] == "uint8" else 2
    inputs = draw.integers(0, most, (arguments.inputs, *net["shape"]))
    body = json.dumps(inputs.tolist())
    asked(port, "POST", "/predict", body)  # The first is slower.
    taken: list[float] = []
    begin, before = time.monotonic(), cpu_seconds(server)
    clients = [threading.Thread(target=client, args=(
        port, body, begin + arguments.seconds, taken))
               for _ in range(arguments.clients)]
    for each in clients:
      each.start()
    for each in clients:
      each.join()
    seconds, cpu = time.monotonic() - begin, cpu_seconds(server) - before
  finally:
    server.terminate()
    server.wait(10)
  if not np.isfinite(taken).all():
    raise SystemExit(f"error: {np.isnan(taken).sum()} answers were no predictions")
  middle, most, all_but_few = 1000 * np.percentile(taken, (50, 95, 99))
  print(f"{len(taken) / seconds:,.0f} requests/s of {arguments.inputs} inputs from "
        f"{arguments.clients} clients; latency {middle:.1f} ms median, "
        f"{most:.1f} ms 95%, {all_but_few:.1f} ms 99%; of the server's CPU "
        f"{1000 * cpu / len(taken):.2f} ms each")


if __name__ == "__main__":
  main()
