"""The command ``vllm-npu``."""


def main() -> None:
    """Entry point of the console script. The rest is imported when it runs."""
    from vllm_npu_runtime.cli.app import app

    app()
