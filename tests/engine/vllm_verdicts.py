"""vLLM's own verdict on lists of arguments; runs in the runtime image's environment.

    hack/runtime-python tests/engine/vllm_verdicts.py FOLDER < lists.json > verdicts.json

For each list of the input: why vLLM refuses it, or null. Those under `parse` are asked of its parser alone; those under
`start` of all that `vllm serve` does before it loads anything: its parser, the checks of its command, and the
configuration of an engine for the model in FOLDER.
"""

import contextlib
import copy
import io
import json
import sys
from typing import Any


class Judge:
    """An imported vLLM."""

    def __init__(self, folder: str) -> None:
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
        from vllm.entrypoints.launchers.launcher import validate_api_server_args
        from vllm.usage.usage_lib import UsageContext
        from vllm.utils.argparse_utils import FlexibleArgumentParser

        self._folder = folder
        self._parser = make_arg_parser(FlexibleArgumentParser(prog="vllm serve"))
        self._checks = (validate_parsed_serve_args, validate_api_server_args)
        self._engine_args: Any = AsyncEngineArgs
        self._context = UsageContext.OPENAI_API_SERVER

    def parse(self, arguments: list[str]) -> tuple[Any, str | None]:
        """Return what the parser makes of the arguments, and its refusal."""
        said = io.StringIO()
        try:
            with contextlib.redirect_stderr(said):
                return self._parser.parse_args([self._folder, *arguments]), None
        except SystemExit:
            return None, said.getvalue().strip().splitlines()[-1]
        except Exception as error:  # the parser lets some through
            return None, repr(error)

    def verdict(self, arguments: list[str]) -> str | None:
        """Return why vLLM refuses the arguments."""
        parsed, refusal = self.parse(arguments)
        if refusal is not None:
            return refusal
        parsed = copy.deepcopy(parsed)  # defaults are objects of the parser's own, and vLLM writes into them
        parsed.model = self._folder  # as the command `serve` does
        try:
            for check in self._checks:
                check(parsed)
            self._engine_args.from_cli_args(parsed).create_engine_config(usage_context=self._context)
        except Exception as error:  # whatever it is, the engine would not start
            return repr(error)
        return None


def main() -> None:
    """Judge each list of the input."""
    lists = json.load(sys.stdin)
    with contextlib.redirect_stdout(sys.stderr):
        judge = Judge(sys.argv[1])
        verdicts = {
            "parse": [judge.parse(each)[1] for each in lists["parse"]],
            "start": [judge.verdict(each) for each in lists["start"]],
        }
    json.dump(verdicts, sys.stdout)


if __name__ == "__main__":
    main()
