"""Several processes that work as one: which one writes, which bytes each one reads.

Every process runs the same program. What depends on a disk or on a signal is
decided by process 0 and sent to the others, so that all take the same branch.
Process 0 alone writes. With one process, these functions do nothing.
"""

from collections.abc import Callable
import hashlib
import json
import os
import pathlib
import sys
import traceback
from typing import Any

import jax
from jax.experimental import multihost_utils
import numpy as np

from kd_jax.core.errors import UserError

# Seconds after which a process without a heartbeat counts as dead.
HEARTBEAT_SECONDS = 20
_JOINING_SECONDS = 300
# Words in the messages of libraries when another process is gone.
_LOST = ("Gloo", "NCCL", "oordination", "heartbeat", "UNAVAILABLE",
         "DEADLINE_EXCEEDED", "Connection")


def join(
    coordinator: str | None, processes: int | None, process_id: int | None
) -> None:
  """Connects this process with the others. Call it before jax does anything else.

  Args:
    coordinator: HOST:PORT of process 0, or None where jax finds it out from the
      cluster (Slurm, TPU pods, Open MPI).
    processes: The number of processes, or None.
    process_id: The number of this process, from 0, or None.

  Raises:
    UserError: If the processes cannot connect.
  """
  # jax's own preemption service would replace our handler of SIGTERM.
  jax.config.update("jax_enable_preemption_service", False)
  try:
    jax.distributed.initialize(
        coordinator, processes, process_id,
        initialization_timeout=_JOINING_SECONDS,
        heartbeat_timeout_seconds=HEARTBEAT_SECONDS)
  except (RuntimeError, ValueError) as error:
    line = " ".join(str(error).split())[:200]
    raise UserError(
        f"--coordinator={coordinator or 'auto'}: the processes do not come "
        f"together: {line}") from None


def first() -> bool:
  """Whether this is the process that writes."""
  return jax.process_index() == 0


def agreed(find: Callable[[], Any]) -> Any:
  """The result of `find` on process 0, on every process; JSON values only.

  Raises:
    UserError: On every process, if `find` raises one, or an OSError.
  """
  if jax.process_count() == 1:
    return find()
  message: dict[str, Any] = {}
  if first():
    try:
      message = {"found": find()}
    except (UserError, OSError) as error:
      message = {"error": str(error)}
  answer = json.loads(_broadcast(json.dumps(message).encode()))
  if "error" in answer:
    raise UserError(answer["error"])
  return answer["found"]


def agreed_arrays(find: Callable[[], Any], like: Any) -> Any:
  """Arrays that `find` gives on process 0, on every process; None if it gives none.

  Args:
    find: Gives a tree of the structure of `like`, or None.
    like: A tree of arrays, or of their shapes.
  """
  if jax.process_count() == 1:
    return find()
  found = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), like)

  def look() -> bool:
    nonlocal found
    there = find()
    found = found if there is None else jax.tree.map(np.asarray, there)
    return there is not None

  if not agreed(look):
    return None
  # As bytes: a broadcast is a sum with zeros, which takes the sign off -0.
  plain = jax.tree.map(lambda x: np.frombuffer(x.tobytes(), np.uint8), found)
  answer = multihost_utils.broadcast_one_to_all(plain)
  return jax.tree.map(
      lambda bytes_, x: np.frombuffer(
          np.asarray(bytes_).tobytes(), x.dtype).reshape(x.shape), answer, found)


def refuse_unlike(what: str, value: str) -> None:
  """Refuses to go on if the value differs between processes.

  Raises:
    UserError: On every process.
  """
  if jax.process_count() == 1:
    return
  digest = np.frombuffer(hashlib.sha256(value.encode()).digest(), np.uint8)
  answer = multihost_utils.process_allgather(digest)
  others = [index for index, row in enumerate(answer) if (row != answer[0]).any()]
  if others:
    raise UserError(
        f"{what} of process {others[0]} is not that of process 0; give all "
        "processes the same")


def any_of(flag: bool) -> bool:
  """Whether the flag is true on any process."""
  if jax.process_count() == 1:
    return flag
  return bool(multihost_utils.process_allgather(np.int32(flag)).any())


def together(name: str) -> None:
  """Waits for all processes."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)


def share(number: int, process: int | None = None) -> range:
  """Which of `number` things a process, by default this one, reads, as a range."""
  count = jax.process_count()
  own = jax.process_index() if process is None else process
  return range(own * number // count, (own + 1) * number // count)


def joined(own: np.ndarray, number: int) -> np.ndarray:
  """All `number` rows; each process gives the rows of its `share`."""
  count = jax.process_count()
  if count == 1:
    return own
  padding = -(-number // count) - len(own)
  padded = np.pad(own, [(0, padding)] + [(0, 0)] * (own.ndim - 1))
  parts = multihost_utils.process_allgather(padded)
  return np.concatenate([np.asarray(part[:len(share(number, process))])
                         for process, part in enumerate(parts)])


def read(path: str | os.PathLike) -> bytes:
  """A file's bytes: each process reads its share, then they exchange them.

  Raises:
    UserError: If the file has another size on another process.
  """
  path = pathlib.Path(path)
  if jax.process_count() == 1:
    return path.read_bytes()
  size = path.stat().st_size
  refuse_unlike(f"{path}: the size", str(size))
  own = share(size)
  with path.open("rb") as file:
    file.seek(own.start)
    content = file.read(len(own))
  return joined(np.frombuffer(content, np.uint8), size).tobytes()


def leave(error: Exception) -> None:
  """Ends this process at once and prints why, without waiting for the others.

  The others end too: their connection breaks, or the heartbeat is missing.
  """
  text = " ".join(str(error).split())
  if isinstance(error, UserError):
    print(f"error: {error}", file=sys.stderr, flush=True)
    os._exit(2)
  if any(word in text for word in _LOST):
    print(f"error: process {jax.process_index()}: another process of this run is "
          "lost; what was saved is kept. Start all of them again with the same "
          f"commands to go on ({text[:120]})", file=sys.stderr, flush=True)
    os._exit(4)
  traceback.print_exception(error)
  os._exit(1)


def _broadcast(message: bytes) -> bytes:
  """A message of process 0, on every process."""
  size = int(multihost_utils.broadcast_one_to_all(np.int32(len(message))))
  own = np.frombuffer(message[:size].ljust(size), np.uint8)
  return multihost_utils.broadcast_one_to_all(own).tobytes()
