"""LightningCLI's verbs: `zoo fit|validate|test`, and `zoo prepare`, which only builds the data."""

import inspect
import itertools
import logging
import pickle
import re
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path

import torch
import yaml
from jsonargparse import set_parsing_settings
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback

import zoo.shard  # noqa: F401  (registers the strategy fsdp2)
from zoo.board import BesideIO, Board, Export, Last, progress
from zoo.explain import did_you_mean, in_one_sentence
from zoo.meter import Meter

set_parsing_settings(omegaconf_absolute_to_relative_paths=True)  # else `${data…}` is not found under a subcommand


class Parser(LightningArgumentParser):
    """Ends a wrong command line with one sentence that names the key and the nearest right one."""

    def error(self, message: str, ex: Exception | None = None) -> None:
        print(f"zoo: {one_sentence(str(message))}", file=sys.stderr)
        raise SystemExit(2)


class PreparingTrainer(Trainer):
    """Lightning's Trainer, which can also only prepare the data."""

    def prepare(self, model: LightningModule, datamodule: LightningDataModule) -> None:
        """Build the tokenizer and the token store of a recipe, and stop."""
        datamodule.prepare_data()


class ZooCLI(LightningCLI):
    """LightningCLI with links between model and data, our callbacks, and the two checkpoints every run keeps."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        verbs = LightningCLI.subcommands()
        del verbs["predict"]  # a language model's predictions are what `generate` prints
        return {**verbs, "prepare": {"model", "datamodule"}}

    def _parse_ckpt_path(self) -> None:
        """The command line says what runs. (LightningCLI would let the settings inside the checkpoint win, without a word.)"""
        path = self.config[self.config.subcommand].get("ckpt_path")
        if not path or not Path(path).is_file():
            return
        try:
            torch.load(path, weights_only=True, map_location="cpu", mmap=True)  # reads no weights yet
        except (pickle.UnpicklingError, EOFError, RuntimeError) as error:
            raise ValueError(f"{path} is damaged or no checkpoint of a run: take another one, best.ckpt for instance.") from error

    def instantiate_classes(self) -> None:
        super().instantiate_classes()
        self.trainer.strategy.checkpoint_io = BesideIO()

    def parse_arguments(self, parser: LightningArgumentParser, args: list[str]) -> None:
        known = self._parser(args[0])._actions
        check_top_level_keys(args[1:], list({action.dest.split(".")[0] for action in known}))
        super().parse_arguments(parser, args)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_lightning_class_args(Meter, "meter")
        parser.add_lightning_class_args(Board, "board")
        parser.add_lightning_class_args(Export, "export")
        parser.add_lightning_class_args(ModelCheckpoint, "best")
        parser.add_lightning_class_args(Last, "last")
        parser.set_defaults(
            {
                "best.filename": "best",
                "best.monitor": "val/bits_per_byte",
                "best.enable_version_counter": False,
                "last.filename": "last",
                "last.every_n_train_steps": 1000,
                "last.enable_version_counter": False,
            }
        )
        parser.link_arguments("data.vocab", "model.init_args.vocab", apply_on="instantiate")
        parser.link_arguments("data.init_args.context", "model.init_args.context")
        parser.link_arguments("seed_everything", "data.init_args.seed", compute_fn=int)
        parser.link_arguments("seed_everything", "model.init_args.seed", compute_fn=int)


class SaveConfig(SaveConfigCallback):
    """Leaves config.yaml in the run folder and fills TensorBoard's hparams tab (empty unless a metric is named at the start)."""

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            settings = yaml.safe_load(self.parser.dump(self.config, skip_none=False, skip_link_targets=False))
            for logger in trainer.loggers:
                logger.log_hyperparams(told(settings), {settings["best"]["monitor"]: float("nan")})
            if trainer.logger:  # not trainer.log_dir: that is a broadcast, and only the first process is here
                print(f"run folder: {trainer.logger.log_dir}", flush=True)


def told(settings: dict) -> dict[str, int | float | str | bool]:
    """The settings that tell runs apart, under short names: net.n, optimizer.lr, data.tokenizer. (config.yaml has all.)"""
    model, data, trainer = settings["model"].get("init_args", {}), settings["data"], settings["trainer"]
    chosen = ("max_steps", "precision", "accumulate_grad_batches", "gradient_clip_val", "devices")
    tree = {**model, "data": data, "trainer": {k: trainer[k] for k in chosen}, "seed": settings["seed_everything"]}
    return {key.replace("init_args.", ""): value for key, value in flat(tree).items()}


