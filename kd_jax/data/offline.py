"""Prepares a TFDS set without network, from official files in a folder."""

from collections.abc import Callable
import hashlib
import os
import pathlib
import shutil
import urllib.parse

from kd_jax.core.errors import UserError
from kd_jax.core.files import at_home
from kd_jax.data import tfds_source


def prepare_from(
    name: str,
    source: pathlib.Path,
    *,
    directory: str | os.PathLike | None = None,
    say: Callable[[str], None] = print,
) -> pathlib.Path:
  """Prepares a set without network from its official files in a folder.

  Args:
    name: Name of a set that TFDS knows.
    source: Folder that holds the files under their official names.
    directory: TFDS's data folder; default its own.
    say: Receives a line for each file.

  Returns:
    The folder of the prepared set.

  Raises:
    UserError: If a file is missing or not the official one, or TFDS does not
      list the set's files.
    Unavailable: If TensorFlow is not installed or TFDS fails.
  """
  tfds = tfds_source.import_tfds()
  # pylint: disable=g-import-not-at-top
  from etils import epath
  from tensorflow_datasets.core.download import resource
  # pylint: enable=g-import-not-at-top
  source = at_home(source)
  if not source.is_dir():
    raise UserError(f"--from {source}: there is no such folder")
  builder = tfds_source.known_builder(tfds, name, directory)
  if not builder.url_infos:
    raise UserError(f"{name}: TFDS does not list the files this set is made of")
  files = [_official(source, url, info.checksum, name)
           for url, info in builder.url_infos.items()]
  cache = pathlib.Path(builder._data_dir_root) / "downloads"
  cache.mkdir(parents=True, exist_ok=True)
  for file, (url, info) in zip(files, builder.url_infos.items()):
    target = cache / resource.get_dl_fname(url, info.checksum)
    shutil.copyfile(file, target)
    resource.write_info_file(
        url=url, path=epath.Path(target), dataset_name=name,
        original_fname=file.name, url_info=info)
    say(f"data: {file.name} -> {target}")
  tfds_source.prepare(builder)
  return pathlib.Path(builder.data_dir)


def _official(source, url: str, checksum: str, name: str) -> pathlib.Path:
  """The file of a URL in a folder; its checksum must be the official one."""
  file = source / pathlib.PurePosixPath(urllib.parse.urlparse(url).path).name
  if not file.is_file():
    raise UserError(f"--from {source}: lacks {file.name}, a file of {name}")
  with file.open("rb") as content:
    found = hashlib.file_digest(content, "sha256").hexdigest()
  if found != checksum:
    raise UserError(
        f"{file}: wrong checksum, so not the official file of {name}; fetch it "
        "again")
  return file
