"""Subcommands of ``madpo``: their arguments, output and exit codes."""

COMMANDS = {
    "train": ("commands.train", "train a policy or play a checkpoint, as train.py does"),
    "list": ("commands.listing", "list tasks, algorithms or runs"),
    "doctor": (
        "commands.doctor",
        "list versions and devices, and check whether training would run",
    ),
    "replay-dump": ("commands.replay", "repeat the steps that made simulations unstable"),
    "eval": (
        "commands.evaluate",
        "score a policy; the exit code can say whether it is good enough",
    ),
    "play": ("commands.play", "play a policy, show it, or film it"),
    "render": ("commands.render", "draw a task or a hand, before anything is trained"),
    "report": ("commands.report", "compare runs: figures, statistics and one page"),
    "reproduce": ("commands.reproduce", "make the runs of a figure of the paper, and draw it"),
    "export": ("commands.export", "write the policies of a run as ONNX or TorchScript files"),
    "completion": ("commands.completion", "print a script that completes the command line in bash"),
}
"""For each subcommand, the module whose ``main`` is called, and a description."""
