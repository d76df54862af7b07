"""Single-agent PPO over the joint action, learned by the library rl_games (package rl-games).

This package is imported only for ``algo=ppo``.
"""