def flat(tree: dict, prefix: str = "") -> dict[str, int | float | str | bool]:
    """A nested configuration as dotted keys and plain values; None and empty values are left out."""
    rows = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            rows |= flat(value, f"{prefix}{key}.")
        elif value not in (None, [], {}):
            rows[prefix + key] = value if isinstance(value, (int, float, str, bool)) else str(value)
    return rows


def lightning_main(args: list[str], callbacks: Iterable[Callback] = ()) -> ZooCLI:
    """Run one LightningCLI command given as a list of words; returns the CLI with its trainer, model and datamodule."""
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.seed"):
        logging.getLogger(name).setLevel(logging.WARNING)  # device listings and tips
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")  # batches come from memory: 0 is fastest
    warnings.filterwarnings("ignore", message=".*LightningCLI's args parameter.*")
    warnings.filterwarnings("ignore", message=".*exists and is not empty.*")
    warnings.filterwarnings("ignore", message=".*sync_dist=True.*")  # our sums are reduced before they are logged
    return ZooCLI(
        LightningModule,
        LightningDataModule,
        trainer_class=PreparingTrainer,
        subclass_mode_model=True,
        subclass_mode_data=True,
        parser_class=Parser,
        parser_kwargs={"parser_mode": "omegaconf+"},
        save_config_callback=SaveConfig,
        save_config_kwargs={"overwrite": True},
        seed_everything_default=0,
        auto_configure_optimizers=False,
        trainer_defaults={
            "use_distributed_sampler": False,  # our loaders share the order out themselves
            "enable_model_summary": False,
            "enable_autolog_hparams": False,  # SaveConfig logs the settings that tell runs apart
            "callbacks": [progress(), *callbacks],
        },
        args=args,
    )


# -- one sentence for every wrong command line ---------------------------------------------------------------------
def config_files(args: list[str]) -> list[Path]:
    spaced = [b for a, b in itertools.pairwise(args) if a in ("-c", "--config")]
    return [Path(p) for p in spaced + [a.split("=", 1)[1] for a in args if a.startswith(("--config=", "-c="))]]


def check_top_level_keys(args: list[str], known: list[str]) -> None:
    """jsonargparse ignores an unknown top-level key of a file; a misspelt section must not be."""
    for path in config_files(args):
        if path.is_file():
            try:
                sections = yaml.safe_load(path.read_text()) or {}
            except yaml.YAMLError as error:
                raise ValueError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
            for key in sections:
                if key not in known:
                    raise ValueError(f"{path}: unknown key {key!r}{did_you_mean(key, known)}")


def one_sentence(message: str) -> str:
    """The root cause in a jsonargparse message; a key that is not accepted gets the nearest one that is."""
    wrong = re.search(r"(?:Option|option|Key|arguments:) ['\"]?-*([\w.]+)", message)
    if wrong and re.search("not accept|unrecognized", message):
        key = wrong[1].split(".")[-1]
        return f"unknown key {wrong[1]!r}{did_you_mean(key, named_parameters())}"
    missing = re.search(r"File does not exist: '([^']+)'", message)
    if missing:
        return f"there is no configuration file {missing[1]}; recipes are under recipes/, scales under recipes/scales/."
    lines = [line.strip(" -") for line in message.splitlines() if line.strip(" -")]
    cause = [line for line in lines if re.search("has no attribute|No module named|Expected a|did not find|Problems", line)]
    head = lines[0] if lines[0].startswith("Parser key") and cause[:1] != lines[:1] else ""
    return " ".join([head, *(cause[:1] or lines)]).strip()


def named_parameters() -> list[str]:
    """Names of the parameters of every class that this command line names, and of the Trainer."""
    text = " ".join(sys.argv + _last_args + [p.read_text() for p in config_files(_last_args) if p.is_file()])
    names = list(inspect.signature(Trainer.__init__).parameters)
    for path in set(re.findall(r"[\w.]+\.[A-Z]\w+", text)):
        module, _, cls = path.rpartition(".")
        found = getattr(sys.modules.get(module), cls, None)
        names += list(inspect.signature(found).parameters) if inspect.isclass(found) else []
    return [n for n in dict.fromkeys(names) if n not in ("self", "net", "args", "kwargs")]


_last_args: list[str] = []


def main(args: list[str] | None = None, callbacks: Iterable[Callback] = ()) -> ZooCLI:
    """Run one of LightningCLI's verbs with these words (default: the command line); `zoo.__main__` knows the others too.

    callbacks: of the caller, beside our own. A failure ends with one sentence and exit code 1 or 2.
    """
    global _last_args
    args = list(sys.argv[1:] if args is None else args)
    _last_args = args
    with in_one_sentence():
        return lightning_main(args, callbacks)
