"""A model's name -> its folder: here, or fetched from the Hugging Face hub."""

from pathlib import Path

from medsjax.errors import UserError

# Weights and what belongs to them; no pickle, no code. Meta's own format lies in folders below, a
# second copy of some weights in consolidated*.safetensors.
FILES = ("*.safetensors", "*.json", "*.jinja", "tokenizer.model", "merges.txt")
NOT = ("*/*", "consolidated*")


def resolve(source: str | Path) -> Path:
    """A folder as it is; anything else is a hub name, whose files are fetched or found in cache.

    Raises UserError where there is neither.
    """
    path = Path(source)
    if path.is_dir():
        if (path / "checkpoints").is_dir():
            raise UserError(
                f"{source}: a run, not a model; its export is {path / 'hf'}, a checkpoint is made "
                f"one by: python -m medsjax.convert {source} DST"
            )
        return path
    if path.exists() or len(path.parts) != 2 or str(source).startswith((".", "/")):
        raise UserError(f"{source}: no such model folder (config.json and *.safetensors)")
    folder = _fetch(str(source))
    if not any(folder.glob("*.safetensors")):
        raise UserError(
            f"{source}: the hub has no *.safetensors of it, and pickled weights are never fetched; "
            "take another repository, or convert it"
        )
    return folder


def _fetch(name: str) -> Path:
    from huggingface_hub import constants, errors, logging, snapshot_download

    logging.set_verbosity_error()  # what goes wrong is told below, in one line
    patterns = {"allow_patterns": list(FILES), "ignore_patterns": list(NOT)}
    page = f"{constants.ENDPOINT}/{name}"
    try:
        return Path(snapshot_download(name, **patterns))
    except errors.GatedRepoError:
        why = f"is behind a form on the hub; fill it in at {page}, then set HF_TOKEN"
    except errors.RepositoryNotFoundError:
        why = "no such folder, nor such a model on the hub; check the name, or HF_TOKEN if private"
    except errors.LocalEntryNotFoundError as error:
        kind = type(error.__cause__ or error).__name__
        why = (
            f"no such folder, the hub does not answer ({kind}) and the cache has not all of it; "
            "check the network and HF_HUB_OFFLINE, or name a folder"
        )
    except errors.HFValidationError:
        why = "no such folder, nor a name of the hub's kind (OWNER/MODEL)"
    except Exception as error:  # the hub's client raises many more kinds; the user needs one line
        why = f"no such folder, and fetching it failed ({type(error).__name__}); try again"
    raise UserError(f"{name}: {why}")
