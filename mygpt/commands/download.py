"""`mygpt download REPO` and `mygpt download list`."""

import sys
from collections.abc import Sequence
from pathlib import Path

from mygpt.commands._parser import Parser, make_parser, parse
from mygpt.errors import InputError
from mygpt.families import check_folder
from mygpt.hub.resolve import download as download_repo
from mygpt.messages import for_output

EXAMPLES = (
    "mygpt download list",
    "mygpt download Qwen/Qwen3-0.6B",
    "mygpt download llama-3.2-1b --access_token hf_...",
)


def build_parser() -> Parser:
    """The options of the command."""
    description = "Download a model's weights, or list the supported families."
    parser = make_parser("download", description, EXAMPLES, checkpoint=False)
    parser.add_function_arguments(download, as_positional=True)
    return parser


def run(arguments: Sequence[str]) -> None:
    """Parse the options and download."""
    parsed = parse(build_parser(), arguments)
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
        repo: A repository of the Hub (owner/name) or a short name; list shows the supported families and names.
        checkpoint_dir: Put the files into FOLDER/owner/name; every command looks into ./checkpoints too. By default
            they go into the Hugging Face cache.
        access_token: Hugging Face token for gated repositories; by default $HF_TOKEN or the saved login.
        revision: Branch, tag or commit of the repository; by default its main branch.
    """
    if repo != "list":
        target = None if checkpoint_dir is None else Path(checkpoint_dir).expanduser()
        folder = download_repo(
            repo, checkpoint_dir=target, access_token=access_token, revision=revision, check=check_folder
        )
        print(for_output(str(folder), sys.stdout))
    elif (checkpoint_dir, access_token, revision) == (None, None, None):
        _print_families()
    else:
        raise InputError("download list takes no options: leave them out, or name a repository")


def _print_families() -> None:
    from mygpt.families import FAMILIES
    from mygpt.hub.short_names import SHORT_NAMES

    families = sorted(FAMILIES.values(), key=lambda family: family.model_type)
    if not sys.stdout.isatty():  # for grep and cut
        for family in families:
            names = SHORT_NAMES.get(family.model_type, ())
            print(family.model_type, family.summary, ", ".join(family.examples), ", ".join(names), sep="\t")
        return

    from rich.console import Console
    from rich.table import Table

    table = Table("model_type", "family", "for example", "short names")
    for family in families:
        names = SHORT_NAMES.get(family.model_type, ())
        table.add_row(family.model_type, family.summary, "\n".join(family.examples), "\n".join(names))
    Console().print(table)
