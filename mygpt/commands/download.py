"""`mygpt download REPO` and `mygpt download list`."""

import sys
from collections.abc import Sequence
from pathlib import Path

from mygpt.commands._parser import make_parser, parse
from mygpt.errors import InputError
from mygpt.families import check_folder
from mygpt.hub.resolve import download as download_repo


def run(arguments: Sequence[str]) -> None:
    """Parse the options and download."""
    parser = make_parser("download", "Download a model, or list what is supported.", checkpoint=False)
    parser.add_function_arguments(download, as_positional=True)
    parsed = parse(parser, arguments)
    download(parsed.repo, parsed.checkpoint_dir, parsed.access_token, parsed.revision)


def download(
    repo: str,
    checkpoint_dir: str | None = None,
    access_token: str | None = None,
    revision: str | None = None,
) -> None:
    """Download a model from the Hugging Face Hub and print the folder it is in.

    Only the files that mygpt needs are fetched. Run the same command again to go on after an interruption.

    Args:
        repo: The repository, `owner/name`; or `list`, which lists the supported model families with examples.
        checkpoint_dir: Put the files into the folder `<checkpoint_dir>/<repo>`. Default: the Hugging Face
            cache (`$HF_HOME/hub`, else `~/.cache/huggingface/hub`). Every command also looks for models
            in `./checkpoints`.
        access_token: A Hugging Face token, for gated and private repositories. Default: `$HF_TOKEN`, else
            the one that `hf auth login` stored.
        revision: The branch, tag or commit to download. Default: the main branch.
    """
    if repo != "list":
        target = None if checkpoint_dir is None else Path(checkpoint_dir).expanduser()
        folder = download_repo(
            repo, checkpoint_dir=target, access_token=access_token, revision=revision, check=check_folder
        )
        print(folder)
    elif (checkpoint_dir, access_token, revision) == (None, None, None):
        _print_families()
    else:
        raise InputError("download list takes no options: leave them out, or name a repository")


def _print_families() -> None:
    from mygpt.families import FAMILIES

    families = sorted(FAMILIES.values(), key=lambda family: family.model_type)
    if not sys.stdout.isatty():  # for grep and cut
        for family in families:
            print(family.model_type, family.summary, ", ".join(family.examples), sep="\t")
        return

    from rich.console import Console
    from rich.table import Table

    table = Table("model_type", "family", "for example")
    for family in families:
        table.add_row(family.model_type, family.summary, "\n".join(family.examples))
    Console().print(table)
